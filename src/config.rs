//! Owns the agent's configuration: [`Config`] holds only values that are valid together; how it is read from file,
//! environment and flags is in the modules below.

mod accounts;
mod deliver;
mod draft;
mod facts;
mod file;
mod further;
mod parse;
mod place;
mod report;
mod resolve;
mod setting;
mod show;
mod sources;
mod table;
mod together;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::deliver::DeliveryConfig;
use crate::identity::{KeyType, RequestedIdentity, SpiffeId, TrustDomain};
use crate::schedule::Timing;
use crate::serve::AllowedClient;
use crate::store::FurtherFile;
use crate::workload::AllowedCaller;

pub use facts::Facts;
pub use report::{ConfigReport, Origin, Problem};
pub use resolve::{Resolution, control_socket, load, resolve};
pub use setting::{ENVIRONMENT_PREFIX, Fallback, REPEATED, Setting, find, settings_markdown, similar_key};
pub use sources::{Arguments, DEFAULT_FILE, FILE_VARIABLE};
pub use table::SETTINGS;

/// Everything one agent needs to know. Made by resolving settings; always valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The worker and its names.
    pub identity: RequestedIdentity,
    /// Where this runs.
    pub environment: Environment,
    /// The kind of key to make.
    pub key_type: KeyType,
    /// The certificate authority.
    pub ca: CaConfig,
    /// The files to write.
    pub files: FilesConfig,
    /// Other trust domains whose workers are known here.
    pub federation: Vec<FederatedDomain>,
    /// When to warn, renew and check.
    pub timing: Timing,
    /// What becomes of the files of a certificate that is revoked.
    pub revoked_files: RevokedFiles,
    /// How far the CA's clock may differ from ours before a certificate that is not yet valid is refused.
    pub allowed_skew: Duration,
    /// The TLS listener with probes and metrics; `None` turns it off.
    pub server: Option<ServerConfig>,
    /// The Unix socket for `status`, `health` and `renew`.
    pub control_socket: PathBuf,
    /// The SPIFFE Workload API; `None`: it is off.
    pub workload_api: Option<WorkloadApiConfig>,
    /// What is logged and how.
    pub log: LogConfig,
    /// What is done after each publication, in this order.
    pub deliveries: Vec<DeliveryConfig>,
    /// Further certificates, each with a directory of its own.
    pub certificates: Vec<FurtherCertificate>,
}

/// A certificate that an agent keeps beside the first.
#[derive(Debug, Clone, PartialEq)]
pub struct FurtherCertificate {
    /// Its name in events, metrics and status; a label.
    pub name: String,
    /// What is kept and how. It has neither listener nor Workload API nor further certificates; socket and log are the
    /// agent's.
    pub config: Config,
}

/// `CRANK_ENVIRONMENT`. Security is the same in both; policies may tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// A developer's machine.
    Development,
    /// Everywhere else.
    #[default]
    Production,
}

/// What becomes of the files of a certificate that is revoked, until there is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RevokedFiles {
    /// They stay.
    #[default]
    Keep,
    /// Key, certificate and bundle are taken away; roots and CRLs stay.
    Withdraw,
}

/// How to reach and verify the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaConfig {
    /// What kind of authority it is.
    pub kind: CaKind,
    /// `https://host[:port]`, nothing else.
    pub url: HttpsUrl,
    /// What verifies the CA's TLS connection.
    pub trust: CaTrust,
    /// The roots that an issued chain must reach, for `ca.crt`; `None`: the same as verify the connection.
    pub issued_roots_file: Option<PathBuf>,
    /// Whether roots that the CA hands out over its verified connection are trusted beside those configured.
    pub follow_roots: bool,
    /// A bearer token, read anew for every request.
    pub token_file: Option<PathBuf>,
    /// The deadline of one request, connection and reply included.
    pub timeout: Duration,
    /// How long to wait for a first certificate at start-up.
    pub startup_wait: Duration,
    /// Whether a connection to the CA is kept, by which it can tell of news at once.
    pub push: bool,
    /// The most bytes of CRLs to read, as PEM; `None`: no CRLs are asked for.
    pub crl_limit: Option<usize>,
}

/// The kinds of authorities. What else is in [`CaConfig`] is for those that are asked over the network, except for the times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaKind {
    /// crank-ca.
    Crank,
    /// A SPIFFE Workload API on this machine, as that of a SPIRE agent.
    WorkloadApi(SvidSource),
}

/// A SPIFFE Workload API, and which of its identities is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidSource {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The one with this SPIFFE id; `None`: the only one.
    pub spiffe_id: Option<SpiffeId>,
    /// The one with this hint; `None`: whatever its hint.
    pub hint: Option<String>,
}

/// What verifies the CA's TLS connection, from the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaTrust {
    /// A PEM file of roots, read anew for every request.
    RootFile(PathBuf),
    /// The SHA-256 of the DER of a root that the CA sends in its TLS chain.
    Fingerprint([u8; 32]),
}

/// An absolute `https` URL without user, query and fragment. There is no type for any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl(reqwest::Url);

impl HttpsUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// The text says what was expected.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let url = reqwest::Url::parse(text).map_err(|_| "expected a URL such as https://cert-authority:9090")?;
        if url.scheme() != "https" {
            return Err("expected https://; there is no plain HTTP in any mode");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("expected a host name or address");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected no user or password in the URL; credentials go into a token file");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected no `?` or `#` part");
        }
        Ok(Self(url))
    }

    /// The URL of `path` (which begins with `/`) below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> reqwest::Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }

    /// The URL as text, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

/// Where and how files are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesConfig {
    /// The certificate directory.
    pub directory: PathBuf,
    /// The numeric user id to own the files; `None`: the agent's own.
    pub owner: Option<u32>,
    /// The numeric group id to own the files; `None`: the agent's own.
    pub group: Option<u32>,
    /// The mode of the files that hold the key: 0600, or 0640 for a worker that reads by group.
    pub key_mode: u32,
    /// How long earlier generations stay readable.
    pub keep_generations: Duration,
    /// Further files of each generation, beside those that are always there.
    pub further: Vec<FurtherFile>,
}

/// Another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// A PEM file of its roots, read anew at every check.
    pub roots_file: PathBuf,
}

/// The TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Who may read `/metrics`; nobody by default.
    pub metrics_allow: Vec<AllowedClient>,
}

/// The SPIFFE Workload API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Who may call, beside root and the agent's own user.
    pub allow: Vec<AllowedCaller>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The line format.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `crank_agent=debug`.
    pub filter: String,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// A key of a repeated table, without table and number, and what is expected of it.
type Fault = (&'static str, String);
