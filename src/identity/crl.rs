//! Owns [`Crl`]: a certificate revocation list that parses, what it says, and the checks before it is published.

mod der;

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use webpki::BorrowedCertRevocationList;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::metadata::serial_text;
use crate::crypto::crypto_provider;
use crate::policy::RevocationReason;
use crate::printable::printable;

use der::{Facts, Signed, authority_key_of};

/// A complete CRL of version 2 (RFC 5280, section 5) with number and next update: what the TLS library takes, too. Cheap to
/// clone. It parses; who signed it, [`check_signature`](Self::check_signature) tells.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    der: Arc<CertificateRevocationListDer<'static>>,
    issuer: Vec<u8>,
    authority_key: Option<Vec<u8>>,
    number: CrlNumber,
    this_update: OffsetDateTime,
    next_update: OffsetDateTime,
}

/// The number of a CRL: at most 20 octets, compared as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrlNumber([u8; 20]);

/// What is known of who signed a CRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlSigner {
    /// One of the certificates at hand.
    Known,
    /// None of them has the name and key of its issuer. Whoever verifies a peer has the issuer in the peer's chain, and
    /// verifies the CRL with that.
    Unknown,
}

/// An entry of a CRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedEntry {
    /// When the CA revoked it.
    pub at: OffsetDateTime,
    /// Why.
    pub reason: RevocationReason,
}

/// Why a CRL is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// It is no CRL, or one of a kind that nobody verifies.
    #[error("it is not a CRL of RFC 5280: {0}")]
    Malformed(String),
    /// There is none, or there are more than anyone needs.
    #[error("expected 1 to {CRLS_LIMIT} CRLs in PEM, {0}")]
    Number(String),
    /// The issuer is known, and did not sign it, or may not.
    #[error("CRL {number} is not signed by its issuer: {reason}")]
    Signature {
        /// The CRL's number.
        number: CrlNumber,
        /// What is wrong.
        reason: &'static str,
    },
    /// It begins further in the future than the allowed skew.
    #[error("CRL {number} is of {this_update}, and it is {now} here; compare this machine's clock with the CA's")]
    NotYetValid {
        /// The CRL's number.
        number: CrlNumber,
        /// `thisUpdate`.
        this_update: OffsetDateTime,
        /// Our wall time.
        now: OffsetDateTime,
    },
    /// `nextUpdate` has passed.
    #[error("CRL {number} ran out at {next_update}, and it is {now} here")]
    Expired {
        /// The CRL's number.
        number: CrlNumber,
        /// `nextUpdate`.
        next_update: OffsetDateTime,
        /// Our wall time.
        now: OffsetDateTime,
    },
    /// It is older than the one in force.
    #[error("CRL {number} is older than number {current}, which is in force")]
    Older {
        /// The CRL's number.
        number: CrlNumber,
        /// The number of the one in force.
        current: CrlNumber,
    },
}

impl CrlError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "crl"
    }
}

impl Crl {
    /// Parses a CRL.
    ///
    /// # Errors
    /// When it is malformed, of version 1, a delta, without number or next update, or one of its entries does not parse.
    pub fn from_der(der: CertificateRevocationListDer<'static>) -> Result<Self, CrlError> {
        // What the TLS library does not take must not get as far as a listener.
        let list = BorrowedCertRevocationList::from_der(&der).map_err(|error| malformed(&error))?;
        for entry in &list {
            entry.map_err(|error| malformed(&error))?;
        }
        let Facts { issuer, authority_key, number, this_update, next_update } =
            Facts::read(&der).ok_or_else(|| CrlError::Malformed("its fields do not parse".to_owned()))?;
        Ok(Self { issuer, authority_key, number, this_update, next_update, der: Arc::new(der) })
    }

    /// The CRL as DER.
    #[must_use]
    pub fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> CrlNumber {
        self.number
    }

    /// When its successor is there at the latest.
    #[must_use]
    pub fn next_update(&self) -> OffsetDateTime {
        self.next_update
    }

    /// Whether `other` is of the same issuer, by name and key.
    #[must_use]
    pub fn is_of_same_issuer(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.authority_key == other.authority_key
    }

    /// Whether `certificate` is for this CRL to revoke: of its issuer, by name and key.
    #[must_use]
    pub fn covers(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        certificate.issuer().as_raw() == self.issuer && self.is_of_key(authority_key_of(certificate.extensions()))
    }

    /// The entry of `certificate`, if it is revoked by this CRL.
    #[must_use]
    pub fn entry_of(&self, certificate: &CertificateDer<'_>) -> Option<RevokedEntry> {
        if !self.covers(certificate) {
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let serial = certificate.tbs_certificate.raw_serial();
        let list = BorrowedCertRevocationList::from_der(&self.der).ok()?;
        let entry = (&list).into_iter().flatten().find(|entry| entry.serial_number == serial)?;
        let at = i64::try_from(entry.revocation_date.as_secs()).ok();
        Some(RevokedEntry {
            at: at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()).unwrap_or(self.this_update),
            reason: entry.reason_code.map_or(RevocationReason::Unspecified, reason),
        })
    }

