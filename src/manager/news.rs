//! Owns what the CA says of the certificate in force, asked or by itself, and what follows from it: an early renewal, a
//! revocation.

use std::time::Duration;

use super::push::Pushed;
use super::{CertificateManager, Jitter};
use crate::config::RevokedFiles;
use crate::events::{CertificateEvent, new_correlation_id};
use crate::issuer::{Issuer, RenewalAnswer, RenewalInfo, RenewalNews, RenewalQuestion};
use crate::printable::error_chain;
use crate::schedule::{RenewalRecord, Revocation};
use crate::status::RenewalRequest;
use crate::store::GenerationRecord;

/// When the CA is to be asked what, by time since boot, and what it said.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The next question about the certificate; `None`: at once.
    pub(super) ask_at: Option<Duration>,
    /// The next question about CRLs; `None`: at once.
    pub(super) crl_at: Option<Duration>,
    /// The entity tag of the CRLs that are published.
    pub(super) crl_etag: Option<String>,
    /// Which CRL there is, as the CA last told it.
    pub(super) crl_hint: Option<String>,
    /// The end of the CRL whose running out was told.
    pub(super) crl_expiry_told: Option<time::OffsetDateTime>,
}

/// What is to be done beside the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Ask,
    FetchCrl,
    ReportCrl,
}

impl<I: Issuer> CertificateManager<I> {
    /// The errand that is due, if there is one.
    pub(super) fn errand(&self) -> Option<Errand> {
        self.current.as_ref()?;
        let now = self.clock.now();
        if self.crl_has_run_out(now.wall).is_some() {
            return Some(Errand::ReportCrl);
        }
        let due = |at: Option<Duration>| at.is_none_or(|at| now.boot >= at);
        if due(self.news.ask_at) {
            return Some(Errand::Ask);
        }
        (self.minds_crls() && due(self.news.crl_at)).then_some(Errand::FetchCrl)
    }

    /// CRLs are wanted, or there are some that are wanted no longer.
    fn minds_crls(&self) -> bool {
        self.settings.crls || self.current.as_ref().is_some_and(|current| !current.bundle.crls().is_empty())
    }

    /// How long no question to the CA is due.
    pub(super) fn until_errand(&self, now: Duration) -> Duration {
        if self.current.is_none() {
            return Duration::MAX;
        }
        let crl_at = if self.minds_crls() { self.news.crl_at } else { Some(Duration::MAX) };
        let until = |at: Option<Duration>| at.unwrap_or_default().saturating_sub(now);
        until(self.news.ask_at).min(until(crl_at))
    }

