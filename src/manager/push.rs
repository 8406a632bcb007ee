//! Owns the question that waits at the CA for its answer, so that the CA can tell of news at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Jitter;
use crate::clock::Clock;
use crate::events::new_correlation_id;
use crate::identity::CertificateBundle;
use crate::issuer::roots::KnownRoots;
use crate::issuer::{IssueError, IssueErrorKind, Issuer, RenewalAnswer, RenewalInfo, RenewalNews, RenewalQuestion};
use crate::schedule::backoff::BackOff;

/// Asks for as long as it lives; dropped, it ends at once.
pub(super) struct Push<I> {
    pub(super) issuer: Arc<I>,
    pub(super) clock: Arc<dyn Clock>,
    /// Whose certificate is asked about.
    pub(super) published: watch::Receiver<Option<Arc<CertificateBundle>>>,
    /// The roots of the moment.
    pub(super) known: watch::Receiver<KnownRoots>,
    pub(super) news: mpsc::Sender<Pushed>,
    pub(super) max_back_off: Duration,
}

/// What the CA told.
#[derive(Debug)]
pub(super) struct Pushed {
    /// Of which certificate, by the digest of its leaf.
    pub(super) leaf: [u8; 32],
    pub(super) info: RenewalInfo,
}

impl<I: Issuer> Push<I> {
    pub(super) async fn run(mut self) {
        loop {
            let bundle = self.published.borrow_and_update().clone();
            let Some(bundle) = bundle else {
                if self.published.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut published = self.published.clone();
            tokio::select! {
                () = another(&mut published, bundle.leaf_digest()) => {}
                () = self.follow(&bundle) => return,
            }
        }
    }

    /// Returns when nobody listens any longer.
    async fn follow(&self, bundle: &CertificateBundle) {
        let mut tag: Option<String> = None;
        let mut pace = Pace::new(self.max_back_off);
        loop {
            let question = RenewalQuestion {
                current: bundle,
                tag: tag.as_deref(),
                wait: Some(WAIT),
                correlation_id: &new_correlation_id(),
                known: &self.known.borrow().clone(),
            };
            let asked = self.clock.now().boot;
            let answer = self.issuer.renewal_info(&question).await;
            let took = self.clock.now().boot.saturating_sub(asked);
            let outcome = Outcome::of(&answer, tag.as_deref());
            match answer {
                Ok(RenewalAnswer { news: RenewalNews::Info(info), .. }) => {
                    tag.clone_from(&info.etag);
                    if self.news.send(Pushed { leaf: bundle.leaf_digest(), info: *info }).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(error = %error, "the CA does not say whether there is news"),
            }
            let wait = pace.next(outcome, took, Jitter::draw());
            if !wait.is_zero() {
                self.clock.sleep(wait).await;
            }
        }
    }
}

/// Waits until another certificate is published than the one with this leaf.
async fn another(published: &mut watch::Receiver<Option<Arc<CertificateBundle>>>, leaf: [u8; 32]) {
    let other = |bundle: &Option<Arc<CertificateBundle>>| bundle.as_ref().is_none_or(|one| one.leaf_digest() != leaf);
    if published.wait_for(other).await.is_err() {
        // The manager is gone, and takes this task along.
        std::future::pending::<()>().await;
    }
}

/// How a question ended, as far as the time of the next depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The CA says something else than before.
    News,
    /// The CA waited, and has nothing new.
    Nothing,
    /// The CA does not wait, or not now.
    NotWaited(Option<Duration>),
    /// The CA says nothing of the kind.
    NotOffered,
    /// There was no answer, and the next is not wanted before this time.
    Failed(Duration),
}

impl Outcome {
    fn of(answer: &Result<RenewalAnswer, IssueError>, tag: Option<&str>) -> Self {
        let RenewalAnswer { news, retry_after, waited } = match answer {
            Ok(answer) => answer,
            Err(IssueError { kind: IssueErrorKind::RateLimited(wait), .. }) => {
                return Self::Failed(wait.unwrap_or_default());
            }
            Err(_) => return Self::Failed(Duration::ZERO),
        };
        match news {
            RenewalNews::NotOffered => Self::NotOffered,
            RenewalNews::Info(info) if info.etag.is_some() && info.etag.as_deref() != tag => Self::News,
            _ if *waited => Self::Nothing,
            _ => Self::NotWaited(*retry_after),
        }
    }
}

/// When to ask again. Whatever the CA does, not in a hot loop; and when it restarts, not with all the others.
#[derive(Debug)]
struct Pace {
    max_back_off: Duration,
    failures: u32,
    /// News that came quickly one after the other.
    quick: BackOff,
}

impl Pace {
    fn new(max_back_off: Duration) -> Self {
        Self { max_back_off, failures: 0, quick: BackOff::new(LONGEST_BREATH) }
    }

