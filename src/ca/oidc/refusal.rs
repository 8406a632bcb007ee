//! Owns why a token does not count, and what the one who sent it is told.

use crate::identity::names::NameError;

/// A token that does not count. What it says has been verified only where the variant says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It is not what RFC 7515 and RFC 7519 describe.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Its issuer is none of those configured.
    #[error("the token's issuer is not one that this CA trusts")]
    UnknownIssuer,
    /// Its algorithm is not one of the issuer's, or not one of its key's.
    #[error("the token's algorithm is not one that its issuer may use")]
    Algorithm,
    /// No key of the issuer has this id.
    #[error("the token's key is none of its issuer's")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the token's signature is not valid")]
    Signature,
    /// It is for somebody else.
    #[error("the token is not for this CA: its audience does not hold the one that is expected")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// It lives longer than tokens of this issuer may.
    #[error("the token lives longer than this CA allows")]
    TooLong,
    /// It is bound to no pod.
    #[error("the token is bound to no pod: use a projected service-account token")]
    NoPod,
    /// A verified token that lacks a claim, or has it as something else than a text.
    #[error("the token has no usable claim `{0}`")]
    Claim(String),
    /// A verified token with another value in a claim than the one required.
    #[error("the token's claim `{0}` has not the value that is required")]
    Requirement(String),
    /// A verified token whose claims give no usable name.
    #[error("the token's claims give no usable name: {0}")]
    Name(NameError),
    /// The keys of the issuer are not to be had.
    #[error("the keys of the token's issuer are not available now")]
    KeysUnavailable,
}

impl TokenRefusal {
    /// A fixed label for metrics and audit.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "jwt_malformed",
            Self::UnknownIssuer => "jwt_issuer",
            Self::Algorithm => "jwt_algorithm",
            Self::UnknownKey => "jwt_key",
            Self::Signature => "jwt_signature",
            Self::Audience => "jwt_audience",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::TooLong => "jwt_too_long",
            Self::NoPod => "jwt_no_pod",
            Self::Claim(_) => "jwt_claim",
            Self::Requirement(_) => "jwt_requirement",
            Self::Name(_) => "jwt_name",
            Self::KeysUnavailable => "jwt_keys_unavailable",
        }
    }

    /// Whether the token is good and does not give what is asked for.
    #[must_use]
    pub fn is_about_permission(&self) -> bool {
        matches!(self, Self::NoPod | Self::Claim(_) | Self::Requirement(_) | Self::Name(_))
    }
}
