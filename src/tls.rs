//! Owns the TLS settings: which crypto, which roots, which certificate, whose time. There is no setting that verifies
//! less.

mod authority;
#[cfg(feature = "ca")]
mod lapsed;
mod server;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, OtherError, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;
use crate::crypto::crypto_provider;
use crate::identity::CertificateBundle;

use authority::{Anchor, Authority};
pub(crate) use server::{ClientTrust, server_config};

/// What a server's chain has to reach, and what the server must not be.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// One of these roots.
    Roots(Vec<CertificateDer<'static>>),
    /// One of these roots; and the server is no worker. Every worker has a certificate of the same roots with the name
    /// `localhost` in it, and must not pass for the authority with it.
    AuthorityRoots(Vec<CertificateDer<'static>>),
    /// The root with this SHA-256 fingerprint, which the server sends along in its chain, or one of these roots; and the
    /// server is no worker.
    AuthorityPin {
        /// The SHA-256 of the root's DER.
        fingerprint: [u8; 32],
        /// Further roots; may be empty.
        roots: Vec<CertificateDer<'static>>,
    },
}

/// TLS settings that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A root that cannot serve as one.
    #[error("a trust root is not usable")]
    Root(#[source] rustls::Error),
    /// No root at all.
    #[error("no trust root")]
    NoRoots,
    /// The certificate or key does not fit rustls.
    #[error("the certificate is not usable")]
    Certificate(#[source] rustls::Error),
    /// The crypto provider does not fit the protocol versions.
    #[error("TLS is not available")]
    Protocol(#[source] rustls::Error),
}

/// The settings of a client that trusts `trust` only and, with `identity`, presents its certificate. TLS 1.3 and 1.2;
/// no session resumption, since a resumed session would outlive a renewed identity.
///
/// # Errors
/// When a root or the client certificate is not usable.
pub fn client_config(
    trust: &ServerTrust,
    identity: Option<&CertificateBundle>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let provider = crypto_provider();
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?;
    let builder = match trust {
        ServerTrust::Roots(roots) => builder.with_root_certificates(root_store(roots)?),
        ServerTrust::AuthorityRoots(roots) => {
            let anchor = Anchor::Roots(root_store(roots)?);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Authority { anchor, provider }))
        }
        ServerTrust::AuthorityPin { fingerprint, roots } => {
            let anchor = Anchor::Pin { fingerprint: *fingerprint, roots: roots.clone() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Authority { anchor, provider }))
        }
    };
    let mut config = match identity {
        Some(bundle) => builder
            .with_client_auth_cert(bundle.chain().to_vec(), bundle.key().to_rustls())
            .map_err(TlsError::Certificate)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The roots as rustls keeps them.
///
/// # Errors
/// When there are none, or one is no CA certificate.
pub fn root_store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, TlsError> {
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        if !is_ca(root) {
            return Err(TlsError::Root(other("it is not a CA certificate")));
        }
        store.add(root.clone()).map_err(TlsError::Root)?;
    }
    Ok(Arc::new(store))
}

/// Our clock, for the TLS library.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().wall.unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn is_ca(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.is_ca())
}

fn other(reason: &'static str) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Rejected(reason)))))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Rejected(&'static str);
