//! Owns the contract between the agent and any certificate authority: [`Issuer`], what it is asked, how it fails.

mod configured;
pub mod crank;
mod renewal;
pub mod roots;
pub mod workload;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::identity::{CertificateBundle, PrivateKey, RequestedIdentity, TrustDomain};

pub use configured::ConfiguredIssuer;
pub use renewal::{CrlAnswer, RenewalAnswer, RenewalInfo, RenewalNews, RenewalQuestion};
use roots::{KnownRoots, RootDigest};

/// A certificate authority, seen from the agent.
pub trait Issuer: Send + Sync + 'static {
    /// Whose keys it certifies.
    fn key_maker(&self) -> KeyMaker {
        KeyMaker::Agent
    }

    /// Waits until there is something new to be had without an order, or until it is not known any more whether there is: for
    /// an authority that renews by itself. Cancel-safe; each occasion is told once.
    fn announced(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Asks for one certificate. Takes no longer than the configured deadline, and reads no more than the limits allow.
    fn issue(&self, order: &Order<'_>) -> impl Future<Output = Result<Issued, IssueError>> + Send;

    /// Asks what the CA has to say of the certificate in force. Takes no longer than the configured deadline, and the time
    /// that the CA may wait.
    fn renewal_info(
        &self,
        question: &RenewalQuestion<'_>,
    ) -> impl Future<Output = Result<RenewalAnswer, IssueError>> + Send {
        let _ = question;
        let news = RenewalNews::NotOffered;
        std::future::ready(Ok(RenewalAnswer { news, retry_after: None, waited: false }))
    }

    /// Asks for the CRLs, unless they are those with the entity tag `tag`.
    fn crl(&self, tag: Option<&str>, known: &KnownRoots) -> impl Future<Output = Result<CrlAnswer, IssueError>> + Send {
        let _ = (tag, known);
        std::future::ready(Ok(CrlAnswer::NotOffered))
    }

    /// The roots that issued chains must reach, for `ca.crt`: those configured, and those of `known` that are followed.
    /// `None` where only a reply tells them.
    ///
    /// # Errors
    /// When the configured file cannot be read.
    fn roots(&self, known: &KnownRoots) -> Result<Option<Vec<CertificateDer<'static>>>, IssueError>;

    /// Asks which roots the CA hands out now. `None` where they are not followed. As bounded as [`issue`](Self::issue).
    fn follow(&self, known: &KnownRoots) -> impl Future<Output = Result<Option<FollowedRoots>, IssueError>> + Send;

    /// Where it is, for people.
    fn url(&self) -> &str;
}

/// Who makes the key of a certificate, and with it says when there is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMaker {
    /// The agent: it sends a CSR, and has a chain for its key.
    Agent,
    /// The issuer, on this machine: it hands out key and chain, and renews them in its own time.
    Issuer,
}

/// What is asked for.
#[derive(Debug)]
pub struct Order<'a> {
    /// The CSR as PEM; empty where the issuer makes the key.
    pub csr_pem: &'a str,
    /// Whom it is for.
    pub identity: &'a RequestedIdentity,
    /// Goes along with the request.
    pub correlation_id: &'a str,
    /// The certificate in force, for renewal by mTLS; `None` on enrolment and when it no longer serves.
    pub current: Option<&'a CertificateBundle>,
    /// One that has expired, for a CA that still takes it. Only where there is nothing else to show.
    pub lapsed: Option<&'a CertificateBundle>,
    /// The roots that are published.
    pub known: &'a KnownRoots,
}

/// What `ca.crt` is to hold from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedRoots {
    /// The roots: those configured, and those handed out.
    pub roots: Vec<CertificateDer<'static>>,
    /// The digests of those handed out.
    pub followed: Vec<RootDigest>,
}

/// What a CA returned, undecided whether it is fit to be installed.
#[derive(Debug)]
pub struct Issued {
    /// The key, where the issuer made it; else the chain is for that of the CSR.
    pub key: Option<PrivateKey>,
    /// Leaf and intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that this chain must reach: those configured, and those handed out before.
    pub trusted: Vec<CertificateDer<'static>>,
    /// The roots for `ca.crt`, which the chain must reach too.
    pub publish: FollowedRoots,
    /// The roots of other trust domains, where the issuer hands any out.
    pub federated: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    /// The policy's decision that allowed it, where the CA tells; harmless text.
    pub decision_id: Option<String>,
    /// The CA's clock less ours, in seconds, by its `Date` header (RFC 9110, section 6.6.1).
    pub clock_skew_seconds: Option<f64>,
}

/// How asking a CA fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct IssueError {
    /// What class of failure it is; decides on retrying.
    pub kind: IssueErrorKind,
    /// What failed, on what, and what to do; printable.
    pub message: String,
    /// The policy's decision that refused, where the CA tells; harmless text.
    pub decision_id: Option<String>,
    /// The CA's clock less ours in seconds, where it answered.
    pub clock_skew_seconds: Option<f64>,
}

/// The classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueErrorKind {
    /// Not reachable, no answer in time, or a 5xx: retry with back-off.
    Unavailable,
    /// Asked to slow down (429, or 503 with Retry-After): retry not before that time.
    RateLimited(Option<Duration>),
    /// The credential is not accepted (401, or a TLS alert about our certificate): retry slowly, or with another.
    Unauthenticated,
    /// The certificate that was presented is revoked: it is of no use any longer.
    Revoked,
    /// Understood and refused: retry slowly, since policy may change.
    Refused,
    /// The reply breaks the protocol.
    BrokenReply,
    /// The CA's TLS identity is not the one expected.
    Untrusted,
    /// The credential (token file, root file) is missing, unreadable or lapsed on our side.
    Credential,
    /// Its register does not have this process: retry with back-off, since somebody may enter it.
    NotRegistered,
}

impl IssueError {
    /// An error of `kind` without knowledge of the CA's clock.
    #[must_use]
    pub fn new(kind: IssueErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), decision_id: None, clock_skew_seconds: None }
    }

    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            IssueErrorKind::Unavailable => "ca_unavailable",
            IssueErrorKind::RateLimited(_) => "rate_limited",
            IssueErrorKind::Unauthenticated => "unauthenticated",
            IssueErrorKind::Revoked => "certificate_revoked",
            IssueErrorKind::Refused => "refused",
            IssueErrorKind::BrokenReply => "broken_reply",
            IssueErrorKind::Untrusted => "untrusted_ca",
            IssueErrorKind::Credential => "credential",
            IssueErrorKind::NotRegistered => "not_registered",
        }
    }
}
