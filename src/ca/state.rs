//! Owns the CA's record in `SQLite`: every statement of SQL is here or below; a write is on disk when it returns.

mod certificates;
mod tokens;

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use time::OffsetDateTime;

use super::authority::{AuthorityError, Lock, check_private, create_private};
use crate::identity::SubjectAltName;

pub(crate) use certificates::{IssuedRecord, Recorded, Reservation, Reserved, TokenUse};
pub(crate) use tokens::NewToken;
pub use tokens::TokenRecord;

/// The database. Cheap to clone; all clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// One connection, so that writers of this process queue here and not in the database's busy loop.
    writer: SqlitePool,
    readers: SqlitePool,
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is missing, open to others, or locked.
    #[error(transparent)]
    File(#[from] AuthorityError),
    /// The schema cannot be brought up to date.
    #[error("cannot prepare the database")]
    Migration(#[from] MigrateError),
    /// A statement failed.
    #[error("cannot {action} in the database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// A row that this program did not write.
    #[error("the database holds {what} that does not parse")]
    Corrupt {
        /// What was found.
        what: &'static str,
    },
}

impl StateError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "state_file",
            Self::Migration(_) => "state_migration",
            Self::Database { .. } => "state_database",
            Self::Corrupt { .. } => "state_corrupt",
        }
    }
}

impl State {
    /// Opens the database below `data_dir`, which exists; makes it on first use.
    pub(crate) async fn open(data_dir: &Path) -> Result<Self, StateError> {
        let path = data_dir.join(FILE);
        create_private(&path)?;
        check_private(&path, "600")?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // Durable before sent: WAL with anything less than FULL loses the last commits in a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
        // Two processes that open a fresh database at once must not both make its tables.
        let directory = data_dir.to_owned();
        let lock = tokio::task::spawn_blocking(move || Lock::acquire(&directory)).await;
        let lock = lock.map_err(|_| StateError::Corrupt { what: "a lock" })??;
        let writer = pool(1).connect_with(options.clone()).await.map_err(failed("open"))?;
        MIGRATIONS.run(&writer).await?;
        drop(lock);
        let readers = pool(READERS).connect_with(options).await.map_err(failed("open"))?;
        Ok(Self { writer, readers })
    }

    /// Whether the database answers.
    pub(crate) async fn is_alive(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.readers).await.is_ok()
    }

    /// Finishes what is queued and closes the file.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Begins a transaction that holds the write lock from its first statement, so that what it read stays true.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StateError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin"))
    }
}

fn failed(action: &'static str) -> impl FnOnce(sqlx::Error) -> StateError {
    move |source| StateError::Database { action, source }
}

fn names_to_text<'a>(names: impl IntoIterator<Item = &'a SubjectAltName>) -> Result<String, StateError> {
    let names: Vec<&SubjectAltName> = names.into_iter().collect();
    serde_json::to_string(&names).map_err(|_| StateError::Corrupt { what: "a name" })
}

fn names_from_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|_| StateError::Corrupt { what: "a list of names" })
}

fn time_from_seconds(seconds: i64) -> Result<OffsetDateTime, StateError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| StateError::Corrupt { what: "a time" })
}

fn digest_from(bytes: &[u8]) -> Result<[u8; 32], StateError> {
    bytes.try_into().map_err(|_| StateError::Corrupt { what: "a digest" })
}

static MIGRATIONS: Migrator = sqlx::migrate!("src/ca/migrations/sqlite");

const FILE: &str = "ca.sqlite3";

const READERS: u32 = 4;

/// How long a write waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write waits for those of this process.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