    /// Verifies the signature with that of `issuers` which has the issuer's name and key.
    ///
    /// # Errors
    /// When there is one, and its key did not make the signature, or is not for CRLs.
    pub fn check_signature(&self, issuers: &[CertificateDer<'_>]) -> Result<CrlSigner, CrlError> {
        let wrong = |reason| CrlError::Signature { number: self.number, reason };
        let mut seen = CrlSigner::Unknown;
        for issuer in issuers {
            let Ok((_, issuer)) = X509Certificate::from_der(issuer) else { continue };
            let subject_key = issuer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
                _ => None,
            });
            if issuer.subject().as_raw() != self.issuer || !self.is_of_key(subject_key) {
                continue;
            }
            let usage = issuer.key_usage().map_err(|_| wrong("the issuer's key usage does not parse"))?;
            if usage.is_some_and(|usage| !usage.value.crl_sign()) {
                return Err(wrong("the issuer may not sign CRLs"));
            }
            if self.is_signed_by(&issuer) {
                return Ok(CrlSigner::Known);
            }
            seen = CrlSigner::Known;
        }
        match seen {
            CrlSigner::Unknown => Ok(CrlSigner::Unknown),
            CrlSigner::Known => Err(wrong("the signature does not verify")),
        }
    }

    /// Whether it is in force at `now`, give or take `skew`.
    ///
    /// # Errors
    /// When it is of the future, or has run out.
    pub fn check_dates(&self, now: OffsetDateTime, skew: std::time::Duration) -> Result<(), CrlError> {
        let Self { number, this_update, next_update, .. } = *self;
        if this_update > now.saturating_add(time::Duration::try_from(skew).unwrap_or(time::Duration::MAX)) {
            return Err(CrlError::NotYetValid { number, this_update, now });
        }
        if next_update <= now {
            return Err(CrlError::Expired { number, next_update, now });
        }
        Ok(())
    }

    /// Where a key is told on both sides, it is the same one.
    fn is_of_key(&self, key: Option<Vec<u8>>) -> bool {
        match (&self.authority_key, key) {
            (Some(ours), Some(theirs)) => *ours == theirs,
            _ => true,
        }
    }

    fn is_signed_by(&self, issuer: &X509Certificate<'_>) -> bool {
        let Some(Signed { message, algorithm, signature }) = Signed::read(&self.der) else { return false };
        let key = issuer.public_key();
        let Ok((_, key_info)) = Any::from_der(key.raw) else { return false };
        let Ok((_, key_algorithm)) = Any::from_der(key_info.data) else { return false };
        let provider = crypto_provider();
        let algorithms = provider.signature_verification_algorithms.all.iter();
        algorithms
            .filter(|known| {
                *known.signature_alg_id() == *algorithm && *known.public_key_alg_id() == *key_algorithm.data
            })
            .any(|known| known.verify_signature(&key.subject_public_key.data, message, signature).is_ok())
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("number", &self.number)
            .field("next_update", &self.next_update)
            .field("bytes", &self.der.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let significant = self.0.iter().position(|byte| *byte != 0).map_or(&self.0[19..], |first| &self.0[first..]);
        match <[u8; 8]>::try_from(&self.0[12..]) {
            Ok(low) if significant.len() <= 8 => write!(f, "{}", u64::from_be_bytes(low)),
            _ => f.write_str(&serial_text(significant)),
        }
    }
}

/// Decodes all CRLs of a PEM text.
///
/// # Errors
/// When there are none, more than [`CRLS_LIMIT`], or one does not decode.
pub fn crls_from_pem(pem: &[u8]) -> Result<Vec<Crl>, CrlError> {
    let mut crls = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|error| CrlError::Number(format!("but the PEM does not decode ({error})")))?;
        if crls.len() == CRLS_LIMIT {
            return Err(CrlError::Number("found more".to_owned()));
        }
        crls.push(Crl::from_der(der)?);
    }
    if crls.is_empty() { Err(CrlError::Number("found none".to_owned())) } else { Ok(crls) }
}

/// CRLs as PEM, in order, each ending in a newline.
#[must_use]
pub fn crls_to_pem(crls: &[Crl]) -> String {
    use pkcs8::der::pem::encode_string;
    crls.iter().map(|crl| encode_string("X509 CRL", pkcs8::LineEnding::LF, &crl.der).unwrap_or_default()).collect()
}

impl CrlNumber {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut number = [0; 20];
        number.get_mut(20_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        Some(Self(number))
    }
}

fn malformed(error: &webpki::Error) -> CrlError {
    CrlError::Malformed(printable(&error.to_string(), 200))
}

fn reason(code: webpki::RevocationReason) -> RevocationReason {
    match code {
        webpki::RevocationReason::KeyCompromise
        | webpki::RevocationReason::CaCompromise
        | webpki::RevocationReason::AaCompromise => RevocationReason::KeyCompromise,
        webpki::RevocationReason::AffiliationChanged => RevocationReason::AffiliationChanged,
        webpki::RevocationReason::Superseded => RevocationReason::Superseded,
        webpki::RevocationReason::CessationOfOperation => RevocationReason::CessationOfOperation,
        webpki::RevocationReason::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        _ => RevocationReason::Unspecified,
    }
}

/// The most CRLs taken from a CA: one for each issuer of the mesh.
pub const CRLS_LIMIT: usize = 16;

#[cfg(test)]
mod tests;
