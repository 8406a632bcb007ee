//! Owns the making of roots, issuing intermediates, requests for them and cross-certificates, in memory.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::AuthorityError;
use crate::ca::sign::{BACKDATE, Serial, key_identifier};
use crate::identity::csr::ORGANIZATION;
use crate::identity::{KeyType, PrivateKey};

/// Which of the CA's roots, in their order: the names of the first have no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(pub(super) u32);

impl Generation {
    fn suffix(self) -> String {
        if self.0 <= 1 { String::new() } else { format!(" G{}", self.0) }
    }
}

/// A fresh key of a kind that a CA may have.
pub(super) fn key(key_type: KeyType) -> Result<PrivateKey, AuthorityError> {
    if !matches!(key_type, KeyType::EcdsaP256 | KeyType::EcdsaP384) {
        return Err(AuthorityError::Option { what: "key type", reason: "expected ecdsa-p256 or ecdsa-p384" });
    }
    PrivateKey::generate(key_type).map_err(|_| failed("key"))
}

/// A self-signed root for `key`.
pub(super) fn root(
    name: &str,
    generation: Generation,
    key: &PrivateKey,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, AuthorityError> {
    check_name(name)?;
    let mut root = params(&format!("{name} Root CA{}", generation.suffix()), now, ROOT_LIFETIME)?;
    // No path length: a later root may be certified by this one.
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_identifier_method = key_identifier(key.pair());
    root.self_signed(key.pair()).map(|root| root.der().clone()).map_err(|_| failed("root certificate"))
}

/// An intermediate for `key`, below which no further CA is possible, signed by `root`.
pub(super) fn issuing(
    name: &str,
    generation: Generation,
    key: &impl PublicKeyData,
    root: &CertificateDer<'_>,
    root_key: &PrivateKey,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, AuthorityError> {
    check_name(name)?;
    let (_, parsed) = X509Certificate::from_der(root).map_err(|_| failed("issuing certificate"))?;
    let lifetime = ISSUER_LIFETIME.min(parsed.validity().not_after.to_datetime() - now);
    let mut issuer = params(&format!("{name} Issuing CA{}", generation.suffix()), now, lifetime)?;
    issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    issuer.key_identifier_method = key_identifier(key);
    // For TLS and nothing else, whatever becomes of its key.
    issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issuer.use_authority_key_identifier_extension = true;
    sign(&issuer, key, root, root_key).ok_or_else(|| failed("issuing certificate"))
}

/// A request (PKCS#10) for an intermediate: CA:TRUE, path length 0, to sign certificates and CRLs.
pub(super) fn request(name: &str, key: &impl SigningKey) -> Result<String, AuthorityError> {
    check_name(name)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&format!("{name} Issuing CA"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let request = params.serialize_request(key).and_then(|request| request.pem());
    request.map_err(|_| failed("certificate request"))
}

/// The key and name of `root`, certified by another root (RFC 4210, section 4.4): whoever trusts only that one can verify
/// what is below `root`. `None` when the name of either can't be written by us as it is.
pub(super) fn cross(
    root: &CertificateDer<'_>,
    by: &CertificateDer<'_>,
    by_key: &PrivateKey,
    now: OffsetDateTime,
) -> Option<CertificateDer<'static>> {
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let (_, by_parsed) = X509Certificate::from_der(by).ok()?;
    if by_parsed.public_key().raw != by_key.public_key_der() {
        return None;
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = copied(&parsed)?;
    params.serial_number = Some(Serial::random().ok()?.into());
    params.not_before = now - BACKDATE;
    params.not_after = parsed.validity().not_after.to_datetime().min(by_parsed.validity().not_after.to_datetime());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(subject_key_id(&parsed)?);
    let key = SubjectPublicKeyInfo::from_der(parsed.public_key().raw).ok()?;
    let cross = sign(&params, &key, by, by_key)?;
    let (_, made) = X509Certificate::from_der(&cross).ok()?;
    let as_it_is = made.subject().as_raw() == parsed.subject().as_raw()
        && made.issuer().as_raw() == by_parsed.subject().as_raw()
        && made.public_key().raw == parsed.public_key().raw;
    as_it_is.then_some(cross.clone())
}

fn sign(
    params: &CertificateParams,
    key: &impl PublicKeyData,
    by: &CertificateDer<'_>,
    by_key: &PrivateKey,
) -> Option<CertificateDer<'static>> {
    let signer = Issuer::from_ca_cert_der(by, by_key.pair()).ok()?;
    params.signed_by(key, &signer).ok().map(|signed| signed.der().clone())
}

fn params(
    common_name: &str,
    now: OffsetDateTime,
    lifetime: time::Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    params.serial_number = Some(Serial::random().map_err(|()| failed("serial"))?.into());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name.push(DnType::OrganizationName, ORGANIZATION);
    name
}

/// The subject of a certificate of whatever make, in the two kinds of text that such names have today.
fn copied(certificate: &X509Certificate<'_>) -> Option<DistinguishedName> {
    use x509_parser::der_parser::asn1_rs::Tag;
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let text = attribute.as_str().ok()?;
        let value = match attribute.attr_value().header.tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            _ => return None,
        };
        name.push(DnType::from_oid(&attribute.attr_type().iter()?.collect::<Vec<_>>()), value);
    }
    Some(name)
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// A common name holds 64 characters (RFC 5280, appendix A.1); what follows the name takes up to 16.
fn check_name(name: &str) -> Result<(), AuthorityError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.');
    if name.trim().is_empty() || name.len() > 48 || !name.chars().all(allowed) {
        let reason = "expected 1 to 48 letters, digits, spaces, `-`, `_` and `.`";
        return Err(AuthorityError::Option { what: "name", reason });
    }
    Ok(())
}

fn failed(what: &'static str) -> AuthorityError {
    AuthorityError::Generation { what }
}

const ROOT_LIFETIME: time::Duration = time::Duration::days(3650);

const ISSUER_LIFETIME: time::Duration = time::Duration::days(1825);
