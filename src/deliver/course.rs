//! Owns the decisions of one delivery: when to tell the worker, when to look what it serves, and what is to be reported.
//! Pure: time and results come in, steps and news come out.

use std::time::Duration;

use super::settings::DeliveryConfig;

/// What one delivery is at. Times are since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Course {
    plan: Plan,
    /// Of the present publication; `None` before the first.
    published_at: Option<Duration>,
    verdict: Verdict,
    /// Attempts since the publication, or since the worker was last seen to serve it.
    attempts: u32,
    act_at: Option<Duration>,
    probe_at: Option<Duration>,
    /// Until when a worker that does not serve the certificate is only waited for.
    patience: Option<Duration>,
    pause: Duration,
    /// How often in a row the certificate was seen, and since when, until it is enough.
    row: Option<(u32, Duration)>,
    told: bool,
}

/// What of the configuration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    acts: bool,
    attempts: u32,
    proof: Option<Proof>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    /// How long the worker may take.
    served_within: Duration,
    /// How often it is looked at between publications.
    interval: Duration,
    /// How often in a row it has to be seen to serve the certificate.
    row: u32,
}

/// What is known of the worker and the present publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Under way, or nothing is published yet.
    Pending,
    /// Told, and nobody looks.
    Delivered,
    /// There was nobody to tell.
    Nobody,
    /// It cannot be told.
    Failed,
    /// It serves the published certificate.
    Served,
    /// It serves another.
    NotServed,
    /// It cannot be looked at.
    Unreachable,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell the worker.
    Act,
    /// Look what it serves.
    Probe,
    /// Wait until then; `None`: for a publication.
    Wait(Option<Duration>),
}

/// How telling the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acted {
    /// It was told.
    Done,
    /// No such process.
    Nobody,
    /// It failed.
    Failed,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The published certificate.
    Published,
    /// Another.
    Other,
    /// Nothing.
    Unreachable,
}

/// What is to be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The worker was told, or serves the published certificate; so long after the publication.
    Delivered(Duration),
    /// All attempts failed.
    Failed,
    /// After all attempts it serves another certificate.
    NotServed,
}

impl Course {
    /// A course that waits for a publication.
    pub(crate) fn new(config: &DeliveryConfig) -> Self {
        let plan = Plan {
            acts: config.action.is_some(),
            attempts: config.attempts,
            proof: config.proof.as_ref().map(|proof| Proof {
                served_within: proof.served_within,
                interval: proof.interval,
                row: proof.in_a_row,
            }),
        };
        Self::idle(plan)
    }

    /// What is known.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the next delivery may begin: this one has succeeded, or has used up its attempts.
    pub(crate) fn is_settled(&self) -> bool {
        self.verdict != Verdict::Pending
    }

    /// Something was published at `now`.
    pub(crate) fn publish(&mut self, now: Duration) {
        self.published_at = Some(now);
        self.verdict = Verdict::Pending;
        self.told = false;
        self.begin_round(now);
    }

    /// Nothing is published any more.
    pub(crate) fn withdraw(&mut self) {
        *self = Self::idle(self.plan.clone());
    }

    /// What is to be done at `now`.
    pub(crate) fn step(&self, now: Duration) -> Step {
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        match () {
            () if due(self.act_at) => Step::Act,
            () if due(self.probe_at) => Step::Probe,
            () => Step::Wait(self.act_at.into_iter().chain(self.probe_at).min()),
        }
    }

    /// An attempt ended at `now`.
    pub(crate) fn acted(&mut self, now: Duration, acted: Acted) -> Option<News> {
        self.attempts = self.attempts.saturating_add(1);
        self.act_at = None;
        let over = self.attempts >= self.plan.attempts;
        match (acted, self.plan.proof) {
            (Acted::Done, Some(proof)) => {
                self.look_for(now, proof.served_within);
                None
            }
            (Acted::Done, None) => {
                self.verdict = Verdict::Delivered;
                self.attempts = 0;
                self.told = false;
                Some(News::Delivered(self.age(now)))
            }
            (Acted::Nobody, None) if over => {
                // One that starts later reads the files as they are by then.
                self.verdict = Verdict::Nobody;
                self.act_at = None;
                None
            }
            (Acted::Nobody, Some(_)) if over => {
                self.probe_at = Some(now);
                self.patience = None;
                None
            }
            (Acted::Nobody | Acted::Failed, _) => {
                self.act_at = Some(now + self.delay());
                if !over {
                    return None;
                }
                if let Some(proof) = self.plan.proof {
                    self.probe_at = Some(now + proof.interval);
                }
                self.verdict = Verdict::Failed;
                let news = !self.told;
                self.told = true;
                news.then_some(News::Failed)
            }
        }
    }

