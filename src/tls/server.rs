//! Owns the TLS settings of listeners: of the agent, of workers, and of the CA.

use std::sync::Arc;

use rustls::ServerConfig;
#[cfg(feature = "ca")]
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};

use super::{ClockTime, TlsError};
use crate::clock::Clock;
use crate::crypto::crypto_provider;

/// Whose certificates a CA takes. Nothing is checked for revocation: that is for whoever reads the certificate.
#[cfg(feature = "ca")]
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClientTrust<'a> {
    /// One that reaches these roots. It is asked for, not demanded; any other ends the handshake.
    Roots(&'a [CertificateDer<'static>]),
    /// The same, and one that expired no longer ago than this counts as well.
    LapsedTo(&'a [CertificateDer<'static>], std::time::Duration),
}

/// The settings of a CA that presents what `certificate` resolves to: TLS 1.3 and 1.2, HTTP/1.1.
///
/// # Errors
/// When a root is not usable.
#[cfg(feature = "ca")]
pub(crate) fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: ClientTrust<'_>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    use super::lapsed::Lapsed;
    use super::{ClientDemand, PeerClients, Verifier};
    let (ClientTrust::Roots(roots) | ClientTrust::LapsedTo(roots, _)) = clients;
    let current = PeerClients::new(roots, &[], ClientDemand::Optional)?;
    let clients: Arc<dyn ClientCertVerifier> = match clients {
        ClientTrust::Roots(_) => Verifier::new(Arc::new(current)),
        ClientTrust::LapsedTo(_, grace) => Verifier::new(Arc::new(Lapsed { inner: current, grace })),
    };
    server_config_for(certificate, Some(clients), clock)
}

/// The settings of a listener that leaves its clients to `clients`; without, it asks for no certificate.
///
/// There is no session resumption: a resumed session would carry a client certificate that nobody has verified since.
///
/// # Errors
/// When the crypto provider does not fit the protocol versions.
pub(crate) fn server_config_for(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_details(crypto_provider(), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
