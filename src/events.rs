//! Owns the lifecycle events: the closed list of them, the record each one is, and the bus that hands records to
//! listeners.

pub mod log;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::identity::{CertificateMetadata, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, hex, printable};

/// Something that happened to a worker's certificate. A closed list; the JSON names are those of [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CertificateEvent {
    /// A key and a CSR were made.
    #[serde(rename = "CSR_GENERATED")]
    CsrGenerated,
    /// The CSR is on its way to the CA. Whether it got there, what follows tells.
    #[serde(rename = "CSR_SUBMITTED")]
    CsrSubmitted,
    /// The CA refused the CSR, or its reply was of no use.
    #[serde(rename = "CSR_FAILED")]
    CsrFailed,
    /// A first certificate is on disk.
    #[serde(rename = "CERT_ISSUED")]
    CertIssued,
    /// A certificate that replaces another is on disk.
    #[serde(rename = "CERT_RENEWED")]
    CertRenewed,
    /// An existing certificate was found on disk and taken over without asking the CA.
    #[serde(rename = "CERT_ADOPTED")]
    CertAdopted,
    /// The certificate has less than the warning time left.
    #[serde(rename = "CERT_EXPIRING_SOON")]
    ExpiringSoon,
    /// The certificate has expired.
    #[serde(rename = "CERT_EXPIRED")]
    Expired,
    /// The certificate was revoked.
    #[serde(rename = "CERT_REVOKED")]
    Revoked,
    /// The CA asks for an early renewal.
    #[serde(rename = "RENEWAL_REQUESTED")]
    RenewalRequested,
    /// A certificate from the CA or the disk failed a check and is not used.
    #[serde(rename = "CERT_VALIDATION_FAILED")]
    ValidationFailed,
    /// A certificate could not be written to the certificate directory.
    #[serde(rename = "CERT_PUBLISH_FAILED")]
    PublishFailed,
    /// A published file was changed or removed by someone else.
    #[serde(rename = "CERT_FILES_CHANGED")]
    FilesChanged,
    /// Published files that were changed or removed have been put back.
    #[serde(rename = "CERT_FILES_HEALED")]
    FilesHealed,
    /// The worker was told of the certificate, or was seen to serve it.
    #[serde(rename = "CERT_DELIVERED")]
    Delivered,
    /// The worker cannot be told of the certificate.
    #[serde(rename = "CERT_DELIVERY_FAILED")]
    DeliveryFailed,
    /// The worker serves another certificate than the published one.
    #[serde(rename = "CERT_NOT_SERVED")]
    NotServed,
    /// A CRL of the CA is not fit to be published; the one before stays.
    #[serde(rename = "CRL_REJECTED")]
    CrlRejected,
    /// The CRL that is published has run out.
    #[serde(rename = "CRL_EXPIRED")]
    CrlExpired,
    /// The CA could not be reached, or could not answer.
    #[serde(rename = "CA_UNAVAILABLE")]
    CaUnavailable,
    /// The CA's clock and ours differ by more than the allowed skew.
    #[serde(rename = "CLOCK_SKEW")]
    ClockSkew,
    /// The wall clock stepped, or the machine was suspended.
    #[serde(rename = "CLOCK_STEPPED")]
    ClockStepped,
    /// A changed configuration is in force.
    #[serde(rename = "CONFIG_RELOADED")]
    ConfigReloaded,
    /// A changed configuration was refused; the old one stays in force.
    #[serde(rename = "CONFIG_REJECTED")]
    ConfigRejected,
}

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Needs a look in working hours.
    Warning,
    /// A person should act.
    Error,
    /// The worker is cut off, or is about to be.
    Critical,
}

impl CertificateEvent {
    /// Every event.
    pub const ALL: [Self; 24] = [
        Self::CsrGenerated,
        Self::CsrSubmitted,
        Self::CsrFailed,
        Self::CertIssued,
        Self::CertRenewed,
        Self::CertAdopted,
        Self::ExpiringSoon,
        Self::Expired,
        Self::Revoked,
        Self::RenewalRequested,
        Self::ValidationFailed,
        Self::PublishFailed,
        Self::FilesChanged,
        Self::FilesHealed,
        Self::Delivered,
        Self::DeliveryFailed,
        Self::NotServed,
        Self::CrlRejected,
        Self::CrlExpired,
        Self::CaUnavailable,
        Self::ClockSkew,
        Self::ClockStepped,
        Self::ConfigReloaded,
        Self::ConfigRejected,
    ];

