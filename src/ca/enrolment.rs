//! Owns one request for a certificate: authenticate, authorise, answer a repeat, decide, reserve, sign, record, in this
//! order.

mod attested;
mod audit;
mod authenticate;
mod authorise;
mod error;
mod form;
mod repeat;
mod turns;
mod validity;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::authority::Authority;
use super::manager::CertificateAuthorityManager;
use super::request::{self, KeyRequest};
use super::sign::{CertifiableKey, LeafPlan, Serial, SignError, Subject, sign};
use super::state::{DecisionRecord, Issuance, IssuedWith, Recorded, Reservation, Reserved, StateError};
use crate::crypto::sha256;
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{KeyType, PrivateKey, SubjectAltName, WorkerId};
use crate::policy::{Capabilities, PolicyAnswer, PolicyError};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::trace_context::TraceContext;

pub use attested::AttestationRefusal;
pub(crate) use attested::{Attestation, Terms};
use audit::Audit;
pub(crate) use authenticate::Credentials;
pub use error::EnrolmentError;
pub(crate) use form::Form;
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

/// Who asks, proven, and what that one may have.
#[derive(Debug, Clone)]
pub(crate) struct Requester {
    /// The worker.
    pub(crate) worker_id: WorkerId,
    /// All names it may have.
    pub(crate) permitted: BTreeSet<SubjectAltName>,
    /// The names it gets when its CSR does not say.
    pub(crate) default_names: BTreeSet<SubjectAltName>,
    /// How it proved who it is.
    pub(crate) credential: Credential,
    /// Whether the credential is of one use and was unused when it was looked up.
    pub(crate) is_unused: bool,
}

/// What proved who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A join token, by its public id; used up with the certificate.
    Token(String),
    /// The certificate of an earlier enrolment, by its serial.
    Certificate(String),
    /// A token that a trusted issuer has signed, or a request that a trusted authority attests.
    Signed {
        /// `oidc` or `kubernetes`, or the kind of request.
        kind: &'static str,
        /// Issuer, subject and id, or what tells the request from all others; printable.
        id: String,
    },
    /// Nothing: a rule lets clients at this address do without.
    Anonymous(String),
    /// A caller in this process.
    Caller,
}

