//! Owns the CA's record, in `SQLite` or `PostgreSQL`: every statement of SQL is here or below; a write is on disk when it
//! returns.

mod backend;
mod by_issuer;
mod certificates;
mod copying;
mod crls;
mod decisions;
mod issuing;
mod listing;
mod orders;
mod reader;
mod retention;
mod revocations;
mod rows;
mod tokens;
mod writer;

use std::path::Path;

use sqlx::migrate::MigrateError;
use time::OffsetDateTime;

use super::authority::AuthorityError;
use crate::identity::SubjectAltName;

use backend::{Pool, on};
use reader::Reader;
use writer::Writer;

pub use backend::{Database, PostgresServer};
pub(crate) use certificates::{Issuance, IssuedRecord, IssuedWith, Recorded, Reservation, Reserved};
pub use copying::Counts;
pub(crate) use crls::CrlRecord;
pub use decisions::DecisionRecord;
pub(crate) use issuing::follows_from;
pub(crate) use retention::Forgotten;
pub(crate) use revocations::{NewRevocation, RevocationRecord};
pub(crate) use tokens::NewToken;
pub use tokens::TokenRecord;

/// The database. Cheap to clone; all clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct State {
    writer: Pool,
    readers: Pool,
    issuing: Writer,
    looking_up: Reader,
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is missing, open to others, or locked.
    #[error(transparent)]
    File(#[from] AuthorityError),
    /// A setting of the database that cannot be used.
    #[error("{key}: {expected}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What was expected.
        expected: String,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot prepare the database")]
    Migration(#[source] MigrateError),
    /// The schema is that of a later version.
    #[error(
        "the record was written by a newer crank-ca (its schema is {version}): use that one, or restore a backup from before \
         the upgrade"
    )]
    Newer {
        /// The version of the schema.
        version: i64,
    },
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
    /// The CA is stopping.
    #[error("the database is closed")]
    Closed,
}

impl From<MigrateError> for StateError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer { version },
            error => Self::Migration(error),
        }
    }
}

impl StateError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "state_file",
            Self::Setting { .. } => "state_setting",
            Self::Migration(_) | Self::Newer { .. } => "state_migration",
            Self::Database { .. } => "state_database",
            Self::Corrupt { .. } => "state_corrupt",
            Self::Closed => "state_closed",
        }
    }
}

impl State {
    /// Opens the record of the CA under `data_dir`, which exists; makes it on first use. Needs a tokio runtime.
    pub(crate) async fn open(data_dir: &Path, database: &Database) -> Result<Self, StateError> {
        let (writer, readers) = Pool::open(data_dir, database).await?;
        let issuing = Writer::start(&writer);
        let looking_up = Reader::start(&readers);
        Ok(Self { writer, readers, issuing, looking_up })
    }

    /// Whether the database answers.
    pub(crate) async fn is_alive(&self) -> bool {
        on!(Pool, &self.readers, pool => sqlx::query("SELECT 1").execute(pool).await.is_ok())
    }

    /// Finishes what is queued and closes the file.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
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

#[cfg(test)]
mod tests;
