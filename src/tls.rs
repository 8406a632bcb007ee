//! Owns the TLS settings: which crypto, which roots, which certificate, whose time. There is no setting that verifies
//! less.

mod server;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Clock;
use crate::crypto::crypto_provider;
use crate::identity::CertificateBundle;
use crate::identity::key::sha256;

pub(crate) use server::server_config;

/// What a server's chain has to reach.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// One of these roots.
    Roots(Vec<CertificateDer<'static>>),
    /// The root with this SHA-256 fingerprint, which the server sends along in its chain.
    Pin([u8; 32]),
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
        ServerTrust::Pin(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedRoot { fingerprint: *fingerprint, provider })),
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

/// Verifies as webpki does, with the one root that has the pinned fingerprint. It never accepts more than webpki would:
/// it only finds the root in what the server sends.
#[derive(Debug)]
struct PinnedRoot {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| sha256(certificate) == self.fingerprint)
            .ok_or_else(|| other("the server's chain has no root with the configured sha256 fingerprint"))?;
        // A pinned certificate that is no CA would otherwise become one.
        if !is_ca(pinned) {
            return Err(other("the certificate with the configured sha256 fingerprint is not a CA certificate"));
        }
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