impl Credential {
    /// A fixed label.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Certificate(_) => "certificate",
            Self::Signed { kind, .. } => kind,
            Self::Anonymous(_) => "anonymous",
            Self::Caller => "caller",
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Token(id) | Self::Certificate(id) | Self::Signed { id, .. } | Self::Anonymous(id) => id,
            Self::Caller => "",
        }
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

    /// Makes a key and a certificate for the CA's own listener. Returns leaf and intermediates.
    pub(crate) async fn issue_server_certificate(
        &self,
        authority: &Arc<Authority>,
        names: &BTreeSet<SubjectAltName>,
        lifetime: Duration,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKey, OffsetDateTime), EnrolmentError> {
        let key = PrivateKey::generate(KeyType::EcdsaP256).map_err(|_| EnrolmentError::Key)?;
        let certifiable = CertifiableKey::new(&key.public_key_der(), KeyType::EcdsaP256).ok_or(EnrolmentError::Key)?;
        let now = self.clock.now().wall;
        within_constraints(authority, names)?;
        let (not_before, not_after) = validity::server(now, lifetime, authority.issuer_not_after())?;
        let plan = LeafPlan {
            serial: Serial::random().map_err(|()| SignError::Serial)?,
            subject: Subject::Server,
            names: names.clone(),
            key: certifiable,
            not_before,
            not_after,
        };
        let context = Context::local(&crate::events::new_correlation_id());
        let reservation = reservation(authority, &plan, None, "self", "", &context, now);
        let der = self.sign_recorded(authority, &plan, reservation, &Credential::Caller).await?;
        let chain = [der].into_iter().chain(authority.chain().iter().cloned()).collect();
        Ok((chain, key, not_after))
    }

    async fn issue(
        &self,
        requester: &Requester,
        request: KeyRequest,
        terms: &Terms,
        context: &Context,
        audit: &mut Audit<'_>,
    ) -> Result<IssuedCertificate, EnrolmentError> {
        let KeyRequest { key, common_name, names } = request;
        let authority = self.authority();
        if authority.owns_key(&key.digest()) {
            return Err(EnrolmentError::KeyOfAnother);
        }
        let own_id = authority.trust_domain().worker(&requester.worker_id);
        let names = authorise::names(requester, common_name.as_deref(), names, &own_id, &self.reserved)?;
        within_constraints(&authority, &names)?;
        let glance = self.turns.glance(&requester.credential);
        if !requester.is_unused
            && let Some(again) = self.repeat(&authority, requester, terms, (&key, &names), audit).await?
        {
            return Ok(again);
        }
        let capabilities = Capabilities {
            names,
            permitted: requester.permitted.clone(),
            key_type: key.key_type(),
            spiffe_id: own_id,
            authentication: requester.credential.kind(),
            credential: requester.credential.id().to_owned(),
            environment: self.environment,
            source: context.source.map(|source| source.ip()),
            correlation_id: context.correlation_id.clone(),
            trace: context.trace,
        };
        let worker_id = &requester.worker_id;
        let in_force = self.in_force();
        let decision = decided(in_force.policy.can_issue_certificate(worker_id, &capabilities)).await?;
        audit.decided(&decision);
        let record = |hook, decision| {
            let at = self.clock.now().wall;
            DecisionRecord::new(hook, decision, worker_id, &context.correlation_id, at)
        };
        let issuance = record("can_issue_certificate", &decision);
        if !decision.is_allowed() {
            self.state.record_decisions(vec![issuance]).await?;
            return Err(EnrolmentError::Denied(decision));
        }
        let period = decided(in_force.policy.certificate_validity_period(worker_id, &capabilities)).await?;
        if !period.decision.is_allowed() {
            audit.decided(&period.decision);
            let validity = record("certificate_validity_period", &period.decision);
            self.state.record_decisions(vec![issuance, validity]).await?;
            return Err(EnrolmentError::Denied(period.decision));
        }
        // Of those who ask at once with the same credential, the first may have got what the others ask for.
        let _turn = glance.take().await;
        if glance.is_overtaken()
            && let Some(again) = self.repeat(&authority, requester, terms, (&key, &capabilities.names), audit).await?
        {
            self.state.record_decisions(vec![issuance]).await?;
            return Ok(again);
        }
        let now = self.clock.now().wall;
        let (not_before, not_after) = validity::within(terms, now, period.period, authority.issuer_not_after())?;
        let plan = LeafPlan {
            serial: Serial::random().map_err(|()| SignError::Serial)?,
            subject: Subject::Worker(worker_id.clone()),
            names: capabilities.names,
            key,
            not_before,
            not_after,
        };
        let credential = &requester.credential;
        let reservation =
            reservation(&authority, &plan, Some(worker_id), credential.kind(), credential.id(), context, now);
        let reservation = Reservation { decision_id: decision.id.clone(), decisions: vec![issuance], ..reservation };
        audit.reserved(&reservation.serial);
        let der = match self.sign_recorded(&authority, &plan, reservation, credential).await {
            // Another process that serves this CA was faster, or somebody with the same token before its turn here.
            Err(EnrolmentError::TokenUsed) => {
                let asked = (&plan.key, &plan.names);
                let again = self.repeat(&authority, requester, terms, asked, audit).await?;
                return again.ok_or(EnrolmentError::TokenUsed);
            }
            signed => signed?,
        };
        Ok(IssuedCertificate {
            certificate_pem: certificates_to_pem(&[der]) + &certificates_to_pem(authority.chain()),
            ca_certificate_pem: authority.public().roots_pem.clone(),
            serial: plan.serial.to_string(),
            names: plan.names,
            not_before,
            not_after,
            decision_id: decision.id,
        })
    }

    /// Reserve, sign, record: the one order in which a certificate comes to be.
    async fn sign_recorded(
        &self,
        authority: &Arc<Authority>,
        plan: &LeafPlan,
        reservation: Reservation,
        credential: &Credential,
    ) -> Result<CertificateDer<'static>, EnrolmentError> {
        let worker_id = reservation.worker_id.clone();
        match self.state.reserve(reservation).await? {
            Reserved::Done => {}
            Reserved::KeyOfAnother => return Err(EnrolmentError::KeyOfAnother),
        }
        let der = if authority.issuer_key().is_slow() {
            let (authority, plan) = (Arc::clone(authority), plan.clone());
            let signed = tokio::task::spawn_blocking(move || sign(&authority, &plan)).await;
            signed.map_err(|_| EnrolmentError::Key)??
        } else {
            // Some 0.2 ms: less than a hop to another thread is worth.
            sign(authority, plan)?
        };
        let issuance = Issuance {
            serial: plan.serial.to_string(),
            worker_id,
            not_after: plan.not_after,
            der: der.to_vec(),
            credential: match credential {
                Credential::Token(id) => IssuedWith::Token(id.clone()),
                Credential::Certificate(serial) => IssuedWith::Certificate(serial.clone()),
                Credential::Signed { .. } | Credential::Anonymous(_) | Credential::Caller => IssuedWith::Nothing,
            },
            now: self.clock.now().wall,
        };
        match self.state.record_issued(issuance).await? {
            Recorded::Done => Ok(der),
            Recorded::TokenGone => Err(EnrolmentError::TokenUsed),
            Recorded::CertificateRevoked => Err(EnrolmentError::CertificateRevoked),
            Recorded::Unchecked => Err(StateError::Closed.into()),
        }
    }
}

/// A name outside the name constraints would make a certificate that nobody accepts.
fn within_constraints(authority: &Authority, names: &BTreeSet<SubjectAltName>) -> Result<(), EnrolmentError> {
    let excluded: Vec<String> = authority.excluded(names).into_iter().map(ToString::to_string).collect();
    if excluded.is_empty() {
        return Ok(());
    }
    Err(EnrolmentError::OutsideConstraints { names: printable(&excluded.join(", "), FOREIGN_TEXT_LIMIT) })
}

fn reservation(
    authority: &Authority,
    plan: &LeafPlan,
    worker_id: Option<&WorkerId>,
    authentication: &'static str,
    credential: &str,
    context: &Context,
    at: OffsetDateTime,
) -> Reservation {
    Reservation {
        serial: plan.serial.to_string(),
        worker_id: worker_id.cloned(),
        names: plan.names.clone(),
        not_before: plan.not_before,
        not_after: plan.not_after,
        key_digest: plan.key.digest(),
        issuer_digest: sha256(authority.issuer()),
        authentication,
        credential: credential.to_owned(),
        source: context.source.map(|source| source.to_string()).unwrap_or_default(),
        decision_id: String::new(),
        decisions: Vec::new(),
        correlation_id: context.correlation_id.clone(),
        at,
    }
}

/// Waits for a policy, but not for ever. No answer is an error, and an error denies.
async fn decided<T>(answer: PolicyAnswer<'_, T>) -> Result<T, EnrolmentError> {
    match tokio::time::timeout(POLICY_DEADLINE, answer).await {
        Ok(answer) => answer.map_err(EnrolmentError::Policy),
        Err(_) => Err(EnrolmentError::Policy(PolicyError { reason: "no answer within 5 s".to_owned() })),
    }
}

const POLICY_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
