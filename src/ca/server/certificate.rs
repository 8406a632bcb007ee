//! Owns the CA's own server certificate: issued by the CA itself, kept in memory, swapped before it ends.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::ca::manager::CertificateAuthorityManager;
use crate::crypto::crypto_provider;
use crate::identity::SubjectAltName;
use crate::printable::error_chain;
use crate::tls::{ClientTrust, TlsError, server_config};

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
    /// Whose certificate it is, and whose roots go along with it.
    authority: Arc<Authority>,
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
        let provider = crypto_provider();
        let authority = manager.authority();
        let current = next(&manager, &authority, &provider, &names, lifetime).await?;
        Ok(Arc::new(Self { manager, provider, names, lifetime, current: RwLock::new(current) }))
    }

    /// TLS 1.3 and 1.2. A client certificate is asked for, not demanded; one that does not verify to a root that is handed
    /// out now ends the handshake, as does one that has expired longer ago than the grace.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, CaError> {
        let certificate = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let clock = Arc::clone(&self.manager.clock);
        let authority = self.manager.authority();
        // The intermediates too, for workers that show their leaf alone: EST gives them no more.
        let intermediates = authority.issuing_certificates().cloned();
        let roots: Vec<_> = authority.roots().iter().cloned().chain(intermediates).collect();
        let clients = match self.manager.in_force().admission.renewal_grace {
            Duration::ZERO => ClientTrust::Roots(&roots),
            grace => ClientTrust::LapsedTo(&roots, grace),
        };
        let config = server_config(certificate, clients, clock).map_err(CaError::Tls)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Renews when it is time, and at once when issuer or roots are others, until cancelled. The one in force stays when
    /// that fails.
    pub(super) async fn keep_renewed(self: Arc<Self>, acceptor: watch::Sender<TlsAcceptor>, cancel: CancellationToken) {
        let mut changes = self.manager.authority_changes();
        let mut verified_to = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).authority);
        let pause = (self.lifetime / 10).clamp(Duration::from_millis(100), Duration::from_mins(1));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                told = changes.changed() => if told.is_err() { return },
            }
            let authority = self.manager.authority();
            if !Arc::ptr_eq(&authority, &verified_to) {
                match self.acceptor() {
                    Ok(next) => {
                        acceptor.send_replace(next);
                        verified_to = Arc::clone(&authority);
                    }
                    Err(error) => {
                        tracing::error!(error = error_chain(&error), "cannot verify clients to the roots of now");
                    }
                }
            }
            let due = {
                let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
                current.is_due(self.manager.clock.now().wall) || !Arc::ptr_eq(&authority, &current.authority)
            };
            if !due {
                continue;
            }
            match next(&self.manager, &authority, &self.provider, &self.names, self.lifetime).await {
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

/// Leaf, intermediates, and every root: whoever has pinned a root's fingerprint must find that root in the chain.
async fn next(
    manager: &CertificateAuthorityManager,
    authority: &Arc<Authority>,
    provider: &CryptoProvider,
    names: &BTreeSet<SubjectAltName>,
    lifetime: Duration,
) -> Result<Current, CaError> {
    let (mut chain, key, not_after) =
        manager.issue_server_certificate(authority, names, lifetime).await.map_err(CaError::ServerCertificate)?;
    chain.extend(authority.roots().iter().cloned());
    let signing_key = provider.key_provider.load_private_key(key.to_rustls());
    let signing_key = signing_key.map_err(|error| CaError::Tls(TlsError::Certificate(error)))?;
    let certified = Arc::new(CertifiedKey::new(chain, signing_key));
    let authority = Arc::clone(authority);
    Ok(Current { certified, authority, issued_at: manager.clock.now().wall, not_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Database;

    #[tokio::test]
    async fn it_is_due_after_two_thirds_of_its_life_and_after_a_step_back() {
        let directory = tempfile::TempDir::new().unwrap();
        let data = directory.path().join("ca");
        crate::ca::initialize_controller_certificates(&data, crate::config::Environment::Development).unwrap();
        let manager = CertificateAuthorityManager::open(
            &data,
            &Database::Sqlite,
            Box::new(crate::policy::DefaultPolicy::default()),
            crate::config::Environment::Development,
            Arc::new(crate::clock::SystemClock),
        )
        .await
        .unwrap();
        let names = BTreeSet::from(["localhost".parse().unwrap()]);
        let current =
            next(&manager, &manager.authority(), &crypto_provider(), &names, Duration::from_mins(3)).await.unwrap();
        let after = |seconds| current.is_due(current.issued_at + time::Duration::seconds(seconds));
        assert!(!after(0) && !after(115) && after(121) && after(1_000_000));
        assert!(after(-61));
        assert_eq!(current.certified.cert.len(), 3);
    }
}
