//! Owns one issuer as it is on disk: root, chain and, where it is wanted, key; loaded with checks that the parts fit.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AuthorityError;
use super::constraints::NameConstraints;
use super::content::{ISSUER, ISSUER_KEY, ISSUER_URI, ROOT, ROOT_KEY};
use super::files;
use super::key::{IssuerKey, KeySettings};
use crate::crypto::sha256;
use crate::identity::bundle::{CHAIN_LIMIT, certificates_from_pem};
use crate::printable::{hex, printable};

/// What an issuer is for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerState {
    /// It signs.
    Issuing,
    /// Its root is handed out; it does not sign yet.
    Next,
    /// Its root is handed out still; it no longer signs.
    Former,
}

impl IssuerState {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Next => "next",
            Self::Former => "former",
        }
    }
}

/// An issuing certificate, what is above it, and what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct Issuing {
    pub(super) id: String,
    pub(super) state: IssuerState,
    pub(super) directory: PathBuf,
    pub(super) root: CertificateDer<'static>,
    /// The one that signs first; without the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The first end in it.
    pub(super) not_after: OffsetDateTime,
    pub(super) constraints: NameConstraints,
    /// Of root and chain.
    pub(super) key_digests: Vec<[u8; 32]>,
    /// Of the certificate that signs.
    digest: [u8; 32],
    /// What is compared with each certificate that it signs.
    marks: IssuerMarks,
}

/// What the certificate of an issuer says of it, as DER.
#[derive(Debug, Clone)]
pub(crate) struct IssuerMarks {
    /// Its subject.
    pub(crate) subject: Vec<u8>,
    /// Its `SubjectPublicKeyInfo`.
    pub(crate) public_key: Vec<u8>,
    /// Its subject key identifier, without the DER around it.
    pub(crate) key_identifier: Option<Vec<u8>>,
}

impl Issuing {
    /// Loads the issuer in `directory` and checks that its certificates are a chain and its keys are private.
    pub(super) fn load(directory: &Path, state: IssuerState) -> Result<Self, AuthorityError> {
        for secret in [ROOT_KEY, ISSUER_KEY, ISSUER_URI] {
            let path = directory.join(secret);
            if path.exists() {
                files::check_private(&path, "600")?;
            }
        }
        let root_path = directory.join(ROOT);
        let root = read_certificates(&root_path, 1)?.remove(0);
        let chain_path = directory.join(ISSUER);
        let chain = read_certificates(&chain_path, CHAIN_LIMIT)?;
        Self::of(state, directory, root, chain)
    }

