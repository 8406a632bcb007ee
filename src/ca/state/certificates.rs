//! Owns the record of certificates: reserved before they are signed, issued before they are sent.

use std::collections::BTreeSet;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use super::{State, StateError, digest_from, failed, names_from_text, names_to_text, time_from_seconds};
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
    /// The policy's decision.
    pub(crate) decision_id: String,
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

/// A token that is used up together with the recording of a certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenUse<'a> {
    /// The token's id.
    pub(crate) id: &'a str,
}

/// How the recording of a signed certificate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// On disk: it may be sent.
    Done,
    /// Nothing is recorded, since another request used the token first, or it lapsed: it must not be sent.
    TokenGone,
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
}

impl State {
    /// Writes the intention to sign, unless the key belongs to somebody else.
    pub(crate) async fn reserve(&self, reservation: &Reservation) -> Result<Reserved, StateError> {
        let worker_id = reservation.worker_id.as_ref().map(WorkerId::as_str);
        let names = names_to_text(&reservation.names)?;
        let mut transaction = self.begin().await?;
        let others = sqlx::query("SELECT 1 FROM certificates WHERE key_digest = ? AND worker_id IS NOT ? LIMIT 1")
            .bind(&reservation.key_digest[..])
            .bind(worker_id)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed("look up a key"))?;
        if others.is_some() {
            return Ok(Reserved::KeyOfAnother);
        }
        sqlx::query(
            "INSERT INTO certificates (serial, purpose, status, worker_id, names, not_before, not_after, key_digest, \
             issuer_digest, authentication, credential, decision_id, correlation_id, reserved_at) \
             VALUES (?, ?, 'reserved', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&reservation.serial)
        .bind(if worker_id.is_some() { "worker" } else { "server" })
        .bind(worker_id)
        .bind(names)
        .bind(reservation.not_before.unix_timestamp())
        .bind(reservation.not_after.unix_timestamp())
        .bind(&reservation.key_digest[..])
        .bind(&reservation.issuer_digest[..])
        .bind(reservation.authentication)
        .bind(&reservation.credential)
        .bind(&reservation.decision_id)
        .bind(&reservation.correlation_id)
        .bind(reservation.at.unix_timestamp())
        .execute(&mut *transaction)
        .await
        .map_err(failed("reserve a serial"))?;
        transaction.commit().await.map_err(failed("reserve a serial"))?;
        Ok(Reserved::Done)
    }

    /// Writes a signed certificate and, in the same transaction, uses up the token it was asked with.
    pub(crate) async fn record_issued(
        &self,
        serial: &str,
        der: &[u8],
        token: Option<TokenUse<'_>>,
        now: OffsetDateTime,
    ) -> Result<Recorded, StateError> {
        let mut transaction = self.begin().await?;
        if let Some(token) = token {
            let used = sqlx::query(
                "UPDATE tokens SET used_at = ?1, used_serial = ?2 \
                 WHERE id = ?3 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > ?1",
            )
            .bind(now.unix_timestamp())
            .bind(serial)
            .bind(token.id)
            .execute(&mut *transaction)
            .await
            .map_err(failed("use a token"))?;
            if used.rows_affected() != 1 {
                return Ok(Recorded::TokenGone);
            }
        }
        let issued = sqlx::query(
            "UPDATE certificates SET status = 'issued', der = ?, issued_at = ? \
             WHERE serial = ? AND status = 'reserved'",
        )
        .bind(der)
        .bind(now.unix_timestamp())
        .bind(serial)
        .execute(&mut *transaction)
        .await
        .map_err(failed("record a certificate"))?;
        if issued.rows_affected() != 1 {
            return Err(StateError::Corrupt { what: "a reservation" });
        }
        transaction.commit().await.map_err(failed("record a certificate"))?;
        Ok(Recorded::Done)
    }

    /// The certificate with this serial, if it was issued.
    pub(crate) async fn issued(&self, serial: &str) -> Result<Option<IssuedRecord>, StateError> {
        let row = sqlx::query("SELECT * FROM certificates WHERE serial = ? AND status = 'issued'")
            .bind(serial)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("look up a certificate"))?;
        row.as_ref().map(issued_from_row).transpose()
    }

    /// The certificate that the token with this id has been used for.
    pub(crate) async fn issued_for_token(&self, id: &str) -> Result<Option<IssuedRecord>, StateError> {
        let row =
            sqlx::query("SELECT c.* FROM tokens t JOIN certificates c ON c.serial = t.used_serial WHERE t.id = ?")
                .bind(id)
                .fetch_optional(&self.readers)
                .await
                .map_err(failed("look up a token's certificate"))?;
        row.as_ref().map(issued_from_row).transpose()
    }

    /// The newest certificate for this key that was asked for with the certificate `serial`.
    pub(crate) async fn renewed_from(
        &self,
        serial: &str,
        key_digest: &[u8; 32],
    ) -> Result<Option<IssuedRecord>, StateError> {
        let row = sqlx::query(
            "SELECT * FROM certificates WHERE key_digest = ? AND authentication = 'certificate' AND credential = ? \
             AND status = 'issued' ORDER BY issued_at DESC LIMIT 1",
        )
        .bind(&key_digest[..])
        .bind(serial)
        .fetch_optional(&self.readers)
        .await
        .map_err(failed("look up a renewal"))?;
        row.as_ref().map(issued_from_row).transpose()
    }

    /// How many certificates have been issued to workers.
    pub(crate) async fn issued_count(&self) -> Result<u64, StateError> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM certificates WHERE purpose = 'worker' AND status = 'issued'")
                .fetch_one(&self.readers)
                .await
                .map_err(failed("count certificates"))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

fn issued_from_row(row: &SqliteRow) -> Result<IssuedRecord, StateError> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed("read a certificate"));
    let time =
        |column: &str| row.try_get::<i64, _>(column).map_err(failed("read a certificate")).and_then(time_from_seconds);
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(failed("read a certificate"));
    let worker_id: Option<String> = row.try_get("worker_id").map_err(failed("read a certificate"))?;
    let worker_id = worker_id.map(|text| WorkerId::new(&text)).transpose();
    Ok(IssuedRecord {
        serial: text("serial")?,
        worker_id: worker_id.map_err(|_| StateError::Corrupt { what: "a worker id" })?,
        names: names_from_text(&text("names")?)?,
        not_before: time("not_before")?,
        not_after: time("not_after")?,
        key_digest: digest_from(&bytes("key_digest")?)?,
        issuer_digest: digest_from(&bytes("issuer_digest")?)?,
        der: bytes("der")?,
        decision_id: text("decision_id")?,
        issued_at: time("issued_at")?,
    })
}
