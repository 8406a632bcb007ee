//! Owns the TLS settings of the listener: one set for each bundle, none of it global, replaced as a whole.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use tokio::sync::watch;

use super::ServeError;
use crate::clock::Clock;
use crate::identity::CertificateBundle;

/// The TLS settings for the bundle in force.
#[derive(Debug)]
pub(super) struct HotConfig {
    bundle: watch::Receiver<Option<Arc<CertificateBundle>>>,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    current: Arc<ServerConfig>,
}

impl HotConfig {
    /// Begins with the bundle of the moment; without one that can be used, handshakes are refused.
    pub(super) fn new(
        bundle: watch::Receiver<Option<Arc<CertificateBundle>>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time: Arc<dyn TimeProvider> = Arc::new(ClockTime(clock));
        let current = Arc::new(refusing(&provider, &time).map_err(ServeError::Tls)?);
        let mut config = Self { bundle, provider, time, current };
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
            Some(bundle) => serving(bundle, &self.provider, &self.time),
            None => refusing(&self.provider, &self.time),
        };
        match built {
            Ok(config) => self.current = Arc::new(config),
            Err(error) => {
                let serial = bundle.as_ref().map(|bundle| bundle.serial());
                tracing::error!(%error, serial, "listener keeps the old certificate: the new one cannot be used");
            }
        }
    }
}

fn serving(
    bundle: &CertificateBundle,
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(bundle.roots().iter().cloned());
    if ignored > 0 {
        tracing::warn!(ignored, "roots that cannot verify client certificates are left out");
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(format!("client verification: {error}")))?;
    let config = builder(provider, time)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(bundle.chain().to_vec(), bundle.key().to_rustls())?;
    Ok(with_limits(config))
}

fn refusing(provider: &Arc<CryptoProvider>, time: &Arc<dyn TimeProvider>) -> Result<ServerConfig, rustls::Error> {
    let config = builder(provider, time)?.with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate));
    Ok(with_limits(config))
}

fn builder(
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
}

fn with_limits(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No resumption: every connection is verified against the roots of the day, and nothing is kept between them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Before the first certificate: the handshake ends with the alert `access_denied`.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().wall.unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
