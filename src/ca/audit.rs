//! Owns the audit line of a request, whatever is asked for: one for each, whatever becomes of it.

use super::enrolment::Context;
use crate::policy::Decision;

/// Gathers the facts of one request. Writes one line when it ends, or when it is dropped on the way.
pub(super) struct Audit<'a, R: AuditedRequest> {
    context: &'a Context,
    /// Whose certificate it is about. This and the next are empty as long as they aren't known.
    pub(super) worker_id: String,
    /// Of that certificate.
    pub(super) serial: String,
    /// Of the policy.
    pub(super) decision_id: String,
    /// What requests of this kind have beside.
    pub(super) own: R,
    ended: bool,
}

/// A kind of request.
pub(super) trait AuditedRequest {
    /// The name of the event.
    const EVENT: &'static str;
    /// For what it is, in words.
    const OBJECT: &'static str;

    /// What is told of this kind alone.
    fn own(&self) -> OwnFields<'_>;
}

/// What is told of some kinds only. Those that have no value are left out.
#[derive(Debug, Default)]
pub(super) struct OwnFields<'a> {
    /// The kind of credential.
    pub(super) authentication: Option<&'a str>,
    /// Its id, never a token.
    pub(super) credential: Option<&'a str>,
    /// What the policy's decision rests on.
    pub(super) decision_basis: Option<&'a str>,
    /// Who asks.
    pub(super) actor: Option<&'a str>,
    /// Why.
    pub(super) reason: Option<&'a str>,
}

impl<'a, R: AuditedRequest> Audit<'a, R> {
    /// A request has come.
    pub(super) fn of(context: &'a Context, own: R) -> Self {
        let (worker_id, serial, decision_id) = Default::default();
        Self { context, worker_id, serial, decision_id, own, ended: false }
    }

    /// The policy has decided.
    pub(super) fn decided_by(&mut self, decision: &Decision) {
        self.decision_id.clone_from(&decision.id);
    }

    /// It is over. `kind` is that of the error, empty where there is none.
    pub(super) fn write(mut self, decision: &'static str, kind: &'static str, detail: &str) {
        self.ended = true;
        self.line(decision, kind, detail);
    }

    fn line(&self, decision: &'static str, kind: &'static str, detail: &str) {
        let own = self.own.own();
        let source = self.context.source.map(|source| source.to_string()).unwrap_or_default();
        tracing::info!(
            target: "crank::audit",
            event = R::EVENT,
            decision,
            kind,
            detail,
            actor = own.actor,
            worker_id = self.worker_id,
            authentication = own.authentication,
            credential = own.credential,
            decision_id = self.decision_id,
            decision_basis = own.decision_basis,
            serial = self.serial,
            reason = own.reason,
            source,
            correlation_id = self.context.correlation_id,
            trace_id = self.context.trace.trace_id(),
            "request for a {} {decision}",
            R::OBJECT
        );
    }
}

impl<R: AuditedRequest> Drop for Audit<'_, R> {
    fn drop(&mut self) {
        if !self.ended {
            self.line("failed", "aborted", "the client went away or the deadline passed");
        }
    }
}
