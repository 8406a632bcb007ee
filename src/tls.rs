//! Owns the TLS settings: which crypto, which roots, which certificate, whose time. There is no setting that verifies
//! less.

mod authority;
mod conversions;
#[cfg(feature = "ca")]
mod lapsed;
mod peers;
mod server;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, OtherError, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;
use crate::crypto::crypto_provider;
use crate::identity::{CertificateBundle, Crl};

use authority::{Anchor, Authority};
pub(crate) use peers::{ClientDemand, PeerClients, PeerServers};
pub(crate) use server::server_config_for;
#[cfg(feature = "ca")]
pub(crate) use server::{ClientTrust, server_config};
pub(crate) use verifier::{ClientJudge, Presented, ServerJudge, Verifier};

/// What a server's chain has to reach, and what the server must not be.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// One of these roots. Nothing is checked for revocation: for servers that are not of the mesh.
    Roots(Vec<CertificateDer<'static>>),
    /// One of these roots, and not revoked: see [`CertificateBundle::crls`].
    Peers {
        /// The roots.
        roots: Vec<CertificateDer<'static>>,
        /// The CRLs. With any, a certificate of an issuer that has none of them is refused, and so is every certificate
        /// of an issuer whose CRL has run out. Without any, nothing is checked for revocation.
        crls: Vec<Crl>,
    },
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
    /// A CRL that cannot serve as one.
    #[error("a CRL is not usable: {0}")]
    Crl(String),
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
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ServerTrust::Roots(roots) => Verifier::new(Arc::new(PeerServers::new(roots, &[])?)),
        ServerTrust::Peers { roots, crls } => Verifier::new(Arc::new(PeerServers::new(roots, crls)?)),
        ServerTrust::AuthorityRoots(roots) => {
            Verifier::new(Arc::new(Authority { anchor: Anchor::Roots(root_store(roots)?) }))
        }
        ServerTrust::AuthorityPin { fingerprint, roots } => {
            let anchor = Anchor::Pin { fingerprint: *fingerprint, roots: roots.clone() };
            Verifier::new(Arc::new(Authority { anchor }))
        }
    };
    client_config_by(verifier, identity, clock)
}

/// The settings of a client that leaves the server to `verifier` and, with `identity`, presents its certificate.
///
/// # Errors
/// When the client certificate is not usable.
pub(crate) fn client_config_by(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&CertificateBundle>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let builder = client_builder(verifier, clock)?;
    let mut config = match identity {
        Some(bundle) => builder
            .with_client_auth_cert(bundle.chain().to_vec(), bundle.key().to_rustls())
            .map_err(TlsError::Certificate)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The settings of a client that presents what `certificate` resolves to, and leaves the server to `verifier`.
///
/// # Errors
/// When the crypto provider does not fit the protocol versions.
pub(crate) fn client_config_for(
    verifier: Arc<dyn ServerCertVerifier>,
    certificate: Arc<dyn ResolvesClientCert>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let mut config = client_builder(verifier, clock)?.with_client_cert_resolver(certificate);
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
    clock: Arc<dyn Clock>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_details(crypto_provider(), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
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
            return Err(TlsError::Root(rejected("it is not a CA certificate")));
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

/// The error of a verifier that does not take a certificate.
pub(crate) fn rejected(reason: &'static str) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Rejected(reason)))))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Rejected(&'static str);
