//! Owns revocation: who may revoke what, the policy's say in it, and the record of it.
//!
//! Revocation is by the record: from the moment it is written a revoked certificate renews nothing, whether or not
//! anybody has heard of it. Everybody else learns of it from the CRL ([`crl`](super::crl)) and from the renewal
//! information ([`renewal_info`](super::renewal_info)).

mod audit;
mod config;
mod error;
mod operator;
mod reason;
mod serial;
mod standing;

use std::time::Duration;

use time::OffsetDateTime;

use super::enrolment::Context;
use super::state::{DecisionRecord, NewRevocation, RevocationRecord, State};
use crate::clock::Clock;
use crate::identity::WorkerId;
use crate::policy::{Actor, Decision, Policy, PolicyError, RevocationReason};

use audit::Audit;
pub use config::{AdminSection, CrlSection, RenewalSection, RevocationConfig};
pub use error::RevocationError;
pub use operator::Revocations;
pub use reason::{REVOCATION_REASONS, reason_name};
pub(crate) use reason::{reason_from_code, reason_to_code};
pub(crate) use serial::{parse_serial, serial_bytes};
pub(crate) use standing::{Known, Revoked, Standing};

/// A certificate that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// The serial as `4a:3b:…`.
    pub serial: String,
    /// Why it was revoked first.
    pub reason: RevocationReason,
    /// When it was revoked first.
    pub revoked_at: OffsetDateTime,
}

impl From<RevocationRecord> for RevokedCertificate {
    fn from(record: RevocationRecord) -> Self {
        Self { serial: record.serial, reason: record.reason, revoked_at: record.revoked_at }
    }
}

/// What revoking needs.
pub(super) struct Revoker<'a> {
    pub(super) state: &'a State,
    pub(super) policy: &'a dyn Policy,
    pub(super) clock: &'a dyn Clock,
}

impl Revoker<'_> {
    /// Revokes the certificate with this serial, in whichever form; on record when it returns. One that is revoked
    /// already stays as it is.
    pub(super) async fn revoke(
        &self,
        actor: &Actor,
        serial: &str,
        reason: RevocationReason,
        context: &Context,
    ) -> Result<RevokedCertificate, RevocationError> {
        let mut audit = Audit::begin(actor, serial, reason, context);
        let result = self.decide_and_record(actor, serial, reason, context, &mut audit).await;
        audit.end(&result);
        result
    }

    async fn decide_and_record(
        &self,
        actor: &Actor,
        serial: &str,
        reason: RevocationReason,
        context: &Context,
        audit: &mut Audit<'_>,
    ) -> Result<RevokedCertificate, RevocationError> {
        let unknown = RevocationError::UnknownSerial;
        let serial = parse_serial(serial).ok_or(unknown)?;
        let record = self.state.issued(&serial).await?.ok_or(RevocationError::UnknownSerial)?;
        let worker_id = record.worker_id.ok_or(RevocationError::UnknownSerial)?;
        audit.found(&serial, &worker_id);
        match actor {
            Actor::Worker(own) if *own != worker_id => return Err(RevocationError::NotPermitted),
            Actor::Worker(_) | Actor::Admin(_) | Actor::Operator => {}
        }
        let mut decision_id = String::new();
        // Whoever asks for what has been done is told so, whatever the policy would say today.
        if record.revoked_at.is_none() {
            let decision = decide(self.policy, actor, &worker_id, reason).await?;
            audit.decided(&decision);
            let (hook, at) = ("revoke_certificate", self.clock.now().wall);
            let record = DecisionRecord::new(hook, &decision, &worker_id, &context.correlation_id, at);
            self.state.record_decisions(vec![record]).await?;
            if !decision.is_allowed() {
                return Err(RevocationError::Denied(decision));
            }
            decision_id = decision.id;
        }
        let revocation = NewRevocation {
            serial,
            reason,
            actor: actor.to_string(),
            decision_id,
            correlation_id: context.correlation_id.clone(),
            at: self.clock.now().wall,
        };
        let revoked = self.state.revoke(std::slice::from_ref(&revocation)).await?;
        revoked.into_iter().next().map(RevokedCertificate::from).ok_or(RevocationError::UnknownSerial)
    }
}

/// Asks the policy, after the rule that a worker revokes its own certificates only. No answer denies.
async fn decide(
    policy: &dyn Policy,
    actor: &Actor,
    worker_id: &WorkerId,
    reason: RevocationReason,
) -> Result<Decision, RevocationError> {
    match tokio::time::timeout(POLICY_DEADLINE, policy.revoke_certificate(worker_id, reason, actor)).await {
        Ok(answer) => answer.map_err(RevocationError::Policy),
        Err(_) => Err(RevocationError::Policy(PolicyError { reason: "no answer within 5 s".to_owned() })),
    }
}

const POLICY_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