    pub(super) async fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Ask => self.ask().await,
            Errand::FetchCrl => self.fetch_crl().await,
            Errand::ReportCrl => self.report_crl(),
        }
    }

    /// Asks what there is to know of the certificate in force. That it cannot be told harms nothing.
    async fn ask(&mut self) {
        self.ask_after(None);
        let Some(current) = self.current.clone() else { return };
        let correlation_id = new_correlation_id();
        let question = RenewalQuestion {
            current: &current.bundle,
            tag: None,
            wait: None,
            correlation_id: &correlation_id,
            known: &self.known,
        };
        match self.issuer.renewal_info(&question).await {
            Ok(RenewalAnswer { news, retry_after, .. }) => {
                self.ask_after(retry_after);
                match news {
                    RenewalNews::NotOffered => self.ask_after(Some(ASK_LONGEST)),
                    RenewalNews::Same => {}
                    RenewalNews::Info(info) => self.take_info(*info).await,
                }
            }
            Err(error) => tracing::debug!(error = %error, "the CA does not say when to renew"),
        }
    }

    /// The next question at the next check, or when the CA wants to be asked.
    fn ask_after(&mut self, wanted: Option<Duration>) {
        let wait = wanted.unwrap_or_else(|| self.schedule.check_interval()).clamp(ASK_PAUSE, ASK_LONGEST);
        self.news.ask_at = Some(self.clock.now().boot.saturating_add(wait));
    }

    /// What the CA told by itself.
    pub(super) async fn take_pushed(&mut self, pushed: Pushed) {
        if self.current.as_ref().is_none_or(|current| current.bundle.leaf_digest() != pushed.leaf) {
            return;
        }
        self.ask_after(None);
        self.take_info(pushed.info).await;
    }

    async fn take_info(&mut self, info: RenewalInfo) {
        for nonsense in &info.nonsense {
            tracing::warn!(nonsense, "the CA suggests what makes no sense, and is not followed");
        }
        if info.crl.is_some() && info.crl != self.news.crl_hint {
            self.news.crl_hint = info.crl;
            // All others are told at the same time.
            self.crl_within(CRL_SPREAD.mul_f64(f64::from(Jitter::draw())));
        }
        if let Some(revocation) = info.revoked {
            return self.note_revoked(revocation).await;
        }
        let Some(window) = info.window else { return };
        let Some(record) = self.schedule.suggest(window, Jitter::draw()) else { return };
        self.keep_record(record).await;
        let request = self.schedule.hastened().map(|suggestion| RenewalRequest {
            at: suggestion.at,
            window_end: window.end(),
            explanation: info.explanation,
        });
        let next_renewal = self.schedule.next_renewal();
        if let Some(request) = &request {
            let (at, why) = (request.at, request.explanation.as_deref().unwrap_or("without an explanation"));
            let detail = Some(format!("planned for {at}: {why}"));
            let certificate = self.metadata();
            let event = CertificateEvent::RenewalRequested;
            self.emit_detailed(event, &new_correlation_id(), certificate, None, detail);
        }
        self.status.send_modify(|status| {
            status.next_renewal = next_renewal;
            status.renewal_request = request;
        });
    }

    /// The certificate in force is revoked: it is not used to ask for another, and the schedule wants that at once.
    pub(super) async fn note_revoked(&mut self, revocation: Revocation) {
        let Some(record) = self.schedule.revoked(revocation) else { return };
        // Another key from here on.
        self.unanswered = None;
        let detail = format!("revoked at {}: {}", revocation.at, revocation.reason.name());
        let certificate = self.metadata();
        let event = CertificateEvent::Revoked;
        self.emit_detailed(event, &new_correlation_id(), certificate, None, Some(detail));
        self.status.send_modify(|status| status.revoked = Some(revocation));
        self.keep_record(record).await;
        if self.settings.revoked_files == RevokedFiles::Withdraw {
            self.withdraw(record).await;
        }
    }

    /// Keeps what is known of the certificate in force over a restart.
    async fn keep_record(&mut self, record: RenewalRecord) {
        let Some(current) = &mut self.current else { return };
        current.record = record;
        if current.withdrawn {
            return;
        }
        let kept = GenerationRecord::new(record, self.known.followed.clone());
        if let Err(error) = self.on_disk(move |store| store.keep_record(&kept)).await {
            tracing::warn!(error = %error_chain(&error), "what the CA said is not kept over a restart");
        }
    }

    async fn withdraw(&mut self, record: RenewalRecord) {
        let Some(current) = self.current.clone() else { return };
        let now = self.clock.now();
        let record = GenerationRecord::new(record, self.known.followed.clone());
        match self.on_disk(move |store| store.withdraw(&current.bundle, &record, now)).await {
            Ok(()) => {
                tracing::info!("key and certificate, which are revoked, were taken away");
                if let Some(current) = &mut self.current {
                    current.withdrawn = true;
                }
                self.sweep_later(self.settings.keep_generations);
            }
            Err(error) => self.emit_publish_failed(&error),
        }
    }
}

/// The least time between two questions.
pub(super) const ASK_PAUSE: Duration = Duration::from_secs(30);

/// A CA cannot silence an agent for longer, and one that says nothing of the kind is asked as rarely.
const ASK_LONGEST: Duration = Duration::from_hours(1);

/// Over this time a fleet fetches a CRL that is new.
const CRL_SPREAD: Duration = Duration::from_secs(10);
