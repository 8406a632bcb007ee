//! Owns the reading of a CSR: hostile bytes in, a proven public key and the names asked for out.

mod extensions;
mod public_key;

use std::collections::{BTreeSet, HashSet};

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Version};
use x509_parser::x509::X509Name;

use super::enrolment::EnrolmentError;
use super::sign::CertifiableKey;
use crate::identity::csr::{ORGANIZATION, ORGANIZATIONAL_UNIT};
use crate::identity::{KeyType, SubjectAltName};
use crate::printable::printable;
use crate::wire::CsrRequest;

/// What a CSR proves and asks for. Nothing else of it goes any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRequest {
    /// The key, possession of its private half proven.
    pub(crate) key: CertifiableKey,
    /// The subject's common name, where there is one.
    pub(crate) common_name: Option<String>,
    /// The names asked for; `None` where the CSR has no SAN extension.
    pub(crate) names: Option<RequestedNames>,
}

/// The SANs of a CSR.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestedNames {
    /// Names of the kinds that are issued, whether permitted or not.
    pub(crate) names: BTreeSet<SubjectAltName>,
    /// Names that nobody gets: wildcards, e-mail addresses, foreign URIs. Printable.
    pub(crate) never: Vec<String>,
}

/// A CSR that is refused whoever sends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrRefusal {
    /// Not a CSR.
    #[error("the CSR does not parse: {0}")]
    Malformed(&'static str),
    /// The signature is not by the CSR's own key, or by a broken algorithm.
    #[error("the CSR's signature does not prove possession of its key: {0}")]
    Proof(&'static str),
    /// A key that is too weak or of an unknown kind.
    #[error("the CSR's key is not accepted: {0}")]
    Key(&'static str),
    /// It asks for something nobody gets.
    #[error("the CSR asks for what no worker may have: {0}")]
    Asks(String),
}

impl CsrRefusal {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "csr_malformed",
            Self::Proof(_) => "csr_proof",
            Self::Key(_) => "csr_key",
            Self::Asks(_) => "csr_asks",
        }
    }
}

/// Reads a PEM CSR (PKCS#10, RFC 2986). Its size must have been limited before.
pub(crate) fn parse(pem: &str) -> Result<KeyRequest, CsrRefusal> {
    let mut blocks = CertificateSigningRequestDer::pem_slice_iter(pem.as_bytes());
    let der = match (blocks.next(), blocks.next()) {
        (Some(Ok(der)), None) => der,
        (Some(Ok(_)), Some(_)) => return Err(CsrRefusal::Malformed("expected one PEM block, found more")),
        _ => return Err(CsrRefusal::Malformed("expected one PEM block `CERTIFICATE REQUEST`")),
    };
    parse_der(&der)
}

/// Reads the DER of a CSR. Its size must have been limited before.
pub(crate) fn parse_der(der: &[u8]) -> Result<KeyRequest, CsrRefusal> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|_| CsrRefusal::Malformed("expected the DER of a PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(CsrRefusal::Malformed("found bytes after its end"));
    }
    let info = &request.certification_request_info;
    if info.version != X509Version::V1 {
        return Err(CsrRefusal::Malformed("expected version 1"));
    }
    let key = public_key::check(&info.subject_pki)?;
    check_signature_algorithm(&request)?;
    request.verify_signature().map_err(|_| CsrRefusal::Proof("it does not verify"))?;
    let common_name = check_subject(&info.subject)?;
    let mut names = None;
    let mut seen = false;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            return Err(CsrRefusal::Asks(format!("attribute {}", printable(&attribute.oid.to_string(), 80))));
        };
        if std::mem::replace(&mut seen, true) || !extensions::is_single_value(attribute.value) {
            return Err(CsrRefusal::Malformed("expected one extension request"));
        }
        names = extensions::check(&requested.extensions, key.key_type())?;
    }
    Ok(KeyRequest { key, common_name, names })
}

/// Reads the body of `POST /certificates/csr` as far as it goes without a credential: the kind of key, or the kind of
/// the refusal. For the fuzz target.
#[doc(hidden)]
pub fn read_csr_body(body: &[u8]) -> Result<KeyType, &'static str> {
    let body: CsrRequest = serde_json::from_slice(body).map_err(|_| EnrolmentError::Body.kind())?;
    let request = parse(&body.csr).map_err(|refusal| refusal.kind())?;
    Ok(request.key.key_type())
}

/// The algorithms in use today; SHA-1 is not among them.
fn check_signature_algorithm(request: &X509CertificationRequest<'_>) -> Result<(), CsrRefusal> {
    let accepted = [
        oid::OID_SIG_ECDSA_WITH_SHA256,
        oid::OID_SIG_ECDSA_WITH_SHA384,
        oid::OID_SIG_ED25519,
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_PKCS1_SHA384WITHRSA,
        oid::OID_PKCS1_SHA512WITHRSA,
        oid::OID_PKCS1_RSASSAPSS,
    ];
    if accepted.contains(&request.signature_algorithm.algorithm) {
        return Ok(());
    }
    Err(CsrRefusal::Proof("expected ECDSA or RSA with SHA-256 or SHA-384, or Ed25519"))
}

/// The subject of a worker's certificate is fixed: the CSR may leave it out, or say it, each part once.
fn check_subject(subject: &X509Name<'_>) -> Result<Option<String>, CsrRefusal> {
    let mut seen = HashSet::new();
    let mut common_name = None;
    for attribute in subject.iter_attributes() {
        let kind = attribute.attr_type();
        let value = attribute.as_str().unwrap_or_default();
        let fits = if *kind == oid::OID_X509_COMMON_NAME {
            common_name = Some(value.to_owned());
            true
        } else if *kind == oid::OID_X509_ORGANIZATION_NAME {
            value == ORGANIZATION
        } else {
            *kind == oid::OID_X509_ORGANIZATIONAL_UNIT && value == ORGANIZATIONAL_UNIT
        };
        if !fits || !seen.insert(kind) {
            let found = format!("subject attribute {kind} `{value}`");
            return Err(CsrRefusal::Asks(printable(&found, 160)));
        }
    }
    Ok(common_name)
}

#[cfg(test)]
mod tests;
