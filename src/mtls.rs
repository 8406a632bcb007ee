//! Owns mTLS for workers written in Rust: client and server with the published certificate and CRLs, and nothing less.
//!
//! # What cannot be written
//!
//! There is no function that makes an HTTP client, or one that verifies less. A request takes a [`PeerUrl`], which is made
//! of `https` URLs only:
//!
//! ```
//! use crank_agent::MtlsClient;
//! use crank_agent::mtls::{MtlsRequest, PeerUrl, PeerUrlError};
//! use crank_agent::reqwest::Url;
//!
//! fn ask(client: &MtlsClient, url: Url) -> Result<[MtlsRequest; 2], PeerUrlError> {
//!     Ok([client.get(PeerUrl::try_from(url)?), client.get("https://streaming:8443/".parse()?)])
//! }
//! ```
//!
//! Text is none, be it right or wrong, and neither is a URL of any scheme:
//!
//! ```compile_fail,E0308
//! fn ask(client: &crank_agent::MtlsClient) -> crank_agent::mtls::MtlsRequest {
//!     client.get("http://streaming:8080/")
//! }
//! ```
//!
//! ```compile_fail,E0308
//! fn ask(client: &crank_agent::MtlsClient, url: crank_agent::reqwest::Url) -> crank_agent::mtls::MtlsRequest {
//!     client.get(url)
//! }
//! ```
//!
//! Nobody makes a [`PeerUrl`] past its checks:
//!
//! ```compile_fail,E0423
//! fn plain(url: crank_agent::reqwest::Url) -> crank_agent::mtls::PeerUrl {
//!     crank_agent::mtls::PeerUrl(url)
//! }
//! ```
//!
//! A client comes from [`create_mtls_client`] alone, not from one that was made otherwise, and not from nothing:
//!
//! ```compile_fail,E0277
//! fn other(client: crank_agent::reqwest::Client) -> crank_agent::MtlsClient {
//!     client.into()
//! }
//! ```
//!
//! ```compile_fail,E0277
//! fn unverified() -> crank_agent::MtlsClient {
//!     Default::default()
//! }
//! ```
//!
//! It has no switches, and does not give away the client inside:
//!
//! ```compile_fail,E0599
//! fn unverified(client: crank_agent::MtlsClient) {
//!     client.danger_accept_invalid_certs(true);
//! }
//! ```
//!
//! ```compile_fail,E0599
//! fn inner(client: &crank_agent::MtlsClient) -> &crank_agent::reqwest::Client {
//!     client.as_ref()
//! }
//! ```

mod client;
mod connections;
mod live;
mod peer;
mod url;

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use crate::clock::SystemClock;
use crate::identity::check::Purpose;
use crate::identity::{CertificateBundle, CheckError};
use crate::store::StoreError;
use crate::tls::{ClientDemand, PeerClients, PeerServers, TlsError, Verifier, client_config_for, server_config_for};

use live::Live;

pub use client::{MtlsClient, MtlsRequest, MtlsRequestError};
pub use peer::PeerIdentity;
pub use url::{PeerUrl, PeerUrlError};

/// A client or server that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MtlsError {
    /// There is no certificate in the directory, or one that is of no use.
    #[error(
        "mTLS is not possible: there is no usable certificate in {directory}; `crank-agent run` or `crank-agent init` \
         puts one there"
    )]
    Certificates {
        /// The certificate directory.
        directory: String,
        /// What was found.
        source: StoreError,
    },
    /// The certificate in the directory is not valid now, or not for this use.
    #[error(
        "mTLS is not possible: the certificate in {directory} is not valid; `crank-agent status` tells why there is no other"
    )]
    Invalid {
        /// The certificate directory.
        directory: String,
        /// The check that failed.
        source: CheckError,
    },
    /// The certificate, a root or a CRL does not fit TLS.
    #[error("mTLS is not possible")]
    Tls(#[from] TlsError),
    /// The HTTP library refused the settings.
    #[error("cannot make an mTLS client")]
    Http(#[from] reqwest::Error),
}

impl MtlsError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Certificates { source, .. } => source.kind(),
            Self::Invalid { source, .. } => source.kind(),
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
        }
    }
}

/// An HTTP client with the certificate, roots and CRLs of `directory`: HTTPS only by the type of its URLs, verified
/// against these roots only, no redirects, no proxy, HTTP/1.1.
///
/// A request has 30 s until the last byte of its answer. At most 20 connections are open, to all hosts together, and at
/// most 10 of them idle, for 30 s each. A request has one to itself; one more waits for its turn, within its 30 s.
///
/// Each request goes out with what is published by then: after a renewal over connections made with the new certificate,
/// after another CRL over connections made by it. Requests under way end as they began, so that 30 s after a renewal
/// nothing of the certificate before is left.
///
/// Where `ca.crl` is published, a server is refused that is on it, whose issuer has no CRL there, or whose issuer's CRL
/// has run out. Where there is none, nothing is checked for revocation.
///
/// # Errors
/// When the directory holds no certificate that is valid now. There is no fallback.
pub fn create_mtls_client(directory: &Path) -> Result<MtlsClient, MtlsError> {
    MtlsClient::open(directory)
}

/// The TLS settings of such a client, for other libraries than this one's: TLS 1.3 and 1.2, no session resumption.
///
/// # Errors
/// As [`create_mtls_client`].
pub fn create_mtls_client_config(directory: &Path) -> Result<ClientConfig, MtlsError> {
    Ok(client_config(&live_client(directory)?)?)
}

fn live_client(directory: &Path) -> Result<Arc<Live<PeerServers>>, MtlsError> {
    let judge = |bundle: &_| PeerServers::new(CertificateBundle::roots(bundle), bundle.crls());
    Ok(Arc::new(Live::open(directory, Purpose::Client, judge)?))
}

fn client_config(live: &Arc<Live<PeerServers>>) -> Result<ClientConfig, TlsError> {
    client_config_for(Verifier::new(Arc::clone(live)), Arc::<Live<_>>::clone(live), Arc::new(SystemClock))
}

/// The TLS settings of a server with the certificate, roots and CRLs of `directory`: TLS 1.3 and 1.2, a client
/// certificate demanded, no session resumption; `alpn_protocols` says HTTP/1.1 and may be changed. Certificate, roots and
/// CRLs count from the next handshake on, read by the same rules as for [`create_mtls_client`]; connections that are open
/// go on as they began. Any worker of the mesh is let in: what each may do is for the server to say, by the certificate
/// that the connection has.
///
/// # Errors
/// When the directory holds no certificate that is valid now. There is no fallback.
pub fn create_mtls_server_config(directory: &Path) -> Result<ServerConfig, MtlsError> {
    let live = Arc::new(Live::open(directory, Purpose::Server, |bundle| {
        PeerClients::new(bundle.roots(), bundle.crls(), ClientDemand::Required)
    })?);
    let clients = Verifier::new(Arc::clone(&live));
    Ok(server_config_for(live, Some(clients), Arc::new(SystemClock))?)
}

#[cfg(test)]
mod tests;
