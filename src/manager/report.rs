//! Owns what the manager tells: events and status.

use std::sync::Arc;

use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateManager, Current};
use crate::clock::Now;
use crate::config::Config;
use crate::events::{CertificateEvent, EventError, EventRecord, new_correlation_id};
use crate::identity::CertificateMetadata;
use crate::identity::check::spiffe_id_of;
use crate::issuer::Issuer;
use crate::status::{AgentStatus, BackOff, CaStatus, CrlStatus, LastAttempt};

impl<I: Issuer> CertificateManager<I> {
    pub(super) fn emit(
        &self,
        event: CertificateEvent,
        correlation_id: &str,
        cert_metadata: Option<CertificateMetadata>,
        error: Option<EventError>,
    ) {
        self.emit_detailed(event, correlation_id, cert_metadata, error, None);
    }

    pub(super) fn emit_detailed(
        &self,
        event: CertificateEvent,
        correlation_id: &str,
        cert_metadata: Option<CertificateMetadata>,
        error: Option<EventError>,
        detail: Option<String>,
    ) {
        self.events.emit(&EventRecord { cert_metadata, error, detail, ..self.record(event, correlation_id) });
    }

    /// A record of an event that happens now, with nothing in it that not every event has.
    pub(super) fn record(&self, event: CertificateEvent, correlation_id: &str) -> EventRecord {
        EventRecord {
            event,
            severity: event.severity(),
            correlation_id: correlation_id.to_owned(),
            worker_id: self.settings.identity.worker_id.clone(),
            timestamp: self.wall(),
            cert_metadata: None,
            error: None,
            decision_id: None,
            detail: None,
            certificate: None,
        }
    }

    /// The facts of the certificate in force, as of now.
    pub(super) fn metadata(&self) -> Option<CertificateMetadata> {
        self.current.as_ref().map(|current| current.bundle.metadata(self.wall()))
    }

    /// Puts a published certificate in force.
    pub(super) fn install(&mut self, current: Current) {
        self.had_certificate = true;
        self.published.send_replace(Some(Arc::clone(&current.bundle)));
        self.current = Some(current);
        let certificate = self.metadata();
        let next_renewal = self.schedule.next_renewal();
        let revoked = self.current.as_ref().and_then(|current| current.record.revoked);
        let crl = self.current.as_ref().and_then(|current| CrlStatus::of(current.bundle.crls()));
        let leaf = self.current.as_ref().and_then(|current| current.bundle.chain().first());
        let asked_for = self.settings.identity.spiffe_id.clone();
        let spiffe_id = asked_for.or_else(|| spiffe_id_of(&X509Certificate::from_der(leaf?).ok()?.1));
        self.status.send_modify(|status| {
            let other = status.certificate.as_ref().map(|before| &before.serial)
                != certificate.as_ref().map(|certificate| &certificate.serial);
            status.renewal_request.take_if(|_| other);
            status.certificate = certificate;
            status.spiffe_id = spiffe_id;
            status.next_renewal = next_renewal;
            status.revoked = revoked;
            status.crl = crl;
        });
    }

    pub(super) fn report_expiry(&self, event: CertificateEvent) {
        self.emit(event, &new_correlation_id(), self.metadata(), None);
    }

    pub(super) fn report_clock(&self, detail: String) {
        let id = new_correlation_id();
        self.emit_detailed(CertificateEvent::ClockStepped, &id, self.metadata(), None, Some(detail));
    }

    /// The CA answered, or not; its clock is compared with ours.
    pub(super) fn note_ca(&self, clock_skew_seconds: Option<f64>) {
        let Some(skew) = clock_skew_seconds else { return };
        let now = self.wall();
        self.status.send_modify(|status| {
            status.ca.last_answer = Some(now);
            status.ca.clock_skew_seconds = Some(skew);
        });
        if skew.abs() > self.settings.allowed_skew.as_secs_f64() {
            let detail = format!("the CA's clock is {skew:+.0} s from this machine's");
            self.emit_detailed(CertificateEvent::ClockSkew, &new_correlation_id(), None, None, Some(detail));
        }
    }

    pub(super) fn report_attempt(&self, attempt: LastAttempt, now: Now) {
        let back_off = attempt.error.as_ref().map(|_| BackOff {
            failures: self.schedule.failures(),
            next_attempt: now.wall.saturating_add(
                time::Duration::try_from(self.schedule.until_attempt(now)).unwrap_or(time::Duration::ZERO),
            ),
        });
        let next_renewal = self.schedule.next_renewal();
        self.status.send_modify(|status| {
            status.last_attempt = Some(attempt);
            status.back_off = back_off;
            status.next_renewal = next_renewal;
        });
    }
}

/// The status before anything has happened.
pub(super) fn first_status(config: &Config, ca_url: &str, now: OffsetDateTime) -> AgentStatus {
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker_id: config.identity.worker_id.clone(),
        spiffe_id: config.identity.spiffe_id.clone(),
        directory: config.files.directory.display().to_string(),
        started_at: now,
        certificate: None,
        revoked: None,
        crl: None,
        next_renewal: None,
        renewal_request: None,
        last_attempt: None,
        back_off: None,
        ca: CaStatus { url: ca_url.to_owned(), last_answer: None, clock_skew_seconds: None },
        deliveries: Vec::new(),
        certificates: Vec::new(),
    }
}
