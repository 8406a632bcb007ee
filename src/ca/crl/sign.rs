//! Owns the signing of a CRL: signed by its issuer, read back and compared with the plan before anyone sees it.

use std::collections::BTreeMap;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{CrlError, CrlPlan};
use crate::ca::authority::Signer;
use crate::ca::revocation::{reason_to_code, serial_bytes};
use crate::identity::metadata::serial_text;
use crate::policy::RevocationReason;

/// Signs what is planned. Takes a second or so for a million entries, and as long as the key takes: not for an
/// asynchronous task.
pub(super) fn sign_crl(by: &Signer, plan: &CrlPlan) -> Result<Vec<u8>, CrlError> {
    let fail = |reason: String| CrlError::Signing { number: plan.number, reason };
    let certificate = by.certificate();
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| fail(error.to_string()))?;
    let mut revoked_certs = Vec::with_capacity(plan.entries.len());
    for entry in &plan.entries {
        let serial = serial_bytes(&entry.serial).ok_or_else(|| fail("a serial number does not parse".to_owned()))?;
        revoked_certs.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: entry.revoked_at,
            // Left out where it is not specified (section 5.3.1).
            reason_code: reason_code(entry.reason),
            invalidity_date: None,
        });
    }
    let params = CertificateRevocationListParams {
        this_update: plan.this_update,
        next_update: plan.next_update,
        crl_number: SerialNumber::from(u64::try_from(plan.number).map_err(|error| fail(error.to_string()))?),
        issuing_distribution_point: None,
        revoked_certs,
        // The authority key identifier is to be the issuer's subject key identifier, however that came to be.
        key_identifier_method: subject_key_identifier(&parsed).map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
    };
    let signed = params.signed_by(by.issuer()).map_err(|error| fail(error.to_string()))?;
    let der = signed.der().to_vec();
    compare(&parsed, plan, &der).map_err(|what| CrlError::Mismatch { number: plan.number, what })?;
    Ok(der)
}

/// The error names the first field that differs.
fn compare(issuer: &X509Certificate<'_>, plan: &CrlPlan, der: &[u8]) -> Result<(), &'static str> {
    let ensure = |same: bool, what: &'static str| if same { Ok(()) } else { Err(what) };
    let (rest, crl) = CertificateRevocationList::from_der(der).map_err(|_| "encoding")?;
    ensure(rest.is_empty(), "length")?;
    ensure(crl.version().is_some_and(|version| version.0 == 1), "version")?;
    ensure(crl.issuer().as_raw() == issuer.subject().as_raw(), "issuer")?;
    ensure(crl.last_update().to_datetime() == plan.this_update, "thisUpdate")?;
    ensure(crl.next_update().is_some_and(|time| time.to_datetime() == plan.next_update), "nextUpdate")?;
    ensure(crl.crl_number().is_some_and(|number| number.to_string() == plan.number.to_string()), "number")?;
    let authority_key = crl.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    ensure(authority_key == subject_key_identifier(issuer).as_deref(), "authority key identifier")?;
    ensure(crl.extensions().len() == 2, "extensions")?;
    let planned: BTreeMap<&str, (i64, u8)> = plan
        .entries
        .iter()
        .map(|entry| (entry.serial.as_str(), (entry.revoked_at.unix_timestamp(), reason_to_code(entry.reason))))
        .collect();
    let mut found = 0;
    for entry in crl.iter_revoked_certificates() {
        let reason = entry.reason_code().map_or(0, |(_, code)| code.0);
        let said = (entry.revocation_date.timestamp(), reason);
        ensure(planned.get(serial_text(entry.raw_serial()).as_str()) == Some(&said), "entry")?;
        found += 1;
    }
    ensure(found == plan.entries.len() && found == planned.len(), "number of entries")?;
    ensure(crl.verify_signature(issuer.public_key()).is_ok(), "signature")
}

fn subject_key_identifier(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    })
}

fn reason_code(reason: RevocationReason) -> Option<rcgen::RevocationReason> {
    use rcgen::RevocationReason as Code;
    match reason {
        RevocationReason::Unspecified => None,
        RevocationReason::KeyCompromise => Some(Code::KeyCompromise),
        RevocationReason::AffiliationChanged => Some(Code::AffiliationChanged),
        RevocationReason::Superseded => Some(Code::Superseded),
        RevocationReason::CessationOfOperation => Some(Code::CessationOfOperation),
        RevocationReason::PrivilegeWithdrawn => Some(Code::PrivilegeWithdrawn),
    }
}
