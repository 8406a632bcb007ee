//! Owns the record of certificates: reserved before they are signed, issued before they are sent.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::backend::on;
use super::{DecisionRecord, State, StateError, digest_from, failed, names_from_text, time_from_seconds};
use crate::identity::{SubjectAltName, WorkerId};

/// What is written before signing.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// Whose certificate; `None` for the CA's own listener.
    pub(crate) worker_id: Option<WorkerId>,
    /// Its SANs.
    pub(crate) names: BTreeSet<SubjectAltName>,
    /// Its `notBefore`.
    pub(crate) not_before: OffsetDateTime,
    /// Its `notAfter`.
    pub(crate) not_after: OffsetDateTime,
    /// SHA-256 of its public key.
    pub(crate) key_digest: [u8; 32],
    /// SHA-256 of the certificate that signs it.
    pub(crate) issuer_digest: [u8; 32],
    /// `token`, `certificate`, `caller`, `self`.
    pub(crate) authentication: &'static str,
    /// The token's id, or the serial of the certificate shown.
    pub(crate) credential: String,
    /// The client's address; empty for a caller in this process.
    pub(crate) source: String,
    /// The policy's decision.
    pub(crate) decision_id: String,
    /// What the policy decided on the way, to be written along with it.
    pub(crate) decisions: Vec<DecisionRecord>,
    /// The request.
    pub(crate) correlation_id: String,
    /// Now.
    pub(crate) at: OffsetDateTime,
}

/// How a reservation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// Written: go on and sign.
    Done,
    /// The same public key has been certified for somebody else.
    KeyOfAnother,
}

/// A signed certificate, to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct Issuance {
    /// The serial, which has been reserved.
    pub(crate) serial: String,
    /// Whose certificate; `None` for the CA's own listener.
    pub(crate) worker_id: Option<WorkerId>,
    /// Its `notAfter`.
    pub(crate) not_after: OffsetDateTime,
    /// The certificate.
    pub(crate) der: Vec<u8>,
    /// What it was asked with.
    pub(crate) credential: IssuedWith,
    /// Now.
    pub(crate) now: OffsetDateTime,
}

/// What a certificate was asked with, as far as that matters to the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IssuedWith {
    /// A token, by its id: used up together with the recording.
    Token(String),
    /// A certificate, by its serial: looked at once more after the recording.
    Certificate(String),
    /// Neither.
    Nothing,
}

/// How the recording of a signed certificate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// On disk: it may be sent.
    Done,
    /// Nothing is recorded, since another request used the token first, or it lapsed: it must not be sent.
    TokenGone,
    /// Recorded, but the certificate that it was asked with is revoked: it must not be sent.
    CertificateRevoked,
    /// Recorded, but nobody knows whether the certificate that it was asked with is revoked: it must not be sent.
    Unchecked,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuedRecord {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// Whose certificate; `None` for the CA's own listener.
    pub(crate) worker_id: Option<WorkerId>,
    /// Its SANs.
    pub(crate) names: BTreeSet<SubjectAltName>,
    /// Its `notBefore`.
    pub(crate) not_before: OffsetDateTime,
    /// Its `notAfter`.
    pub(crate) not_after: OffsetDateTime,
    /// SHA-256 of its public key.
    pub(crate) key_digest: [u8; 32],
    /// SHA-256 of the certificate that signed it.
    pub(crate) issuer_digest: [u8; 32],
    /// The certificate.
    pub(crate) der: Vec<u8>,
    /// The policy's decision.
    pub(crate) decision_id: String,
    /// When it was recorded.
    pub(crate) issued_at: OffsetDateTime,
    /// When it was revoked.
    pub(crate) revoked_at: Option<OffsetDateTime>,
}

/// Begins every statement that reads [`IssuedRow`]s.
macro_rules! issued_rows {
    () => {
        "SELECT c.serial, c.worker_id, c.names, c.not_before, c.not_after, c.key_digest, c.issuer_digest, c.der, \
         c.decision_id, c.issued_at, r.revoked_at FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial"
    };
}
pub(super) use issued_rows;

impl State {
    /// Writes the intention to sign, unless the key belongs to somebody else.
    pub(crate) async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StateError> {
        self.issuing.reserve(reservation).await
    }

    /// Writes a signed certificate and, in the same transaction, uses up the token it was asked with.
    pub(crate) async fn record_issued(&self, issuance: Issuance) -> Result<Recorded, StateError> {
        self.issuing.record(issuance).await
    }

    /// The certificate with this serial, if it was issued.
    pub(crate) async fn issued(&self, serial: &str) -> Result<Option<IssuedRecord>, StateError> {
        self.looking_up.certificate(serial).await
    }

    /// The certificate that the token with this id was used for.
    pub(crate) async fn issued_for_token(&self, id: &str) -> Result<Option<IssuedRecord>, StateError> {
        let row: Option<IssuedRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(
                issued_rows!(),
                " JOIN tokens t ON t.used_serial = c.serial WHERE t.id = $1 AND c.status = 'issued'"
            ))
            .bind(id)
            .fetch_optional(pool)
            .await
            .map_err(failed("look up a token's certificate"))?
        });
        row.map(IssuedRecord::try_from).transpose()
    }

    /// The newest certificate for this key that was asked for with the given credential, which is none of one use.
    pub(crate) async fn issued_before(
        &self,
        authentication: &str,
        credential: &str,
        key_digest: &[u8; 32],
    ) -> Result<Option<IssuedRecord>, StateError> {
        let row: Option<IssuedRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(
                issued_rows!(),
                " WHERE c.key_digest = $1 AND c.authentication = $2 AND c.credential = $3 AND c.status = 'issued' \
                 ORDER BY c.issued_at DESC LIMIT 1"
            ))
            .bind(&key_digest[..])
            .bind(authentication)
            .bind(credential)
            .fetch_optional(pool)
            .await
            .map_err(failed("look up a renewal"))?
        });
        row.map(IssuedRecord::try_from).transpose()
    }

    /// How many certificates have been issued to workers.
    pub(crate) async fn issued_count(&self) -> Result<u64, StateError> {
        let (count,): (i64,) = on!(Pool, &self.readers, pool => {
            sqlx::query_as("SELECT count(*) FROM certificates WHERE purpose = 'worker' AND status = 'issued'")
                .fetch_one(pool)
                .await
                .map_err(failed("count certificates"))?
        });
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct IssuedRow {
    serial: String,
    worker_id: Option<String>,
    names: String,
    not_before: i64,
    not_after: i64,
    key_digest: Vec<u8>,
    issuer_digest: Vec<u8>,
    der: Vec<u8>,
    decision_id: String,
    issued_at: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<IssuedRow> for IssuedRecord {
    type Error = StateError;

    fn try_from(row: IssuedRow) -> Result<Self, StateError> {
        let worker_id = row.worker_id.map(|text| WorkerId::new(&text)).transpose();
        Ok(Self {
            serial: row.serial,
            worker_id: worker_id.map_err(|_| StateError::Corrupt { what: "a worker id" })?,
            names: names_from_text(&row.names)?,
            not_before: time_from_seconds(row.not_before)?,
            not_after: time_from_seconds(row.not_after)?,
            key_digest: digest_from(&row.key_digest)?,
            issuer_digest: digest_from(&row.issuer_digest)?,
            der: row.der,
            decision_id: row.decision_id,
            issued_at: time_from_seconds(row.issued_at)?,
            revoked_at: row.revoked_at.map(time_from_seconds).transpose()?,
        })
    }
}
