//! Owns the CRLs beside the certificate: fetching, judging, publishing, and the notice when they run out.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::news::ASK_PAUSE;
use super::{CertificateManager, Current, Jitter};
use crate::events::{CertificateEvent, EventError, new_correlation_id};
use crate::identity::crl::{CrlSigner, RevokedEntry, crls_from_pem};
use crate::identity::{CertificateBundle, Crl, CrlError};
use crate::issuer::{CrlAnswer, Issuer};
use crate::printable::error_chain;
use crate::schedule::Revocation;
use crate::store::StoreError;

impl<I: Issuer> CertificateManager<I> {
    /// Asks for the CRLs of now, and publishes them where they are others.
    pub(super) async fn fetch_crl(&mut self) {
        self.crl_later();
        let tag = self.news.crl_etag.clone();
        match self.issuer.crl(tag.as_deref(), &self.known).await {
            Ok(CrlAnswer::Same) => {}
            Ok(CrlAnswer::NotOffered) => {
                self.news.crl_etag = None;
                self.publish_crls(Vec::new()).await;
            }
            Ok(CrlAnswer::Crls { pem, etag }) => {
                let Some(current) = self.current.clone() else { return };
                let (crls, clean) = self.judge(&pem, &current.bundle, current.bundle.crls());
                if self.publish_crls(crls).await {
                    // What was not taken is asked for again.
                    self.news.crl_etag = etag.filter(|_| clean);
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "the CA's CRL cannot be had; the one before stays");
                self.crl_within(CRL_RETRY.mul_f64(0.75 + 0.5 * f64::from(Jitter::draw())));
            }
        }
        self.look_for_own_revocation().await;
    }

    /// The CRLs to publish with a certificate that is new: those in force where they cover it, else those of now. A CA
    /// that does not answer in time does not hold up the certificate.
    pub(super) async fn crls_for(&mut self, bundle: &CertificateBundle) -> Vec<Crl> {
        if !self.settings.crls {
            return Vec::new();
        }
        let present = self.current.as_ref().map(|current| current.bundle.crls().to_vec()).unwrap_or_default();
        if present.iter().any(|crl| crl.covers(&bundle.chain()[0])) {
            return present;
        }
        match tokio::time::timeout(FIRST_CRL_PATIENCE, self.issuer.crl(None, &self.known)).await {
            Ok(Ok(CrlAnswer::Crls { pem, etag })) => {
                let (crls, clean) = self.judge(&pem, bundle, &present);
                self.news.crl_etag = etag.filter(|_| clean);
                self.crl_after(&crls);
                crls
            }
            Ok(Ok(CrlAnswer::NotOffered | CrlAnswer::Same)) => {
                self.crl_after(&present);
                present
            }
            Ok(Err(_)) | Err(_) => {
                self.crl_within(ASK_PAUSE);
                present
            }
        }
    }

    /// Which of the fetched CRLs are to be published; and whether all are. One that is not fit leaves the one before it
    /// from the same issuer in force.
    fn judge(&self, pem: &[u8], bundle: &CertificateBundle, present: &[Crl]) -> (Vec<Crl>, bool) {
        let fetched = match crls_from_pem(pem) {
            Ok(fetched) => fetched,
            Err(error) => {
                self.emit_rejected(&error);
                return (present.to_vec(), false);
            }
        };
        let issuers = issuers_of(bundle);
        let (mut crls, mut clean) = (Vec::<Crl>::new(), true);
        for crl in fetched {
            let before = present.iter().find(|before| before.is_of_same_issuer(&crl));
            let fit = self.check_crl(&crl, before, &issuers);
            let chosen = match fit {
                Ok(()) => Some(crl),
                Err(error) => {
                    self.emit_rejected(&error);
                    clean = false;
                    before.cloned()
                }
            };
            crls.extend(chosen);
        }
        (crls, clean)
    }

