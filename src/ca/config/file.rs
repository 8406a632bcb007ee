//! Owns the settings file of crank-ca: TOML, every key optional, unknown keys refused.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::{CaConfig, CaConfigReport, CaProblem, SHORTEST_RETENTION, Text};
use crate::ca::admission::LONGEST_GRACE;
use crate::ca::anonymous::AnonymousSettings;
use crate::ca::authority::KeySettings;
use crate::ca::kubernetes::KubernetesSettings;
use crate::ca::limits::LimitSettings;
use crate::ca::oidc::IssuerSettings;
use crate::ca::revocation::{AdminSection, CrlSection, RenewalSection, RevocationConfig};
use crate::ca::state::{Database, PostgresServer, StateError};
use crate::config::Environment;
use crate::duration::format_duration;
use crate::identity::SubjectAltName;
use crate::policy::PolicySettings;
use crate::policy::default::{LONGEST_LIFETIME, SHORTEST_LIFETIME};
use crate::printable::{error_chain, printable};

/// What the file says, with what flags and environment say put over it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaFile {
    /// `data_dir`: where `init` put the CA.
    pub data_dir: Option<PathBuf>,
    /// `listen`: where to listen, as `0.0.0.0:9090`.
    pub listen: Option<Text<SocketAddr>>,
    /// `names`: DNS names and IP addresses of this server.
    pub names: Option<Vec<Text<SubjectAltName>>>,
    /// `lifetime`: the life of a worker's certificate.
    pub lifetime: Option<Text<Duration>>,
    /// `environment`: `development` or `production`.
    pub environment: Option<Environment>,
    /// `max_connections`: the most at a time.
    pub max_connections: Option<usize>,
    /// `retention`: how long the record keeps what is over.
    pub retention: Option<Text<Duration>>,
    /// `renewal_grace`: how long after its end a certificate still renews itself.
    pub renewal_grace: Option<Text<Duration>>,
    /// `[keys]`: how the CA's keys are opened.
    pub keys: KeySettings,
    /// `[database]`.
    pub database: DatabaseSection,
    /// `[crl]`.
    pub crl: CrlSection,
    /// `[admin]`.
    pub admin: AdminSection,
    /// `[renewal]`.
    pub renewal: RenewalSection,
    /// `[policy]`.
    pub policy: PolicySettings,
    /// `[[issuers]]`: whose tokens count.
    pub issuers: Vec<IssuerSettings>,
    /// `[[anonymous]]`: who needs no credential.
    pub anonymous: Vec<AnonymousSettings>,
    /// `[limits]`: how often anybody may ask.
    pub limits: LimitSettings,
    /// `[kubernetes]`: signs the requests of a cluster.
    pub kubernetes: Option<KubernetesSettings>,
}

/// `[database]`: a `PostgreSQL` server instead of a file in the data directory.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseSection {
    /// `database.url`: `postgres://user@host:port/database`.
    pub url: Option<String>,
    /// `database.password_file`.
    pub password_file: Option<PathBuf>,
    /// `database.root_file`: the roots that the server's certificate must reach.
    pub root_file: Option<PathBuf>,
    /// `database.max_connections`: the most of this process.
    pub max_connections: Option<u32>,
}

impl CaFile {
    /// Reads the file at `path`. Blocks on the file system.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or holds a key or a value that is not known.
    pub fn read(path: &Path) -> Result<Self, CaConfigReport> {
        let problem = |expected: String| CaConfigReport {
            problems: vec![CaProblem::new(&format!("file {}", path.display()), None, expected)],
        };
        let text = content(path).map_err(|error| problem(format!("expected a readable file of TOML: {error}")))?;
        // The parser's own words show line and key, on several lines.
        toml::from_str(&text).map_err(|error| problem(format!("cannot be used:\n{}", error.to_string().trim_end())))
    }

    /// Where the record is.
    ///
    /// # Errors
    /// Every problem of the section `[database]`.
    pub fn database(&self) -> Result<Database, CaConfigReport> {
        let mut problems = Vec::new();
        let database = self.database.resolve(&mut problems);
        if problems.is_empty() { Ok(database) } else { Err(CaConfigReport { problems }) }
    }

