//! Owns the two databases behind one set of statements: `SQLite` beside the CA's keys, or a `PostgreSQL` that several
//! replicas share.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres, SqlSafeStr, Sqlite, SqlitePool, Transaction};

use super::{StateError, failed};
use crate::ca::authority::{Lock, check_private, check_secret, create_private};

/// Where the record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `ca.sqlite3` in the CA's data directory.
    Sqlite,
    /// A `PostgreSQL` server.
    Postgres(PostgresServer),
}

/// A `PostgreSQL` server that is verified, or reached by a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresServer {
    /// `postgres://user@host:port/database`, without a password. A host that begins with a slash, percent-encoded, or
    /// `?host=/directory`, is the directory of a Unix socket.
    pub url: String,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// The roots that the server's certificate must reach. Needed unless it is reached by a socket.
    pub root_file: Option<PathBuf>,
    /// The most connections of this process.
    pub max_connections: u32,
}

/// A pool of connections.
#[derive(Debug, Clone)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction that rolls back when dropped.
pub(super) enum OpenTransaction {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Runs the same body against whichever database a [`Pool`] or an [`OpenTransaction`] stands for.
macro_rules! on {
    ($type:ident, $value:expr, $name:ident => $body:expr) => {
        match $value {
            $crate::ca::state::backend::$type::Sqlite($name) => $body,
            $crate::ca::state::backend::$type::Postgres($name) => $body,
        }
    };
}
pub(super) use on;

impl Pool {
    /// Opens the database and brings its schema up to date. Returns the pool of writers and that of readers.
    pub(super) async fn open(data_dir: &Path, database: &Database) -> Result<(Self, Self), StateError> {
        match database {
            Database::Sqlite => open_sqlite(data_dir).await,
            Database::Postgres(server) => open_postgres(server).await,
        }
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&self) -> Result<OpenTransaction, StateError> {
        let begun = match self {
            // Holds the write lock from the first statement, so that what it read stays true.
            Self::Sqlite(pool) => pool.begin_with("BEGIN IMMEDIATE").await.map(OpenTransaction::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(OpenTransaction::Postgres),
        };
        begun.map_err(failed("begin"))
    }

    /// Finishes what is under way and closes the connections.
    pub(super) async fn close(&self) {
        on!(Pool, self, pool => pool.close().await);
    }

    /// How many transactions may usefully be under way at once.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) => POSTGRES_LANES,
        }
    }
}

impl OpenTransaction {
    /// On disk when it returns.
    pub(super) async fn commit(self) -> Result<(), StateError> {
        on!(OpenTransaction, self, transaction => transaction.commit().await).map_err(failed("commit"))
    }
}

async fn open_sqlite(data_dir: &Path) -> Result<(Pool, Pool), StateError> {
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
        .statement_cache_capacity(STATEMENTS)
        // In pages of 4 KiB. Pages that change often go to the database file once, not every eighty certificates.
        .pragma("wal_autocheckpoint", "4000")
        // What a statement of many rows would undo stays in memory, and not in a file of its own each time.
        .pragma("temp_store", "MEMORY")
        .busy_timeout(BUSY_TIMEOUT);
    // A file does not hang up.
    let pool = |size| {
        SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false)
    };
    // Two processes that open a fresh database at once must not both make its tables.
    let directory = data_dir.to_owned();
    let lock = tokio::task::spawn_blocking(move || Lock::acquire(&directory)).await;
    let lock = lock.map_err(|_| StateError::Corrupt { what: "a lock" })??;
    // One connection, so that writers of this process queue here and not in the database's busy loop.
    let writer =
        pool(1).connect_with(options.clone().pragma("cache_size", WRITER_CACHE)).await.map_err(failed("open"))?;
    migrations("INTEGER", "BLOB", " TEXT").run(&writer).await?;
    drop(lock);
    let readers = pool(SQLITE_READERS).connect_with(options).await.map_err(failed("open"))?;
    Ok((Pool::Sqlite(writer), Pool::Sqlite(readers)))
}

async fn open_postgres(server: &PostgresServer) -> Result<(Pool, Pool), StateError> {
    let options = server.options()?.statement_cache_capacity(STATEMENTS);
    let pool = PgPoolOptions::new()
        .max_connections(server.max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                // One that was in use a moment ago need not be asked whether it still is.
                if metadata.idle_for > TESTED_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options)
        .await
        .map_err(failed("open"))?;
    migrations("BIGINT", "BYTEA", " TEXT COLLATE \"C\"").run(&pool).await?;
    Ok((Pool::Postgres(pool.clone()), Pool::Postgres(pool)))
}

