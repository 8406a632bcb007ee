//! Owns taking over what is on disk at the start.

use std::sync::Arc;
use std::time::Duration;

use super::{CertificateManager, Current, Unpublished};
use crate::events::{CertificateEvent, EventError, new_correlation_id};
use crate::identity::CheckError;
use crate::issuer::Issuer;
use crate::issuer::roots::KnownRoots;
use crate::printable::error_chain;
use crate::schedule::{Jitter, RenewReason, RenewalRecord, SLICE, Validity};
use crate::store::{Origin, Published};

impl<I: Issuer> CertificateManager<I> {
    /// Takes over a valid certificate that is on disk without asking the CA. One with other names than are configured
    /// now serves until its successor is there, which is asked for at once.
    pub(super) async fn adopt(&mut self) {
        // What an earlier run left is removed in its time.
        self.sweep_later(Duration::ZERO);
        let inherited = self.current.take();
        let correlation_id = new_correlation_id();
        let mut before = self.known.clone();
        match self.load().await {
            Ok(Some(published)) => {
                let followed = published.record.as_ref().map(|record| record.followed.clone());
                let known = KnownRoots {
                    published: published.bundle.roots().to_vec(),
                    // Of what another program wrote nobody knows where it came from.
                    followed: followed.filter(|_| is_ours(&published)).unwrap_or_default(),
                };
                before = std::mem::replace(&mut self.known, known);
                match &inherited {
                    Some(current) if current.bundle.leaf_digest() == published.bundle.leaf_digest() => {
                        return self.go_on_with(current.clone(), published.complete).await;
                    }
                    _ => self.examine(published, &correlation_id).await,
                }
            }
            Ok(None) => {}
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::ValidationFailed, &correlation_id, None, Some(error));
            }
        }
        if let (None, Some(inherited)) = (&self.current, inherited) {
            self.known = before;
            self.carry_over(inherited, &correlation_id).await;
        }
    }

    /// The certificate on disk is the one that this agent had before its configuration changed: no news.
    async fn go_on_with(&mut self, current: Current, complete: bool) {
        let fits = self.checks().check(&current.bundle);
        if !complete && !current.withdrawn {
            let written = self.write(Arc::clone(&current.bundle), current.record, self.known.followed.clone()).await;
            if let Err(error) = written {
                self.emit_publish_failed(&error);
                self.schedule.request_check_within(self.clock.now(), SLICE);
            }
        }
        self.install(current);
        if fits.is_err_and(|error| error.still_usable()) {
            self.schedule.request(RenewReason::Changed);
        }
        self.refresh_trust().await;
    }

    /// The configuration names another directory: the certificate in force goes there.
    async fn carry_over(&mut self, inherited: Current, correlation_id: &str) {
        if inherited.withdrawn {
            return self.install(inherited);
        }
        let Current { bundle, record, .. } = inherited;
        match self.checks().check(&bundle) {
            Ok(()) => {}
            Err(error) if error.still_usable() => self.schedule.request(RenewReason::Changed),
            // Expired, mostly: the schedule knows, and another is asked for.
            Err(_) => return,
        }
        let followed = self.known.followed.clone();
        let written = self.write(Arc::clone(&bundle), record, followed.clone()).await;
        self.install(Current { bundle: Arc::clone(&bundle), record, withdrawn: false });
        let certificate = self.metadata();
        match written {
            Ok(()) => {
                self.emit(CertificateEvent::CertAdopted, correlation_id, certificate, None);
                self.refresh_trust().await;
            }
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::PublishFailed, correlation_id, certificate, Some(error));
                // Written by the next attempt, which then does not ask the CA.
                let correlation_id = correlation_id.to_owned();
                self.unpublished = Some(Unpublished { bundle, followed, correlation_id, decision_id: None });
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
                if event == CertificateEvent::Expired {
                    self.lapsed = Some(Arc::new(published.bundle));
                }
            }
        }
    }

    async fn take_over(&mut self, published: Published, correlation_id: &str) {
        let whole = published.record.is_some() && published.complete && is_ours(&published);
        let bundle = Arc::new(published.bundle);
        let record = published.record.map(|record| record.renewal);
        let record = record.unwrap_or_else(|| RenewalRecord::new(Jitter::draw(), bundle.not_before()));
        let ready = if whole {
            self.check_writable().await
        } else {
            self.write(Arc::clone(&bundle), record, self.known.followed.clone()).await
        };
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
        self.install(Current { bundle, record, withdrawn: false });
        let certificate = self.metadata();
        self.emit(CertificateEvent::CertAdopted, correlation_id, certificate, None);
        self.refresh_trust().await;
    }
}

fn is_ours(published: &Published) -> bool {
    matches!(published.origin, Origin::Generation(_))
}
