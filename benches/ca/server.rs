//! Owns the servers that are measured: crank-ca on either database, and step-ca with the same root and intermediate.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crank_agent::ca::{Database, PostgresServer, Tokens};
use crank_agent::clock::SystemClock;
use serde_json::{Value, json};
use sqlx::Row;
use tempfile::TempDir;

use crate::Result;
use crate::postgres::Postgres;
use crate::process::{Process, processor_time, status_bytes};
use crate::work::Provisioner;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Step,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Step];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "crank-ca, SQLite",
            Self::Postgres => "crank-ca, PostgreSQL",
            Self::Step => "step-ca, Badger",
        }
    }

    /// Whether the programs it needs are on the path.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Sqlite => true,
            Self::Postgres => find("postgres").is_some(),
            Self::Step => find("step-ca").is_some(),
        }
    }
}

/// A serving authority in a directory of its own.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) root_pem: String,
    pub(crate) provisioner: Option<Provisioner>,
    // In this order: the server ends before its database, and that before the directory.
    process: Process,
    database: Option<Postgres>,
    directory: TempDir,
}

impl Server {
    /// Makes a root and an intermediate with `program`, a crank-ca, and serves them.
    pub(crate) fn start(kind: Kind, program: &Path, max_connections: usize) -> Result<Self> {
        // Below the build directory, as /tmp may be in memory, where writing costs nothing.
        let directory = TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR"))?;
        let data = directory.path().join("ca");
        let made = Command::new(program).arg("init").arg("--data-dir").arg(&data).output()?;
        if !made.status.success() {
            return Err(format!("crank-ca init: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let database = match kind {
            Kind::Postgres => Some(Postgres::start()),
            Kind::Sqlite | Kind::Step => None,
        };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let provisioner = if kind == Kind::Step { Some(Provisioner::generate()?) } else { None };
        let mut command = match &provisioner {
            None => {
                let mut command = Command::new(program);
                command.arg("serve").arg("--data-dir").arg(&data).args(["--listen", &address.to_string()]);
                command.args(["--dns", "localhost", "--max-connections", &max_connections.to_string()]);
                // All clients have one address: its budget is counted as ever, but does not run out.
                let config = directory.path().join("crank-ca.toml");
                fs::write(&config, format!("{LIMITS}connections_per_source = {max_connections}\n"))?;
                command.arg("--config").arg(config);
                command
            }
            Some(provisioner) => {
                let config = directory.path().join("step.json");
                fs::write(&config, step_settings(&data, address, provisioner).to_string())?;
                let mut command = Command::new(find("step-ca").ok_or("step-ca is not on the PATH")?);
                command.arg(config).env("STEPPATH", directory.path());
                command
            }
        };
        if let Some(database) = &database {
            database.create_database(DATABASE);
            command.arg("--database-url").arg(database.url(DATABASE));
        }
        let mut process = Process::start(&mut command, &directory.path().join("log"))?;
        process.wait_for("the authority to listen", || TcpStream::connect(address).is_ok())?;
        let root_pem = fs::read_to_string(data.join("authority/root.crt"))?;
        Ok(Self { kind, address, root_pem, provisioner, process, database, directory })
    }

    /// The join tokens of a crank-ca.
    pub(crate) async fn tokens(&self) -> Result<Tokens> {
        let database = match self.url() {
            Some(url) => {
                Database::Postgres(PostgresServer { url, password_file: None, root_file: None, max_connections: 2 })
            }
            None => Database::Sqlite,
        };
        Ok(Tokens::open(&self.directory.path().join("ca"), &database, Arc::new(SystemClock)).await?)
    }

    /// The serials of all workers' certificates in the record of a crank-ca.
    pub(crate) async fn recorded_serials(&self) -> Result<BTreeSet<String>> {
        let statement = "SELECT serial FROM certificates WHERE purpose = 'worker' AND status = 'issued'";
        let serials = |row: &str| row.to_owned();
        if let Some(url) = self.url() {
            let pool = sqlx::PgPool::connect(&url).await?;
            let rows = sqlx::query(statement).fetch_all(&pool).await?;
            pool.close().await;
            return Ok(rows.iter().map(|row| serials(row.get(0))).collect());
        }
        let path = self.directory.path().join("ca/ca.sqlite3");
        let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await?;
        let rows = sqlx::query(statement).fetch_all(&pool).await?;
        pool.close().await;
        Ok(rows.iter().map(|row| serials(row.get(0))).collect())
    }

    /// Processor time of the authority, and of its database where that is another process.
    pub(crate) fn processor_time(&self) -> Result<(Duration, Duration)> {
        let database = if self.database.is_some() { postgres_time()? } else { Duration::ZERO };
        Ok((processor_time(self.process.id())?, database))
    }

    /// Resident memory of the authority, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        status_bytes(self.process.id(), "VmRSS")
    }

    /// What it logged of its own faults, the last three.
    pub(crate) fn last_errors(&self) -> String {
        let log = self.process.output();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("\"ERROR\"")).collect();
        errors[errors.len().saturating_sub(3)..].join("\n")
    }

    fn url(&self) -> Option<String> {
        self.database.as_ref().map(|database| database.url(DATABASE))
    }
}

/// As `step ca init` writes them, with a certificate's life of 24 h, which is its default too.
fn step_settings(data: &Path, address: SocketAddr, provisioner: &Provisioner) -> Value {
    json!({
        "root": data.join("authority/root.crt"),
        "crt": data.join("authority/issuing.crt"),
        "key": data.join("authority/issuing.key"),
        "address": address.to_string(),
        "dnsNames": ["localhost"],
        "logger": { "format": "json" },
        "db": { "type": "badgerv2", "dataSource": data.join("db") },
        "authority": {
            "provisioners": [{ "type": "JWK", "name": Provisioner::NAME, "key": provisioner.jwk() }],
        },
    })
}

/// Of all `PostgreSQL` processes below this one.
fn postgres_time() -> Result<Duration> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(')') else { continue };
        let parent = fields.split_whitespace().nth(1).and_then(|parent| parent.parse::<u32>().ok());
        if head.ends_with("(postgres") {
            parents.push((id, parent.unwrap_or(0)));
        }
    }
    let own = std::process::id();
    let main: BTreeSet<u32> = parents.iter().filter(|(_, parent)| *parent == own).map(|(id, _)| *id).collect();
    let ours = parents.iter().filter(|(id, parent)| main.contains(id) || main.contains(parent));
    ours.map(|(id, _)| processor_time(*id)).sum()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

const DATABASE: &str = "bench";

const LIMITS: &str = "[limits]\nsource_rate = 1000000\nsource_burst = 10000000\nworker_rate = 1000000\n\
                      worker_burst = 10000000\n";