impl PostgresServer {
    /// Checks the settings, without a connection.
    ///
    /// # Errors
    /// When the URL does not parse or carries a password, or the server could not be verified.
    pub fn check(&self) -> Result<(), StateError> {
        self.options().map(drop)
    }

    fn options(&self) -> Result<PgConnectOptions, StateError> {
        let setting = |key, expected: &str| StateError::Setting { key, expected: expected.to_owned() };
        let form = "expected postgres://user@host:port/database";
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err(setting("database.url", form));
        }
        // The part before the host, where a password would show in every listing of processes.
        let authority = self.url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
        if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || self.url.contains("password=") {
            return Err(setting(
                "database.url",
                "expected no password in it: put it into a file, database.password_file",
            ));
        }
        let mut options = PgConnectOptions::from_str(&self.url).map_err(|_| setting("database.url", form))?;
        let local = options.get_socket().is_some() || options.get_host().starts_with('/');
        if !local {
            let Some(root_file) = &self.root_file else {
                let expected = "expected the roots of the server's certificate, unless it is reached by a Unix socket";
                return Err(setting("database.root_file", expected));
            };
            options = options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(root_file);
        }
        if let Some(path) = &self.password_file {
            check_secret(path)?;
            let password = std::fs::read_to_string(path).map_err(|source| {
                StateError::File(crate::ca::AuthorityError::File { action: "read", path: path.clone(), source })
            })?;
            options = options.password(password.trim_end_matches(['\r', '\n']));
        }
        Ok(options.application_name("crank-ca"))
    }
}

/// The schema with the names that a database has for the types of eight-byte integers, of bytes and of text that is
/// compared byte by byte, whatever the language of the server.
fn migrations(integer: &str, blob: &str, words: &str) -> Migrator {
    let migration = |(version, description, text): (i64, &'static str, &str)| {
        let sql = text.replace("INTEGER", integer).replace("BLOB", blob).replace(" TEXT", words);
        Migration::new(version, description.into(), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect())
}

const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "initial", include_str!("../migrations/0001_initial.sql"))];

const FILE: &str = "ca.sqlite3";

const SQLITE_READERS: u32 = 4;

/// In KiB, as it is negative. Serials and digests are spread over all pages of their indexes.
const WRITER_CACHE: &str = "-16384";

const POSTGRES_LANES: usize = 4;

/// Statements for many rows at once differ with the number of rows.
const STATEMENTS: usize = 512;

/// How long a write waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection to a server may be idle before it is tested at its next use.
const TESTED_AFTER: Duration = Duration::from_millis(500);

/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, root_file: Option<&str>) -> Result<(), String> {
        let server = PostgresServer {
            url: url.to_owned(),
            password_file: None,
            root_file: root_file.map(PathBuf::from),
            max_connections: 4,
        };
        server.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_on_the_network_needs_roots_and_a_socket_does_not() {
        assert!(server("postgres://crank@db.example:5432/crank", Some("/etc/roots.pem")).is_ok());
        let error = server("postgres://crank@db.example:5432/crank", None).unwrap_err();
        assert!(error.contains("database.root_file"), "{error}");
        let error = server("postgres://crank@db.example/crank?sslmode=disable", None).unwrap_err();
        assert!(error.contains("database.root_file"), "{error}");
        assert!(server("postgres://crank@%2Frun%2Fpostgresql/crank", None).is_ok());
        assert!(server("postgres:///crank?host=/run/postgresql&user=crank", None).is_ok());
    }

    #[test]
    fn verification_cannot_be_turned_off_by_the_url() {
        let server = PostgresServer {
            url: "postgres://crank@db.example/crank?sslmode=disable".to_owned(),
            password_file: None,
            root_file: Some("/etc/roots.pem".into()),
            max_connections: 4,
        };
        assert!(matches!(server.options().unwrap().get_ssl_mode(), PgSslMode::VerifyFull));
    }

    #[test]
    fn passwords_are_not_taken_from_urls() {
        for url in ["postgres://crank:secret@db.example/crank", "postgres://db.example/crank?password=secret"] {
            let error = server(url, Some("/etc/roots.pem")).unwrap_err();
            assert!(error.contains("password_file") && !error.contains("secret"), "{error}");
        }
        assert!(server("mysql://db.example/crank", None).unwrap_err().contains("database.url"));
    }
}