    /// The settings, with defaults for what nobody set.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn resolve(self) -> Result<CaConfig, CaConfigReport> {
        let mut problems = Vec::new();
        let database = self.database.resolve(&mut problems);
        let mut problem = |key: &str, value: Option<String>, expected: &str| {
            problems.push(CaProblem::new(key, value.as_deref(), expected));
        };
        let names: Vec<SubjectAltName> = match self.names {
            Some(names) => names.into_iter().map(|Text(name)| name).collect(),
            None => DEFAULT_NAME.parse().into_iter().collect(),
        };
        if names.is_empty() || names.iter().any(|name| matches!(name, SubjectAltName::Uri(_))) {
            problem("names", None, "expected one or more DNS names and IP addresses of this server");
        }
        let listen = self.listen.map_or(DEFAULT_LISTEN, |Text(listen)| listen);
        let mut config = CaConfig::new(self.data_dir.unwrap_or_default(), listen, names);
        if config.data_dir.as_os_str().is_empty() {
            problem("data_dir", None, "expected the directory that `crank-ca init` made");
        }
        if let Some(Text(lifetime)) = self.lifetime {
            if !(SHORTEST_LIFETIME..=LONGEST_LIFETIME).contains(&lifetime) {
                problem("lifetime", Some(format_duration(lifetime)), "expected 60s to 365d");
            }
            config.lifetime = lifetime;
        }
        if let Some(Text(retention)) = self.retention {
            if retention < SHORTEST_RETENTION {
                problem("retention", Some(format_duration(retention)), "expected at least 1d");
            }
            config.retention = retention;
        }
        if let Some(max_connections) = self.max_connections {
            if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&max_connections) {
                problem("max_connections", Some(max_connections.to_string()), "expected at least 1");
            }
            config.max_connections = max_connections;
        }
        match self.policy.resolve() {
            Ok(policy) => config.policy = policy,
            Err(found) => found.into_iter().for_each(|found| problem(found.key, found.value, found.expected)),
        }
        if let Some(Text(grace)) = self.renewal_grace {
            if grace > LONGEST_GRACE {
                problem("renewal_grace", Some(format_duration(grace)), "expected 0s (off) to 7d");
            }
            config.renewal_grace = grace;
        }
        config.issuers = each(&self.issuers, "issuers", IssuerSettings::resolve, &mut problems);
        for (index, issuer) in config.issuers.iter().enumerate() {
            if config.issuers[..index].iter().any(|earlier| earlier.issuer() == issuer.issuer()) {
                problems.push(CaProblem::unfit("issuers", issuer.issuer(), "each issuer once"));
            }
        }
        config.anonymous = each(&self.anonymous, "anonymous", AnonymousSettings::resolve, &mut problems);
        let limits = each(&[self.limits], "limits", LimitSettings::resolve, &mut problems);
        config.limits = limits.into_iter().next().unwrap_or_default();
        let lifetime = config.lifetime;
        config.kubernetes = self.kubernetes.and_then(|signer| {
            let wrong = |wrong: Vec<CaProblem>| problems.extend(wrong.into_iter().map(|one| one.below("kubernetes")));
            signer.resolve(lifetime).map_err(wrong).ok()
        });
        config.environment = self.environment.unwrap_or_default();
        let sections = (self.crl, self.admin, self.renewal);
        config.revocation = RevocationConfig::resolve(sections, config.max_connections, &mut problems);
        config.keys = self.keys;
        config.database = database;
        if problems.is_empty() { Ok(config) } else { Err(CaConfigReport { problems }) }
    }
}

impl DatabaseSection {
    fn resolve(&self, problems: &mut Vec<CaProblem>) -> Database {
        let Some(url) = &self.url else {
            let further = [
                ("database.password_file", self.password_file.is_some()),
                ("database.root_file", self.root_file.is_some()),
                ("database.max_connections", self.max_connections.is_some()),
            ];
            for (key, _) in further.iter().filter(|(_, is_set)| *is_set) {
                problems.push(CaProblem::new(key, None, "is of use only with database.url: set that, or remove this"));
            }
            return Database::Sqlite;
        };
        let max_connections = self.max_connections.unwrap_or(DEFAULT_DATABASE_CONNECTIONS);
        if max_connections < 2 {
            let value = max_connections.to_string();
            problems.push(CaProblem::new("database.max_connections", Some(&value), "expected at least 2"));
        }
        let server = PostgresServer {
            url: url.clone(),
            password_file: self.password_file.clone(),
            root_file: self.root_file.clone(),
            max_connections,
        };
        match server.check() {
            Ok(()) => {}
            Err(StateError::Setting { key, expected }) => problems.push(CaProblem::new(key, None, expected)),
            Err(error) => problems.push(CaProblem::new("database.password_file", None, error_chain(&error))),
        }
        Database::Postgres(server)
    }
}

/// Those of `settings` that can be used; of the others, every problem.
fn each<S, T>(
    settings: &[S],
    table: &str,
    resolve: fn(&S) -> Result<T, Vec<CaProblem>>,
    problems: &mut Vec<CaProblem>,
) -> Vec<T> {
    let mut good = Vec::new();
    for (index, one) in settings.iter().enumerate() {
        let place = if settings.len() == 1 { table.to_owned() } else { format!("{table}[{index}]") };
        match resolve(one) {
            Ok(one) => good.push(one),
            Err(wrong) => problems.extend(wrong.into_iter().map(|problem| problem.below(&place))),
        }
    }
    good
}

fn content(path: &Path) -> std::io::Result<String> {
    // Non-blocking, since opening a pipe would otherwise wait for somebody to write.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(std::io::Error::other(format!("more than {} KiB", SIZE_LIMIT / 1024)));
    }
    String::from_utf8(bytes)
        .map_err(|error| std::io::Error::other(format!("not UTF-8: {}", printable(&error.to_string(), 80))))
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9090);

const DEFAULT_NAME: &str = "cert-authority";

const DEFAULT_DATABASE_CONNECTIONS: u32 = 16;

const SIZE_LIMIT: u64 = 256 * 1024;