    /// A probe ended at `now`.
    pub(crate) fn probed(&mut self, now: Duration, seen: Seen) -> Option<News> {
        let Proof { served_within, interval, row } = self.plan.proof?;
        let waits = self.patience.filter(|until| now < *until);
        let (count, since) = self.row.take().unwrap_or((0, now));
        match seen {
            // One look proves one process of the worker, or one of its listeners.
            Seen::Published if self.verdict != Verdict::Served && count + 1 < row => {
                self.row = Some((count + 1, since));
                self.probe_at = Some(now + FIRST_PAUSE);
                None
            }
            Seen::Published => {
                let news = self.verdict != Verdict::Served;
                self.verdict = Verdict::Served;
                (self.attempts, self.told) = (0, false);
                (self.act_at, self.patience) = (None, None);
                self.probe_at = Some(now + interval);
                news.then(|| News::Delivered(self.age(since)))
            }
            _ if let Some(until) = waits => {
                self.probe_at = Some((now + self.pause).min(until));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                None
            }
            Seen::Unreachable => {
                // A worker that is down is not told anything by a signal; one that starts reads the newest files.
                self.verdict = Verdict::Unreachable;
                self.patience = None;
                self.probe_at = Some(now + interval);
                None
            }
            Seen::Other if matches!(self.verdict, Verdict::Served | Verdict::Unreachable) => {
                // It has fallen back, or has come up with what it had before.
                self.verdict = Verdict::Pending;
                self.begin_round(now);
                if !self.plan.acts {
                    self.look_for(now, served_within);
                    self.probe_at = Some(now + self.pause);
                }
                None
            }
            Seen::Other if self.plan.acts && self.attempts < self.plan.attempts => {
                self.patience = None;
                self.probe_at = None;
                self.act_at = Some(now);
                None
            }
            Seen::Other => {
                self.verdict = Verdict::NotServed;
                self.patience = None;
                self.probe_at = Some(now + interval);
                if self.plan.acts && self.act_at.is_none() {
                    self.act_at = Some(now + self.delay());
                }
                let news = !self.told;
                self.told = true;
                news.then_some(News::NotServed)
            }
        }
    }

    fn idle(plan: Plan) -> Self {
        Self {
            plan,
            published_at: None,
            verdict: Verdict::Pending,
            attempts: 0,
            act_at: None,
            probe_at: None,
            patience: None,
            pause: FIRST_PAUSE,
            row: None,
            told: false,
        }
    }

    fn begin_round(&mut self, now: Duration) {
        self.attempts = 0;
        (self.act_at, self.probe_at, self.patience, self.row) = (None, None, None, None);
        match self.plan.proof {
            _ if self.plan.acts => self.act_at = Some(now),
            Some(proof) => self.look_for(now, proof.served_within),
            None => {}
        }
    }

    fn look_for(&mut self, now: Duration, length: Duration) {
        self.patience = Some(now + length);
        self.pause = FIRST_PAUSE;
        self.probe_at = Some(now);
    }

    /// The wait after an attempt that was of no use: 1 s, doubling, to 60 s; after the last of the round 1 min, doubling, to
    /// 1 h, for as long as it takes.
    fn delay(&self) -> Duration {
        let doubled = |first: Duration, times: u32, longest: Duration| {
            first.saturating_mul(2_u32.saturating_pow(times)).min(longest)
        };
        match self.attempts.checked_sub(self.plan.attempts) {
            None => doubled(Duration::from_secs(1), self.attempts.saturating_sub(1), Duration::from_mins(1)),
            Some(beyond) => doubled(Duration::from_mins(1), beyond, Duration::from_hours(1)),
        }
    }

    fn age(&self, now: Duration) -> Duration {
        self.published_at.map_or(Duration::ZERO, |at| now.saturating_sub(at))
    }
}

/// The first pause between two looks at a worker that is waited for; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
