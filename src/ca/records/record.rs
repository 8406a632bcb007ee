//! Owns what is told of certificates, workers and revocations.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::ca::state::DecisionRecord;
use crate::identity::{SubjectAltName, WorkerId};

/// A certificate in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateRecord {
    /// The serial as `4a:3b:…`.
    pub serial: String,
    /// What became of it.
    pub status: CertificateStatus,
    /// Whose it is; `None` for the CA's own listener.
    pub worker_id: Option<WorkerId>,
    /// Its SANs.
    #[serde(serialize_with = "serialize_names")]
    pub names: BTreeSet<SubjectAltName>,
    /// Its `notBefore`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Its `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// When its serial was taken.
    #[serde(with = "time::serde::rfc3339")]
    pub reserved_at: OffsetDateTime,
    /// When it was recorded, right before it was sent; `None` while reserved.
    #[serde(with = "time::serde::rfc3339::option")]
    pub issued_at: Option<OffsetDateTime>,
    /// How the request was authenticated: `token`, `certificate`, …
    pub authentication: String,
    /// By which token id, certificate serial, …
    pub credential: String,
    /// The client's address.
    pub source: String,
    /// The policy's decision.
    pub decision_id: String,
    /// The request.
    pub correlation_id: String,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// Why it was revoked, in the words of RFC 5280, section 5.3.1.
    pub revocation_reason: Option<&'static str>,
    /// SHA-256 of its `SubjectPublicKeyInfo`, hexadecimal.
    pub key_sha256: String,
    /// SHA-256 of the certificate that signed it, hexadecimal.
    pub issuer_sha256: String,
    /// The certificate, where it was asked for and has been issued.
    pub pem: Option<String>,
}

/// What became of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateStatus {
    /// Its time is not over and nobody revoked it.
    Valid,
    /// Its time is over.
    Expired,
    /// It was revoked, whether or not its time is over.
    Revoked,
    /// Its serial was taken, and no certificate with it was sent to anybody.
    Reserved,
}

impl CertificateStatus {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Reserved => "reserved",
        }
    }
}

impl CertificateRecord {
    /// The serial of the certificate that this one is the renewal of.
    pub(super) fn renewed_from(&self) -> Option<&str> {
        (self.authentication == "certificate").then_some(self.credential.as_str())
    }
}

/// A worker that has had a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityRecord {
    /// The worker.
    pub worker_id: WorkerId,
    /// How its newest certificate stands.
    pub state: IdentityState,
    /// When it got its first certificate.
    #[serde(with = "time::serde::rfc3339")]
    pub first_issued_at: OffsetDateTime,
    /// When it got its newest.
    #[serde(with = "time::serde::rfc3339")]
    pub last_issued_at: OffsetDateTime,
    /// The serial of its newest.
    pub last_serial: String,
    /// The `notAfter` of its newest.
    #[serde(with = "time::serde::rfc3339")]
    pub last_not_after: OffsetDateTime,
    /// How many it has got.
    pub certificates: u64,
}

/// How a worker's newest certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityState {
    /// Valid, and no renewal is overdue.
    Valid,
    /// Valid, and a working agent would have renewed it by now.
    Late,
    /// Over.
    Expired,
    /// Revoked.
    Revoked,
}

impl IdentityState {
    /// Agents renew when a week is left, and of lives of 30 days or less when three tenths are left; half of that later
    /// something is wrong.
    pub(crate) fn of(
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
        revoked: bool,
        now: OffsetDateTime,
    ) -> Self {
        let life = not_after - not_before;
        let window = if life > time::Duration::days(30) { time::Duration::days(7) } else { life * 3 / 10 };
        match not_after - now {
            _ if revoked => Self::Revoked,
            left if left <= time::Duration::ZERO => Self::Expired,
            left if left < window / 2 => Self::Late,
            _ => Self::Valid,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Late => "late",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevocationRecord {
    /// The serial as `4a:3b:…`.
    pub serial: String,
    /// Whose it is; `None` once the certificate is forgotten.
    pub worker_id: Option<WorkerId>,
    /// Why, in the words of RFC 5280, section 5.3.1.
    pub reason: &'static str,
    /// Who asked.
    pub actor: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub revoked_at: OffsetDateTime,
    /// Its `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// The policy's decision.
    pub decision_id: String,
    /// The request.
    pub correlation_id: String,
    /// SHA-256 of the certificate that signed it, hexadecimal.
    pub issuer_sha256: String,
}

/// Everything known of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateHistory {
    /// The certificate itself.
    #[serde(flatten)]
    pub certificate: CertificateRecord,
    /// What the policy decided.
    pub decision: Option<DecisionRecord>,
    /// Its revocation.
    pub revocation: Option<RevocationRecord>,
    /// The certificates that it renews, the nearest first; at most 20.
    pub renewed_from: Vec<CertificateRecord>,
    /// The certificates that renew it, the nearest first; at most 20.
    pub renewed_to: Vec<CertificateRecord>,
}

/// What is known of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerHistory {
    /// The worker.
    #[serde(flatten)]
    pub identity: IdentityRecord,
    /// Its certificates, the newest first; at most 20.
    pub newest: Vec<CertificateRecord>,
}

/// As `["DNS:localhost", …]`.
pub(crate) fn serialize_names<S: Serializer>(
    names: &BTreeSet<SubjectAltName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_late_when_half_of_its_time_to_renew_is_over() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let at = |life: time::Duration, left| IdentityState::of(start, start + life, false, start + life - left);
        let (hour, day) = (time::Duration::HOUR, time::Duration::DAY);
        assert_eq!(at(365 * day, 4 * day), IdentityState::Valid);
        assert_eq!(at(365 * day, 3 * day), IdentityState::Late);
        assert_eq!(at(hour, 10 * time::Duration::MINUTE), IdentityState::Valid);
        assert_eq!(at(hour, 8 * time::Duration::MINUTE), IdentityState::Late);
        assert_eq!(at(hour, time::Duration::ZERO), IdentityState::Expired);
        assert_eq!(IdentityState::of(start, start + hour, true, start), IdentityState::Revoked);
    }
}
