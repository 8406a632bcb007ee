//! Owns the HTTP client for workers written in Rust: mTLS with the published certificate, and nothing less.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect};

use crate::clock::SystemClock;
use crate::identity::CertificateBundle;
use crate::store::{StoreError, read_bundle};
use crate::tls::{ServerTrust, TlsError, client_config};

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MtlsError {
    /// There is no usable certificate in the directory.
    #[error("cannot make an mTLS client: there is no usable certificate")]
    Certificates(#[source] StoreError),
    /// The certificate or a root does not fit TLS.
    #[error("cannot make an mTLS client")]
    Tls(#[from] TlsError),
    /// The HTTP library refused the settings.
    #[error("cannot make an mTLS client")]
    Http(#[from] reqwest::Error),
}

/// An HTTP client with the certificate and roots of `directory`: HTTPS only, verified against these roots only, no
/// redirects, no proxy; 30 s for a request, at most 10 idle connections to a host.
///
/// The certificate is that of now: make a new client after a renewal.
///
/// # Errors
/// When the directory holds no usable certificate. There is no fallback.
pub fn create_mtls_client(directory: &Path) -> Result<Client, MtlsError> {
    client_of(&read_bundle(directory).map_err(MtlsError::Certificates)?)
}

fn client_of(bundle: &CertificateBundle) -> Result<Client, MtlsError> {
    let tls = client_config(&ServerTrust::Roots(bundle.roots().to_vec()), Some(bundle), Arc::new(SystemClock))?;
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .build()?)
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_IDLE: usize = 10;
