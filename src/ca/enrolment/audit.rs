//! Owns the audit line of a request for a certificate: one for each, whatever becomes of it; never with a token in it.

use time::format_description::well_known::Rfc3339;

use super::{Context, Credential, EnrolmentError, IssuedCertificate};
use crate::identity::WorkerId;
use crate::policy::Decision;
use crate::printable::error_chain;

/// Gathers the facts of one request. Writes one line when it ends, or when it is dropped on the way.
pub(super) struct Audit<'a> {
    context: &'a Context,
    worker_id: String,
    authentication: &'static str,
    credential: String,
    decision_id: String,
    decision_basis: String,
    serial: String,
    granted: &'static str,
    ended: bool,
}

impl<'a> Audit<'a> {
    /// A request has come.
    pub(super) fn begin(context: &'a Context) -> Self {
        Self {
            context,
            worker_id: String::new(),
            authentication: "none",
            credential: String::new(),
            decision_id: String::new(),
            decision_basis: String::new(),
            serial: String::new(),
            granted: "issued",
            ended: false,
        }
    }

    /// A credential was shown that is good; whose it is, is yet to be found out.
    pub(super) fn presented(&mut self, credential: &Credential) {
        self.authentication = credential.kind();
        credential.id().clone_into(&mut self.credential);
    }

    /// A credential of this worker was shown; whether it still serves is decided later.
    pub(super) fn shown(&mut self, worker_id: &WorkerId, credential: &Credential) {
        self.worker_id = worker_id.to_string();
        self.presented(credential);
    }

    /// The policy has decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.decision_id.clone_from(&decision.id);
        self.decision_basis = decision.basis.clone().unwrap_or_default();
    }

    /// A serial is taken; from here on a certificate may exist.
    pub(super) fn reserved(&mut self, serial: &str) {
        serial.clone_into(&mut self.serial);
    }

    /// The request came before, and gets the certificate that it got then.
    pub(super) fn repeated(&mut self, again: &IssuedCertificate) {
        self.granted = "repeated";
        self.serial.clone_from(&again.serial);
        self.decision_id.clone_from(&again.decision_id);
    }

    /// It is over.
    pub(super) fn end(mut self, result: &Result<IssuedCertificate, EnrolmentError>) {
        self.ended = true;
        match result {
            Ok(issued) => {
                let names: Vec<String> = issued.names.iter().map(ToString::to_string).collect();
                let until = issued.not_after.format(&Rfc3339).unwrap_or_default();
                self.line(self.granted, "", &format!("{} until {until}", names.join(", ")));
            }
            Err(error) if error.is_internal() => self.line("failed", error.kind(), &error_chain(error)),
            Err(error) => self.line("refused", error.kind(), &error.to_string()),
        }
    }

    fn line(&self, decision: &'static str, kind: &'static str, detail: &str) {
        let source = self.context.source.map(|source| source.to_string()).unwrap_or_default();
        tracing::info!(
            target: "crank::audit",
            event = "CERTIFICATE_REQUESTED",
            decision,
            kind,
            detail,
            worker_id = self.worker_id,
            authentication = self.authentication,
            credential = self.credential,
            decision_id = self.decision_id,
            decision_basis = self.decision_basis,
            serial = self.serial,
            source,
            correlation_id = self.context.correlation_id,
            trace_id = self.context.trace.trace_id(),
            "request for a certificate {decision}"
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
