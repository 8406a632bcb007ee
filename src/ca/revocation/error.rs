//! Owns the ways in which a revocation fails, and what the one who asked is told.

use crate::ca::authority::AuthorityError;
use crate::ca::state::StateError;
use crate::policy::{Decision, PolicyError};

/// A certificate that was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// There is no such certificate of a worker.
    #[error("no worker's certificate has this serial number")]
    UnknownSerial,
    /// Nothing to revoke.
    #[error("the worker has no certificate in force")]
    NoneInForce,
    /// A worker that asks for another's.
    #[error("a worker revokes its own certificates only; an admin may revoke any")]
    NotPermitted,
    /// The policy's no.
    #[error("denied by policy: {} (decision {})", .0.reason, .0.id)]
    Denied(Decision),
    /// No decision, so no.
    #[error("the policy gave no decision")]
    Policy(#[source] PolicyError),
    /// There is no CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The record failed.
    #[error("cannot keep the record")]
    State(#[from] StateError),
}

impl RevocationError {
    /// A fixed label for metrics and audit.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownSerial => "unknown_serial",
            Self::NoneInForce => "none_in_force",
            Self::NotPermitted => "not_permitted",
            Self::Denied(_) => "policy_denied",
            Self::Policy(error) => error.kind(),
            Self::Authority(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }

    /// Whether the fault is the CA's: asking again may help, and the details are for its log.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Policy(_) | Self::Authority(_) | Self::State(_))
    }
}
