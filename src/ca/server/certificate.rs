//! Owns the CA's own server certificate: issued by the CA itself, kept in memory, swapped before it ends.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::ca::CaError;
use crate::ca::manager::CertificateAuthorityManager;
use crate::clock::Clock;
use crate::identity::SubjectAltName;

/// The certificate in force, for the TLS library to ask at each handshake.
pub(super) struct ServerCertificate {
    manager: Arc<CertificateAuthorityManager>,
    provider: Arc<CryptoProvider>,
    names: BTreeSet<SubjectAltName>,
    lifetime: Duration,
    current: RwLock<Current>,
}

struct Current {
    certified: Arc<CertifiedKey>,
    issued_at: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl ServerCertificate {
    /// Issues the first one.
    pub(super) async fn issue(
        manager: Arc<CertificateAuthorityManager>,
        names: BTreeSet<SubjectAltName>,
        lifetime: Duration,
    ) -> Result<Arc<Self>, CaError> {
        let provider = Arc::new(default_provider());
        let current = next(&manager, &provider, &names, lifetime).await?;
        Ok(Arc::new(Self { manager, provider, names, lifetime, current: RwLock::new(current) }))
    }

    /// TLS 1.3 and 1.2. A client certificate is asked for, not demanded; one that does not verify ends the handshake.
    pub(super) fn tls_config(self: &Arc<Self>) -> Result<ServerConfig, CaError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.manager.authority.root().clone()).map_err(CaError::Tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| CaError::Tls(rustls::Error::General(error.to_string())))?;
        let time = Arc::new(WallTime(Arc::clone(&self.manager.clock)));
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_safe_default_protocol_versions()
            .map_err(CaError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would carry a client certificate that nobody has verified since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Renews until cancelled. The one in force stays when that fails.
    pub(super) async fn keep_renewed(self: Arc<Self>, cancel: CancellationToken) {
        let pause = (self.lifetime / 10).clamp(Duration::from_millis(100), Duration::from_mins(1));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let due = self.current.read().unwrap_or_else(PoisonError::into_inner).is_due(self.manager.clock.now().wall);
            if !due {
                continue;
            }
            match next(&self.manager, &self.provider, &self.names, self.lifetime).await {
                Ok(current) => {
                    tracing::info!(not_after = %current.not_after, "renewed the CA's server certificate");
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
                }
                Err(error) => {
                    let causes: &dyn std::error::Error = &error;
                    tracing::error!(error = causes, "cannot renew the CA's server certificate; will try again");
                }
            }
        }
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).certified))
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Current {
    /// When two thirds of its life are over, or the clock went back to before it began.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        let life = self.not_after - self.issued_at;
        now >= self.issued_at + life * 2 / 3 || now < self.issued_at - crate::ca::sign::BACKDATE
    }
}

/// Leaf, intermediate and root: whoever has pinned the root's fingerprint must find the root in the chain.
async fn next(
    manager: &CertificateAuthorityManager,
    provider: &CryptoProvider,
    names: &BTreeSet<SubjectAltName>,
    lifetime: Duration,
) -> Result<Current, CaError> {
    let (mut chain, key, not_after) =
        manager.issue_server_certificate(names, lifetime).await.map_err(CaError::ServerCertificate)?;
    chain.push(manager.authority.root().clone());
    let signing_key = provider.key_provider.load_private_key(key.to_rustls()).map_err(CaError::Tls)?;
    let certified = Arc::new(CertifiedKey::new(chain, signing_key));
    Ok(Current { certified, issued_at: manager.clock.now().wall, not_after })
}

/// Our clock, for the TLS library.
#[derive(Debug)]
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().wall.unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_due_after_two_thirds_of_its_life_and_after_a_step_back() {
        let directory = tempfile::TempDir::new().unwrap();
        let data = directory.path().join("ca");
        crate::ca::initialize_controller_certificates(&data, crate::config::Environment::Development).unwrap();
        let manager = CertificateAuthorityManager::open(
            &data,
            Box::new(crate::policy::DefaultPolicy::default()),
            crate::config::Environment::Development,
            Arc::new(crate::clock::SystemClock),
        )
        .await
        .unwrap();
        let names = BTreeSet::from(["localhost".parse().unwrap()]);
        let current = next(&manager, &default_provider(), &names, Duration::from_mins(3)).await.unwrap();
        let after = |seconds| current.is_due(current.issued_at + time::Duration::seconds(seconds));
        assert!(!after(0) && !after(115) && after(121) && after(1_000_000));
        assert!(after(-61));
        assert_eq!(current.certified.cert.len(), 3);
    }
}
