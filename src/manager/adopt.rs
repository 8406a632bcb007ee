//! Owns taking over what is on disk at the start.

use std::sync::Arc;
use std::time::Duration;

use super::{CertificateManager, Current, Unpublished};
use crate::events::{CertificateEvent, EventError, new_correlation_id};
use crate::identity::{CertificateBundle, CheckError, verify_certificate_chain};
use crate::issuer::Issuer;
use crate::printable::error_chain;
use crate::schedule::{Jitter, RenewReason, RenewalRecord, Validity};
use crate::store::{Origin, Published};

impl<I: Issuer> CertificateManager<I> {
    /// Takes over a valid certificate that is on disk without asking the CA. One with other names than are configured
    /// now serves until its successor is there, which is asked for at once.
    pub(super) async fn adopt(&mut self) {
        // What an earlier run left is removed in its time.
        self.sweep_later(Duration::ZERO);
        let inherited = self.current.take();
        let correlation_id = new_correlation_id();
        match self.load().await {
            Ok(Some(published)) => match &inherited {
                Some(current) if current.bundle.leaf_digest() == published.bundle.leaf_digest() => {
                    return self.go_on_with(current.clone()).await;
                }
                _ => self.examine(published, &correlation_id).await,
            },
            Ok(None) => {}
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::ValidationFailed, &correlation_id, None, Some(error));
            }
        }
        if let (None, Some(inherited)) = (&self.current, inherited) {
            self.carry_over(inherited, &correlation_id).await;
        }
    }

    /// The certificate on disk is the one that this agent had before its configuration changed: no news.
    async fn go_on_with(&mut self, current: Current) {
        let fits = self.checks().check(&current.bundle);
        self.install(current);
        if fits.is_err_and(|error| error.still_usable()) {
            self.schedule.request(RenewReason::Changed);
        }
        self.refresh_roots().await;
    }

    /// The configuration names another directory: the certificate in force goes there.
    async fn carry_over(&mut self, inherited: Current, correlation_id: &str) {
        let Current { bundle, record } = inherited;
        match self.checks().check(&bundle) {
            Ok(()) => {}
            Err(error) if error.still_usable() => self.schedule.request(RenewReason::Changed),
            // Expired, mostly: the schedule knows, and another is asked for.
            Err(_) => return,
        }
        let written = self.write(Arc::clone(&bundle), record).await;
        self.install(Current { bundle: Arc::clone(&bundle), record });
        let certificate = self.metadata();
        match written {
            Ok(()) => {
                self.emit(CertificateEvent::CertAdopted, correlation_id, certificate, None);
                self.refresh_roots().await;
            }
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::PublishFailed, correlation_id, certificate, Some(error));
                // Written by the next attempt, which then does not ask the CA.
                self.unpublished = Some(Unpublished { bundle, correlation_id: correlation_id.to_owned() });
                self.schedule.request(RenewReason::Changed);
            }
        }
    }

    async fn examine(&mut self, published: Published, correlation_id: &str) {
        self.had_certificate = true;
        match self.checks().check(&published.bundle) {
            Ok(()) => self.take_over(published, correlation_id).await,
            Err(error) if error.still_usable() => {
                tracing::info!(error = %error, "the certificate on disk will be replaced");
                self.take_over(published, correlation_id).await;
                self.schedule.request(RenewReason::Changed);
            }
            Err(error) => {
                let event = match error {
                    CheckError::Expired { .. } => CertificateEvent::Expired,
                    _ => CertificateEvent::ValidationFailed,
                };
                let metadata = published.bundle.metadata(self.wall());
                let error = EventError::new(error.kind(), &format!("on disk: {}", error_chain(&error)));
                self.emit(event, correlation_id, Some(metadata), Some(error));
            }
        }
    }

    async fn take_over(&mut self, published: Published, correlation_id: &str) {
        let Published { bundle, record, origin } = published;
        let bundle = Arc::new(bundle);
        let whole = record.is_some() && matches!(origin, Origin::Generation(_));
        let record =
            record.unwrap_or_else(|| RenewalRecord { jitter: Jitter::draw(), installed_at: bundle.not_before() });
        let ready = if whole { self.check_writable().await } else { self.write(Arc::clone(&bundle), record).await };
        if whole && ready.is_ok() {
            // What an agent before this one superseded, and had no time to remove.
            self.sweep_later(Duration::ZERO);
        }
        if let Err(error) = ready {
            // It stays usable as it is; its successor will need the disk.
            let error = EventError::new(error.kind(), &error_chain(&error));
            self.emit(CertificateEvent::PublishFailed, correlation_id, None, Some(error));
        }
        self.schedule.adopted(Validity::of(&bundle), record);
        self.install(Current { bundle, record });
        let certificate = self.metadata();
        self.emit(CertificateEvent::CertAdopted, correlation_id, certificate, None);
        self.refresh_roots().await;
    }

    /// Brings `ca.crt` in step with the configured roots: published anew where the chain verifies to them, a new
    /// certificate asked for where it does not.
    pub(super) async fn refresh_roots(&mut self) {
        let Some(current) = self.current.clone() else { return };
        let roots = match self.issuer.roots() {
            Ok(Some(roots)) => roots,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %error, "the configured roots cannot be read; ca.crt stays as it is");
                return;
            }
        };
        if roots == current.bundle.roots() {
            return self.withdraw_change();
        }
        if let Err(error) = verify_certificate_chain(current.bundle.chain(), &roots, self.wall()) {
            tracing::info!(error = %error, "the configured roots changed, and the certificate is not of theirs");
            self.schedule.request(RenewReason::Changed);
            return;
        }
        let Ok(bundle) = current.bundle.with_roots(roots) else { return };
        let bundle: Arc<CertificateBundle> = Arc::new(bundle);
        match self.write(Arc::clone(&bundle), current.record).await {
            Ok(()) => {
                tracing::info!("published the changed roots");
                self.install(Current { bundle, record: current.record });
                self.withdraw_change();
            }
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::PublishFailed, &new_correlation_id(), None, Some(error));
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
