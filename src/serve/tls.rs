//! Owns the TLS settings of the listener: one set for each bundle, none of it global, replaced as a whole.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::watch;

use super::ServeError;
use crate::clock::Clock;
use crate::crypto::crypto_provider;
use crate::identity::CertificateBundle;
use crate::printable::error_chain;
use crate::tls::{ClientDemand, PeerClients, TlsError, Verifier, server_config_for};

/// The TLS settings for the bundle in force.
#[derive(Debug)]
pub(super) struct HotConfig {
    bundle: watch::Receiver<Option<Arc<CertificateBundle>>>,
    clock: Arc<dyn Clock>,
    current: Arc<ServerConfig>,
}

impl HotConfig {
    /// Begins with the bundle of the moment; without one that can be used, handshakes are refused.
    pub(super) fn new(
        bundle: watch::Receiver<Option<Arc<CertificateBundle>>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let current = Arc::new(refusing(&clock).map_err(ServeError::Tls)?);
        let mut config = Self { bundle, clock, current };
        config.rebuild();
        Ok(config)
    }

    /// The settings for the next connection: those of the newest bundle that can be used.
    pub(super) fn newest(&mut self) -> Arc<ServerConfig> {
        // An error means that the sender is gone: the last bundle stays.
        if self.bundle.has_changed().unwrap_or(false) {
            self.rebuild();
        }
        Arc::clone(&self.current)
    }

    /// Waits for another bundle and takes it up, so that an old key is not kept until someone connects. Pending for
    /// ever once the sender is gone.
    pub(super) async fn follow(&mut self) {
        if self.bundle.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let bundle = self.bundle.borrow_and_update().clone();
        let built = match &bundle {
            Some(bundle) => serving(bundle, &self.clock),
            None => refusing(&self.clock),
        };
        match built {
            Ok(config) => self.current = Arc::new(config),
            Err(error) => {
                let serial = bundle.as_ref().map(|bundle| bundle.serial());
                tracing::error!(error = %error_chain(&error), serial, "listener keeps the old certificate: the new one cannot be used");
            }
        }
    }
}

fn serving(bundle: &CertificateBundle, clock: &Arc<dyn Clock>) -> Result<ServerConfig, TlsError> {
    let certified = CertifiedKey::from_der(bundle.chain().to_vec(), bundle.key().to_rustls(), &crypto_provider())
        .map_err(TlsError::Certificate)?;
    let certificate = Arc::new(SingleCertAndKey::from(certified));
    let clients = PeerClients::new(bundle.roots(), bundle.crls(), ClientDemand::Optional)?;
    server_config_for(certificate, Some(Verifier::new(Arc::new(clients))), Arc::clone(clock))
}

fn refusing(clock: &Arc<dyn Clock>) -> Result<ServerConfig, TlsError> {
    server_config_for(Arc::new(NoCertificate), None, Arc::clone(clock))
}

/// Before the first certificate: the handshake ends with the alert `access_denied`.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
