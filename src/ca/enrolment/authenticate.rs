//! Owns who asks: by a join token or one of a trusted issuer, or else by the certificate of an earlier enrolment; a token
//! counts alone.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::audit::Audit;
use super::{Context, Credential, EnrolmentError, Form, Requester};
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::oidc::SignedToken;
use crate::ca::token::TokenSecret;
use crate::identity::metadata::serial_text;
use crate::identity::{RequestedIdentity, WorkerId};
use crate::wire::CsrRequest;

/// What came with a request. A certificate has been verified to our root in the handshake, with proof of its key.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// Nothing.
    None,
    /// An `Authorization` header that we can't use. A certificate beside it does not count.
    Malformed,
    /// A bearer token that is of no form that we know.
    ForeignToken,
    /// A join token.
    Token(TokenSecret),
    /// A token that another authority has signed, it says.
    Signed(SignedToken),
    /// A client certificate, its leaf; it may have expired within the grace.
    Certificate(CertificateDer<'static>),
}

impl CertificateAuthorityManager {
    /// Finds out who asks.
    pub(super) async fn authenticate(
        &self,
        credentials: Credentials,
        form: Form<'_>,
        context: &Context,
        audit: &mut Audit<'_>,
    ) -> Result<Requester, EnrolmentError> {
        match credentials {
            Credentials::None => {
                let body = form.introduction().ok_or(EnrolmentError::NoCredential)?;
                self.without_credential(body, context, audit)
            }
            Credentials::Malformed => Err(EnrolmentError::MalformedCredential),
            Credentials::ForeignToken => Err(EnrolmentError::TokenUnknown),
            Credentials::Token(secret) => self.by_token(&secret, audit).await,
            Credentials::Signed(token) => self.by_signed_token(&token, audit).await,
            Credentials::Certificate(leaf) => self.by_certificate(&leaf, audit).await,
        }
    }

    /// The token is looked at, not used: that happens when its certificate is recorded. One that has been used still
    /// tells who asks, until it expires: see [`repeat`](super::repeat).
    async fn by_token(&self, secret: &TokenSecret, audit: &mut Audit<'_>) -> Result<Requester, EnrolmentError> {
        // What became of a token is told only to those who hold it.
        let token = self.state.token(&secret.digest()).await?.ok_or(EnrolmentError::TokenUnknown)?;
        let credential = Credential::Token(token.id);
        audit.shown(&token.worker_id, &credential);
        if token.revoked_at.is_some() {
            return Err(EnrolmentError::TokenRevoked);
        }
        if token.expires_at <= self.clock.now().wall {
            return Err(if token.used_at.is_some() { EnrolmentError::TokenUsed } else { EnrolmentError::TokenExpired });
        }
        let own = RequestedIdentity::new(token.worker_id, self.authority().trust_domain(), []);
        let permitted: BTreeSet<_> = own.names.iter().cloned().chain(token.names).collect();
        let is_unused = token.used_at.is_none();
        Ok(Requester { worker_id: own.worker_id, permitted, default_names: own.names, credential, is_unused })
    }

    /// Worker and names come from the issuer's templates; the token may be used until it expires.
    async fn by_signed_token(&self, token: &SignedToken, audit: &mut Audit<'_>) -> Result<Requester, EnrolmentError> {
        let in_force = self.in_force();
        let verified = in_force.admission.issuers.verify(token, &*self.clock).await?;
        let credential = Credential::Signed { kind: verified.kind(), id: verified.credential() };
        audit.presented(&credential);
        let attested = verified.attested()?;
        audit.shown(&attested.worker_id, &credential);
        let own = RequestedIdentity::new(attested.worker_id, self.authority().trust_domain(), []);
        let permitted: BTreeSet<_> = own.names.iter().cloned().chain(attested.names).collect();
        Ok(Requester { worker_id: own.worker_id, permitted, default_names: own.names, credential, is_unused: false })
    }

    /// Whoever comes without a credential is who he says he is, where a rule is written for that; else nobody.
    fn without_credential(
        &self,
        body: &[u8],
        context: &Context,
        audit: &mut Audit<'_>,
    ) -> Result<Requester, EnrolmentError> {
        let source = context.source.ok_or(EnrolmentError::NoCredential)?.ip();
        let in_force = self.in_force();
        let mut rules = in_force.admission.anonymous.iter().filter(|rule| rule.covers(source)).peekable();
        rules.peek().ok_or(EnrolmentError::NoCredential)?;
        let request: CsrRequest = serde_json::from_slice(body).map_err(|_| EnrolmentError::Body)?;
        let worker_id = WorkerId::new(&request.service_name).map_err(|_| EnrolmentError::NoCredential)?;
        if !rules.any(|rule| rule.names(&worker_id)) {
            return Err(EnrolmentError::NoCredential);
        }
        let credential = Credential::Anonymous(source.to_string());
        audit.shown(&worker_id, &credential);
        let own = RequestedIdentity::new(worker_id, self.authority().trust_domain(), []);
        let (permitted, default_names) = (own.names.clone(), own.names);
        Ok(Requester { worker_id: own.worker_id, permitted, default_names, credential, is_unused: false })
    }

    /// Renewal keeps the identity: worker and names are those of the certificate shown, no more.
    async fn by_certificate(
        &self,
        leaf: &CertificateDer<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<Requester, EnrolmentError> {
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| EnrolmentError::CertificateUnknown)?;
        let serial = serial_text(parsed.tbs_certificate.raw_serial());
        let record = self.state.issued(&serial).await?.ok_or(EnrolmentError::CertificateUnknown)?;
        let Some(worker_id) = record.worker_id else { return Err(EnrolmentError::CertificateUnknown) };
        if record.der != leaf.as_ref() {
            return Err(EnrolmentError::CertificateUnknown);
        }
        let credential = Credential::Certificate(serial);
        audit.shown(&worker_id, &credential);
        // Verified in the handshake too; but a connection may live longer than a certificate.
        if record.not_after + self.in_force().admission.renewal_grace <= self.clock.now().wall {
            return Err(EnrolmentError::CertificateExpired);
        }
        if record.revoked_at.is_some() {
            return Err(EnrolmentError::CertificateRevoked);
        }
        let permitted = record.names.clone();
        Ok(Requester { worker_id, permitted, default_names: record.names, credential, is_unused: false })
    }
}
