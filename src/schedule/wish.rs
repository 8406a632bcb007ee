//! Owns what a CA may wish for a certificate, a window in which to renew it and its revocation, and how far it is followed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Jitter, RenewReason, RenewalRecord, Schedule, ScheduleError, Tracked};
use crate::clock::Now;
use crate::policy::RevocationReason;

/// When a CA suggests to renew (RFC 9773, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    #[serde(with = "time::serde::rfc3339")]
    start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    end: OffsetDateTime,
}

/// A window, and the instant drawn in it, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggestion {
    /// The window.
    pub window: Window,
    /// When to renew.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// The revocation of a certificate, as its CA tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why.
    pub reason: RevocationReason,
}

impl Window {
    /// A window from `start` to `end`.
    ///
    /// # Errors
    /// Unless `start` is before `end`, by ten years at most.
    pub fn new(start: OffsetDateTime, end: OffsetDateTime) -> Result<Self, ScheduleError> {
        let fits = start < end && end - start <= LONGEST;
        if fits { Ok(Self { start, end }) } else { Err(ScheduleError::Window) }
    }

    /// Its first instant.
    #[must_use]
    pub fn start(self) -> OffsetDateTime {
        self.start
    }

    /// Its last instant.
    #[must_use]
    pub fn end(self) -> OffsetDateTime {
        self.end
    }

    /// An instant in it, uniform in `jitter` (RFC 9773, section 4.2).
    #[must_use]
    pub fn draw(self, jitter: Jitter) -> OffsetDateTime {
        self.start.saturating_add((self.end - self.start) * f64::from(jitter))
    }
}

impl Schedule {
    /// Whatever a CA wishes, certificates are not replaced time after time: the pause between two that it wished for doubles
    /// while they follow on each other.
    pub(super) fn count_wish(&mut self, now: Now) {
        let wished = matches!(self.wanted(now), Some(RenewReason::Revoked | RenewReason::Suggested));
        let soon = now.boot.saturating_sub(self.installed) < WISH_CALM;
        self.wishes = match (wished, soon) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => self.wishes.saturating_add(1),
        };
        let pause = self.timing.min_interval.saturating_mul(2_u32.saturating_pow(self.wishes.saturating_sub(1)));
        self.no_wish_before = now.boot.saturating_add(pause.min(WISH_PAUSE_LIMIT));
        self.installed = now.boot;
    }

    /// The CA suggests a window for the certificate in force. Returns the record to keep; `None` when nothing changed.
    pub fn suggest(&mut self, window: Window, jitter: Jitter) -> Option<RenewalRecord> {
        let record = &mut self.tracked.as_mut()?.record;
        if record.suggestion.is_some_and(|suggestion| suggestion.window == window) {
            return None;
        }
        record.suggestion = Some(Suggestion { window, at: window.draw(jitter) });
        Some(*record)
    }

    /// Whether the certificate in force is to be renewed earlier because the CA suggests it, and not by chance only: by a
    /// window that opens before the agent's own rule ever would have it renewed.
    #[must_use]
    pub fn hastened(&self) -> Option<Suggestion> {
        let Tracked { validity, record, .. } = self.tracked?;
        let suggestion = record.suggestion?;
        let own = self.timing.own_renewal_instant(validity, record);
        let earliest = self.timing.own_renewal_instant(validity, RenewalRecord { jitter: Jitter::LEAST, ..record });
        (suggestion.at < own && suggestion.window.start() < earliest).then_some(suggestion)
    }

    /// The certificate in force was revoked. Returns the record to keep; `None` when that is known.
    pub fn revoked(&mut self, revocation: Revocation) -> Option<RenewalRecord> {
        let record = &mut self.tracked.as_mut()?.record;
        if record.revoked.is_some() {
            return None;
        }
        record.revoked = Some(revocation);
        Some(*record)
    }
}

/// Whoever suggests more does not know what is asked.
const LONGEST: time::Duration = time::Duration::days(3_660);

/// The longest pause between two certificates that a CA wishes to see replaced at once.
const WISH_PAUSE_LIMIT: Duration = Duration::from_hours(1);

/// Wishes that are further apart do not follow on each other. Above the longest pause, or it would never be reached.
const WISH_CALM: Duration = Duration::from_hours(2);
