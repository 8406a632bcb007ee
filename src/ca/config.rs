//! Owns the settings of a serving CA: their defaults, and the rule that all problems are told at once.

mod file;
mod show;
mod text;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Environment;
use crate::identity::SubjectAltName;
use crate::policy::PolicyConfig;

use super::anonymous::AnonymousRule;
use super::authority::KeySettings;
use super::kubernetes::KubernetesSigner;
use super::limits::RequestLimits;
use super::oidc::TokenIssuer;
use super::revocation::RevocationConfig;
use super::state::Database;

pub use file::CaFile;
pub use text::Text;

/// The settings of a serving CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaConfig {
    /// Where `init` put the CA; also holds its database, unless that is a server.
    pub data_dir: PathBuf,
    /// How its keys are opened.
    pub keys: KeySettings,
    /// Where its record is.
    pub database: Database,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The names of the CA's own server certificate; not empty. No worker gets one of them, but for `localhost` and
    /// loopback addresses.
    pub names: Vec<SubjectAltName>,
    /// The life of a worker's certificate: 60 s to 365 days.
    pub lifetime: Duration,
    /// The life of the CA's own server certificate. It is renewed when two thirds of that are over.
    pub server_lifetime: Duration,
    /// Development or production; policies may tell them apart.
    pub environment: Environment,
    /// The most connections at a time. When there are more, the one that has been idle longest makes room.
    pub max_connections: usize,
    /// How long a client may take.
    pub deadlines: Deadlines,
    /// How long the record keeps what is over.
    pub retention: Duration,
    /// What narrows the default rules.
    pub policy: PolicyConfig,
    /// CRLs, admins, and who waits for news.
    pub revocation: RevocationConfig,
    /// Whose tokens count beside the CA's own join tokens.
    pub issuers: Vec<TokenIssuer>,
    /// Who may ask without any credential: nobody, unless an operator says so.
    pub anonymous: Vec<AnonymousRule>,
    /// How long after its end a worker's certificate still serves to renew itself: 0 to 7 days.
    pub renewal_grace: Duration,
    /// How often anybody may ask.
    pub limits: RequestLimits,
    /// The cluster whose requests for certificates are signed, where there is one.
    pub kubernetes: Option<KubernetesSigner>,
}

/// How long a client may take. Whoever takes longer is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request; also how long a connection may stay idle between requests.
    pub header: Duration,
    /// For a request from the end of its head to the answer.
    pub request: Duration,
    /// For a connection in all. Bounds what no other deadline does, such as a client that sends and never reads.
    pub connection: Duration,
}

impl Default for Deadlines {
    /// 10 s, 10 s, 30 s and 10 minutes.
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            request: Duration::from_secs(30),
            connection: Duration::from_mins(10),
        }
    }
}

impl CaConfig {
    /// The defaults: lives of 365 days for workers and 30 for the server, production, 1,024 connections, a record in
    /// the data directory that forgets after 400 days, no tokens of others, no grace, nobody without a credential.
    #[must_use]
    pub fn new(data_dir: PathBuf, listen: SocketAddr, names: Vec<SubjectAltName>) -> Self {
        Self {
            data_dir,
            keys: KeySettings::default(),
            database: Database::Sqlite,
            listen,
            names,
            lifetime: crate::policy::default::LONGEST_LIFETIME,
            server_lifetime: Duration::from_hours(30 * 24),
            environment: Environment::Production,
            max_connections: 1024,
            deadlines: Deadlines::default(),
            retention: DEFAULT_RETENTION,
            policy: PolicyConfig::Default,
            revocation: RevocationConfig::default(),
            issuers: Vec::new(),
            anonymous: Vec::new(),
            renewal_grace: Duration::ZERO,
            limits: RequestLimits::default(),
            kubernetes: None,
        }
    }
}

/// Settings that cannot be used: every problem of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(.problems))]
pub struct CaConfigReport {
    /// At least one.
    pub problems: Vec<CaProblem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaProblem {
    /// The key, as `database.url`.
    pub key: String,
    /// The value, printable; absent when there is none or it may be secret.
    pub value: Option<String>,
    /// What was expected, and what to do.
    pub expected: String,
}

impl CaProblem {
    /// A problem of the setting `key`.
    pub(crate) fn new(key: &str, value: Option<&str>, expected: impl Into<String>) -> Self {
        let value = value.map(|value| crate::printable::printable(value, crate::printable::FOREIGN_TEXT_LIMIT));
        Self { key: key.to_owned(), value, expected: expected.into() }
    }

    /// A value of the setting `key` that does not fit what is expected.
    pub(crate) fn unfit(key: &str, value: &(impl ToString + ?Sized), expected: impl fmt::Display) -> Self {
        Self::new(key, Some(&value.to_string()), format!("expected {expected}"))
    }

    /// The setting `key`, where it is not set.
    pub(crate) fn missing(key: &str, expected: impl fmt::Display) -> Self {
        Self::new(key, None, format!("is not set: expected {expected}"))
    }

    /// The same problem, of a key below `table`.
    pub(crate) fn below(self, table: &str) -> Self {
        Self { key: format!("{table}.{}", self.key), ..self }
    }
}

impl fmt::Display for CaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.expected)
    }
}

fn render(problems: &[CaProblem]) -> String {
    let plural = if problems.len() == 1 { "" } else { "s" };
    let mut text = format!("the configuration has {} problem{plural}:", problems.len());
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}

/// Longer than any certificate lives.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(400 * 24);

/// The shortest [`CaConfig::retention`]: what was revoked, used or issued in the last day is always known.
pub const SHORTEST_RETENTION: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
