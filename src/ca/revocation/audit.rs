//! Owns the audit lines of revocation: that of a request for one, and one for each certificate when this process learns
//! that it is revoked, by whichever process.

use super::{RevocationError, RevokedCertificate, reason_name};
use crate::ca::audit::{self, AuditedRequest, OwnFields};
use crate::ca::enrolment::Context;
use crate::ca::state::RevocationRecord;
use crate::identity::WorkerId;
use crate::policy::{Actor, Decision, RevocationReason};
use crate::printable::{error_chain, printable};

pub(super) type Audit<'a> = audit::Audit<'a, Revocation>;

/// What is told of requests for revocations alone.
pub(super) struct Revocation {
    actor: String,
    reason: RevocationReason,
}

impl<'a> Audit<'a> {
    /// A request has come. `serial` is as it was written.
    pub(super) fn begin(actor: &Actor, serial: &str, reason: RevocationReason, context: &'a Context) -> Self {
        let mut audit = Self::of(context, Revocation { actor: actor.to_string(), reason });
        audit.serial = printable(serial, SERIAL_LIMIT);
        audit
    }

    /// There is such a certificate.
    pub(super) fn found(&mut self, serial: &str, worker_id: &WorkerId) {
        serial.clone_into(&mut self.serial);
        self.worker_id = worker_id.to_string();
    }

    /// The policy has decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.decided_by(decision);
    }

    /// It is over.
    pub(super) fn end(self, result: &Result<RevokedCertificate, RevocationError>) {
        match result {
            Ok(_) => self.write("revoked", "", ""),
            Err(error) if error.is_internal() => self.write("failed", error.kind(), &error_chain(error)),
            Err(error) => self.write("refused", error.kind(), &error.to_string()),
        }
    }
}

impl AuditedRequest for Revocation {
    const EVENT: &'static str = "REVOCATION_REQUESTED";
    const OBJECT: &'static str = "revocation";

    fn own(&self) -> OwnFields<'_> {
        OwnFields { actor: Some(&self.actor), reason: Some(reason_name(self.reason)), ..OwnFields::default() }
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
