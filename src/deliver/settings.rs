//! Owns what one delivery is configured to do.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::ServerName;

use crate::config::HttpsUrl;
use crate::unix_socket::PATH_LIMIT;

/// What is done after each publication, and how it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// Its name in events, metrics and status.
    pub name: String,
    /// What tells the worker; `None`: it looks by itself.
    pub action: Option<Action>,
    /// The deadline of one attempt, and of one probe.
    pub timeout: Duration,
    /// How often the action is tried.
    pub attempts: u32,
    /// Whether it is done also when only CRLs changed.
    pub crls: bool,
    /// How it is proven.
    pub proof: Option<ProofConfig>,
}

/// What tells the worker that there are new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A signal to its process.
    Signal(ReloadSignal, Target),
    /// A program: its absolute path and its arguments.
    Exec(Vec<String>),
    /// An HTTP request.
    Call(Call),
}

/// Which processes get the signal. At least one of the three is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The one whose id stands in this file.
    pub pid_file: Option<PathBuf>,
    /// Those whose program has this name.
    pub process: Option<String>,
    /// Those in this control group.
    pub cgroup: Option<PathBuf>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.process.as_ref().map(|name| format!("called {name}")));
        parts.extend(self.pid_file.as_ref().map(|path| format!("of {}", path.display())));
        parts.extend(self.cgroup.as_ref().map(|path| format!("in {}", path.display())));
        f.write_str(&parts.join(" "))
    }
}

/// A request; any 2xx is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Where to.
    pub target: HttpTarget,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpTarget {
    /// To a server, by mTLS with the published certificate.
    Https(HttpsUrl),
    /// To a program on this machine.
    Unix {
        /// Its socket.
        socket: PathBuf,
        /// The path part of the URL.
        path: String,
    },
}

/// How it is proven that the worker serves the published certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofConfig {
    /// Where the worker listens.
    pub address: ProofAddress,
    /// The name asked for in TLS (SNI).
    pub server_name: ServerName<'static>,
    /// What is said before TLS.
    pub starttls: Option<StartTls>,
    /// How many probes in a row have to see the published certificate.
    pub in_a_row: u32,
    /// How long the worker may take after an attempt.
    pub served_within: Duration,
    /// How often it is probed between publications.
    pub interval: Duration,
    /// Whether the agent is not ready while another certificate is served.
    pub not_ready: bool,
}

/// Where a worker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofAddress {
    /// A host name or address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ProofAddress {
    /// The name to ask for where none is configured: the host, unless it says nothing of who is meant.
    #[must_use]
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        let Self::Tcp(host, _) = self else { return None };
        let name = ServerName::try_from(host.clone()).ok()?;
        (matches!(name, ServerName::DnsName(_)) && host != "localhost").then_some(name)
    }
}

impl FromStr for ProofAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "`host:port`, such as `localhost:8443`, or the absolute path of a Unix socket";
        if text.starts_with('/') {
            let good = text.len() <= PATH_LIMIT && !text.chars().any(char::is_control);
            return if good { Ok(Self::Unix(text.into())) } else { Err(EXPECTED) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(EXPECTED)?;
        // What TLS cannot name, nobody can reach either.
        ServerName::try_from(host).map_err(|_| EXPECTED)?;
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for ProofAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The methods that a call may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `GET`.
    Get,
}

impl Method {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Get => "GET",
        }
    }
}

impl FromStr for Method {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = [Self::Post, Self::Put, Self::Get].into_iter().find(|method| method.name() == text);
        found.ok_or("`POST`, `PUT` or `GET`")
    }
}

/// The protocols in which TLS comes after a few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// `SSLRequest` of version 3 of the `PostgreSQL` protocol.
    Postgres,
}

impl StartTls {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
        }
    }
}

impl FromStr for StartTls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "postgres" { Ok(Self::Postgres) } else { Err("`postgres`") }
    }
}

/// A signal by which programs are told to reload or to make room for their successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadSignal(pub(super) Signal);

/// The signals and their names. KILL and STOP are none by which a worker could do anything.
const SIGNALS: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("WINCH", Signal::WINCH),
];

impl ReloadSignal {
    /// The name without `SIG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        SIGNALS.into_iter().find(|(_, signal)| *signal == self.0).map_or("", |(name, _)| name)
    }
}

impl FromStr for ReloadSignal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = SIGNALS.into_iter().find(|(name, _)| *name == text.strip_prefix("SIG").unwrap_or(text));
        found.map(|(_, signal)| Self(signal)).ok_or("`HUP`, `USR1`, `USR2`, `INT`, `QUIT`, `TERM` or `WINCH`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in ["localhost:8443", "worker.mesh:443", "127.0.0.1:1", "[::1]:65535", "/run/worker.sock"] {
            assert_eq!(text.parse::<ProofAddress>().unwrap().to_string(), text);
        }
        let long = format!("/{}", "x".repeat(107));
        for text in ["", "localhost", "localhost:0", "localhost:65536", ":443", "two words:443", "run/a.sock", &long] {
            assert!(text.parse::<ProofAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_follows_from_the_address_only_where_it_says_something() {
        let name =
            |text: &str| text.parse::<ProofAddress>().unwrap().server_name().map(|name| name.to_str().into_owned());
        assert_eq!(name("worker.mesh:443").as_deref(), Some("worker.mesh"));
        for silent in ["localhost:443", "127.0.0.1:443", "[::1]:443", "/run/worker.sock"] {
            assert_eq!(name(silent), None, "{silent}");
        }
    }

    #[test]
    fn signals_are_read_with_and_without_their_prefix() {
        for (name, signal) in SIGNALS {
            assert_eq!(name.parse(), Ok(ReloadSignal(signal)));
            assert_eq!(format!("SIG{name}").parse::<ReloadSignal>().unwrap().name(), name);
        }
        for text in ["KILL", "STOP", "hup", "1", ""] {
            assert!(text.parse::<ReloadSignal>().is_err(), "{text}");
        }
    }
}
