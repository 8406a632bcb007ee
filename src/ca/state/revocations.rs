//! Owns the record of revocations, and the count of changes by which processes notice each other's.

use time::OffsetDateTime;

use super::backend::{OpenTransaction, on};
use super::{State, StateError, digest_from, failed, time_from_seconds};
use crate::ca::revocation::{reason_from_code, reason_to_code};
use crate::identity::WorkerId;
use crate::policy::RevocationReason;

/// A certificate to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRevocation {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// Why.
    pub(crate) reason: RevocationReason,
    /// Who asked: `worker:ID`, `admin:NAME` or `operator`.
    pub(crate) actor: String,
    /// The policy's decision.
    pub(crate) decision_id: String,
    /// The request.
    pub(crate) correlation_id: String,
    /// Now.
    pub(crate) at: OffsetDateTime,
}

/// A certificate that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevocationRecord {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// SHA-256 of the certificate that signed it.
    pub(crate) issuer_digest: [u8; 32],
    /// Why.
    pub(crate) reason: RevocationReason,
    /// Who asked.
    pub(crate) actor: String,
    /// The request.
    pub(crate) correlation_id: String,
    /// Its `notAfter`.
    pub(crate) not_after: OffsetDateTime,
    /// When it was revoked.
    pub(crate) revoked_at: OffsetDateTime,
    /// The change that revoked it.
    pub(crate) revision: i64,
}

/// Begins every statement that reads [`RevocationRow`]s.
macro_rules! revocation_rows {
    () => {
        "SELECT serial, issuer_digest, reason, actor, correlation_id, not_after, revoked_at, revision FROM revocations"
    };
}

impl State {
    /// Revokes all that are certificates of workers, in one transaction; from then on their keys are nobody's. Returns
    /// what is revoked, in the order asked for: the first revocation counts, and an unknown serial is left out.
    pub(crate) async fn revoke(&self, revocations: &[NewRevocation]) -> Result<Vec<RevocationRecord>, StateError> {
        let mut transaction = self.writer.begin().await?;
        let revision = next_revision(&mut transaction).await?;
        let mut rows: Vec<RevocationRow> = Vec::new();
        let mut changed = false;
        for revocation in revocations {
            on!(OpenTransaction, &mut transaction, transaction => {
                let inserted = sqlx::query(
                    "INSERT INTO revocations (serial, issuer_digest, reason, actor, decision_id, correlation_id, \
                     not_after, revoked_at, revision) \
                     SELECT serial, issuer_digest, $2, $3, $4, $5, not_after, $6, $7 FROM certificates \
                     WHERE serial = $1 AND status = 'issued' AND purpose = 'worker' ON CONFLICT (serial) DO NOTHING",
                )
                .bind(&revocation.serial)
                .bind(i64::from(reason_to_code(revocation.reason)))
                .bind(&revocation.actor)
                .bind(&revocation.decision_id)
                .bind(&revocation.correlation_id)
                .bind(revocation.at.unix_timestamp())
                .bind(revision)
                .execute(&mut **transaction)
                .await
                .map_err(failed("revoke a certificate"))?;
                if inserted.rows_affected() == 1 {
                    changed = true;
                    sqlx::query(
                        "UPDATE keys SET owner = $2 \
                         WHERE key_digest = (SELECT key_digest FROM certificates WHERE serial = $1)",
                    )
                    .bind(&revocation.serial)
                    .bind(NOBODY)
                    .execute(&mut **transaction)
                    .await
                    .map_err(failed("revoke a key"))?;
                }
                let row = sqlx::query_as(concat!(revocation_rows!(), " WHERE serial = $1"))
                    .bind(&revocation.serial)
                    .fetch_optional(&mut **transaction)
                    .await
                    .map_err(failed("look up a revocation"))?;
                rows.extend(row);
            });
        }
        // Dropped, it takes the count back too.
        if changed {
            transaction.commit().await?;
        }
        rows.into_iter().map(RevocationRecord::try_from).collect()
    }

    /// The revocations after `revision`, oldest first, of certificates that end at `end` or later.
    pub(crate) async fn revocations_since(
        &self,
        revision: i64,
        end: OffsetDateTime,
    ) -> Result<Vec<RevocationRecord>, StateError> {
        let rows: Vec<RevocationRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(revocation_rows!(), " WHERE revision > $1 AND not_after >= $2 ORDER BY revision"))
                .bind(revision)
                .bind(end.unix_timestamp())
                .fetch_all(pool)
                .await
                .map_err(failed("list revocations"))?
        });
        rows.into_iter().map(RevocationRecord::try_from).collect()
    }

    /// The serials of a worker's certificates that neither have ended nor are revoked.
    pub(crate) async fn serials_in_force(
        &self,
        worker_id: &WorkerId,
        now: OffsetDateTime,
    ) -> Result<Vec<String>, StateError> {
        let rows: Vec<(String,)> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(
                "SELECT c.serial FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial \
                 WHERE c.worker_id = $1 AND c.not_after > $2 AND c.status = 'issued' AND r.serial IS NULL \
                 ORDER BY c.issued_at, c.serial",
            )
            .bind(worker_id.as_str())
            .bind(now.unix_timestamp())
            .fetch_all(pool)
            .await
            .map_err(failed("list a worker's certificates"))?
        });
        Ok(rows.into_iter().map(|(serial,)| serial).collect())
    }

    /// How many changes there have been. Another number than before: look again.
    pub(crate) async fn revision(&self) -> Result<i64, StateError> {
        let (revision,): (i64,) = on!(Pool, &self.readers, pool => {
            sqlx::query_as("SELECT revision FROM changes WHERE id = 1")
                .fetch_one(pool)
                .await
                .map_err(failed("look for changes"))?
        });
        Ok(revision)
    }
}

/// Counts a change and keeps others from making one until this is committed.
pub(super) async fn next_revision(transaction: &mut OpenTransaction) -> Result<i64, StateError> {
    count(transaction, 1).await
}

/// The count as it is, and nobody changes it until this is committed.
pub(super) async fn held_revision(transaction: &mut OpenTransaction) -> Result<i64, StateError> {
    count(transaction, 0).await
}

async fn count(transaction: &mut OpenTransaction, changes: i64) -> Result<i64, StateError> {
    let (revision,): (i64,) = on!(OpenTransaction, transaction, transaction => {
        sqlx::query_as("UPDATE changes SET revision = revision + $1 WHERE id = 1 RETURNING revision")
            .bind(changes)
            .fetch_one(&mut **transaction)
            .await
            .map_err(failed("count a change"))?
    });
    Ok(revision)
}

#[derive(sqlx::FromRow)]
struct RevocationRow {
    serial: String,
    issuer_digest: Vec<u8>,
    reason: i64,
    actor: String,
    correlation_id: String,
    not_after: i64,
    revoked_at: i64,
    revision: i64,
}

impl TryFrom<RevocationRow> for RevocationRecord {
    type Error = StateError;

    fn try_from(row: RevocationRow) -> Result<Self, StateError> {
        Ok(Self {
            serial: row.serial,
            issuer_digest: digest_from(&row.issuer_digest)?,
            reason: reason_from_code(row.reason).ok_or(StateError::Corrupt { what: "a reason" })?,
            actor: row.actor,
            correlation_id: row.correlation_id,
            not_after: time_from_seconds(row.not_after)?,
            revoked_at: time_from_seconds(row.revoked_at)?,
            revision: row.revision,
        })
    }
}

/// The owner of a key whose certificate was revoked: no worker id, so that nobody gets it certified again.
const NOBODY: &str = "!";
