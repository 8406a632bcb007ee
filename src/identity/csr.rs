//! Owns the certificate signing request (PKCS#10, RFC 2986).

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use super::key::{KeyType, PrivateKey};
use super::names::{RequestedIdentity, SubjectAltName};

/// Organisation of every worker certificate.
pub const ORGANIZATION: &str = "Crank Platform";

/// Organisational unit of every worker certificate.
pub const ORGANIZATIONAL_UNIT: &str = "Worker Services";

/// A CSR that cannot be made: a name that does not fit its ASN.1 type.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a CSR for `{worker}`")]
pub struct CsrError {
    worker: String,
    #[source]
    source: rcgen::Error,
}

/// A CSR as PEM, signed by `key`, that asks for the names of `identity`, for key usage and for use as TLS server and
/// client. Authorities of the old kind copy these extensions and add none.
///
/// # Errors
/// When rcgen cannot encode or sign it.
pub fn generate_csr(identity: &RequestedIdentity, key: &PrivateKey, key_type: KeyType) -> Result<String, CsrError> {
    let fail = |source| CsrError { worker: identity.worker_id.to_string(), source };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, identity.worker_id.as_str());
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::OrganizationalUnitName, ORGANIZATIONAL_UNIT);
    for name in &identity.names {
        params.subject_alt_names.push(san(name).map_err(fail)?);
    }
    params.key_usages = key_usages(key_type);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let request = params.serialize_request(key.pair()).map_err(fail)?;
    request.pem().map_err(fail)
}

/// The key usage of a worker's certificate (RFC 5280, section 4.2.1.3): RSA also serves key transport in TLS 1.2.
#[must_use]
pub fn key_usages(key_type: KeyType) -> Vec<KeyUsagePurpose> {
    match key_type {
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment]
        }
        KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::Ed25519 => vec![KeyUsagePurpose::DigitalSignature],
    }
}

/// A name in rcgen's form.
pub(crate) fn san(name: &SubjectAltName) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        SubjectAltName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        SubjectAltName::Ip(address) => SanType::IpAddress(*address),
        SubjectAltName::Uri(id) => SanType::URI(id.as_str().try_into()?),
    })
}
