//! Owns the way from a proven request to a certificate: authorise, answer a repeat, decide, reserve, sign, record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::audit::Audit;
use super::{Context, Credential, EnrolmentError, IssuedCertificate, Requester, Terms, authorise, validity};
use crate::ca::authority::Authority;
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::request::KeyRequest;
use crate::ca::sign::{CertifiableKey, LeafPlan, Serial, SignError, Subject, sign};
use crate::ca::state::{DecisionRecord, Issuance, IssuedWith, Recorded, Reservation, Reserved, StateError};
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{KeyType, PrivateKey, SubjectAltName, WorkerId};
use crate::policy::{Capabilities, PolicyAnswer, PolicyError};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

impl CertificateAuthorityManager {
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

    /// A certificate for what `requester` asks for, on record when it returns; or the one that an earlier request got.
    pub(super) async fn issue(
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
            certificate_pem: certificates_to_pem(&[der]) + authority.chain_pem(),
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
        issuer_digest: authority.issuing().digest(),
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
pub(super) async fn decided<T>(answer: PolicyAnswer<'_, T>) -> Result<T, EnrolmentError> {
    match tokio::time::timeout(POLICY_DEADLINE, answer).await {
        Ok(answer) => answer.map_err(EnrolmentError::Policy),
        Err(_) => Err(EnrolmentError::Policy(PolicyError { reason: "no answer within 5 s".to_owned() })),
    }
}

const POLICY_DEADLINE: Duration = Duration::from_secs(5);
