//! Owns the audit lines of revocation: one for each request whatever becomes of it, and one for each certificate when
//! this process learns that it is revoked, by whichever process.

use super::{RevocationError, RevokedCertificate, reason_name};
use crate::ca::enrolment::Context;
use crate::ca::state::RevocationRecord;
use crate::identity::WorkerId;
use crate::policy::{Actor, Decision, RevocationReason};
use crate::printable::{error_chain, printable};

/// Gathers the facts of one request. Writes one line when it ends, or when it is dropped on the way.
pub(super) struct Audit<'a> {
    context: &'a Context,
    actor: String,
    serial: String,
    worker_id: String,
    reason: RevocationReason,
    decision_id: String,
    ended: bool,
}

impl<'a> Audit<'a> {
    /// A request has come. `serial` is as it was written.
    pub(super) fn begin(actor: &Actor, serial: &str, reason: RevocationReason, context: &'a Context) -> Self {
        Self {
            context,
            actor: actor.to_string(),
            serial: printable(serial, SERIAL_LIMIT),
            worker_id: String::new(),
            reason,
            decision_id: String::new(),
            ended: false,
        }
    }

    /// There is such a certificate.
    pub(super) fn found(&mut self, serial: &str, worker_id: &WorkerId) {
        serial.clone_into(&mut self.serial);
        self.worker_id = worker_id.to_string();
    }

    /// The policy has decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.decision_id.clone_from(&decision.id);
    }

    /// It is over.
    pub(super) fn end(mut self, result: &Result<RevokedCertificate, RevocationError>) {
        self.ended = true;
        match result {
            Ok(_) => self.line("revoked", "", ""),
            Err(error) if error.is_internal() => self.line("failed", error.kind(), &error_chain(error)),
            Err(error) => self.line("refused", error.kind(), &error.to_string()),
        }
    }

    fn line(&self, decision: &'static str, kind: &'static str, detail: &str) {
        let source = self.context.source.map(|source| source.to_string()).unwrap_or_default();
        tracing::info!(
            target: "crank::audit",
            event = "REVOCATION_REQUESTED",
            decision,
            kind,
            detail,
            actor = self.actor,
            worker_id = self.worker_id,
            serial = self.serial,
            reason = reason_name(self.reason),
            decision_id = self.decision_id,
            source,
            correlation_id = self.context.correlation_id,
            trace_id = self.context.trace.trace_id(),
            "request for a revocation {decision}"
        );
    }
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.line("failed", "aborted", "the client went away or the deadline passed");
        }
    }
}

/// From now on this process treats the certificate as revoked.
pub(super) fn learned(record: &RevocationRecord) {
    tracing::info!(
        target: "crank::audit",
        event = "CERTIFICATE_REVOKED",
        actor = record.actor,
        serial = record.serial,
        reason = reason_name(record.reason),
        correlation_id = record.correlation_id,
        "certificate revoked"
    );
}

const SERIAL_LIMIT: usize = 80;