    fn next(&mut self, outcome: Outcome, took: Duration, jitter: Jitter) -> Duration {
        if took >= CALM {
            self.quick.reset();
        }
        let around = |length: Duration| length.mul_f64(0.75 + 0.5 * f64::from(jitter));
        match outcome {
            // Sent away before the time: it is about to stop.
            Outcome::Nothing if took < WAIT / 2 => self.spread(jitter),
            Outcome::Nothing => {
                self.failures = 0;
                Duration::ZERO
            }
            Outcome::News => {
                self.failures = 0;
                self.quick.next_wait(jitter)
            }
            Outcome::NotWaited(retry_after) => {
                around(retry_after.unwrap_or(NO_WAIT_PAUSE).clamp(LEAST_PAUSE, LONGEST_PAUSE))
            }
            Outcome::NotOffered => around(LONGEST_PAUSE),
            Outcome::Failed(asked) => self.spread(jitter).max(asked.min(LONGEST_PAUSE)),
        }
    }

    /// Nobody waits for it: from the first time on, over all the time of the longest back-off, and then over more.
    fn spread(&mut self, jitter: Jitter) -> Duration {
        let length = self.max_back_off.saturating_mul(1 << self.failures.min(3));
        self.failures = self.failures.saturating_add(1);
        FIRST + length.mul_f64(f64::from(jitter))
    }
}

/// How long the CA may wait.
const WAIT: Duration = Duration::from_mins(4);

/// News that are further apart are not quick.
const CALM: Duration = Duration::from_secs(30);

/// The longest pause between quick news.
const LONGEST_BREATH: Duration = Duration::from_mins(5);

/// The shortest wait after a failure.
const FIRST: Duration = Duration::from_secs(1);

/// Between questions to a CA that does not wait.
const NO_WAIT_PAUSE: Duration = Duration::from_mins(5);

const LEAST_PAUSE: Duration = Duration::from_mins(1);

const LONGEST_PAUSE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let wait = || (0_u64..1_000_000).prop_map(Duration::from_secs);
        prop_oneof![
            Just(Outcome::News),
            Just(Outcome::Nothing),
            proptest::option::of(wait()).prop_map(Outcome::NotWaited),
            Just(Outcome::NotOffered),
            wait().prop_map(Outcome::Failed),
        ]
    }

    proptest! {
        #[test]
        fn no_ca_makes_it_ask_in_a_hot_loop(
            outcomes in proptest::collection::vec((any_outcome(), 0_u64..300, any::<u32>()), 1..200),
        ) {
            let mut pace = Pace::new(Duration::from_mins(1));
            for (outcome, took, bits) in outcomes {
                let took = Duration::from_secs(took);
                let wait = pace.next(outcome, took, Jitter::from_bits(bits));
                prop_assert!(took + wait >= Duration::from_millis(500), "{outcome:?}");
                prop_assert!(wait <= LONGEST_PAUSE.mul_f64(1.25), "{outcome:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_ca_that_always_has_news_is_asked_ever_more_slowly() {
        let mut pace = Pace::new(Duration::from_mins(1));
        let half = Jitter::new(0.5).unwrap();
        let waits: Vec<Duration> = (0..20).map(|_| pace.next(Outcome::News, Duration::ZERO, half)).collect();
        assert!(waits[0] < Duration::from_secs(1));
        assert!(waits[19] > Duration::from_mins(2), "{waits:?}");
        assert!(pace.next(Outcome::News, CALM, half) < Duration::from_secs(1));
    }

    #[test]
    fn a_restart_of_the_ca_brings_a_fleet_back_over_a_minute() {
        for outcome in [Outcome::Failed(Duration::ZERO), Outcome::Nothing] {
            let mut busiest = [0_u32; 62];
            for agent in 0..10_000_u32 {
                let jitter = Jitter::from_bits(agent.wrapping_mul(2_654_435_761));
                let wait = Pace::new(Duration::from_mins(1)).next(outcome, Duration::from_secs(1), jitter);
                busiest[usize::try_from(wait.as_secs()).unwrap()] += 1;
            }
            assert!(busiest.iter().all(|count| *count < 250), "{busiest:?}");
        }
    }

    #[test]
    fn a_ca_that_waits_is_asked_again_at_once() {
        let mut pace = Pace::new(Duration::from_mins(1));
        assert_eq!(pace.next(Outcome::Nothing, WAIT, Jitter::LEAST), Duration::ZERO);
    }
}
