//! Owns the roots in `ca.crt` between two certificates: those configured, and those that the CA hands out.

use std::sync::Arc;

use super::{CertificateManager, Current};
use crate::identity::{CertificateBundle, verify_certificate_chain};
use crate::issuer::roots::RootDigest;
use crate::issuer::{FollowedRoots, Issuer};
use crate::schedule::RenewReason;

impl<I: Issuer> CertificateManager<I> {
    /// Brings what is published of trust in step with the files that say it: the own roots, and those of other domains.
    pub(super) async fn refresh_trust(&mut self) {
        self.refresh_roots().await;
        self.refresh_federation().await;
    }

    /// Brings `ca.crt` in step with the configured roots and those handed out last: published anew where the chain
    /// verifies to them, a new certificate asked for where it does not.
    async fn refresh_roots(&mut self) {
        let Some(current) = self.current.clone().filter(|current| !current.withdrawn) else { return };
        let roots = match self.issuer.roots(&self.known) {
            Ok(Some(roots)) => roots,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %error, "the configured roots cannot be read; ca.crt stays as it is");
                return;
            }
        };
        let followed = self.known.followed.clone();
        self.put_in_force(current, FollowedRoots { roots, followed }).await;
    }

    /// Asks the CA which roots it hands out, when the time for it has come, and brings `ca.crt` in step. So a root that
    /// is new at the CA is known here long before the first certificate below it is.
    pub(super) async fn follow_roots_if_due(&mut self) {
        let Some(current) = self.current.clone().filter(|current| !current.withdrawn) else { return };
        let now = self.clock.now().boot;
        if now < self.follow_at {
            return;
        }
        self.follow_at = now.saturating_add(self.settings.check_interval / 2);
        match self.issuer.follow(&self.known).await {
            Ok(Some(roots)) => self.put_in_force(current, roots).await,
            Ok(None) => {}
            // A renewal that fails tells it louder.
            Err(error) => tracing::info!(error = %error, "the CA did not tell its roots; ca.crt stays as it is"),
        }
    }

    /// Publishes the certificate with other roots where its chain verifies to them; else asks for another certificate.
    async fn put_in_force(&mut self, current: Current, publish: FollowedRoots) {
        let FollowedRoots { roots, followed } = publish;
        if roots == current.bundle.roots() && followed == self.known.followed {
            return self.withdraw_change();
        }
        if let Err(error) = verify_certificate_chain(current.bundle.chain(), &roots, self.wall()) {
            tracing::info!(error = %error, "the roots changed, and the certificate is not of theirs");
            self.schedule.request(RenewReason::Changed);
            return;
        }
        let Ok(bundle) = current.bundle.with_roots(roots) else { return };
        if self.republish(current, bundle, followed).await {
            tracing::info!("published the changed roots");
            self.withdraw_change();
        }
    }

    /// Publishes the certificate in force with something else beside it. Whether it is in force then.
    pub(super) async fn republish(
        &mut self,
        current: Current,
        bundle: CertificateBundle,
        followed: Vec<RootDigest>,
    ) -> bool {
        let bundle = Arc::new(bundle);
        match self.write(Arc::clone(&bundle), current.record, followed).await {
            Ok(()) => {
                self.install(Current { bundle, ..current });
                true
            }
            Err(error) => {
                self.emit_publish_failed(&error);
                false
            }
        }
    }

    /// Roots that fit may be what did not fit for a while: then no other certificate is needed any longer.
    fn withdraw_change(&mut self) {
        let fits = self.current.as_ref().is_some_and(|current| self.checks().check(&current.bundle).is_ok());
        if fits && self.unpublished.is_none() {
            self.schedule.withdraw(RenewReason::Changed);
        }
    }
}
