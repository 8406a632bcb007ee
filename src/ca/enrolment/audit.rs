//! Owns the audit line of a request for a certificate; never with a token in it.

use time::format_description::well_known::Rfc3339;

use super::{Context, Credential, EnrolmentError, IssuedCertificate};
use crate::ca::audit::{self, AuditedRequest, OwnFields};
use crate::identity::WorkerId;
use crate::policy::Decision;
use crate::printable::error_chain;

pub(super) type Audit<'a> = audit::Audit<'a, Enrolment>;

/// What is told of requests for certificates alone.
pub(super) struct Enrolment {
    authentication: &'static str,
    credential: String,
    decision_basis: String,
    granted: &'static str,
}

impl<'a> Audit<'a> {
    /// A request has come.
    pub(super) fn begin(context: &'a Context) -> Self {
        let own = Enrolment {
            authentication: "none",
            credential: String::new(),
            decision_basis: String::new(),
            granted: "issued",
        };
        Self::of(context, own)
    }

    /// A credential was shown that is good; whose it is, is yet to be found out.
    pub(super) fn presented(&mut self, credential: &Credential) {
        self.own.authentication = credential.kind();
        credential.id().clone_into(&mut self.own.credential);
    }

    /// A credential of this worker was shown; whether it still serves is decided later.
    pub(super) fn shown(&mut self, worker_id: &WorkerId, credential: &Credential) {
        self.worker_id = worker_id.to_string();
        self.presented(credential);
    }

    /// The policy has decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.decided_by(decision);
        self.own.decision_basis = decision.basis.clone().unwrap_or_default();
    }

    /// A serial is taken; from here on a certificate may exist.
    pub(super) fn reserved(&mut self, serial: &str) {
        serial.clone_into(&mut self.serial);
    }

    /// The request came before, and gets the certificate that it got then.
    pub(super) fn repeated(&mut self, again: &IssuedCertificate) {
        self.own.granted = "repeated";
        self.serial.clone_from(&again.serial);
        self.decision_id.clone_from(&again.decision_id);
    }

    /// It is over.
    pub(super) fn end(self, result: &Result<IssuedCertificate, EnrolmentError>) {
        match result {
            Ok(issued) => {
                let names: Vec<String> = issued.names.iter().map(ToString::to_string).collect();
                let until = issued.not_after.format(&Rfc3339).unwrap_or_default();
                let granted = self.own.granted;
                self.write(granted, "", &format!("{} until {until}", names.join(", ")));
            }
            Err(error) if error.is_internal() => self.write("failed", error.kind(), &error_chain(error)),
            Err(error) => self.write("refused", error.kind(), &error.to_string()),
        }
    }
}

impl AuditedRequest for Enrolment {
    const EVENT: &'static str = "CERTIFICATE_REQUESTED";
    const OBJECT: &'static str = "certificate";

    fn own(&self) -> OwnFields<'_> {
        OwnFields {
            authentication: Some(self.authentication),
            credential: Some(&self.credential),
            decision_basis: Some(&self.decision_basis),
            ..OwnFields::default()
        }
    }
}
