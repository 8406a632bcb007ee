//! Owns the record of join tokens: their digests, whom they are for, and what became of them.

use std::collections::BTreeSet;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use super::{State, StateError, digest_from, failed, names_from_text, names_to_text, time_from_seconds};
use crate::identity::{SubjectAltName, WorkerId};

/// A token to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    /// Its public id.
    pub(crate) id: String,
    /// SHA-256 of the token.
    pub(crate) digest: [u8; 32],
    /// Whom it is for.
    pub(crate) worker_id: WorkerId,
    /// Names permitted beside the worker's own.
    pub(crate) names: BTreeSet<SubjectAltName>,
    /// Now.
    pub(crate) created_at: OffsetDateTime,
    /// When it lapses.
    pub(crate) expires_at: OffsetDateTime,
}

/// What is known of a token. The token itself is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public id.
    pub id: String,
    /// Whom it is for.
    pub worker_id: WorkerId,
    /// Names permitted beside the worker's own.
    pub names: BTreeSet<SubjectAltName>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it lapses.
    pub expires_at: OffsetDateTime,
    /// When it was used.
    pub used_at: Option<OffsetDateTime>,
    /// The serial of the certificate it was used for.
    pub used_serial: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

impl State {
    /// Records a token.
    pub(crate) async fn add_token(&self, token: &NewToken) -> Result<(), StateError> {
        sqlx::query(
            "INSERT INTO tokens (id, token_digest, worker_id, names, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&token.id)
        .bind(&token.digest[..])
        .bind(token.worker_id.as_str())
        .bind(names_to_text(&token.names)?)
        .bind(token.created_at.unix_timestamp())
        .bind(token.expires_at.unix_timestamp())
        .execute(&self.writer)
        .await
        .map_err(failed("record a token"))?;
        Ok(())
    }

    /// The token with this digest.
    pub(crate) async fn token(&self, digest: &[u8; 32]) -> Result<Option<TokenRecord>, StateError> {
        let row = sqlx::query("SELECT * FROM tokens WHERE token_digest = ?")
            .bind(&digest[..])
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("look up a token"))?;
        let Some(row) = row else { return Ok(None) };
        // The index compares bytes; this is the same comparison once more, against a wrong index.
        let stored: Vec<u8> = row.try_get("token_digest").map_err(failed("read a token"))?;
        if digest_from(&stored)? != *digest {
            return Err(StateError::Corrupt { what: "a token index" });
        }
        token_from_row(&row).map(Some)
    }

    /// The newest tokens first, at most `limit`.
    pub(crate) async fn tokens(&self, limit: u32) -> Result<Vec<TokenRecord>, StateError> {
        let rows = sqlx::query("SELECT * FROM tokens ORDER BY created_at DESC, id LIMIT ?")
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(failed("list tokens"))?;
        rows.iter().map(token_from_row).collect()
    }

    /// Makes an unused token useless. `false` when there is no such token, or it is used or revoked already.
    pub(crate) async fn revoke_token(&self, id: &str, now: OffsetDateTime) -> Result<bool, StateError> {
        let revoked =
            sqlx::query("UPDATE tokens SET revoked_at = ? WHERE id = ? AND used_at IS NULL AND revoked_at IS NULL")
                .bind(now.unix_timestamp())
                .bind(id)
                .execute(&self.writer)
                .await
                .map_err(failed("revoke a token"))?;
        Ok(revoked.rows_affected() == 1)
    }
}

fn token_from_row(row: &SqliteRow) -> Result<TokenRecord, StateError> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed("read a token"));
    let seconds = |column: &str| row.try_get::<i64, _>(column).map_err(failed("read a token"));
    let maybe = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(failed("read a token"));
    let worker_id = WorkerId::new(&text("worker_id")?).map_err(|_| StateError::Corrupt { what: "a worker id" })?;
    Ok(TokenRecord {
        id: text("id")?,
        worker_id,
        names: names_from_text(&text("names")?)?,
        created_at: time_from_seconds(seconds("created_at")?)?,
        expires_at: time_from_seconds(seconds("expires_at")?)?,
        used_at: maybe("used_at")?.map(time_from_seconds).transpose()?,
        used_serial: row.try_get("used_serial").map_err(failed("read a token"))?,
        revoked_at: maybe("revoked_at")?.map(time_from_seconds).transpose()?,
    })
}
