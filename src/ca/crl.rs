//! Owns certificate revocation lists (RFC 5280, section 5): what one says, when the next is due, and signing it.
//!
//! A CRL is signed ahead of need: at half of its life, and at once when a certificate is revoked that is not on it. Its
//! number is recorded before it is signed and the CRL before it is served, so that whichever of several processes signs,
//! no number is on two CRLs, and a crash in between costs a number and nothing else.

mod keeper;
mod set;
mod sign;

use std::time::Duration;

use time::OffsetDateTime;

use super::sign::BACKDATE;
use super::state::StateError;
use crate::policy::RevocationReason;

pub(crate) use set::{Crl, CrlSet, etag_of, pem};
use sign::sign_crl;

/// What a CRL will say, decided before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CrlPlan {
    /// SHA-256 of the certificate that signs it.
    pub(crate) issuer_digest: [u8; 32],
    /// Its number, recorded already.
    pub(crate) number: i64,
    /// It has every revocation up to this change.
    pub(crate) revision: i64,
    /// Its `thisUpdate`, whole seconds.
    pub(crate) this_update: OffsetDateTime,
    /// Its `nextUpdate`, whole seconds.
    pub(crate) next_update: OffsetDateTime,
    /// The revoked certificates, each once.
    pub(crate) entries: Vec<CrlEntry>,
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CrlEntry {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// Why.
    pub(crate) reason: RevocationReason,
    /// When; a minute earlier than in the record, where that would be after `thisUpdate`.
    pub(crate) revoked_at: OffsetDateTime,
}

/// A CRL that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The record failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// It cannot be encoded or signed.
    #[error("cannot sign CRL {number}: {reason}")]
    Signing {
        /// Its number.
        number: i64,
        /// What the library said.
        reason: String,
    },
    /// The signed CRL is not as planned; it has been thrown away.
    #[error("CRL {number} was signed with another {what} than planned and is withheld")]
    Mismatch {
        /// Its number.
        number: i64,
        /// What differs.
        what: &'static str,
    },
}

impl CrlError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::State(error) => error.kind(),
            Self::Signing { .. } => "crl_signing",
            Self::Mismatch { .. } => "crl_mismatch",
        }
    }
}

/// What an issuer had before: the last number taken, signed or not, and the `thisUpdate` of the last that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) number: i64,
    pub(crate) this_update: Option<OffsetDateTime>,
}

/// Number and times of a CRL, and the end that a revoked certificate must have reached to be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) number: i64,
    pub(crate) this_update: OffsetDateTime,
    pub(crate) next_update: OffsetDateTime,
    pub(crate) end: OffsetDateTime,
}

/// Decides them. Numbers grow, and follow the clock, so that they also grow over a record restored from a backup. A
/// certificate is left out once it was on a CRL signed after its end (RFC 5280, section 3.3), and a whole life of a CRL
/// later at the earliest.
pub(crate) fn plan_times(previous: Option<Previous>, lifetime: time::Duration, now: OffsetDateTime) -> Times {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let earlier = previous.and_then(|previous| previous.this_update);
    // As certificates: for clients whose clocks are a little behind. Not before the last one's, but for one from a clock
    // that was far ahead.
    let this_update = earlier
        .filter(|earlier| *earlier <= now.saturating_add(CLOCK_TOLERANCE))
        .map_or(now - BACKDATE, |earlier| earlier.max(now - BACKDATE));
    let seconds = now.unix_timestamp();
    Times {
        number: previous.map_or(seconds, |previous| seconds.max(previous.number.saturating_add(1))),
        this_update,
        next_update: now.max(this_update).saturating_add(lifetime),
        end: earlier.map_or(now, |earlier| earlier.min(now)).min(now.saturating_sub(lifetime)),
    }
}

/// Whether another CRL is to be signed now. `revoked` is the last change that revoked a certificate of this issuer.
fn is_due(newest: Option<&Crl>, revoked: i64, lifetime: time::Duration, now: OffsetDateTime) -> bool {
    let Some(newest) = newest else { return true };
    let from_the_future = newest.this_update > now.saturating_add(CLOCK_TOLERANCE);
    revoked > newest.revision || newest.next_update - now <= lifetime / 2 || from_the_future
}

/// How far the clocks of two replicas may be apart.
const CLOCK_TOLERANCE: time::Duration = time::Duration::minutes(5);

/// The shortest life of a CRL.
pub const SHORTEST_CRL_LIFETIME: Duration = Duration::from_mins(1);

/// The longest life of a CRL.
pub const LONGEST_CRL_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The life of a CRL where none is set.
pub const DEFAULT_CRL_LIFETIME: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
