//! Owns a request whose sender another authority attests: what that one says, what the request's own protocol asks of the
//! certificate, and the way from there to the certificate.

use std::time::Duration;

use super::audit::Audit;
use super::{Context, Credential, EnrolmentError, IssuedCertificate, Requester};
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::oidc::Attested;
use crate::ca::request::KeyRequest;
use crate::identity::RequestedIdentity;

/// A request that came by way of an authority that we trust. What it lacks is refused, and audited like any other refusal.
#[derive(Debug)]
pub(crate) struct Attestation {
    /// The request itself, one of a kind.
    pub(crate) credential: Credential,
    /// For whom it is.
    pub(crate) attested: Result<Attested, EnrolmentError>,
    /// The key, and the names that it asks for; all that are permitted where it does not say.
    pub(crate) request: Result<KeyRequest, EnrolmentError>,
    /// What its protocol asks of the certificate.
    pub(crate) terms: Terms,
}

/// What a protocol asks of a certificate, beside what the policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The shortest time from `notBefore` to `notAfter`.
    pub(crate) shortest: Duration,
    /// The longest.
    pub(crate) longest: Duration,
    /// How long the same request is answered with the same certificate.
    pub(crate) repeat_for: time::Duration,
}

impl Default for Terms {
    /// Any life that the policy allows; repeated for ten minutes.
    fn default() -> Self {
        Self { shortest: Duration::ZERO, longest: Duration::MAX, repeat_for: time::Duration::minutes(10) }
    }
}

/// What the attesting authority says, or leaves out, is not enough for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationRefusal {
    /// The sender is no worker.
    #[error("the request was made by `{0}`, which is no service account")]
    NoServiceAccount(String),
    /// No name follows from what is attested.
    #[error("what is attested gives no usable name: {0}")]
    Name(String),
    /// Uses that no worker's certificate has.
    #[error("usages that no worker's certificate has: {0}")]
    Usages(String),
    /// Instructions that this CA does not know.
    #[error("user annotations that this CA does not know: {0}")]
    Annotations(String),
    /// There is nothing to take the key from.
    #[error("the request holds no PKCS#10 request, as those of older clusters do")]
    NoRequest,
    /// The policy allows less than the protocol needs.
    #[error("a certificate would live for {allowed} s, and this kind of request needs at least {needed} s")]
    LifeTooShort {
        /// What policy and request allow, in seconds.
        allowed: u64,
        /// What is needed, in seconds.
        needed: u64,
    },
}

impl AttestationRefusal {
    /// A fixed label for the audit trail.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoServiceAccount(_) => "no_service_account",
            Self::Name(_) => "attested_name",
            Self::Usages(_) => "usages",
            Self::Annotations(_) => "annotations",
            Self::NoRequest => "no_request",
            Self::LifeTooShort { .. } => "life_too_short",
        }
    }
}

impl CertificateAuthorityManager {
    /// Answers a request that another authority attests: by the same limits, policy, record and audit trail as one that came
    /// over the network.
    pub(crate) async fn enrol_attested(
        &self,
        attestation: Attestation,
        context: &Context,
    ) -> Result<IssuedCertificate, EnrolmentError> {
        let Attestation { credential, attested, request, terms } = attestation;
        let mut audit = Audit::begin(context);
        audit.presented(&credential);
        let result = async {
            let Attested { worker_id, names } = attested?;
            audit.shown(&worker_id, &credential);
            let own = RequestedIdentity::new(worker_id, self.authority().trust_domain(), names);
            let requester = Requester {
                worker_id: own.worker_id,
                permitted: own.names.clone(),
                default_names: own.names,
                credential,
                is_unused: false,
            };
            self.may_ask(&requester)?;
            let issued = async { self.issue(&requester, request?, &terms, context, &mut audit).await }.await;
            self.count_failure(&requester, &issued);
            issued
        };
        let result = result.await;
        audit.end(&result);
        result
    }
}
