//! Owns what a CA may wish for a certificate: a window in which to renew it, and its revocation.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Jitter, ScheduleError};
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

/// Whoever suggests more does not know what is asked.
const LONGEST: time::Duration = time::Duration::days(3_660);
