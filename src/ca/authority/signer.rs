//! Owns an issuer with its key, made ready to sign.

use rcgen::Issuer;
use rustls::pki_types::CertificateDer;

use super::content::ISSUER;
use super::{AuthorityError, IssuerKey, Issuing};

/// An issuer with its key.
#[derive(Debug)]
pub(crate) struct Signer {
    issuing: Issuing,
    /// Read from the certificate once, and not for each that it signs.
    issuer: Issuer<'static, IssuerKey>,
}

impl Signer {
    pub(super) fn new(issuing: Issuing, key: IssuerKey) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(issuing.certificate(), key).map_err(|error| AuthorityError::Invalid {
            path: issuing.directory.join(ISSUER),
            reason: error.to_string(),
        })?;
        Ok(Self { issuing, issuer })
    }

    /// The issuer without its key.
    pub(crate) fn issuing(&self) -> &Issuing {
        &self.issuing
    }

    /// The certificate that signs.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        self.issuing.certificate()
    }

    /// What is written into what it signs, with the key that signs.
    pub(crate) fn issuer(&self) -> &Issuer<'static, IssuerKey> {
        &self.issuer
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> &IssuerKey {
        self.issuer.key()
    }

    /// SHA-256 of the certificate: how the record tells issuers apart.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.issuing.digest()
    }
}
