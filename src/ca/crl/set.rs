//! Owns the CRLs that are served: one of each issuer, in the forms in which they are asked for.

use axum::body::Bytes;
use time::OffsetDateTime;

use crate::ca::state::CrlRecord;
use crate::crypto::sha256;
use crate::printable::hex;

/// The newest CRL of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crl {
    /// SHA-256 of the certificate that signed it.
    pub(crate) issuer_digest: [u8; 32],
    /// Its number.
    pub(crate) number: i64,
    /// It has every revocation up to this change.
    pub(crate) revision: i64,
    /// Its `thisUpdate`.
    pub(crate) this_update: OffsetDateTime,
    /// Its `nextUpdate`.
    pub(crate) next_update: OffsetDateTime,
    /// The CRL.
    pub(crate) der: Bytes,
}

impl Crl {
    pub(crate) fn new(issuer_digest: [u8; 32], record: CrlRecord) -> Self {
        Self {
            issuer_digest,
            number: record.number,
            revision: record.revision,
            this_update: record.this_update,
            next_update: record.next_update,
            der: record.der.into(),
        }
    }
}

/// The CRLs of all issuers, that of the current one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CrlSet {
    crls: Vec<Crl>,
    pem: Bytes,
    etag: String,
}

impl CrlSet {
    pub(crate) fn new(crls: Vec<Crl>) -> Self {
        let pem: String = crls.iter().map(pem).collect();
        let ders: Vec<u8> = crls.iter().flat_map(|crl| crl.der.iter().copied()).collect();
        Self { etag: etag_of(&ders), pem: pem.into(), crls }
    }

    /// That of the current issuer. `None` before the first is signed.
    pub(crate) fn current(&self) -> Option<&Crl> {
        self.crls.first()
    }

    /// That of the issuer with this certificate.
    pub(crate) fn of(&self, issuer_digest: &[u8; 32]) -> Option<&Crl> {
        self.crls.iter().find(|crl| crl.issuer_digest == *issuer_digest)
    }

    /// All of them, in order.
    pub(crate) fn crls(&self) -> &[Crl] {
        &self.crls
    }

    /// All of them as PEM, one block for each.
    pub(crate) fn pem(&self) -> Bytes {
        self.pem.clone()
    }

    /// The entity tag of the whole, with its quotes: where there is one issuer, of its CRL as DER.
    pub(crate) fn etag(&self) -> &str {
        &self.etag
    }
}

/// One CRL as PEM.
pub(crate) fn pem(crl: &Crl) -> String {
    pkcs8::der::pem::encode_string("X509 CRL", pkcs8::LineEnding::LF, &crl.der).unwrap_or_default()
}

/// A strong entity tag (RFC 9110, section 8.8.3), with its quotes.
pub(crate) fn etag_of(bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let hexadecimal = hex(&digest[..16]);
    format!("\"{hexadecimal}\"")
}
