//! Owns the question whether a serving CA is well, as a probe beside it asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, AuthorityError};
use super::config::CaConfig;
use crate::clock::Clock;
use crate::identity::SubjectAltName;
use crate::identity::bundle::{ROOTS_LIMIT, certificates_from_pem};
use crate::tls::{ServerTrust, TlsError, client_config};

/// Why a CA is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its keys and certificates do not load.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its roots or its first name are of no use for TLS.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
    /// A setting that cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What was expected.
        reason: &'static str,
    },
    /// Nobody answers there, or somebody else.
    #[error("no answer of this CA at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It answers that it could not issue a certificate now.
    #[error("the CA at {address} answers: {status}")]
    Unhealthy {
        /// Where it is.
        address: SocketAddr,
        /// The first line of its answer.
        status: String,
    },
}

impl ProbeError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Authority(error) => error.kind(),
            Self::Tls(_) => "ca_tls",
            Self::Setting { .. } => "ca_setting",
            Self::Unreachable { .. } => "ca_unreachable",
            Self::Unhealthy { .. } => "ca_unhealthy",
        }
    }
}

/// Asks the CA with these settings, on this machine, for its health: `GET /health` over TLS, verified by its own roots.
///
/// # Errors
/// When it is not reached within `deadline`, is somebody else, or says that it is not healthy.
pub async fn probe(config: &CaConfig, clock: Arc<dyn Clock>, deadline: Duration) -> Result<(), ProbeError> {
    let roots = Authority::public_of(&config.data_dir)?.roots_pem;
    let roots = certificates_from_pem("the roots", roots.as_bytes(), ROOTS_LIMIT)
        .map_err(|_| ProbeError::Setting { setting: "data directory", reason: "expected roots that can be read" })?;
    let tls = client_config(&ServerTrust::AuthorityRoots(roots), None, clock).map_err(ProbeError::Tls)?;
    let (name, server_name) = config
        .names
        .iter()
        .find_map(named)
        .ok_or(ProbeError::Setting { setting: "dns", reason: "expected a DNS name or an IP address" })?;
    let address = on_this_machine(config.listen);

    let asking = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(server_name, stream).await?;
        let request = format!("GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        first_line(&mut stream).await
    };
    let answered = tokio::time::timeout(deadline, asking).await.unwrap_or_else(|late| Err(late.into()));
    let status = answered.map_err(|source| ProbeError::Unreachable { address, source })?;
    if is_well(&status) { Ok(()) } else { Err(ProbeError::Unhealthy { address, status }) }
}

fn is_well(status: &str) -> bool {
    status.starts_with("HTTP/1.1 200 ")
}

/// A name of the CA as text and as TLS asks for it.
fn named(name: &SubjectAltName) -> Option<(String, ServerName<'static>)> {
    let text = match name {
        SubjectAltName::Dns(name) => name.to_string(),
        SubjectAltName::Ip(address) => address.to_string(),
        SubjectAltName::Uri(_) => return None,
    };
    let server_name = ServerName::try_from(text.clone()).ok()?;
    Some((text, server_name))
}

/// Where to reach what listens on `listen`: an unspecified address is reached by loopback.
fn on_this_machine(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

/// What comes before the end of the first line, or as much of it as is looked at.
async fn first_line(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut stream = stream.take(LINE_LIMIT);
    while !head.contains(&b'\n') && stream.read_buf(&mut head).await? > 0 {}
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

const LINE_LIMIT: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_by_loopback() {
        let reached = |listen: &str| on_this_machine(listen.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(reached("[::]:9090"), "[::1]:9090");
        assert_eq!(reached("10.1.2.3:443"), "10.1.2.3:443");
    }

    #[test]
    fn nothing_but_200_is_well() {
        assert!(is_well("HTTP/1.1 200 OK"));
        assert!(
            !["HTTP/1.1 503 Service Unavailable", "HTTP/1.1 2000", "SSH-2.0", ""].iter().any(|status| is_well(status))
        );
    }

    #[tokio::test]
    async fn the_first_line_ends_where_it_ends_and_is_bounded() {
        assert_eq!(first_line(&mut &b"HTTP/1.1 200 OK\r\nDate: now"[..]).await.unwrap(), "HTTP/1.1 200 OK");
        assert_eq!(first_line(&mut &b""[..]).await.unwrap(), "");
        assert_eq!(first_line(&mut &[b'a'; 1000][..]).await.unwrap().len(), 256);
    }
}
