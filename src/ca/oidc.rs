//! Owns the checks of tokens that other authorities sign: OIDC tokens, and a cluster's for its service accounts.
//!
//! A token is a JWT in compact form (RFC 7515, RFC 7519), read as RFC 8725 asks for: its issuer must be one of those
//! configured, and everything else follows from that one's configuration: where its keys are, which algorithms serve,
//! whom the token must be for. Nothing in a token leads anywhere: `jku`, `jwk`, `x5u` and `x5c` are not looked at. Objects
//! with a member twice are no tokens, at any depth.
//!
//! The algorithm is done here and not in a crate since the crates there are read claims of a wrong type as if they were
//! absent (CVE-2026-25537), pass over `crit`, and take the last of two members. The cryptography is aws-lc's.

mod claims;
mod fetch;
mod json;
mod jwk;
mod jws;
mod keys;
mod kubernetes;
mod refusal;
mod settings;
mod template;

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::crypto::{sha256, sha256_text};
use crate::identity::{SubjectAltName, WorkerId};
use crate::printable::printable;

use claims::Claims;
use keys::Keys;
pub use refusal::TokenRefusal;
pub use settings::{IssuerKind, IssuerSettings, TokenIssuer};
pub(super) use template::Template;

/// A token as a client sent it. Wiped on drop; its `Debug` shows nothing.
pub(crate) struct SignedToken(Zeroizing<String>);

impl SignedToken {
    /// Takes what has the form of a JWT: three parts of base64url between dots, and no more than [`TOKEN_LIMIT`].
    pub(crate) fn from_client(text: &str) -> Option<Self> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        let fits = text.len() <= TOKEN_LIMIT && text.split('.').count() == 3 && text.split('.').all(is_part);
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for SignedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignedToken(redacted)")
    }
}

/// The issuers whose tokens count. There may be none; then no token counts.
#[derive(Debug)]
pub(crate) struct Issuers(Vec<Arc<Trusted>>);

#[derive(Debug)]
struct Trusted {
    issuer: TokenIssuer,
    keys: Keys,
}

/// A token whose signature, times and audience are good.
#[derive(Debug)]
pub(crate) struct VerifiedToken<'a> {
    issuer: &'a TokenIssuer,
    claims: Claims,
    id: String,
}

/// What a token says about the one who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attested {
    /// The worker.
    pub(crate) worker_id: WorkerId,
    /// Names beside its own.
    pub(crate) names: BTreeSet<SubjectAltName>,
}

impl Issuers {
    /// These issuers. No key is fetched before a token asks for it; those that are the same as `before` have theirs.
    pub(crate) fn new(issuers: Vec<TokenIssuer>, clock: &Arc<dyn Clock>, before: Option<&Self>) -> Self {
        let trusted = |issuer: TokenIssuer| {
            let known = before.and_then(|before| before.0.iter().find(|trusted| trusted.issuer == issuer));
            let new = || Arc::new(Trusted { keys: Keys::new(&issuer, Arc::clone(clock)), issuer: issuer.clone() });
            known.map_or_else(new, Arc::clone)
        };
        Self(issuers.into_iter().map(trusted).collect())
    }

    /// Reads the keys of all of them now. The last good ones stay where that fails, which is logged.
    pub(crate) async fn read_again(&self) {
        for trusted in &self.0 {
            trusted.keys.read_again().await;
        }
    }

    /// Verifies a token: form, issuer, signature, times, audience, in this order. May fetch the issuer's keys, which takes
    /// no longer than some seconds.
    pub(crate) async fn verify(
        &self,
        token: &SignedToken,
        clock: &dyn Clock,
    ) -> Result<VerifiedToken<'_>, TokenRefusal> {
        let token = token.0.as_str();
        let signed = jws::parse(token)?;
        // Not believed yet: it only says against which keys to hold the token.
        let claims = Claims::parse(&signed.payload)?;
        let issuer = claims.issuer()?;
        let trusted = self.0.iter().find(|trusted| trusted.issuer.issuer == issuer);
        let Trusted { issuer, keys } = &**trusted.ok_or(TokenRefusal::UnknownIssuer)?;
        if !issuer.algorithms.contains(&signed.header.algorithm) {
            return Err(TokenRefusal::Algorithm);
        }
        keys.find(&signed.header).await?.verify(&signed)?;
        claims.check(issuer, clock.now().wall)?;
        let digest = sha256(token.as_bytes());
        let digest = sha256_text(&digest[..8]);
        let id = claims.text("jti").map_or(digest, str::to_owned);
        Ok(VerifiedToken { issuer, claims, id })
    }
}

impl VerifiedToken<'_> {
    /// A fixed label: `oidc` or `kubernetes`.
    pub(crate) fn kind(&self) -> &'static str {
        self.issuer.kind.label()
    }

    /// Issuer, subject and id of the token, and the pod it is bound to, for audit and record; one printable line.
    pub(crate) fn credential(&self) -> String {
        let subject = self.claims.text("sub").unwrap_or_default();
        let mut parts = vec![self.issuer.issuer.as_str(), subject, &self.id];
        let pod = (self.issuer.kind == IssuerKind::Kubernetes).then(|| kubernetes::pod(&self.claims)).flatten();
        let pod = pod.map(|(name, uid)| format!("pod {name} {uid}")).unwrap_or_default();
        parts.extend((!pod.is_empty()).then_some(pod.as_str()));
        printable(&parts.join(" "), CREDENTIAL_LIMIT)
    }

    /// Who the token is for, by the issuer's templates.
    pub(crate) fn attested(&self) -> Result<Attested, TokenRefusal> {
        let Self { issuer, claims, .. } = self;
        if issuer.kind == IssuerKind::Kubernetes {
            kubernetes::check(claims, issuer.pod_binding)?;
        }
        for (path, expected) in &issuer.require {
            if path.resolve(claims.object())? != expected {
                return Err(TokenRefusal::Requirement(path.to_string()));
            }
        }
        let identity = issuer.identity.render(claims.object())?;
        let worker_id = WorkerId::new(&identity).map_err(TokenRefusal::Name)?;
        let names = issuer
            .names
            .iter()
            .map(|template| template.render(claims.object())?.parse::<SubjectAltName>().map_err(TokenRefusal::Name));
        Ok(Attested { worker_id, names: names.collect::<Result<_, _>>()? })
    }
}

/// The largest token, in bytes. Looked at before anything is decoded.
const TOKEN_LIMIT: usize = 16 * 1024;

/// The longest text about a token, in characters.
const CREDENTIAL_LIMIT: usize = 512;
