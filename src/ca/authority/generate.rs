//! Owns the making of root and issuing intermediate in memory.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{AuthorityError, InitOptions};
use crate::ca::sign::{BACKDATE, Serial, key_identifier};
use crate::identity::csr::ORGANIZATION;
use crate::identity::{KeyType, PrivateKey, TrustDomain};

/// A CA as it goes to disk.
pub(super) struct Material {
    /// The root as PEM.
    pub(super) root: String,
    /// The root's key as PEM.
    pub(super) root_key: Zeroizing<String>,
    /// The intermediate as PEM.
    pub(super) issuer: String,
    /// The intermediate's key as PEM.
    pub(super) issuer_key: Zeroizing<String>,
    /// The trust domain.
    pub(super) trust_domain: TrustDomain,
}

/// Makes a self-signed root and an intermediate below which no further CA is possible.
pub(super) fn generate(options: &InitOptions, now: OffsetDateTime) -> Result<Material, AuthorityError> {
    if !matches!(options.key_type, KeyType::EcdsaP256 | KeyType::EcdsaP384) {
        return Err(AuthorityError::Option { what: "key type", reason: "expected ecdsa-p256 or ecdsa-p384" });
    }
    check_name(&options.name)?;
    let key = || PrivateKey::generate(options.key_type).map_err(|_| AuthorityError::Generation { what: "key" });
    let root_key = key()?;
    let issuer_key = key()?;
    let fail = |what| move |_| AuthorityError::Generation { what };

    let mut root = params(&format!("{} Root CA", options.name), now, ROOT_LIFETIME)?;
    // No path length: a later root may be certified by this one.
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_identifier_method = key_identifier(root_key.pair());
    let root_certificate = root.self_signed(root_key.pair()).map_err(fail("root certificate"))?;

    let mut issuer = params(&format!("{} Issuing CA", options.name), now, ISSUER_LIFETIME)?;
    issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    issuer.key_identifier_method = key_identifier(issuer_key.pair());
    // For TLS and nothing else, whatever becomes of its key.
    issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issuer.use_authority_key_identifier_extension = true;
    let signer = Issuer::from_params(&root, root_key.pair());
    let issuer_certificate = issuer.signed_by(issuer_key.pair(), &signer).map_err(fail("issuing certificate"))?;

    let pem = |key: &PrivateKey| key.to_pem().map_err(|_| AuthorityError::Generation { what: "key" });
    Ok(Material {
        root: crate::identity::bundle::certificates_to_pem(&[root_certificate.der().clone()]),
        root_key: pem(&root_key)?,
        issuer: crate::identity::bundle::certificates_to_pem(&[issuer_certificate.der().clone()]),
        issuer_key: pem(&issuer_key)?,
        trust_domain: options.trust_domain.clone(),
    })
}

fn params(
    common_name: &str,
    now: OffsetDateTime,
    lifetime: time::Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    params.serial_number = Some(Serial::random().map_err(|()| AuthorityError::Generation { what: "serial" })?.into());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A common name holds 64 characters (RFC 5280, appendix A.1); the suffix takes up to 11.
fn check_name(name: &str) -> Result<(), AuthorityError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.');
    if name.trim().is_empty() || name.len() > 48 || !name.chars().all(allowed) {
        let reason = "expected 1 to 48 letters, digits, spaces, `-`, `_` and `.`";
        return Err(AuthorityError::Option { what: "name", reason });
    }
    Ok(())
}

const ROOT_LIFETIME: time::Duration = time::Duration::days(3650);

const ISSUER_LIFETIME: time::Duration = time::Duration::days(1825);
