//! Owns the TLS settings of listeners: of the agent and of the CA.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};

use super::{ClockTime, TlsError, root_store};
use crate::clock::Clock;
use crate::crypto::crypto_provider;

/// Whose certificates a listener takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClientTrust<'a> {
    /// It asks for none.
    Nobody,
    /// One that reaches these roots. It is asked for, not demanded; any other ends the handshake.
    Roots(&'a [CertificateDer<'static>]),
    /// The same, and one that expired no longer ago than this counts as well.
    #[cfg(feature = "ca")]
    LapsedTo(&'a [CertificateDer<'static>], std::time::Duration),
}

/// The settings of a listener that presents what `certificate` resolves to: TLS 1.3 and 1.2, HTTP/1.1.
///
/// There is no session resumption: a resumed session would carry a client certificate that nobody has verified since.
///
/// # Errors
/// When a root is not usable.
pub(crate) fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: ClientTrust<'_>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let provider = crypto_provider();
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?;
    let verifier = |roots: &[CertificateDer<'static>]| {
        WebPkiClientVerifier::builder_with_provider(root_store(roots)?, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Root(rustls::Error::General(error.to_string())))
    };
    let builder = match clients {
        ClientTrust::Nobody => builder.with_no_client_auth(),
        ClientTrust::Roots(roots) => builder.with_client_cert_verifier(verifier(roots)?),
        #[cfg(feature = "ca")]
        ClientTrust::LapsedTo(roots, grace) => {
            builder.with_client_cert_verifier(Arc::new(super::lapsed::Lapsed { inner: verifier(roots)?, grace }))
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
