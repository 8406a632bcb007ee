//! Owns the decision when to renew, warn, check and retry: a pure state machine of (state, input, now, jitter).

pub mod backoff;
pub mod renewal;
mod step;
mod wish;

use std::time::Duration;

use crate::clock::Now;

use backoff::BackOff;
pub use renewal::{Fraction, Jitter, RenewalRecord, RenewedBy, ScheduleError, Timing, Validity};
pub use step::{Failure, RenewReason, Step};
pub use wish::{Revocation, Suggestion, Window};

/// Decides what is to be done next. It reads no clock, draws no random number and performs nothing: the manager does.
#[derive(Debug)]
pub struct Schedule {
    timing: Timing,
    tracked: Option<Tracked>,
    back_off: BackOff,
    /// Before this time since boot no attempt is made, unless an operator asks.
    not_before: Duration,
    requested: Option<RenewReason>,
    /// Before this time since boot the CA's wishes count for nothing.
    no_wish_before: Duration,
    /// Certificates in a row that were replaced because the CA wished it, each soon after it was installed.
    wishes: u32,
    installed: Duration,
    /// The request does not wait for `not_before`.
    urgent: bool,
    last_failure: Option<Failure>,
    last_check: Option<Duration>,
    /// A check that was asked for before the next regular one.
    check_at: Option<Duration>,
    /// The least time between a check and one that is asked for.
    check_pause: Duration,
    /// When a check last found files changed by someone else.
    last_change: Option<Duration>,
    /// When a wait was last cut short because something changed.
    last_hurry: Option<Duration>,
    last_step: Option<Now>,
}

/// The certificate in force, as the schedule sees it.
#[derive(Debug, Clone, Copy)]
struct Tracked {
    validity: Validity,
    record: RenewalRecord,
    warned: bool,
    expired: bool,
}

