//! Owns the CA's own keys and certificates: making them once, whole or not at all, and loading them with checks.

mod files;
mod generate;

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crypto::sha256;
use crate::identity::bundle::{certificates_from_pem, certificates_to_pem};
use crate::identity::{KeyType, PrivateKey, TrustDomain};

pub(crate) use files::{Lock, check_private, create_private};

/// What `init` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOptions {
    /// The kind of both keys: ECDSA P-256 or P-384.
    pub key_type: KeyType,
    /// The trust domain of every SPIFFE id the CA issues.
    pub trust_domain: TrustDomain,
    /// Begins the common names of root and intermediate: `<name> Root CA`.
    pub name: String,
}

impl InitOptions {
    /// P-256, the name `Crank`, and the given trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { key_type: KeyType::EcdsaP256, trust_domain, name: "Crank".to_owned() }
    }
}

/// The public side of a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    /// The root as a PEM file, to be given to whoever should trust this CA.
    pub root_path: PathBuf,
    /// The root as PEM.
    pub root_pem: String,
    /// SHA-256 of the root's DER, as `sha256:` and 64 hexadecimal digits.
    pub root_fingerprint: String,
    /// When the root expires.
    pub root_not_after: OffsetDateTime,
    /// When the issuing intermediate expires.
    pub issuer_not_after: OffsetDateTime,
}

/// An authority that cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("there is a CA under {} already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no CA under {}: make one with `crank-ca init --data-dir {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// Another process makes one at this moment.
    #[error("another process is working on {}; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// An option that cannot be used.
    #[error("{what}: {reason}")]
    Option {
        /// The option.
        what: &'static str,
        /// What was expected.
        reason: &'static str,
    },
    /// A file that others than the owner can read or write.
    #[error("{} is open to other users (mode {mode:04o}): run `chmod {fix} {}`", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The argument of chmod that mends it.
        fix: &'static str,
    },
    /// A file whose content is no good.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The crypto library failed.
    #[error("cannot make the CA's {what}")]
    Generation {
        /// `key`, `root certificate`, `issuing certificate`.
        what: &'static str,
    },
}

impl AuthorityError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists(_) => "ca_exists",
            Self::Missing(_) => "ca_missing",
            Self::Busy(_) => "ca_busy",
            Self::Option { .. } => "ca_option",
            Self::Exposed { .. } => "ca_exposed",
            Self::Invalid { .. } => "ca_invalid",
            Self::File { .. } => "ca_file",
            Self::Generation { .. } => "ca_generation",
        }
    }
}

/// A loaded CA: what signing needs. The root's key is not among it, and need not be on this machine.
#[derive(Debug)]
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
    issuer_key: PrivateKey,
    issuer_not_after: OffsetDateTime,
    own_key_digests: [[u8; 32]; 2],
    public: CaCertificate,
    trust_domain: TrustDomain,
}

impl Authority {
    /// Makes root and issuing intermediate under `data_dir`. A crash leaves either nothing that counts or all of it.
    pub(crate) fn generate(
        data_dir: &Path,
        options: &InitOptions,
        now: OffsetDateTime,
    ) -> Result<CaCertificate, AuthorityError> {
        let material = generate::generate(options, now)?;
        files::publish(data_dir, &material)?;
        Ok(Self::load(data_dir)?.public)
    }

    /// Whether there is a CA under `data_dir`.
    pub(crate) fn exists(data_dir: &Path) -> bool {
        data_dir.join(files::DIRECTORY).exists()
    }

