//! Owns the ways in which a request for a certificate fails, and what the one who asked is told.

use super::attested::AttestationRefusal;
use crate::ca::oidc::TokenRefusal;
use crate::ca::request::CsrRefusal;
use crate::ca::sign::SignError;
use crate::ca::state::StateError;
use crate::policy::{Decision, PolicyError};

/// A request for a certificate that did not get one. The text of those that are the requester's doing is meant for the
/// requester.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// Neither a token nor a client certificate.
    #[error(
        "no credential: send a join token (`crank-ca token create --worker ID`) as `Authorization: Bearer …`, or use the \
         worker's current certificate for TLS"
    )]
    NoCredential,
    /// An `Authorization` header that holds no bearer token.
    #[error("the Authorization header is not of the form `Bearer TOKEN`")]
    MalformedCredential,
    /// A token that is not in the record.
    #[error("the token is not valid for this CA")]
    TokenUnknown,
    /// A token whose time is over.
    #[error("the token has expired: ask the operator of the CA for a new one")]
    TokenExpired,
    /// A token that has got its certificate.
    #[error("the token has been used: each is good for one certificate, ask the operator of the CA for a new one")]
    TokenUsed,
    /// A token that was called back.
    #[error("the token has been revoked")]
    TokenRevoked,
    /// A token of another authority.
    #[error(transparent)]
    Signed(#[from] TokenRefusal),
    /// What another authority attests is not enough.
    #[error(transparent)]
    Attested(#[from] AttestationRefusal),
    /// Too many requests of this worker.
    #[error("too many requests for this worker: come back in {seconds} s")]
    TooMany {
        /// When it may ask again, in seconds.
        seconds: u64,
    },
    /// A client certificate that is not in the record as issued to a worker.
    #[error("the client certificate was not issued to a worker by this CA")]
    CertificateUnknown,
    /// A client certificate whose time is over.
    #[error("the client certificate has expired: enrol anew with a join token")]
    CertificateExpired,
    /// A client certificate that was revoked.
    #[error("the client certificate has been revoked: enrol anew with a join token and a fresh key")]
    CertificateRevoked,
    /// Not the JSON that is expected.
    #[error("the body is not a JSON object with the texts `csr` and `service_name`")]
    Body,
    /// The credential is for another worker.
    #[error("the credential is for worker `{own}`, not for `{asked}`")]
    OtherWorker {
        /// Whom it is for.
        own: String,
        /// Who was asked for; printable.
        asked: String,
    },
    /// Names beyond the permitted ones.
    #[error("names not permitted for worker `{worker}`: {names}")]
    NamesNotPermitted {
        /// The worker.
        worker: String,
        /// Those names; printable.
        names: String,
    },
    /// A re-enrolment that leaves out names of the current certificate.
    #[error("a re-enrolment keeps the names of the current certificate: the CSR lacks {names}")]
    NamesMissing {
        /// Those names; printable.
        names: String,
    },
    /// Names that the CA's own certificate does not allow it to certify.
    #[error("the name constraints of this CA's own certificate exclude: {names}")]
    OutsideConstraints {
        /// Those names; printable.
        names: String,
    },
    /// The CSR itself.
    #[error(transparent)]
    Csr(#[from] CsrRefusal),
    /// A key that somebody else has, or the CA itself, or that was revoked.
    #[error("the CSR's public key belongs to somebody else, or was revoked: make a fresh key")]
    KeyOfAnother,
    /// The policy's no.
    #[error("denied by policy: {} (decision {})", .0.reason, .0.id)]
    Denied(Decision),
    /// No decision, so no.
    #[error("the policy gave no decision")]
    Policy(#[source] PolicyError),
    /// The issuing certificate is too close to its end.
    #[error("the CA's issuing certificate is at its end; its operator must replace it")]
    IssuerEnding,
    /// A key for the CA itself could not be made.
    #[error("cannot make a key")]
    Key,
    /// Signing failed.
    #[error("cannot sign")]
    Sign(#[from] SignError),
    /// The record failed.
    #[error("cannot keep the record")]
    State(#[from] StateError),
}

impl EnrolmentError {
    /// A fixed label for metrics and audit.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::MalformedCredential => "malformed_credential",
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::TokenUsed => "token_used",
            Self::TokenRevoked => "token_revoked",
            Self::Signed(refusal) => refusal.kind(),
            Self::Attested(refusal) => refusal.kind(),
            Self::TooMany { .. } => "rate_limited",
            Self::CertificateUnknown => "certificate_unknown",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateRevoked => "certificate_revoked",
            Self::Body => "body",
            Self::OtherWorker { .. } => "other_worker",
            Self::NamesNotPermitted { .. } => "names_not_permitted",
            Self::NamesMissing { .. } => "names_missing",
            Self::OutsideConstraints { .. } => "outside_constraints",
            Self::Csr(refusal) => refusal.kind(),
            Self::KeyOfAnother => "key_of_another",
            Self::Denied(_) => "policy_denied",
            Self::Policy(error) => error.kind(),
            Self::IssuerEnding => "issuer_ending",
            Self::Key => "key",
            Self::Sign(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }

    /// Whether the fault is the CA's: asking again may help, and the details are for its log.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Policy(_)
                | Self::Signed(TokenRefusal::KeysUnavailable)
                | Self::IssuerEnding
                | Self::Key
                | Self::Sign(_)
                | Self::State(_)
        )
    }
}
