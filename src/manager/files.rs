//! Owns the manager's dealings with the disk: writing, comparing, healing, sweeping; all off the async thread.

use std::sync::Arc;
use std::time::Duration;

use super::{CertificateManager, Current};
use crate::events::{CertificateEvent, EventError, new_correlation_id};
use crate::identity::CertificateBundle;
use crate::issuer::Issuer;
use crate::issuer::roots::{KnownRoots, RootDigest};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::schedule::{RenewalRecord, SLICE};
use crate::store::{GenerationRecord, Published, Store, StoreError};

impl<I: Issuer> CertificateManager<I> {
    /// Publishes a generation, some of whose roots the CA has handed out. The one before is removed later: see
    /// `sweep_if_due`.
    pub(super) async fn write(
        &mut self,
        bundle: Arc<CertificateBundle>,
        renewal: RenewalRecord,
        followed: Vec<RootDigest>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let known = KnownRoots { published: bundle.roots().to_vec(), followed: followed.clone() };
        let record = GenerationRecord::new(renewal, followed);
        self.on_disk(move |store| store.publish(&bundle, &record, now)).await?;
        self.known = known;
        self.sweep_later(self.settings.keep_generations);
        Ok(())
    }

    /// Whether a certificate could be published now.
    pub(super) async fn check_writable(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.on_disk(move |store| store.check_writable(now)).await
    }

    pub(super) async fn load(&self) -> Result<Option<Published>, StoreError> {
        self.on_disk(Store::load).await
    }

    /// Compares the files with what was published, and puts back what someone else changed.
    pub(super) async fn check(&mut self) {
        // Whoever watches the status looks again, by the clock.
        self.status.send_modify(|_| {});
        if self.current.is_none() {
            return;
        }
        // On some file systems no change of a root file is told.
        self.refresh_trust().await;
        self.heal_if_changed().await;
        self.follow_roots_if_due().await;
    }

    async fn heal_if_changed(&mut self) {
        let changes = match self.on_disk(Store::verify).await {
            Ok(changes) => changes,
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::FilesChanged, &new_correlation_id(), None, Some(error));
                return;
            }
        };
        if changes.is_empty() {
            return;
        }
        self.schedule.found_changed(self.clock.now());
        let correlation_id = new_correlation_id();
        let list: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let list = printable(&list.join(", "), FOREIGN_TEXT_LIMIT);
        let certificate = self.metadata();
        let detail = Some(list);
        self.emit_detailed(CertificateEvent::FilesChanged, &correlation_id, certificate.clone(), None, detail);
        let Some(Current { bundle, record: renewal, .. }) = self.current.clone() else { return };
        let record = GenerationRecord::new(renewal, self.known.followed.clone());
        let now = self.clock.now();
        match self.on_disk(move |store| store.heal(&bundle, &record, now)).await {
            Ok(_) => {
                self.sweep_later(self.settings.keep_generations);
                self.emit(CertificateEvent::FilesHealed, &correlation_id, certificate, None);
            }
            Err(error) => {
                let error = EventError::new(error.kind(), &error_chain(&error));
                self.emit(CertificateEvent::PublishFailed, &correlation_id, certificate, Some(error));
                // An hour is too long for a worker without files.
                self.schedule.request_check_within(self.clock.now(), SLICE);
            }
        }
    }

    /// Removes generations that have been kept long enough, when the time for it has come.
    pub(super) async fn sweep_if_due(&mut self) {
        let now = self.clock.now();
        if self.sweep_at.is_none_or(|at| now.boot < at) {
            return;
        }
        self.sweep_at = None;
        match self.on_disk(move |store| store.sweep(now)).await {
            Ok(Some(next)) => self.sweep_later(next),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "earlier generations cannot be removed");
                self.sweep_later(self.settings.keep_generations.max(SWEEP_RETRY));
            }
        }
    }

    pub(super) fn sweep_later(&mut self, wait: Duration) {
        self.sweep_at = Some(self.clock.now().boot.saturating_add(wait));
    }

    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(
                error.try_into_panic().unwrap_or_else(|_| Box::new("the runtime stopped during disk work")),
            ),
        }
    }
}

/// A volume that takes no changes now may do so for days.
const SWEEP_RETRY: Duration = Duration::from_hours(1);
