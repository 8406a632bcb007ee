//! Owns one request for a certificate: authenticate, authorise, answer a repeat, decide, reserve, sign, record, in this
//! order.

mod attested;
mod audit;
mod authenticate;
mod authorise;
mod error;
mod form;
mod issue;
mod repeat;
mod requester;
mod turns;
mod validity;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use time::OffsetDateTime;

use super::manager::CertificateAuthorityManager;
use super::request;
use crate::identity::SubjectAltName;
use crate::trace_context::TraceContext;

pub use attested::AttestationRefusal;
pub(crate) use attested::{Attestation, Terms};
use audit::Audit;
pub(crate) use authenticate::Credentials;
pub use error::EnrolmentError;
pub(crate) use form::Form;
pub(crate) use requester::{Credential, Requester};
pub(crate) use turns::Turns;

/// A certificate that is recorded and may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Leaf and intermediates as PEM.
    pub certificate_pem: String,
    /// The roots that are handed out as PEM, that of the issuer first.
    pub ca_certificate_pem: String,
    /// The leaf's serial as `4a:3b:…`.
    pub serial: String,
    /// The leaf's SANs.
    pub names: BTreeSet<SubjectAltName>,
    /// The leaf's `notBefore`.
    pub not_before: OffsetDateTime,
    /// The leaf's `notAfter`.
    pub not_after: OffsetDateTime,
    /// The policy's decision.
    pub decision_id: String,
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Follows the request through agent, CA and audit trail.
    pub(crate) correlation_id: String,
    /// The client's address; `None` for a caller in this process.
    pub(crate) source: Option<SocketAddr>,
    /// The client's trace, or one of its own. [`next_step`](TraceContext::next_step) goes along with whatever is asked
    /// of others for this request.
    pub(crate) trace: TraceContext,
}

impl Context {
    /// A request of our own, or of a caller in this process.
    pub(crate) fn local(correlation_id: &str) -> Self {
        let trace = TraceContext::of_request(correlation_id);
        Self { correlation_id: correlation_id.to_owned(), source: None, trace }
    }
}

impl CertificateAuthorityManager {
    /// Answers a request that came over the network.
    pub(crate) async fn enrol(
        &self,
        credentials: Credentials,
        form: Form<'_>,
        context: &Context,
    ) -> Result<IssuedCertificate, EnrolmentError> {
        let mut audit = Audit::begin(context);
        let result = async {
            let requester = self.admitted(credentials, form, context, &mut audit).await?;
            let issued = async {
                let request = form.read(&requester)?;
                self.issue(&requester, request, &Terms::default(), context, &mut audit).await
            };
            let issued = issued.await;
            self.count_failure(&requester, &issued);
            issued
        };
        let result = result.await;
        audit.end(&result);
        result
    }

    /// Who asks, if it may ask now.
    async fn admitted(
        &self,
        credentials: Credentials,
        form: Form<'_>,
        context: &Context,
        audit: &mut Audit<'_>,
    ) -> Result<Requester, EnrolmentError> {
        let requester = self.authenticate(credentials, form, context, audit).await?;
        self.may_ask(&requester)?;
        Ok(requester)
    }

    /// Whether its worker has asked seldom enough.
    fn may_ask(&self, requester: &Requester) -> Result<(), EnrolmentError> {
        let asks = self.in_force().admission.limits.worker_asks(&requester.worker_id);
        asks.map_err(|wait| EnrolmentError::TooMany { seconds: wait.seconds })
    }

    /// What is refused costs its worker more than what succeeds.
    fn count_failure(&self, requester: &Requester, issued: &Result<IssuedCertificate, EnrolmentError>) {
        if issued.as_ref().is_err_and(|error| !error.is_internal()) {
            self.in_force().admission.limits.worker_failed(&requester.worker_id);
        }
    }

    /// Answers a request whose sender the caller vouches for.
    pub(crate) async fn enrol_as(
        &self,
        requester: &Requester,
        csr_pem: &str,
        context: &Context,
    ) -> Result<IssuedCertificate, EnrolmentError> {
        let mut audit = Audit::begin(context);
        audit.shown(&requester.worker_id, &requester.credential);
        let result =
            async { self.issue(requester, request::parse(csr_pem)?, &Terms::default(), context, &mut audit).await };
        let result = result.await;
        audit.end(&result);
        result
    }
}

#[cfg(test)]
mod tests;
