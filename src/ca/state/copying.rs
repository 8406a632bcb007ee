//! Owns copies of the record and its examination: a consistent copy while others write, counts, what does not fit.

use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::backend::{Pool, on};
use super::{State, StateError, failed};

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Certificates, issued and reserved.
    pub certificates: u64,
    /// Workers.
    pub identities: u64,
    /// Join tokens.
    pub tokens: u64,
    /// Decisions.
    pub decisions: u64,
    /// Revocations.
    pub revocations: u64,
}

impl State {
    /// Writes the record as it is at one moment into `path`, an empty file; others go on writing meanwhile. `false` when
    /// the record is not in a file.
    pub(crate) async fn copy_into(&self, path: &Path) -> Result<bool, StateError> {
        let Pool::Sqlite(pool) = &self.readers else { return Ok(false) };
        let path = path.to_str().ok_or(StateError::Corrupt { what: "a path of the backup" })?;
        sqlx::query("VACUUM INTO $1").bind(path).execute(pool).await.map_err(failed("copy the record"))?;
        Ok(true)
    }

    /// How much is recorded.
    pub(crate) async fn counts(&self) -> Result<Counts, StateError> {
        let mut counts = [0_u64; 5];
        for (count, statement) in counts.iter_mut().zip([
            "SELECT count(*) FROM certificates",
            "SELECT count(*) FROM identities",
            "SELECT count(*) FROM tokens",
            "SELECT count(*) FROM decisions",
            "SELECT count(*) FROM revocations",
        ]) {
            *count = self.count(statement).await?;
        }
        let [certificates, identities, tokens, decisions, revocations] = counts;
        Ok(Counts { certificates, identities, tokens, decisions, revocations })
    }

    /// How many names are to be found besides those that follow from a worker.
    pub(crate) async fn count_names(&self) -> Result<u64, StateError> {
        self.count("SELECT count(*) FROM certificate_names").await
    }

    /// Makes every unused token useless. Returns how many there were.
    pub(crate) async fn revoke_unused_tokens(&self, now: OffsetDateTime) -> Result<u64, StateError> {
        let revoked = on!(Pool, &self.writer, pool => {
            sqlx::query(
                "UPDATE tokens SET revoked_at = $1 WHERE used_at IS NULL AND revoked_at IS NULL AND expires_at > $1",
            )
            .bind(now.unix_timestamp())
            .execute(pool)
            .await
            .map_err(failed("revoke tokens"))?
            .rows_affected()
        });
        Ok(revoked)
    }

    /// What the database finds wrong with itself, and rows that do not fit each other; some of each kind.
    pub(crate) async fn problems(&self) -> Result<Vec<String>, StateError> {
        let mut problems = Vec::new();
        if let Pool::Sqlite(pool) = &self.readers {
            let rows: Vec<(String,)> =
                sqlx::query_as("PRAGMA integrity_check(10)").fetch_all(pool).await.map_err(failed("check the file"))?;
            problems.extend(rows.into_iter().filter(|(row,)| row != "ok").map(|(row,)| format!("the file: {row}")));
        }
        for (statement, what) in REFERENCES {
            let rows: Vec<(String,)> = on!(Pool, &self.readers, pool => {
                sqlx::query_as(statement).fetch_all(pool).await.map_err(failed("check the record"))?
            });
            problems.extend(rows.into_iter().map(|(row,)| format!("{row} {what}")));
        }
        Ok(problems)
    }

    async fn count(&self, statement: &'static str) -> Result<u64, StateError> {
        let (count,): (i64,) = on!(Pool, &self.readers, pool => {
            sqlx::query_as(statement).fetch_one(pool).await.map_err(failed("count rows"))?
        });
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// Each finds rows that do not fit others, and says what is wrong with them.
const REFERENCES: [(&str, &str); 7] = [
    (
        "SELECT c.serial FROM certificates c LEFT JOIN keys k ON k.key_digest = c.key_digest WHERE k.key_digest IS NULL \
         OR (k.owner <> COALESCE(c.worker_id, '') AND k.owner <> '!') LIMIT 10",
        "is of a key that its worker does not own",
    ),
    (
        "SELECT t.id FROM tokens t JOIN certificates c ON c.serial = t.used_serial \
         WHERE c.status <> 'issued' OR c.worker_id IS NULL OR c.worker_id <> t.worker_id LIMIT 10",
        "was used for a certificate that is not of its worker",
    ),
    (
        "SELECT c.serial FROM certificates c LEFT JOIN decisions d ON d.id = c.decision_id \
         WHERE c.decision_id <> '' AND (d.id IS NULL OR d.outcome <> 'allow' OR d.worker_id <> c.worker_id) LIMIT 10",
        "was issued without a decision that allows it",
    ),
    (
        "SELECT c.serial FROM certificates c LEFT JOIN identities i ON i.worker_id = c.worker_id \
         WHERE c.status = 'issued' AND c.worker_id IS NOT NULL AND i.worker_id IS NULL LIMIT 10",
        "is of a worker that is not known",
    ),
    (
        "SELECT i.worker_id FROM identities i JOIN certificates c ON c.serial = i.last_serial \
         WHERE c.status <> 'issued' OR c.worker_id IS NULL OR c.worker_id <> i.worker_id \
         OR c.not_after <> i.last_not_after LIMIT 10",
        "has a newest certificate that is not its own",
    ),
    (
        "SELECT n.serial FROM certificate_names n LEFT JOIN certificates c ON c.serial = n.serial \
         WHERE c.serial IS NULL LIMIT 10",
        "has names and no certificate",
    ),
    (
        "SELECT r.serial FROM revocations r JOIN certificates c ON c.serial = r.serial \
         WHERE r.issuer_digest <> c.issuer_digest OR r.not_after <> c.not_after OR c.status <> 'issued' LIMIT 10",
        "is revoked as the certificate of another issuer or life",
    ),
];