    /// The name in JSON, as `CERT_ISSUED`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CsrGenerated => "CSR_GENERATED",
            Self::CsrSubmitted => "CSR_SUBMITTED",
            Self::CsrFailed => "CSR_FAILED",
            Self::CertIssued => "CERT_ISSUED",
            Self::CertRenewed => "CERT_RENEWED",
            Self::CertAdopted => "CERT_ADOPTED",
            Self::ExpiringSoon => "CERT_EXPIRING_SOON",
            Self::Expired => "CERT_EXPIRED",
            Self::Revoked => "CERT_REVOKED",
            Self::RenewalRequested => "RENEWAL_REQUESTED",
            Self::ValidationFailed => "CERT_VALIDATION_FAILED",
            Self::PublishFailed => "CERT_PUBLISH_FAILED",
            Self::FilesChanged => "CERT_FILES_CHANGED",
            Self::FilesHealed => "CERT_FILES_HEALED",
            Self::Delivered => "CERT_DELIVERED",
            Self::DeliveryFailed => "CERT_DELIVERY_FAILED",
            Self::NotServed => "CERT_NOT_SERVED",
            Self::CrlRejected => "CRL_REJECTED",
            Self::CrlExpired => "CRL_EXPIRED",
            Self::CaUnavailable => "CA_UNAVAILABLE",
            Self::ClockSkew => "CLOCK_SKEW",
            Self::ClockStepped => "CLOCK_STEPPED",
            Self::ConfigReloaded => "CONFIG_RELOADED",
            Self::ConfigRejected => "CONFIG_REJECTED",
        }
    }

    /// How loud the event is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::CsrGenerated
            | Self::CsrSubmitted
            | Self::CertIssued
            | Self::CertRenewed
            | Self::CertAdopted
            | Self::RenewalRequested
            | Self::FilesHealed
            | Self::Delivered
            | Self::ConfigReloaded => Severity::Info,
            Self::ExpiringSoon | Self::FilesChanged | Self::CaUnavailable | Self::ClockSkew | Self::ClockStepped => {
                Severity::Warning
            }
            Self::CsrFailed
            | Self::ValidationFailed
            | Self::PublishFailed
            | Self::DeliveryFailed
            | Self::CrlRejected
            | Self::CrlExpired
            | Self::ConfigRejected => Severity::Error,
            Self::Expired | Self::Revoked | Self::NotServed => Severity::Critical,
        }
    }
}

impl fmt::Display for CertificateEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong, in an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventError {
    /// A fixed label, the `type` of `crank_cert_errors_total`.
    pub kind: String,
    /// What failed and on what; one printable line.
    pub message: String,
}

impl EventError {
    /// An error with its text made printable.
    #[must_use]
    pub fn new(kind: &'static str, message: &str) -> Self {
        Self { kind: kind.to_owned(), message: printable(message, 2 * FOREIGN_TEXT_LIMIT) }
    }
}

/// One event: a JSON object with these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// What happened.
    pub event: CertificateEvent,
    /// How loud it is.
    pub severity: Severity,
    /// Follows one request through agent, CA and audit trail.
    pub correlation_id: String,
    /// Whose certificate.
    pub worker_id: WorkerId,
    /// When, with zone (ISO 8601, RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    /// The certificate, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_metadata: Option<CertificateMetadata>,
    /// On failure: the CA's response, the policy's decision, or the network's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<EventError>,
    /// The decision of the CA's policy on this request, where the CA tells: the same id is in the CA's record and audit
    /// trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// What else is to be said, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The name of a further certificate; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

type Listener = Arc<dyn Fn(&EventRecord) + Send + Sync>;

/// Hands each record to every listener, in the order they were added, on the thread that emits it.
#[derive(Clone, Default)]
pub struct EventBus {
    listeners: Arc<RwLock<Vec<Listener>>>,
}

impl EventBus {
    /// A bus for a further certificate: what is emitted on it goes to this one too, with the certificate's name.
    #[must_use]
    pub fn of_certificate(&self, name: &str) -> Self {
        let (all, name, own) = (self.clone(), name.to_owned(), Self::default());
        own.subscribe(move |record| {
            all.emit(&EventRecord { certificate: Some(name.clone()), ..record.clone() });
        });
        own
    }

    /// Adds a listener. It must return quickly, as the emitter waits; one that panics is reported and skipped.
    pub fn subscribe(&self, listener: impl Fn(&EventRecord) + Send + Sync + 'static) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }

    /// Hands `record` to every listener.
    pub fn emit(&self, record: &EventRecord) {
        // Copied out, so that a listener may itself subscribe.
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners {
            if catch_unwind(AssertUnwindSafe(|| listener(record))).is_err() {
                tracing::error!(event = %record.event, "an event listener panicked");
            }
        }
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").finish_non_exhaustive()
    }
}

/// A new correlation id: `req_` and 32 random hexadecimal digits.
#[must_use]
pub fn new_correlation_id() -> String {
    let mut bytes = [0; 16];
    // The system's random source does not fail after boot; were it to, an all-zero id would still be a valid one.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    format!("req_{}", hex(&bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn record(event: CertificateEvent) -> EventRecord {
        EventRecord {
            certificate: None,
            event,
            severity: event.severity(),
            correlation_id: "req_1".to_owned(),
            worker_id: WorkerId::new("streaming").unwrap(),
            timestamp: OffsetDateTime::UNIX_EPOCH,
            cert_metadata: None,
            error: None,
            decision_id: None,
            detail: None,
        }
    }

    #[test]
    fn json_names_are_the_names() {
        for event in CertificateEvent::ALL {
            assert_eq!(serde_json::to_string(&event).unwrap(), format!("\"{}\"", event.name()));
        }
    }

    #[test]
    fn a_panicking_listener_does_not_keep_the_record_from_the_next() {
        let bus = EventBus::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        bus.subscribe(|_| panic!("listener"));
        let sink = Arc::clone(&seen);
        bus.subscribe(move |record| sink.lock().unwrap().push(record.event));
        bus.emit(&record(CertificateEvent::CertIssued));
        assert_eq!(*seen.lock().unwrap(), [CertificateEvent::CertIssued]);
    }

    #[test]
    fn the_record_has_the_contract_fields() {
        let text = serde_json::to_value(record(CertificateEvent::CaUnavailable)).unwrap();
        assert_eq!(
            text,
            serde_json::json!({
                "event": "CA_UNAVAILABLE", "severity": "WARNING", "correlation_id": "req_1",
                "worker_id": "streaming", "timestamp": "1970-01-01T00:00:00Z",
            })
        );
    }

    #[test]
    fn correlation_ids_differ() {
        assert_ne!(new_correlation_id(), new_correlation_id());
        assert_eq!(new_correlation_id().len(), 36);
    }
}
