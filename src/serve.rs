//! Owns the TLS listener: probes for everyone, metrics for clients on a list, with the agent's own certificate.
//!
//! There is no plain HTTP and no self-signed stand-in: until there is a certificate, handshakes are refused. Whoever
//! connects, the listener holds at most [`MAX_CONNECTIONS`] connections, each bounded in size and time; at that limit
//! the connection that has been idle longest makes room, so that idle or slow clients do not lock out a probe.
//!
//! | path | who | answer |
//! | --- | --- | --- |
//! | `/livez`, `/health/live` | anyone | 200 while the process answers |
//! | `/readyz`, `/health/ready` | anyone | 200, or 503 and the reason, by [`Readiness::ready`] |
//! | `/startupz` | anyone | 200, or 503, by [`Readiness::started`] |
//! | `/health` | anyone | as `/readyz`, with `{"status":"healthy"}` or `{"status":"unhealthy"}` |
//! | `/metrics` | [`AllowedClient`]s | Prometheus text; 401 without a client certificate, 403 when not on the list |

mod access;
mod connection;
mod http;
mod listener;
mod tls;

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::identity::{CertificateBundle, DnsName, SpiffeId};
use crate::metrics::Metrics;
use crate::tls::TlsError;

pub use listener::{Listener, MAX_CONNECTIONS, Server};

/// A client that may read metrics, by a name in its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedClient {
    /// A URI SAN equal to this SPIFFE id.
    Spiffe(SpiffeId),
    /// A DNS SAN equal to this name.
    Dns(DnsName),
}

/// What the listener shows and by whose rules.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The certificate to present, and the roots that client certificates must reach. A change is in force from the
    /// next connection on; `None` refuses handshakes.
    pub bundle: watch::Receiver<Option<Arc<CertificateBundle>>>,
    /// Who may read `/metrics`. A change is in force from the next request on.
    pub metrics_allow: watch::Receiver<Vec<AllowedClient>>,
    /// What the probes tell.
    pub readiness: Arc<dyn Readiness>,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    /// Verifies the validity of client certificates.
    pub clock: Arc<dyn Clock>,
}

/// The state that probes tell.
pub trait Readiness: Debug + Send + Sync + 'static {
    /// Whether a usable certificate is on disk now. May read a few small files: it is called on a thread for blocking
    /// work, and given up on after a few seconds.
    ///
    /// # Errors
    /// Why not, in a few words that may be told to anyone: no secret, no path.
    fn ready(&self) -> Result<(), String>;

    /// Whether a certificate has been published or adopted since the start. Does not block.
    fn started(&self) -> bool;
}

/// A listener that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
}

impl ServeError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "listen",
            Self::Tls(_) => "tls",
        }
    }
}
