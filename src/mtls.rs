//! Owns mTLS for workers written in Rust: client and server with the published certificate and CRLs, and nothing less.

mod live;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect};
use rustls::{ClientConfig, ServerConfig};

use crate::clock::SystemClock;
use crate::store::StoreError;
use crate::tls::{ClientDemand, PeerClients, PeerServers, TlsError, Verifier, client_config_for, server_config_for};

use live::Live;

/// A client or server that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MtlsError {
    /// There is no usable certificate in the directory.
    #[error("mTLS is not possible: there is no usable certificate")]
    Certificates(#[from] StoreError),
    /// The certificate, a root or a CRL does not fit TLS.
    #[error("mTLS is not possible")]
    Tls(#[from] TlsError),
    /// The HTTP library refused the settings.
    #[error("cannot make an mTLS client")]
    Http(#[from] reqwest::Error),
}

/// An HTTP client with the certificate, roots and CRLs of `directory`: HTTPS only, verified against these roots only, no
/// redirects, no proxy; 30 s for a request, at most 10 idle connections to a host.
///
/// Each new connection is made with what is published by then: after a renewal with the new certificate, after a
/// revocation by the new CRL. Connections that are open go on as they began.
///
/// Where `ca.crl` is published, a server is refused that is on it, whose issuer has no CRL there, or whose issuer's CRL
/// has run out. Where there is none, nothing is checked for revocation.
///
/// # Errors
/// When the directory holds no usable certificate. There is no fallback.
pub fn create_mtls_client(directory: &Path) -> Result<Client, MtlsError> {
    Ok(Client::builder()
        .tls_backend_preconfigured(create_mtls_client_config(directory)?)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .build()?)
}

/// The TLS settings of such a client, for other libraries than this one's: TLS 1.3 and 1.2, no session resumption.
///
/// # Errors
/// As [`create_mtls_client`].
pub fn create_mtls_client_config(directory: &Path) -> Result<ClientConfig, MtlsError> {
    let live = Arc::new(Live::open(directory, |bundle| PeerServers::new(bundle.roots(), bundle.crls()))?);
    Ok(client_config_for(Verifier::new(Arc::clone(&live)), live, Arc::new(SystemClock))?)
}

/// The TLS settings of a server with the certificate, roots and CRLs of `directory`: TLS 1.3 and 1.2, a client
/// certificate demanded, no session resumption; `alpn_protocols` says HTTP/1.1 and may be changed. Renewals and CRLs count from the next handshake on, as for
/// [`create_mtls_client`].
///
/// # Errors
/// When the directory holds no usable certificate. There is no fallback.
pub fn create_mtls_server_config(directory: &Path) -> Result<ServerConfig, MtlsError> {
    let live = Arc::new(Live::open(directory, |bundle| {
        PeerClients::new(bundle.roots(), bundle.crls(), ClientDemand::Required)
    })?);
    let clients = Verifier::new(Arc::clone(&live));
    Ok(server_config_for(live, Some(clients), Arc::new(SystemClock))?)
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_IDLE: usize = 10;

#[cfg(test)]
mod tests;
