//! Owns the four policy hooks: what is asked, the decision that comes back, and the rule that no decision is a denial.
//!
//! The default rules are code. With the feature `ca` they can be narrowed by Rego, in this process or by an OPA, both
//! asked with the same [`Input`].

#[cfg(feature = "ca")]
mod answer;
pub mod default;
#[cfg(feature = "ca")]
mod engine;
pub mod input;
#[cfg(feature = "ca")]
pub mod opa;
#[cfg(feature = "ca")]
pub mod rego;
#[cfg(feature = "ca")]
pub mod settings;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::config::Environment;
use crate::identity::{CertificateMetadata, KeyType, SpiffeId, SubjectAltName, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, hex, printable};
use crate::trace_context::TraceContext;

pub use default::DefaultPolicy;
pub use input::{Hook, Input};
#[cfg(feature = "ca")]
pub use settings::{PolicyConfig, PolicyProblem, PolicySettings, PolicySetupError};

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
        capabilities: &'a Capabilities,
    ) -> PolicyAnswer<'a, ValidityPeriod>;

    /// Should this certificate be renewed at `now`? A wish, no permission: whoever may have a certificate may renew it.
    fn should_renew_certificate<'a>(
        &'a self,
        cert_metadata: &'a CertificateMetadata,
        now: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision>;

    /// May `actor` revoke the certificate of worker `worker_id` for this reason?
    fn revoke_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        reason: RevocationReason,
        actor: &'a Actor,
    ) -> PolicyAnswer<'a, Decision>;

    /// Which rules are in force, and whether the newest ones are.
    fn status(&self) -> PolicyStatus {
        PolicyStatus { engine: "default", revision: None, problem: None }
    }
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
    /// The worker's SPIFFE id.
    pub spiffe_id: SpiffeId,
    /// How the worker proved who it is: `token`, `certificate`, `caller`.
    pub authentication: &'static str,
    /// Which credential it was: a token's id or a certificate's serial, never a secret; empty where there is none.
    pub credential: String,
    /// Where the CA serves.
    pub environment: Environment,
    /// The address the request came from; `None` for a caller in this process.
    pub source: Option<IpAddr>,
    /// Follows the request through agent, CA and audit trail.
    pub correlation_id: String,
    /// The trace that the request belongs to.
    pub trace: TraceContext,
}

/// Who asks for a revocation, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A worker, by its own certificate.
    Worker(WorkerId),
    /// An administrator, by the name in its certificate.
    Admin(String),
    /// Whoever may run commands on the CA's machine.
    Operator,
}

impl Actor {
    /// A fixed label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Worker(_) => "worker",
            Self::Admin(_) => "admin",
            Self::Operator => "operator",
        }
    }

    /// The name; empty for the operator.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Worker(id) => id.as_str(),
            Self::Admin(name) => name,
            Self::Operator => "",
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            named => write!(f, "{}:{}", named.kind(), printable(named.name(), FOREIGN_TEXT_LIMIT)),
        }
    }
}

/// Which rules are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// `default`, `rego` or `opa`.
    pub engine: &'static str,
    /// The digest of the set in force, where the engine has one: `sha256:` and 64 hexadecimal digits.
    pub revision: Option<String>,
    /// Why the newest set on disk is not in force, or why the engine gave no answer when last asked; printable. For the
    /// CA's operator alone.
    pub problem: Option<String>,
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
    /// What the decision rests on, for the audit trail: `rego` with the digest of the set that was in force, `opa` with
    /// OPA's own decision id; `None` for the default rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
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
        Self { id: new_decision_id(), outcome, reason: printable(reason, FOREIGN_TEXT_LIMIT), basis: None }
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

impl RevocationReason {
    /// Its name in RFC 5280, as `keyCompromise`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }
}

/// A policy that could not be evaluated. Callers deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy could not be evaluated: {reason}")]
pub struct PolicyError {
    /// What went wrong; printable.
    pub reason: String,
}

impl PolicyError {
    /// An error with its text made printable.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Self { reason: printable(reason, FOREIGN_TEXT_LIMIT) }
    }

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
    format!("dec_{}", hex(&bytes))
}