impl Schedule {
    /// A schedule without a certificate: the first step is to obtain one.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            tracked: None,
            back_off: BackOff::new(timing.max_back_off),
            not_before: Duration::ZERO,
            no_wish_before: Duration::ZERO,
            wishes: 0,
            installed: Duration::ZERO,
            requested: None,
            urgent: false,
            last_failure: None,
            last_check: None,
            check_at: None,
            check_pause: CHECK_PAUSE,
            last_change: None,
            last_hurry: None,
            last_step: None,
        }
    }

    /// A certificate is in force: issued just now, or adopted from the disk.
    pub fn installed(&mut self, validity: Validity, record: RenewalRecord, now: Now) {
        self.count_wish(now);
        self.tracked = Some(Tracked { validity, record, warned: false, expired: false });
        self.confirmed(now);
    }

    /// The issuer was asked, and has no other certificate than the one in force.
    pub fn confirmed(&mut self, now: Now) {
        self.back_off.reset();
        self.requested = None;
        self.urgent = false;
        self.last_failure = None;
        self.not_before = now.boot.saturating_add(self.timing.min_interval);
    }

    /// The issuer has something new, or is gone: it is to be asked, also where it failed before.
    pub fn announced(&mut self, now: Now) {
        self.request(RenewReason::Announced);
        self.hurry(now, Duration::ZERO);
    }

    /// An existing certificate was taken over: an attempt may follow at once, if it is due.
    pub fn adopted(&mut self, validity: Validity, record: RenewalRecord) {
        self.tracked = Some(Tracked { validity, record, warned: false, expired: false });
    }

    /// An attempt failed. Returns how long the next one is away.
    pub fn failed(&mut self, failure: Failure, now: Now, jitter: Jitter) -> Duration {
        let back_off = self.back_off.next_wait(jitter);
        let wait = match failure {
            Failure::Transient => back_off,
            Failure::RateLimited(asked) => back_off.max(asked.min(RETRY_AFTER_LIMIT)),
            Failure::Refused => self.slow_wait(now).mul_f64(0.75 + 0.5 * f64::from(jitter)),
        };
        self.last_failure = Some(failure);
        self.not_before = now.boot.saturating_add(wait);
        self.urgent = false;
        // A refusal answers an operator's request; what is due for other reasons stays due.
        if failure == Failure::Refused && self.requested == Some(RenewReason::Operator) {
            self.requested = None;
        }
        wait
    }

    /// Asks for an attempt: an operator's comes at once, and others as soon as the minimum interval allows.
    pub fn request(&mut self, reason: RenewReason) {
        if reason == RenewReason::Operator {
            self.urgent = true;
        }
        // What an operator asks for is all that others ask for.
        if !self.urgent || reason == RenewReason::Operator {
            self.requested = Some(reason);
        }
    }

    /// No longer asks for an attempt for `reason`: what it was for has passed.
    pub fn withdraw(&mut self, reason: RenewReason) {
        self.requested.take_if(|requested| *requested == reason);
    }

    /// A token or root file changed: what failed may now be granted.
    pub fn credential_changed(&mut self, now: Now) {
        self.hurry(now, CREDENTIAL_SETTLE);
    }

    /// Other settings are in force from here on: what failed may now succeed.
    pub fn reconfigure(&mut self, timing: Timing, now: Now) {
        if timing.max_back_off != self.timing.max_back_off {
            self.back_off = BackOff::new(timing.max_back_off);
        }
        self.timing = timing;
        self.hurry(now, Duration::ZERO);
    }

    /// Cuts the wait after a failure short, but not twice within the minimum interval: files and settings that change all
    /// the time are no reason to ask a CA all the time.
    fn hurry(&mut self, now: Now, settle: Duration) {
        if !matches!(self.last_failure, Some(Failure::Refused | Failure::Transient)) {
            return;
        }
        let earliest = self.last_hurry.map_or(Duration::ZERO, |last| last.saturating_add(self.timing.min_interval));
        let at = now.boot.saturating_add(settle).max(earliest);
        if at < self.not_before {
            self.not_before = at;
            self.last_hurry = Some(at);
        }
    }

    /// Asks for a check: at once, or some time after the last one, so that a fight over a file is a slow one.
    pub fn request_check(&mut self, now: Now) {
        let earliest = self.last_check.map_or(now.boot, |last| last.saturating_add(self.check_pause));
        self.check_at = Some(earliest.max(now.boot));
    }

    /// A check found files changed. When that happens time after time, the checks that are asked for come ever more
    /// slowly.
    pub fn found_changed(&mut self, now: Now) {
        let again = self.last_change.is_some_and(|last| now.boot.saturating_sub(last) < CALM);
        self.check_pause = if again { (self.check_pause * 2).min(SLICE) } else { CHECK_PAUSE };
        self.last_change = Some(now.boot);
    }

    /// Asks for a check within `wait`.
    pub fn request_check_within(&mut self, now: Now, wait: Duration) {
        self.check_at = Some(now.boot.saturating_add(wait));
    }

    /// The settings in force.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How long no attempt is made, unless an operator asks.
    #[must_use]
    pub fn until_attempt(&self, now: Now) -> Duration {
        self.not_before.saturating_sub(now.boot)
    }

    /// When the certificate in force is to be renewed, by the wall clock; `None` where that is left to the issuer.
    #[must_use]
    pub fn next_renewal(&self) -> Option<time::OffsetDateTime> {
        let tracked = self.tracked.filter(|_| self.timing.renewed_by == RenewedBy::Agent)?;
        Some(self.timing.renewal_instant(tracked.validity, tracked.record))
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.back_off.failures()
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Now) -> Step {
        if let Some(step) = self.clock_step(now) {
            return step;
        }
        if let Some(step) = self.report(now) {
            return step;
        }
        let check_interval = self.check_interval();
        let regular = self.last_check.map_or(now.boot, |last| last.saturating_add(check_interval));
        let check_at = self.check_at.map_or(regular, |asked| asked.min(regular));
        if now.boot >= check_at {
            self.last_check = Some(now.boot);
            self.check_at = None;
            return Step::Check;
        }
        let wanted = self.wanted(now);
        let mut wait = check_at.saturating_sub(now.boot);
        if let Some(reason) = wanted {
            let earliest = self.earliest(reason);
            if now.boot >= earliest {
                return Step::Renew(reason);
            }
            wait = wait.min(earliest.saturating_sub(now.boot));
        }
        for instant in self.instants() {
            if let Ok(until) = Duration::try_from(instant - now.wall) {
                wait = wait.min(until);
            }
        }
        Step::Wait(wait.max(SHORTEST_WAIT))
    }

    /// Steps of the wall clock and suspends since the last step, each reported once.
    fn clock_step(&mut self, now: Now) -> Option<Step> {
        let last = self.last_step.replace(now)?;
        let step = now.wall_step_since(&last);
        if step.abs() > NOTICEABLE.as_secs_f64() {
            return Some(Step::ClockStepped(step));
        }
        let suspended = now.suspended_since(&last);
        (suspended > NOTICEABLE).then_some(Step::Suspended(suspended))
    }

    fn report(&mut self, now: Now) -> Option<Step> {
        let timing = self.timing;
        let tracked = self.tracked.as_mut()?;
        let expired = now.wall >= tracked.validity.not_after;
        let expiring = now.wall >= timing.warning_instant(tracked.validity);
        // After a step backwards the next crossing is news again.
        if !expired {
            tracked.expired = false;
        }
        if !expiring {
            tracked.warned = false;
        }
        if expired && !tracked.expired {
            tracked.expired = true;
            tracked.warned = true;
            return Some(Step::ReportExpired);
        }
        if expiring && !tracked.warned {
            tracked.warned = true;
            return Some(Step::ReportExpiring);
        }
        None
    }

    fn wanted(&self, now: Now) -> Option<RenewReason> {
        if self.urgent && self.requested.is_some() {
            return self.requested;
        }
        let Some(tracked) = self.tracked else { return Some(RenewReason::Missing) };
        if now.wall >= tracked.validity.not_after {
            return Some(RenewReason::Expired);
        }
        if tracked.record.revoked.is_some() {
            return Some(RenewReason::Revoked);
        }
        if now.wall >= self.timing.own_renewal_instant(tracked.validity, tracked.record) {
            return Some(RenewReason::Due);
        }
        if self.requested.is_some() {
            return self.requested;
        }
        let suggested = tracked.record.suggestion.is_some_and(|suggestion| now.wall >= suggestion.at);
        suggested.then_some(RenewReason::Suggested)
    }

    /// The time since boot before which no attempt is made for `reason`.
    fn earliest(&self, reason: RenewReason) -> Duration {
        match reason {
            _ if self.urgent => Duration::ZERO,
            RenewReason::Revoked | RenewReason::Suggested => self.not_before.max(self.no_wish_before),
            _ => self.not_before,
        }
    }

    /// The wall-clock instants at which something is to be done for the certificate in force.
    fn instants(&self) -> impl Iterator<Item = time::OffsetDateTime> + use<> {
        let timing = self.timing;
        self.tracked.into_iter().flat_map(move |tracked| {
            [
                timing.renewal_instant(tracked.validity, tracked.record),
                timing.warning_instant(tracked.validity),
                tracked.validity.not_after,
            ]
        })
    }

    /// How often the certificate in force is checked; one of short life more often: ten times in its life.
    #[must_use]
    pub fn check_interval(&self) -> Duration {
        let tenth = self.tracked.map_or(Duration::MAX, |tracked| tracked.validity.lifetime() / 10);
        self.timing.check_interval.min(tenth.max(SHORTEST_CHECK))
    }

    /// The wait after a refusal, shortened where the certificate would otherwise expire without another try.
    fn slow_wait(&self, now: Now) -> Duration {
        let left = self.tracked.and_then(|tracked| Duration::try_from(tracked.validity.not_after - now.wall).ok());
        let quarter = left.filter(|left| !left.is_zero()).map_or(Duration::MAX, |left| left / 4);
        self.timing.refused_interval.min(quarter.max(self.timing.min_interval))
    }
}

/// The longest sleep: two wake-ups a minute when idle.
pub const SLICE: Duration = Duration::from_secs(30);

/// The shortest wait: whatever the clocks say, the loop does not run hot.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// The least time between two checks while nobody fights over the files.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// Changes that are less apart are a fight.
const CALM: Duration = Duration::from_mins(1);

/// Certificates that live minutes are not checked more often.
const SHORTEST_CHECK: Duration = Duration::from_secs(30);

/// Smaller steps of the wall clock are a time daemon's work, and shorter suspends need no word.
const NOTICEABLE: Duration = Duration::from_secs(10);

/// A CA cannot silence an agent for longer.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(1);

/// Between a change of a credential file and the attempt with it.
const CREDENTIAL_SETTLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
