//! Owns the rows that listings read, and what they become.

use time::OffsetDateTime;

use super::{StateError, digest_from, names_from_text, time_from_seconds};
use crate::ca::records::{
    CertificateRecord, CertificateStatus, IdentityRecord, IdentityState, Position, RevocationRecord,
};
use crate::ca::revocation::{reason_from_code, reason_name};
use crate::identity::WorkerId;
use crate::identity::bundle::certificates_to_pem;
use crate::printable::hex;

#[derive(sqlx::FromRow)]
pub(super) struct CertificateRow {
    pub(super) serial: String,
    status: String,
    worker_id: Option<String>,
    names: String,
    not_before: i64,
    pub(super) not_after: i64,
    key_digest: Vec<u8>,
    issuer_digest: Vec<u8>,
    authentication: String,
    credential: String,
    source: String,
    decision_id: String,
    correlation_id: String,
    pub(super) reserved_at: i64,
    issued_at: Option<i64>,
    der: Option<Vec<u8>>,
    revoked_at: Option<i64>,
    reason: Option<i64>,
}

impl CertificateRow {
    pub(super) fn into_record(self, now: OffsetDateTime) -> Result<CertificateRecord, StateError> {
        let not_after = time_from_seconds(self.not_after)?;
        let revoked_at = self.revoked_at.map(time_from_seconds).transpose()?;
        let status = match self.status.as_str() {
            "reserved" => CertificateStatus::Reserved,
            _ if revoked_at.is_some() => CertificateStatus::Revoked,
            _ if not_after <= now => CertificateStatus::Expired,
            _ => CertificateStatus::Valid,
        };
        Ok(CertificateRecord {
            serial: self.serial,
            status,
            worker_id: self.worker_id.as_deref().map(worker_id).transpose()?,
            names: names_from_text(&self.names)?,
            not_before: time_from_seconds(self.not_before)?,
            not_after,
            reserved_at: time_from_seconds(self.reserved_at)?,
            issued_at: self.issued_at.map(time_from_seconds).transpose()?,
            authentication: self.authentication,
            credential: self.credential,
            source: self.source,
            decision_id: self.decision_id,
            correlation_id: self.correlation_id,
            revoked_at,
            revocation_reason: self.reason.map(reason_text),
            key_sha256: hex(&digest_from(&self.key_digest)?),
            issuer_sha256: hex(&digest_from(&self.issuer_digest)?),
            pem: self.der.map(|der| certificates_to_pem(&[der.into()])),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct IdentityRow {
    pub(super) worker_id: String,
    first_issued_at: i64,
    last_issued_at: i64,
    last_serial: String,
    last_not_after: i64,
    certificates: i64,
    not_before: Option<i64>,
    revoked_at: Option<i64>,
}

impl IdentityRow {
    pub(super) fn into_record(self, now: OffsetDateTime) -> Result<IdentityRecord, StateError> {
        let not_after = time_from_seconds(self.last_not_after)?;
        let not_before = time_from_seconds(self.not_before.unwrap_or(self.last_issued_at))?;
        Ok(IdentityRecord {
            worker_id: worker_id(&self.worker_id)?,
            state: IdentityState::of(not_before, not_after, self.revoked_at.is_some(), now),
            first_issued_at: time_from_seconds(self.first_issued_at)?,
            last_issued_at: time_from_seconds(self.last_issued_at)?,
            last_serial: self.last_serial,
            last_not_after: not_after,
            certificates: u64::try_from(self.certificates).unwrap_or(0),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct RevocationRow {
    serial: String,
    issuer_digest: Vec<u8>,
    reason: i64,
    actor: String,
    decision_id: String,
    correlation_id: String,
    not_after: i64,
    revoked_at: i64,
    worker_id: Option<String>,
}

impl RevocationRow {
    pub(super) fn position(&self) -> Position {
        Position(self.revoked_at, self.serial.clone())
    }
}

impl TryFrom<RevocationRow> for RevocationRecord {
    type Error = StateError;

    fn try_from(row: RevocationRow) -> Result<Self, StateError> {
        Ok(Self {
            worker_id: row.worker_id.as_deref().map(worker_id).transpose()?,
            reason: reason_text(row.reason),
            actor: row.actor,
            revoked_at: time_from_seconds(row.revoked_at)?,
            not_after: time_from_seconds(row.not_after)?,
            decision_id: row.decision_id,
            correlation_id: row.correlation_id,
            issuer_sha256: hex(&digest_from(&row.issuer_digest)?),
            serial: row.serial,
        })
    }
}

fn worker_id(text: &str) -> Result<WorkerId, StateError> {
    WorkerId::new(text).map_err(|_| StateError::Corrupt { what: "a worker id" })
}

fn reason_text(code: i64) -> &'static str {
    reason_from_code(code).map_or("unknown", reason_name)
}