    /// The same of certificates at hand.
    pub(super) fn of(
        state: IssuerState,
        directory: &Path,
        root: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, AuthorityError> {
        let (root_path, chain_path) = (directory.join(ROOT), directory.join(ISSUER));
        let invalid =
            |path: &Path, reason: &str| AuthorityError::Invalid { path: path.to_owned(), reason: reason.to_owned() };
        let root_parsed = parse(&root_path, &root)?;
        if !root_parsed.is_ca() || root_parsed.verify_signature(None).is_err() {
            return Err(invalid(&root_path, "is not a self-signed CA certificate"));
        }
        let parsed: Vec<_> = chain.iter().map(|der| parse(&chain_path, der)).collect::<Result<_, _>>()?;
        let above = parsed.iter().skip(1).chain([&root_parsed]);
        for (index, (certificate, above)) in parsed.iter().zip(above).enumerate() {
            if !certificate.is_ca() || !is_signed_by(certificate, above) {
                let by = if index + 1 == parsed.len() { "the root beside it" } else { "the one after it" };
                return Err(invalid(&chain_path, &format!("is not a CA certificate signed by {by}")));
            }
        }
        let all: Vec<&X509Certificate<'_>> = parsed.iter().chain([&root_parsed]).collect();
        let not_after = all.iter().map(|certificate| certificate.validity().not_after.to_datetime()).min();
        let constraints = NameConstraints::of(&all).map_err(|reason| invalid(&chain_path, reason))?;
        let key_digests = all.iter().map(|certificate| sha256(certificate.public_key().raw)).collect();
        Ok(Self {
            id: issuer_id(&chain[0]),
            state,
            directory: directory.to_owned(),
            not_after: not_after.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            constraints,
            key_digests,
            digest: sha256(&chain[0]),
            marks: IssuerMarks::of(&parsed[0]),
            root,
            chain,
        })
    }

    /// Its key; `None` where it is not on this machine.
    pub(super) fn key(&self, settings: &KeySettings) -> Result<Option<IssuerKey>, AuthorityError> {
        let Some((path, key)) = read_key(&self.directory, settings)? else { return Ok(None) };
        let certificate = parse(&self.directory.join(ISSUER), &self.chain[0])?;
        if certificate.public_key().raw != key.public_key_der() {
            let reason = "is not the key of the issuing certificate beside it".to_owned();
            return Err(AuthorityError::Invalid { path, reason });
        }
        Ok(Some(key))
    }

    /// The certificate that signs.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Its subject; printable.
    pub(crate) fn subject(&self) -> String {
        let parsed = X509Certificate::from_der(&self.chain[0]);
        let text = parsed.map(|(_, certificate)| certificate.subject().to_string()).unwrap_or_default();
        printable(&text, 100)
    }

    /// When the first of it and those above it ends: no leaf lives longer.
    pub(crate) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// SHA-256 of the certificate that signs: how the record tells issuers apart.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// What is compared with each certificate that it signs.
    pub(crate) fn marks(&self) -> &IssuerMarks {
        &self.marks
    }
}

impl IssuerMarks {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let key_identifier = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        });
        Self {
            subject: certificate.subject().as_raw().to_vec(),
            public_key: certificate.public_key().raw.to_vec(),
            key_identifier,
        }
    }
}

/// The key in `directory` and the file that it is in or named by; `None` where there is neither.
pub(super) fn read_key(
    directory: &Path,
    settings: &KeySettings,
) -> Result<Option<(PathBuf, IssuerKey)>, AuthorityError> {
    let path = directory.join(ISSUER_KEY);
    if path.exists() {
        files::check_private(&path, "600")?;
        let pem = files::read_private(&path)?;
        let key = settings.decode(&path, &pem)?;
        return Ok(Some((path, IssuerKey::Local(key))));
    }
    let path = directory.join(ISSUER_URI);
    if path.exists() {
        files::check_private(&path, "600")?;
        return open_token(path).map(Some);
    }
    Ok(None)
}

#[cfg(feature = "pkcs11")]
fn open_token(path: PathBuf) -> Result<(PathBuf, IssuerKey), AuthorityError> {
    let text = files::read(&path)?;
    let uri = super::pkcs11::TokenUri::parse(String::from_utf8_lossy(&text).trim())?;
    let key = super::pkcs11::TokenKey::open(&uri)?;
    Ok((path, IssuerKey::Token(key)))
}

#[cfg(not(feature = "pkcs11"))]
fn open_token(path: PathBuf) -> Result<(PathBuf, IssuerKey), AuthorityError> {
    Err(AuthorityError::Locked { path, reason: super::NO_PKCS11.to_owned() })
}

/// Name and signature.
pub(super) fn is_signed_by(certificate: &X509Certificate<'_>, by: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == by.subject().as_raw()
        && certificate.verify_signature(Some(by.public_key())).is_ok()
}

/// How an issuer is called: the first 12 digits of the SHA-256 of its certificate.
pub(super) fn issuer_id(certificate: &CertificateDer<'_>) -> String {
    hex(&sha256(certificate)[..6])
}

/// All certificates of a PEM file; at least one.
pub(super) fn read_certificates(path: &Path, limit: usize) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let pem = files::read(path)?;
    certificates_from_pem("file", &pem, limit)
        .map_err(|error| AuthorityError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

/// A certificate from `path`, parsed.
pub(super) fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AuthorityError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(AuthorityError::Invalid { path: path.to_owned(), reason: "is not a DER certificate".to_owned() }),
    }
}
