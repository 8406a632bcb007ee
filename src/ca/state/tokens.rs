//! Owns the record of join tokens: their digests, whom they are for, and what became of them.

use std::collections::BTreeSet;

use serde::Serialize;
use time::OffsetDateTime;

use super::backend::on;
use super::{State, StateError, failed, names_from_text, names_to_text, time_from_seconds};
use crate::ca::records::{Position, serialize_names};
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    /// Its public id.
    pub id: String,
    /// Whom it is for.
    pub worker_id: WorkerId,
    /// Names permitted beside the worker's own.
    #[serde(serialize_with = "serialize_names")]
    pub names: BTreeSet<SubjectAltName>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it lapses.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// When it was used.
    #[serde(with = "time::serde::rfc3339::option")]
    pub used_at: Option<OffsetDateTime>,
    /// The serial of the certificate it was used for.
    pub used_serial: Option<String>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// Begins every statement that reads [`TokenRow`]s.
macro_rules! token_rows {
    () => {
        "SELECT id, token_digest, worker_id, names, created_at, expires_at, used_at, used_serial, revoked_at FROM tokens"
    };
}
pub(super) use token_rows;

impl State {
    /// Records a token.
    pub(crate) async fn add_token(&self, token: &NewToken) -> Result<(), StateError> {
        let names = names_to_text(&token.names)?;
        on!(Pool, &self.writer, pool => {
            sqlx::query(
                "INSERT INTO tokens (id, token_digest, worker_id, names, created_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(&token.id)
            .bind(&token.digest[..])
            .bind(token.worker_id.as_str())
            .bind(names)
            .bind(token.created_at.unix_timestamp())
            .bind(token.expires_at.unix_timestamp())
            .execute(pool)
            .await
            .map_err(failed("record a token"))?;
        });
        Ok(())
    }

    /// The token with this digest.
    pub(crate) async fn token(&self, digest: &[u8; 32]) -> Result<Option<TokenRecord>, StateError> {
        self.looking_up.token(digest).await
    }

    /// The newest tokens first, at most `limit`.
    pub(crate) async fn tokens(&self, limit: u32) -> Result<Vec<TokenRecord>, StateError> {
        let rows: Vec<TokenRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(token_rows!(), " ORDER BY created_at DESC, id LIMIT $1"))
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await
                .map_err(failed("list tokens"))?
        });
        rows.into_iter().map(TokenRecord::try_from).collect()
    }

    /// Makes an unused token useless. `false` when there is no such token, or it is used or revoked already.
    pub(crate) async fn revoke_token(&self, id: &str, now: OffsetDateTime) -> Result<bool, StateError> {
        let revoked = on!(Pool, &self.writer, pool => {
            sqlx::query(
                "UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND used_at IS NULL AND revoked_at IS NULL",
            )
            .bind(now.unix_timestamp())
            .bind(id)
            .execute(pool)
            .await
            .map_err(failed("revoke a token"))?
            .rows_affected()
        });
        Ok(revoked == 1)
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct TokenRow {
    id: String,
    pub(super) token_digest: Vec<u8>,
    worker_id: String,
    names: String,
    created_at: i64,
    expires_at: i64,
    used_at: Option<i64>,
    used_serial: Option<String>,
    revoked_at: Option<i64>,
}

impl TokenRow {
    pub(super) fn position(&self) -> Position {
        Position(self.created_at, self.id.clone())
    }
}

impl TryFrom<TokenRow> for TokenRecord {
    type Error = StateError;

    fn try_from(row: TokenRow) -> Result<Self, StateError> {
        Ok(Self {
            id: row.id,
            worker_id: WorkerId::new(&row.worker_id).map_err(|_| StateError::Corrupt { what: "a worker id" })?,
            names: names_from_text(&row.names)?,
            created_at: time_from_seconds(row.created_at)?,
            expires_at: time_from_seconds(row.expires_at)?,
            used_at: row.used_at.map(time_from_seconds).transpose()?,
            used_serial: row.used_serial,
            revoked_at: row.revoked_at.map(time_from_seconds).transpose()?,
        })
    }
}
