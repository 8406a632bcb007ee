//! Owns [`CertificateBundle`]: key, chain, roots and CRLs of one certificate, which travel and are installed together.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::crl::{Crl, CrlError, crls_to_pem};
use super::key::{KeyError, PrivateKey};
use super::metadata::CertificateMetadata;
use super::names::TrustDomain;
use crate::crypto::sha256;

/// Key, chain and roots of one certificate, and the CRLs by which its peers are judged. A value of this type is consistent: the leaf parses and its public key is
/// the key's. Whether it may be installed is for [`Checks`](super::Checks) to say.
#[derive(Debug)]
pub struct CertificateBundle {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    crls: Vec<Crl>,
    federated: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    metadata: CertificateMetadata,
}

/// A bundle that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No certificate, or one that does not parse, where `what` was expected.
    #[error("{what}: expected PEM certificates, {reason}")]
    Certificates {
        /// `certificate chain` or `roots`.
        what: &'static str,
        /// What was found instead.
        reason: String,
    },
    /// More certificates than anyone needs.
    #[error("{what}: expected at most {limit} certificates")]
    TooMany {
        /// `certificate chain` or `roots`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The private key does not parse.
    #[error("private key: {0}")]
    Key(#[from] KeyError),
    /// A CRL does not parse.
    #[error("CRL: {0}")]
    Crl(#[from] CrlError),
    /// The leaf certifies another key.
    #[error("the certificate is for another key than the private key beside it")]
    KeyMismatch,
}

impl CertificateBundle {
    /// Puts a bundle together from DER.
    ///
    /// # Errors
    /// When `chain` or `roots` is empty or too long, the leaf or a root does not parse, or the leaf is for another key.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        check_certificates("certificate chain", &chain, CHAIN_LIMIT)?;
        check_certificates("roots", &roots, ROOTS_LIMIT)?;
        let metadata = {
            let leaf = parse("certificate chain", &chain[0])?;
            if leaf.public_key().raw != key.public_key_der() {
                return Err(BundleError::KeyMismatch);
            }
            CertificateMetadata::of(&leaf, OffsetDateTime::UNIX_EPOCH)
        };
        Ok(Self { chain, roots, key, crls: Vec::new(), federated: BTreeMap::new(), metadata })
    }

    /// Puts a bundle together from the PEM of `client.crt`, `client.key` and `ca.crt`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when a PEM text does not decode.
    pub fn from_pem(chain: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, BundleError> {
        let chain = certificates_from_pem("certificate chain", chain, CHAIN_LIMIT)?;
        let roots = certificates_from_pem("roots", roots, ROOTS_LIMIT)?;
        Self::new(chain, PrivateKey::from_pem(key)?, roots)
    }

    /// The same certificate and key with other roots.
    ///
    /// # Errors
    /// When `roots` is empty or too long, or a root does not parse.
    pub fn with_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        let bundle = Self::new(self.chain.clone(), self.key.try_clone()?, roots)?;
        Ok(bundle.with_crls(self.crls.clone()).with_federated(self.federated.clone()))
    }

    /// The same with these CRLs; none: peers are not checked for revocation.
    #[must_use]
    pub fn with_crls(self, crls: Vec<Crl>) -> Self {
        Self { crls, ..self }
    }

    /// The same with these roots of other trust domains, of which there may be none.
    #[must_use]
    pub fn with_federated(self, federated: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> Self {
        Self { federated, ..self }
    }

    /// A copy, key included, to change.
    ///
    /// # Errors
    /// When the key cannot be encoded.
    pub fn try_clone(&self) -> Result<Self, KeyError> {
        Ok(Self {
            chain: self.chain.clone(),
            roots: self.roots.clone(),
            key: self.key.try_clone()?,
            crls: self.crls.clone(),
            federated: self.federated.clone(),
            metadata: self.metadata.clone(),
        })
    }

    /// The leaf and intermediates, leaf first, as DER.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The trust roots as DER.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The CRLs by which peers are judged; none where the CA publishes none.
    #[must_use]
    pub fn crls(&self) -> &[Crl] {
        &self.crls
    }

    /// The roots of other trust domains, each for itself: a domain's certificates are judged by its own roots alone.
    #[must_use]
    pub fn federated(&self) -> &BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
        &self.federated
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// `client.crt`: leaf and intermediates as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        certificates_to_pem(&self.chain)
    }

    /// `ca.crt`: roots as PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        certificates_to_pem(&self.roots)
    }

    /// `ca.crl`: CRLs as PEM; empty where there is none.
    #[must_use]
    pub fn crls_pem(&self) -> String {
        crls_to_pem(&self.crls)
    }

    /// `client.key`: the key as PEM.
    ///
    /// # Errors
    /// As [`PrivateKey::to_pem`].
    pub fn key_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.key.to_pem()
    }

    /// `credential-bundle.pem`: key, then chain, the order of Kubernetes' pod certificates.
    ///
    /// # Errors
    /// As [`PrivateKey::to_pem`].
    pub fn credential_bundle_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let key = self.key.to_pem()?;
        let chain = self.chain_pem();
        // Sized in advance, so that no copy of the key is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
        text.push_str(&key);
        text.push_str(&chain);
        Ok(text)
    }

    /// The leaf's facts, with the days that remain at `now`.
    #[must_use]
    pub fn metadata(&self, now: OffsetDateTime) -> CertificateMetadata {
        self.metadata.at(now)
    }

    /// The leaf's `notBefore`.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.metadata.not_before
    }

    /// The leaf's `notAfter`.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.metadata.expires_at
    }

    /// The leaf's serial as `4a:3b:2c:1d`.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.metadata.serial
    }

    /// SHA-256 of the leaf's DER: tells one certificate from any other.
    #[must_use]
    pub fn leaf_digest(&self) -> [u8; 32] {
        sha256(&self.chain[0])
    }
}

