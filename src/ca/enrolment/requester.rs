//! Owns who asks, once that is proven, and what proved it.

use std::collections::BTreeSet;

use crate::identity::{SubjectAltName, WorkerId};

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

    pub(super) fn id(&self) -> &str {
        match self {
            Self::Token(id) | Self::Certificate(id) | Self::Signed { id, .. } | Self::Anonymous(id) => id,
            Self::Caller => "",
        }
    }
}
