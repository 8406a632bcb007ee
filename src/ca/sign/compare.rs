//! Owns the second look at a signed leaf: the bytes are parsed again and compared with the plan, field by field.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate, X509Version};

use super::{LeafPlan, Subject};
use crate::ca::authority::Issuing;
use crate::identity::KeyType;
use crate::identity::check::names_of;
use crate::identity::csr::ORGANIZATION;

/// The error names the first field that differs.
pub(super) fn compare(issuing: &Issuing, plan: &LeafPlan, der: &CertificateDer<'_>) -> Result<(), &'static str> {
    let ensure = |same: bool, what: &'static str| if same { Ok(()) } else { Err(what) };
    let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| "encoding")?;
    let issuer = issuing.marks();
    let (_, issuer_key) = SubjectPublicKeyInfo::from_der(&issuer.public_key).map_err(|_| "issuer")?;
    ensure(rest.is_empty(), "length")?;
    ensure(leaf.version() == X509Version::V3, "version")?;
    ensure(leaf.raw_serial() == plan.serial.0, "serial")?;
    ensure(leaf.tbs_certificate.issuer.as_raw() == issuer.subject, "issuer")?;
    ensure(leaf.public_key().raw == plan.key.der, "key")?;
    ensure(leaf.validity().not_before.to_datetime() == plan.not_before, "notBefore")?;
    ensure(leaf.validity().not_after.to_datetime() == plan.not_after, "notAfter")?;
    ensure(plan.not_after <= issuing.not_after(), "notAfter")?;
    ensure(subject_is_planned(&leaf, plan), "subject")?;
    let mut planned: Vec<String> = plan.names.iter().map(ToString::to_string).collect();
    planned.sort();
    ensure(!planned.is_empty() && names_of(&leaf) == Some(planned), "names")?;
    ensure(!leaf.is_ca(), "basic constraints")?;
    let constraints = leaf.basic_constraints().ok().flatten().ok_or("basic constraints")?;
    ensure(constraints.critical && constraints.value.path_len_constraint.is_none(), "basic constraints")?;
    let usage = leaf.key_usage().ok().flatten().ok_or("key usage")?;
    ensure(usage.critical && usage.value.flags == key_usage_flags(plan.key.key_type), "key usage")?;
    let extended = leaf.extended_key_usage().ok().flatten().ok_or("extended key usage")?.value;
    let client = matches!(plan.subject, Subject::Worker(_));
    let further = extended.any
        || extended.code_signing
        || extended.email_protection
        || extended.time_stamping
        || extended.ocsp_signing
        || !extended.other.is_empty();
    ensure(extended.server_auth && extended.client_auth == client && !further, "extended key usage")?;
    let identifier = issuer.key_identifier.as_deref();
    let same_key = identifier.is_none() || authority_key_identifier(&leaf) == identifier;
    ensure(same_key, "authority key identifier")?;
    // AKI, SAN, key usage, extended key usage, SKI, basic constraints; and each once, or the readers above fail.
    ensure(leaf.extensions().len() == 6, "extensions")?;
    ensure(leaf.verify_signature(Some(&issuer_key)).is_ok(), "signature")
}

fn subject_is_planned(leaf: &X509Certificate<'_>, plan: &LeafPlan) -> bool {
    let attributes: Vec<&str> =
        leaf.subject().iter_attributes().filter_map(|attribute| attribute.as_str().ok()).collect();
    let planned = plan.subject.common_name().into_iter().chain([ORGANIZATION, plan.subject.organizational_unit()]);
    attributes.into_iter().eq(planned)
}

fn authority_key_identifier<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => Some(identifier.key_identifier.as_ref()?.0),
        _ => None,
    })
}

/// Bit 0 is digitalSignature, bit 2 keyEncipherment.
fn key_usage_flags(key_type: KeyType) -> u16 {
    match key_type {
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => 0b101,
        KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::Ed25519 => 0b001,
    }
}