/// Decodes all certificates of a PEM text.
///
/// # Errors
/// When there are none, more than `limit`, or one does not decode. `what` names the text in the error.
pub fn certificates_from_pem(
    what: &'static str,
    pem: &[u8],
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| BundleError::Certificates {
            what,
            reason: format!("but the PEM does not decode ({error})"),
        })?;
        if certificates.len() == limit {
            return Err(BundleError::TooMany { what, limit });
        }
        certificates.push(certificate);
    }
    check_certificates(what, &certificates, limit)?;
    Ok(certificates)
}

/// Splits certificates that stand one behind the other.
///
/// # Errors
/// When there are none, more than `limit`, or one does not parse. `what` names them in the error.
pub fn certificates_from_der(
    what: &'static str,
    mut der: &[u8],
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let mut certificates = Vec::new();
    while !der.is_empty() && certificates.len() <= limit {
        let (rest, _) = X509Certificate::from_der(der)
            .map_err(|_| BundleError::Certificates { what, reason: "but one is not a DER certificate".to_owned() })?;
        let (one, rest) = der.split_at(der.len() - rest.len());
        certificates.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    check_certificates(what, &certificates, limit)?;
    Ok(certificates)
}

/// Certificates as PEM, in order, each ending in a newline.
#[must_use]
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    use pkcs8::der::pem::encode_string;
    certificates
        .iter()
        .map(|der| encode_string("CERTIFICATE", pkcs8::LineEnding::LF, der).unwrap_or_default())
        .collect()
}

fn check_certificates(
    what: &'static str,
    certificates: &[CertificateDer<'_>],
    limit: usize,
) -> Result<(), BundleError> {
    if certificates.is_empty() {
        return Err(BundleError::Certificates { what, reason: "found none".to_owned() });
    }
    if certificates.len() > limit {
        return Err(BundleError::TooMany { what, limit });
    }
    certificates.iter().try_for_each(|certificate| parse(what, certificate).map(drop))
}

fn parse<'a>(what: &'static str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, BundleError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(BundleError::Certificates { what, reason: "but one is not a DER certificate".to_owned() }),
    }
}

/// The longest chain taken from anyone, leaf included.
pub const CHAIN_LIMIT: usize = 10;

/// The most roots in one file.
pub const ROOTS_LIMIT: usize = 100;
