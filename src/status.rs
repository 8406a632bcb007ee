//! Owns [`AgentStatus`]: what the agent knows about itself, published on a watch channel and shown by `status`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::events::EventError;
use crate::identity::{CertificateMetadata, Crl, SpiffeId, WorkerId};
use crate::schedule::Revocation;

/// The state of one agent, as `status --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Whose certificate.
    pub worker_id: WorkerId,
    /// The worker's SPIFFE id, where it is known.
    pub spiffe_id: Option<SpiffeId>,
    /// The certificate directory.
    pub directory: String,
    /// When the agent started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// The certificate that is published, if any.
    pub certificate: Option<CertificateMetadata>,
    /// That certificate was revoked.
    #[serde(default)]
    pub revoked: Option<Revocation>,
    /// The CRLs published beside it; absent where the CA has none.
    #[serde(default)]
    pub crl: Option<CrlStatus>,
    /// When the certificate will be renewed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_renewal: Option<OffsetDateTime>,
    /// Present while the CA asks for an early renewal.
    #[serde(default)]
    pub renewal_request: Option<RenewalRequest>,
    /// The last attempt to obtain a certificate and how it ended.
    pub last_attempt: Option<LastAttempt>,
    /// Present while attempts fail.
    pub back_off: Option<BackOff>,
    /// The certificate authority.
    pub ca: CaStatus,
    /// Reloads and proofs; empty where none are configured.
    pub deliveries: Vec<DeliveryStatus>,
    /// The further certificates of the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<FurtherStatus>,
}

/// The state of a further certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FurtherStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The same as of the first.
    #[serde(flatten)]
    pub status: AgentStatus,
}

impl AgentStatus {
    /// Whether the published certificate is valid at `now`. Whether it is still on disk is for the store to say.
    #[must_use]
    pub fn certificate_valid(&self, now: OffsetDateTime) -> bool {
        self.certificate
            .as_ref()
            .is_some_and(|certificate| certificate.not_before <= now && now < certificate.expires_at)
    }
}

/// The wish of a CA to see a certificate renewed early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalRequest {
    /// When it will be renewed for that.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// When the CA wants it renewed at the latest.
    #[serde(with = "time::serde::rfc3339")]
    pub window_end: OffsetDateTime,
    /// The CA's reason, printable.
    pub explanation: Option<String>,
}

/// The CRLs that are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlStatus {
    /// Their numbers.
    pub numbers: Vec<String>,
    /// When the first of them runs out.
    #[serde(with = "time::serde::rfc3339")]
    pub next_update: OffsetDateTime,
}

impl CrlStatus {
    /// What is told of `crls`; nothing where there is none.
    #[must_use]
    pub fn of(crls: &[Crl]) -> Option<Self> {
        let next_update = crls.iter().map(Crl::next_update).min()?;
        Some(Self { numbers: crls.iter().map(|crl| crl.number().to_string()).collect(), next_update })
    }
}

/// One attempt to obtain a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAttempt {
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The correlation id of its events.
    pub correlation_id: String,
    /// Why it failed; absent after success.
    pub error: Option<EventError>,
}

/// The state of waiting after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// Failures in a row.
    pub failures: u32,
    /// When the next attempt is due.
    #[serde(with = "time::serde::rfc3339")]
    pub next_attempt: OffsetDateTime,
}

/// What is known of the CA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Its URL.
    pub url: String,
    /// When it last answered.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_answer: Option<OffsetDateTime>,
    /// The CA's clock less ours, in seconds, at its last answer.
    pub clock_skew_seconds: Option<f64>,
}

/// One configured delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `pending`; `delivered`, `nobody` (there is no such process or server), `failed`; with a probe `served`, `not_served`,
    /// `unreachable`.
    pub result: String,
    /// Since when that is so; absent before the first publication.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub at: Option<OffsetDateTime>,
    /// Why, where it is not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether the agent is not ready for it.
    #[serde(default)]
    pub not_ready: bool,
}

impl DeliveryStatus {
    /// One that nothing has come of yet.
    pub(crate) fn pending(name: &str) -> Self {
        Self { name: name.to_owned(), result: "pending".to_owned(), at: None, detail: None, not_ready: false }
    }
}
