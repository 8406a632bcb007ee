//! Owns the four policy hooks: what is asked, the decision that comes back, and the rule that no decision is a denial.

pub mod default;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::config::Environment;
use crate::identity::{CertificateMetadata, KeyType, SubjectAltName, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

pub use default::DefaultPolicy;

/// The policy hooks. An error is a denial: callers never go on without a decision. A policy narrows what the core
/// permits, it can't widen it: names and key types have been checked before a hook is asked.
pub trait Policy: Send + Sync + 'static {
    /// May this worker have this certificate?
    fn can_issue_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        capabilities: &'a Capabilities,
    ) -> PolicyAnswer<'a, Decision>;

    /// How long may the worker's certificate live? The CA cuts the answer to its own issuer's life.
    fn certificate_validity_period<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        environment: Environment,
    ) -> PolicyAnswer<'a, ValidityPeriod>;

    /// Should this certificate be renewed at `now`?
    fn should_renew_certificate<'a>(
        &'a self,
        cert_metadata: &'a CertificateMetadata,
        now: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision>;

    /// May the worker's certificate be revoked for this reason?
    fn revoke_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        reason: RevocationReason,
    ) -> PolicyAnswer<'a, Decision>;
}

/// What a hook returns: a future, since a policy may live in another process.
pub type PolicyAnswer<'a, T> = Pin<Box<dyn Future<Output = Result<T, PolicyError>> + Send + 'a>>;

/// What a worker asks for, after the core has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The names the certificate will carry.
    pub names: BTreeSet<SubjectAltName>,
    /// All names that the credential permits.
    pub permitted: BTreeSet<SubjectAltName>,
    /// The kind of key.
    pub key_type: KeyType,
    /// How the worker proved who it is: `token`, `certificate`, `caller`.
    pub authentication: &'static str,
    /// Where the CA serves.
    pub environment: Environment,
}

/// A decision, with the id that follows it into audit trail and certificate record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `dec_` and 32 random hexadecimal digits.
    pub id: String,
    /// Allowed or denied.
    pub outcome: Outcome,
    /// Why; one printable line, shown to whoever asked.
    pub reason: String,
}

/// The outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Go on.
    Allow,
    /// Stop.
    Deny,
}

impl Decision {
    /// A decision that allows.
    #[must_use]
    pub fn allow(reason: &str) -> Self {
        Self::new(Outcome::Allow, reason)
    }

    /// A decision that denies.
    #[must_use]
    pub fn deny(reason: &str) -> Self {
        Self::new(Outcome::Deny, reason)
    }

    fn new(outcome: Outcome, reason: &str) -> Self {
        Self { id: new_decision_id(), outcome, reason: printable(reason, FOREIGN_TEXT_LIMIT) }
    }

    /// Whether it allows.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allow
    }
}

/// A decided lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidityPeriod {
    /// The longest life, from now on.
    pub period: Duration,
    /// Allowed or denied, and why.
    pub decision: Decision,
}

/// Why a certificate is revoked (RFC 5280, section 5.3.1; those that apply to a worker).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationReason {
    /// Not said.
    Unspecified,
    /// The key is known to others.
    KeyCompromise,
    /// The worker's names changed.
    AffiliationChanged,
    /// Another certificate has taken its place.
    Superseded,
    /// The worker is gone.
    CessationOfOperation,
    /// The worker may no longer have it.
    PrivilegeWithdrawn,
}

/// A policy that could not be evaluated. Callers deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy could not be evaluated: {reason}")]
pub struct PolicyError {
    /// What went wrong; printable.
    pub reason: String,
}

impl PolicyError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "policy_error"
    }
}

fn new_decision_id() -> String {
    let mut bytes = [0; 16];
    // The system's random source does not fail after boot; were it to, an all-zero id would still be a valid one.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().fold(String::from("dec_"), |text, byte| format!("{text}{byte:02x}"))
}