    /// Loads the CA under `data_dir` and checks that its parts fit and its keys are private.
    pub(crate) fn load(data_dir: &Path) -> Result<Self, AuthorityError> {
        let directory = data_dir.join(files::DIRECTORY);
        if !directory.exists() {
            return Err(AuthorityError::Missing(data_dir.to_owned()));
        }
        files::check_not_writable_by_others(data_dir)?;
        files::check_private(&directory, "700")?;
        let settings = files::read_settings(&directory)?;
        let root_path = directory.join(files::ROOT);
        let issuer_path = directory.join(files::ISSUER);
        let key_path = directory.join(files::ISSUER_KEY);
        files::check_private(&key_path, "600")?;
        let root_key_path = directory.join(files::ROOT_KEY);
        if root_key_path.exists() {
            files::check_private(&root_key_path, "600")?;
        }
        let root = one_certificate(&root_path)?;
        let issuer = one_certificate(&issuer_path)?;
        let pem = files::read_private(&key_path)?;
        let issuer_key = PrivateKey::from_pem(&pem)
            .map_err(|error| AuthorityError::Invalid { path: key_path.clone(), reason: error.to_string() })?;

        let root_parsed = parse(&root_path, &root)?;
        let issuer_parsed = parse(&issuer_path, &issuer)?;
        let invalid = |path: &Path, reason: &str| {
            Err(AuthorityError::Invalid { path: path.to_owned(), reason: reason.to_owned() })
        };
        if issuer_parsed.public_key().raw != issuer_key.public_key_der() {
            return invalid(&key_path, "is not the key of the issuing certificate beside it");
        }
        if !root_parsed.is_ca() || root_parsed.verify_signature(None).is_err() {
            return invalid(&root_path, "is not a self-signed CA certificate");
        }
        if !issuer_parsed.is_ca()
            || issuer_parsed.tbs_certificate.issuer.as_raw() != root_parsed.tbs_certificate.subject.as_raw()
            || issuer_parsed.verify_signature(Some(root_parsed.public_key())).is_err()
        {
            return invalid(&issuer_path, "is not a CA certificate signed by the root beside it");
        }
        let issuer_not_after = issuer_parsed.validity().not_after.to_datetime();
        let root_not_after = root_parsed.validity().not_after.to_datetime();
        let own_key_digests = [sha256(root_parsed.public_key().raw), sha256(issuer_parsed.public_key().raw)];
        let public = CaCertificate {
            root_path,
            root_pem: certificates_to_pem(std::slice::from_ref(&root)),
            root_fingerprint: fingerprint(&root),
            root_not_after,
            issuer_not_after,
        };
        Ok(Self {
            root,
            issuer,
            issuer_key,
            issuer_not_after: issuer_not_after.min(root_not_after),
            own_key_digests,
            public,
            trust_domain: settings.trust_domain,
        })
    }

    /// The root.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The intermediate that signs.
    pub(crate) fn issuer(&self) -> &CertificateDer<'static> {
        &self.issuer
    }

    /// The key that signs.
    pub(crate) fn issuer_key(&self) -> &PrivateKey {
        &self.issuer_key
    }

    /// When the first of intermediate and root expires: no leaf lives longer.
    pub(crate) fn issuer_not_after(&self) -> OffsetDateTime {
        self.issuer_not_after
    }

    /// Whether a public key, by its digest, is one of the CA's own.
    pub(crate) fn owns_key(&self, digest: &[u8; 32]) -> bool {
        self.own_key_digests.contains(digest)
    }

    /// What everyone may know.
    pub(crate) fn public(&self) -> &CaCertificate {
        &self.public
    }

    /// The trust domain of SPIFFE ids.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    sha256(certificate).iter().fold(String::from("sha256:"), |text, byte| format!("{text}{byte:02x}"))
}

fn one_certificate(path: &Path) -> Result<CertificateDer<'static>, AuthorityError> {
    let pem = files::read(path)?;
    let invalid = |reason| AuthorityError::Invalid { path: path.to_owned(), reason };
    let certificates = certificates_from_pem("file", &pem, 1).map_err(|error| invalid(error.to_string()))?;
    certificates.into_iter().next().ok_or_else(|| invalid("holds no certificate".to_owned()))
}

fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AuthorityError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(AuthorityError::Invalid { path: path.to_owned(), reason: "is not a DER certificate".to_owned() }),
    }
}

#[cfg(test)]
mod tests;
