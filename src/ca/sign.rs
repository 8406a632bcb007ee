//! Owns the only signing: a leaf is planned, signed by the intermediate, read back and compared before anyone sees it.

mod compare;

use std::collections::BTreeSet;
use std::fmt;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, PublicKeyData, SerialNumber,
    SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::authority::{Authority, Issuing};
use crate::crypto::sha256;
use crate::identity::csr::{ORGANIZATION, ORGANIZATIONAL_UNIT, key_usages, san};
use crate::identity::metadata::serial_text;
use crate::identity::{KeyType, SubjectAltName, WorkerId};

/// How far `notBefore` lies in the past, for clients whose clocks are a little behind.
pub(crate) const BACKDATE: time::Duration = time::Duration::seconds(60);

/// A serial number: 17 octets, positive, 134 of its bits random (RFC 5280, section 4.1.2.2, allows 20 octets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Serial([u8; 17]);

impl Serial {
    /// A fresh serial.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub(crate) fn random() -> Result<Self, ()> {
        let mut bytes = [0; 17];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ())?;
        // Neither negative nor shorter in DER.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serial_text(&self.0))
    }
}

impl From<Serial> for SerialNumber {
    fn from(serial: Serial) -> Self {
        SerialNumber::from_slice(&serial.0)
    }
}

/// A public key that may be certified: of a known type, in its one DER form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertifiableKey {
    key: SubjectPublicKeyInfo,
    der: Vec<u8>,
    key_type: KeyType,
}

impl CertifiableKey {
    /// Takes the DER of a `SubjectPublicKeyInfo` whose type has been determined. `None` when it is not in the form that
    /// we would write ourselves.
    pub(crate) fn new(der: &[u8], key_type: KeyType) -> Option<Self> {
        let key = SubjectPublicKeyInfo::from_der(der).ok()?;
        (key.subject_public_key_info() == der).then(|| Self { key, der: der.to_vec(), key_type })
    }

    /// SHA-256 of the DER.
    pub(crate) fn digest(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// The kind of key.
    pub(crate) fn key_type(&self) -> KeyType {
        self.key_type
    }
}

/// What a leaf will say, decided before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeafPlan {
    /// The serial, recorded already.
    pub(crate) serial: Serial,
    /// Whom it is for.
    pub(crate) subject: Subject,
    /// All its SANs; not empty.
    pub(crate) names: BTreeSet<SubjectAltName>,
    /// Its key.
    pub(crate) key: CertifiableKey,
    /// `notBefore`, whole seconds.
    pub(crate) not_before: OffsetDateTime,
    /// `notAfter`, whole seconds.
    pub(crate) not_after: OffsetDateTime,
}

/// Whom a leaf is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A worker: server and client.
    Worker(WorkerId),
    /// The CA's own listener: server only, so that it is of no use as a client.
    Server,
}

impl Subject {
    /// The listener's names are its SANs. A common name beside them would be one more, to old clients.
    fn common_name(&self) -> Option<&str> {
        match self {
            Self::Worker(worker) => Some(worker.as_str()),
            Self::Server => None,
        }
    }

    fn organizational_unit(&self) -> &'static str {
        match self {
            Self::Worker(_) => ORGANIZATIONAL_UNIT,
            Self::Server => "Certificate Authority",
        }
    }

    fn extended_key_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Worker(_) => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }
}

/// A leaf that was not signed, or was signed otherwise than planned. Either is a fault of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The random source failed.
    #[error("cannot draw a serial number")]
    Serial,
    /// The plan cannot be encoded or signed.
    #[error("cannot sign certificate {serial}: {reason}")]
    Signing {
        /// The serial.
        serial: String,
        /// What the library said.
        reason: String,
    },
    /// The signed certificate is not as planned; it has been thrown away.
    #[error("certificate {serial} was signed with another {what} than planned and is withheld")]
    Mismatch {
        /// The serial.
        serial: String,
        /// What differs.
        what: &'static str,
    },
}

impl SignError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Serial => "sign_serial",
            Self::Signing { .. } => "sign_failed",
            Self::Mismatch { .. } => "sign_mismatch",
        }
    }
}

/// Signs what is planned and compares the result with the plan.
pub(crate) fn sign(authority: &Authority, plan: &LeafPlan) -> Result<CertificateDer<'static>, SignError> {
    let signer = authority.signer();
    sign_with(signer.issuing(), signer.issuer(), plan)
}

/// The same with an issuer that need not be in force.
pub(crate) fn sign_with(
    issuing: &Issuing,
    issuer: &Issuer<'_, impl SigningKey>,
    plan: &LeafPlan,
) -> Result<CertificateDer<'static>, SignError> {
    let fail = |error: rcgen::Error| SignError::Signing { serial: plan.serial.to_string(), reason: error.to_string() };
    let mut params = CertificateParams::default();
    params.serial_number = Some(plan.serial.clone().into());
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(common_name) = plan.subject.common_name() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::OrganizationalUnitName, plan.subject.organizational_unit());
    for name in &plan.names {
        params.subject_alt_names.push(san(name).map_err(fail)?);
    }
    params.not_before = plan.not_before;
    params.not_after = plan.not_after;
    params.key_usages = key_usages(plan.key.key_type);
    params.extended_key_usages = plan.subject.extended_key_usages();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_identifier_method = key_identifier(&plan.key.key);
    params.use_authority_key_identifier_extension = true;
    let der = CertificateDer::from(params.signed_by(&plan.key.key, issuer).map_err(fail)?);
    compare::compare(issuing, plan, &der)
        .map_err(|what| SignError::Mismatch { serial: plan.serial.to_string(), what })?;
    Ok(der)
}

/// The subject key identifier (RFC 7093, section 2, method 1), which others can compute from the key.
pub(crate) fn key_identifier(key: &impl PublicKeyData) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(sha256(key.der_bytes())[..20].to_vec())
}

#[cfg(test)]
mod tests;
