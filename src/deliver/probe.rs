//! Owns the look at what a worker serves: a TLS handshake that goes through with the published certificate only.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::ServerCertVerified;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::settings::{ProofAddress, ProofConfig, StartTls};
use crate::clock::Clock;
use crate::crypto::sha256;
use crate::duration::format_duration;
use crate::identity::{CertificateBundle, CertificateMetadata};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::tls::{Presented, ServerJudge, Verifier, client_config_by, rejected};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    /// The published certificate.
    Published,
    /// Another: its serial.
    Other(String),
    /// Nothing, and why.
    Unreachable(String),
}

/// Looks for at most `deadline`. The worker sees a client that presents the published certificate and asks for nothing.
pub(super) async fn look(
    proof: &ProofConfig,
    bundle: &CertificateBundle,
    clock: &Arc<dyn Clock>,
    deadline: Duration,
) -> Sight {
    let expected = Arc::new(Expected { digest: bundle.leaf_digest(), presented: Mutex::default() });
    let config = match client_config_by(Verifier::new(Arc::clone(&expected)), Some(bundle), Arc::clone(clock)) {
        Ok(config) => TlsConnector::from(Arc::new(config)),
        Err(error) => return Sight::Unreachable(error_chain(&error)),
    };
    let look = async {
        match &proof.address {
            ProofAddress::Tcp(host, port) => {
                handshake(TcpStream::connect((host.as_str(), *port)).await?, proof, config).await
            }
            ProofAddress::Unix(path) => handshake(UnixStream::connect(path).await?, proof, config).await,
        }
    };
    let result = timeout(deadline, look).await;
    let presented = expected.presented.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, presented) {
        (_, Some(serial)) => Sight::Other(serial),
        (Ok(Ok(())), None) => Sight::Published,
        (Ok(Err(error)), None) => Sight::Unreachable(printable(&error_chain(&error), FOREIGN_TEXT_LIMIT)),
        (Err(_), None) => Sight::Unreachable(format!("no TLS handshake within {}", format_duration(deadline))),
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    proof: &ProofConfig,
    config: TlsConnector,
) -> io::Result<()> {
    match proof.starttls {
        None => {}
        Some(StartTls::Postgres) => {
            stream.write_all(&POSTGRES_SSL_REQUEST).await?;
            if stream.read_u8().await? != b'S' {
                return Err(io::Error::other(
                    "the server does not speak TLS, by its answer to PostgreSQL's SSLRequest",
                ));
            }
        }
    }
    let mut stream = config.connect(proof.server_name.clone(), stream).await?;
    // A polite end; what has been seen has been seen.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
    Ok(())
}

/// Accepts one certificate, and remembers that it was shown another.
#[derive(Debug)]
struct Expected {
    digest: [u8; 32],
    presented: Mutex<Option<String>>,
}

impl ServerJudge for Expected {
    fn judge_server(&self, presented: &Presented<'_>) -> Result<ServerCertVerified, rustls::Error> {
        // It was checked when it was published. That the worker has its key, the handshake proves.
        if sha256(presented.leaf) == self.digest {
            return Ok(ServerCertVerified::assertion());
        }
        let serial = match X509Certificate::from_der(presented.leaf) {
            Ok((_, certificate)) => {
                let now = i64::try_from(presented.now.as_secs()).unwrap_or(i64::MAX);
                let now = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
                CertificateMetadata::of(&certificate, now).serial
            }
            Err(_) => "unreadable".to_owned(),
        };
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(serial);
        Err(rejected("it is not the published certificate"))
    }
}

/// Length 8, code 80877103 (`SSLRequest` of the `PostgreSQL` protocol).
const POSTGRES_SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_millis(500);
