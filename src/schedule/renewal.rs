//! Owns the instants in a certificate's life: when it is renewed, when its holder is warned.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::wish::{Revocation, Suggestion};
use crate::identity::CertificateBundle;

/// The settings of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// How often the certificate is checked, at least.
    pub check_interval: Duration,
    /// Time left under which `CERT_EXPIRING_SOON` is emitted.
    pub warn_before: Duration,
    /// Time left under which the certificate is renewed.
    pub renew_before: Duration,
    /// For lifetimes of 30 days and less: the part of the lifetime after which to renew, drawn from this range.
    pub renew_fraction: Fraction,
    /// The least time between a certificate and the next attempt, whatever the clock says.
    pub min_interval: Duration,
    /// The longest wait between two attempts that fail because the CA is unavailable.
    pub max_back_off: Duration,
    /// The wait after the CA refused.
    pub refused_interval: Duration,
    /// Whose part it is to renew in time.
    pub renewed_by: RenewedBy,
}

/// Whose part it is to renew in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenewedBy {
    /// The agent's, which asks for another certificate.
    #[default]
    Agent,
    /// The issuer's, which hands out another: it is asked only when the holder of the old one is warned.
    Issuer,
}

/// A certificate's `notBefore` and `notAfter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first valid instant.
    pub not_before: OffsetDateTime,
    /// The end of validity.
    pub not_after: OffsetDateTime,
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
    /// When the CA suggests to renew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<Suggestion>,
    /// The certificate was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

impl RenewalRecord {
    /// The record of a certificate that is new.
    #[must_use]
    pub fn new(jitter: Jitter, installed_at: OffsetDateTime) -> Self {
        Self { jitter, installed_at, suggestion: None, revoked: None }
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
    /// A window out of order.
    #[error("expected a start before the end, and at most ten years between them")]
    Window,
}

impl Timing {
    /// When a certificate is renewed: when the CA suggests it, and never later than by the agent's own rule.
    #[must_use]
    pub fn renewal_instant(&self, validity: Validity, record: RenewalRecord) -> OffsetDateTime {
        let own = self.own_renewal_instant(validity, record);
        record.suggestion.map_or(own, |suggestion| own.min(suggestion.at))
    }

    /// When a certificate is renewed by the agent's own rule. Of long life (over 30 days): `renew_before` its end, spread over the first day of
    /// that window. Of short life: after a part of what it had left when it was installed, so that a certificate that
    /// arrives half used up is not asked for again at once.
    #[must_use]
    pub fn own_renewal_instant(&self, validity: Validity, record: RenewalRecord) -> OffsetDateTime {
        if self.renewed_by == RenewedBy::Issuer {
            return self.warning_instant(validity);
        }
        let jitter = record.jitter.0;
        if self.is_long(validity) {
            let spread = DAY.min(self.renew_before / 2).mul_f64(jitter);
            return validity.not_after - self.renew_before + spread;
        }
        let start = record.installed_at.clamp(validity.not_before, validity.not_after.max(validity.not_before));
        let left = Duration::try_from(validity.not_after - start).unwrap_or(Duration::ZERO);
        let Fraction { from, to } = self.renew_fraction;
        start + left.mul_f64(from + jitter * (to - from))
    }

    /// When its holder is warned. Of long life: `warn_before` its end. Of short life: halfway from the latest renewal
    /// instant to the end, as by then renewal has failed for a while.
    #[must_use]
    pub fn warning_instant(&self, validity: Validity) -> OffsetDateTime {
        if self.is_long(validity) {
            return validity.not_after - self.warn_before;
        }
        validity.not_after - validity.lifetime().mul_f64((1.0 - self.renew_fraction.to) / 2.0)
    }

    /// Whether days before the end make sense for this lifetime. An issuer renews by parts of it.
    fn is_long(&self, validity: Validity) -> bool {
        let lifetime = validity.lifetime();
        self.renewed_by == RenewedBy::Agent
            && lifetime > DAY * 30
            && lifetime > self.warn_before
            && lifetime / 2 > self.renew_before
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_hours(1),
            warn_before: DAY * 30,
            renew_before: DAY * 7,
            renew_fraction: Fraction { from: 0.5, to: 0.7 },
            min_interval: Duration::from_secs(10),
            max_back_off: Duration::from_mins(1),
            refused_interval: Duration::from_mins(5),
            renewed_by: RenewedBy::Agent,
        }
    }
}

impl Validity {
    /// The validity of a bundle's leaf.
    #[must_use]
    pub fn of(bundle: &CertificateBundle) -> Self {
        Self { not_before: bundle.not_before(), not_after: bundle.not_after() }
    }

    /// From the first to the last instant; zero when they are out of order.
    #[must_use]
    pub fn lifetime(self) -> Duration {
        Duration::try_from(self.not_after - self.not_before).unwrap_or(Duration::ZERO)
    }
}

impl Fraction {
    /// A range of parts of a lifetime.
    ///
    /// # Errors
    /// Unless `0 < from <= to < 1`.
    pub fn new(from: f64, to: f64) -> Result<Self, ScheduleError> {
        if from > 0.0 && from <= to && to < 1.0 { Ok(Self { from, to }) } else { Err(ScheduleError::Fraction) }
    }

    /// The range as (from, to).
    #[must_use]
    pub fn bounds(self) -> (f64, f64) {
        (self.from, self.to)
    }
}

impl Jitter {
    /// The least.
    pub const LEAST: Self = Self(0.0);

    /// A jitter of a given value.
    ///
    /// # Errors
    /// Unless `0 <= value < 1`.
    pub fn new(value: f64) -> Result<Self, ScheduleError> {
        if (0.0..1.0).contains(&value) { Ok(Self(value)) } else { Err(ScheduleError::Jitter) }
    }

    /// A jitter from 32 random bits.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(f64::from(bits) / (f64::from(u32::MAX) + 1.0))
    }

    /// Draws a jitter from the system's random source.
    #[must_use]
    pub fn draw() -> Self {
        let mut bytes = [0; 4];
        // The source does not fail after boot; were it to, renewal at the early end is the safe side.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self::from_bits(u32::from_le_bytes(bytes))
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

const DAY: Duration = Duration::from_hours(24);
