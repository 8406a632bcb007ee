//! Owns the decision when to renew, warn and retry: a pure state machine of (state, input, now, jitter).

pub mod backoff;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The settings of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// How often the certificate is checked, at most.
    pub check_interval: Duration,
    /// Time left under which `CERT_EXPIRING_SOON` is emitted.
    pub warn_before: Duration,
    /// Time left under which the certificate is renewed.
    pub renew_before: Duration,
    /// For lifetimes of 30 days and less: the part of the lifetime after which to renew, drawn from this range.
    pub renew_fraction: Fraction,
    /// The least time between two attempts, whatever the clock says.
    pub min_interval: Duration,
    /// The longest wait between two attempts that fail because the CA is unavailable.
    pub max_back_off: Duration,
    /// The wait after the CA refused.
    pub refused_interval: Duration,
}

/// A range within the lifetime of a certificate, `0 < from <= to < 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction {
    from: f64,
    to: f64,
}

/// A number in `[0, 1)` drawn once for each certificate and kept with it, so that neither a restart nor a re-evaluation
/// bunches a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Jitter(f64);

/// What is kept beside a certificate in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RenewalRecord {
    /// The certificate's jitter.
    pub jitter: Jitter,
    /// When it was installed, by the wall clock.
    #[serde(with = "time::serde::rfc3339")]
    pub installed_at: OffsetDateTime,
}

impl Fraction {
    /// A range of parts of a lifetime.
    ///
    /// # Errors
    /// Unless `0 < from <= to < 1`.
    pub fn new(from: f64, to: f64) -> Result<Self, ScheduleError> {
        if from > 0.0 && from <= to && to < 1.0 { Ok(Self { from, to }) } else { Err(ScheduleError::Fraction) }
    }
}

impl Jitter {
    /// A jitter of a given value.
    ///
    /// # Errors
    /// Unless `0 <= value < 1`.
    pub fn new(value: f64) -> Result<Self, ScheduleError> {
        if (0.0..1.0).contains(&value) { Ok(Self(value)) } else { Err(ScheduleError::Jitter) }
    }
}

impl TryFrom<f64> for Jitter {
    type Error = ScheduleError;

    fn try_from(value: f64) -> Result<Self, ScheduleError> {
        Self::new(value)
    }
}

impl From<Jitter> for f64 {
    fn from(jitter: Jitter) -> Self {
        jitter.0
    }
}

/// A value that a schedule cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A fraction range out of order.
    #[error("expected two numbers with 0 < from <= to < 1")]
    Fraction,
    /// A jitter out of range.
    #[error("expected a number from 0 up to but not including 1")]
    Jitter,
}

impl Default for Timing {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            check_interval: Duration::from_secs(3600),
            warn_before: DAY * 30,
            renew_before: DAY * 7,
            renew_fraction: Fraction { from: 0.5, to: 0.7 },
            min_interval: Duration::from_secs(10),
            max_back_off: Duration::from_secs(60),
            refused_interval: Duration::from_secs(300),
        }
    }
}