    fn check_crl(&self, crl: &Crl, before: Option<&Crl>, issuers: &[CertificateDer<'_>]) -> Result<(), CrlError> {
        crl.check_dates(self.wall(), self.settings.allowed_skew)?;
        crl.check_signature(issuers)?;
        match before {
            Some(before) if crl.number() < before.number() => {
                Err(CrlError::Older { number: crl.number(), current: before.number() })
            }
            _ => Ok(()),
        }
    }

    /// Puts CRLs in force: another generation with the same key and certificate. Whether they are in force then.
    async fn publish_crls(&mut self, crls: Vec<Crl>) -> bool {
        let Some(current) = self.current.clone() else { return false };
        if crls == current.bundle.crls() {
            return true;
        }
        let Ok(bundle) = current.bundle.try_clone() else { return false };
        let bundle = Arc::new(bundle.with_crls(crls));
        if !current.withdrawn
            && let Err(error) = self.write(Arc::clone(&bundle), current.record, self.known.followed.clone()).await
        {
            self.emit_publish_failed(&error);
            self.crl_within(CRL_RETRY);
            return false;
        }
        let numbers: Vec<String> = bundle.crls().iter().map(|crl| crl.number().to_string()).collect();
        tracing::info!(numbers = numbers.join(", "), "published the CA's CRLs");
        self.install(Current { bundle, ..current });
        self.crl_later();
        true
    }

    /// A CRL of the issuer's own says that the certificate in force is revoked.
    async fn look_for_own_revocation(&mut self) {
        let Some(current) = &self.current else { return };
        let issuers = issuers_of(&current.bundle);
        let leaf = &current.bundle.chain()[0];
        let entry = current.bundle.crls().iter().find_map(|crl| {
            let entry = crl.entry_of(leaf)?;
            (crl.check_signature(&issuers) == Ok(CrlSigner::Known)).then_some(entry)
        });
        if let Some(RevokedEntry { at, reason }) = entry {
            self.note_revoked(Revocation { at, reason }).await;
        }
    }

    /// The end of the CRL that has run out and of which that was not told.
    pub(super) fn crl_has_run_out(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let crls = self.current.as_ref()?.bundle.crls();
        let end = crls.iter().map(Crl::next_update).min()?;
        (end <= now && self.news.crl_expiry_told != Some(end)).then_some(end)
    }

    pub(super) fn report_crl(&mut self) {
        let Some(end) = self.crl_has_run_out(self.wall()) else { return };
        self.news.crl_expiry_told = Some(end);
        let detail =
            Some(format!("the CRL was good until {end}; whoever checks by it refuses every peer of its issuer"));
        self.emit_detailed(CertificateEvent::CrlExpired, &new_correlation_id(), self.metadata(), None, detail);
    }

    /// The next question about CRLs in good time before those in force run out, and at each check.
    fn crl_later(&mut self) {
        let crls = self.current.as_ref().map(|current| current.bundle.crls().to_vec()).unwrap_or_default();
        self.crl_after(&crls);
    }

    fn crl_after(&mut self, crls: &[Crl]) {
        let now = self.clock.now();
        let end = crls.iter().map(Crl::next_update).min();
        let left = end.and_then(|end| Duration::try_from(end - now.wall).ok()).unwrap_or(Duration::MAX);
        // A CA signs the next one in the middle of its life.
        let part = left.min(LONGEST_LIFE).mul_f64(0.5 + 0.25 * f64::from(Jitter::draw()));
        let wait = self.schedule.check_interval().min(part).max(ASK_PAUSE);
        self.news.crl_at = Some(now.boot.saturating_add(wait));
    }

    /// The next question about CRLs within `wait`.
    pub(super) fn crl_within(&mut self, wait: Duration) {
        let at = self.clock.now().boot.saturating_add(wait);
        self.news.crl_at = Some(self.news.crl_at.map_or(at, |before| before.min(at)));
    }

    fn emit_rejected(&self, error: &CrlError) {
        let error = EventError::new(error.kind(), &error.to_string());
        self.emit(CertificateEvent::CrlRejected, &new_correlation_id(), self.metadata(), Some(error));
    }

    pub(super) fn emit_publish_failed(&self, error: &StoreError) {
        let error = EventError::new(error.kind(), &error_chain(error));
        self.emit(CertificateEvent::PublishFailed, &new_correlation_id(), self.metadata(), Some(error));
    }
}

/// The certificates whose CRLs can be told from others': those above the leaf.
fn issuers_of(bundle: &CertificateBundle) -> Vec<CertificateDer<'_>> {
    let above = bundle.chain().iter().skip(1).chain(bundle.roots());
    above.map(|certificate| CertificateDer::from_slice(certificate)).collect()
}

/// With the first certificate, before it is published.
const FIRST_CRL_PATIENCE: Duration = Duration::from_secs(5);

/// Between questions about CRLs that fail.
const CRL_RETRY: Duration = Duration::from_mins(5);

/// Longer lives are as this.
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 365);
