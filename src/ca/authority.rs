//! Owns the CA's own keys and certificates: making them once, whole or not at all, changing them, and loading them with
//! checks.

mod constraints;
mod content;
mod error;
mod files;
mod generate;
mod import;
mod issuing;
mod key;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod rotation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crypto::{sha256, sha256_text};
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{KeyType, SubjectAltName, TrustDomain};

use content::{CROSS, Content, FORMER, ISSUER, ISSUER_KEY, IssuerFiles, NEXT, ROOT, ROOT_KEY};
pub use error::AuthorityError;
use files::Settings;
pub(crate) use files::{Lock, Stamp, check_not_writable_by_others, check_private, check_secret, create_private};
use generate::Generation;
pub use import::{ImportKey, ImportOptions, Imported};
pub use issuing::IssuerState;
pub(crate) use issuing::Issuing;
pub(crate) use key::IssuerKey;
pub use key::KeySettings;
pub use rotation::{IssuerFacts, RotateOptions, Rotated};

/// What `init` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOptions {
    /// The kind of both keys: ECDSA P-256 or P-384.
    pub key_type: KeyType,
    /// The trust domain of every SPIFFE id the CA issues.
    pub trust_domain: TrustDomain,
    /// Begins the common names of root and intermediate: `<name> Root CA`.
    pub name: String,
    /// How the keys are protected.
    pub keys: KeySettings,
    /// Where the issuing key is made instead of in a file: a `pkcs11:` URI (RFC 7512).
    pub key_uri: Option<String>,
}

impl InitOptions {
    /// P-256, the name `Crank`, keys in plain files, and the given trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            key_type: KeyType::EcdsaP256,
            trust_domain,
            name: "Crank".to_owned(),
            keys: KeySettings::default(),
            key_uri: None,
        }
    }
}

/// The public side of a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    /// The root of the issuer that signs, as a PEM file, to be given to whoever should trust this CA.
    pub root_path: PathBuf,
    /// That root as PEM.
    pub root_pem: String,
    /// Every root that is handed out, as PEM; that of the issuer that signs first.
    pub roots_pem: String,
    /// SHA-256 of the root's DER, as `sha256:` and 64 hexadecimal digits.
    pub root_fingerprint: String,
    /// When the root expires.
    pub root_not_after: OffsetDateTime,
    /// When the issuing intermediate expires.
    pub issuer_not_after: OffsetDateTime,
}

/// A loaded CA: what signing needs. No root's key is among it, and need not be on this machine.
#[derive(Debug)]
pub(crate) struct Authority {
    lineup: Lineup,
    /// Those whose keys are here; the one that signs first.
    signers: Vec<Arc<Signer>>,
    /// The chain below each issuer's root that is sent with certificates, in the order of the issuers.
    chains: Vec<Vec<CertificateDer<'static>>>,
    roots: Vec<CertificateDer<'static>>,
    public: CaCertificate,
}

/// An issuer with its key.
#[derive(Debug)]
pub(crate) struct Signer {
    issuing: Issuing,
    key: IssuerKey,
}

impl Signer {
    /// The certificate that signs.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        self.issuing.certificate()
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// SHA-256 of the certificate: how the record tells issuers apart.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.issuing.digest()
    }
}

/// The public part of everything in a CA's directory.
#[derive(Debug)]
pub(super) struct Lineup {
    settings: Settings,
    /// The one that signs first.
    issuers: Vec<Issuing>,
    cross: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// Makes root and issuing intermediate under `data_dir`. A crash leaves either nothing that counts or all of it.
    pub(crate) fn generate(
        data_dir: &Path,
        options: &InitOptions,
        now: OffsetDateTime,
    ) -> Result<CaCertificate, AuthorityError> {
        let first = Generation(1);
        let root_key = generate::key(options.key_type)?;
        let root = generate::root(&options.name, first, &root_key, now)?;
        let (key, files) = issuing_key(options.key_type, options.key_uri.as_deref(), &options.keys)?;
        let issuer = generate::issuing(&options.name, first, &key, &root, &root_key, now)?;
        let files = files
            .with(ROOT, certificates_to_pem(&[root]).as_bytes())
            .with(ROOT_KEY, options.keys.encode(&root_key)?.as_bytes())
            .with(ISSUER, certificates_to_pem(&[issuer]).as_bytes());
        if data_dir.join(files::REQUEST).exists() {
            return Err(awaits_import(data_dir));
        }
        files::publish(data_dir, &Content::new(options.settings(), files))?;
        Self::public_of(data_dir)
    }

    /// Makes a key under `data_dir` and a request for the certificate of an intermediate: returns that, as PEM, and its
    /// file. Beside a CA that is there it is for the next issuer. A second time it is an error.
    pub(crate) fn request(data_dir: &Path, options: &InitOptions) -> Result<(PathBuf, String), AuthorityError> {
        let (key, _) = issuing_key(options.key_type, options.key_uri.as_deref(), &options.keys)?;
        let request = generate::request(&options.name, &key)?;
        let (text, in_module) = match (&key, &options.key_uri) {
            (IssuerKey::Local(key), _) => (options.keys.encode(key)?, false),
            #[cfg(feature = "pkcs11")]
            (IssuerKey::Token(_), uri) => (uri.clone().unwrap_or_default().into(), true),
        };
        let file = files::publish_request(data_dir, &options.settings(), &text, in_module, &request)?;
        Ok((file, request))
    }

    /// Whether there is a CA under `data_dir`.
    pub(crate) fn exists(data_dir: &Path) -> bool {
        files::exists(data_dir)
    }

    /// The public side of the CA under `data_dir`. Reads no key, but checks that those there are private.
    pub(crate) fn public_of(data_dir: &Path) -> Result<CaCertificate, AuthorityError> {
        Lineup::load(data_dir)?.public()
    }

    /// The trust domain of the CA under `data_dir`.
    pub(crate) fn trust_domain_of(data_dir: &Path) -> Result<TrustDomain, AuthorityError> {
        Ok(Lineup::load(data_dir)?.settings.trust_domain)
    }

    /// Loads the CA under `data_dir` and checks that its parts fit and its keys are private.
    pub(crate) fn load(data_dir: &Path, keys: &KeySettings) -> Result<Self, AuthorityError> {
        steadily(data_dir, || {
            let lineup = Lineup::read(&data_dir.join(files::DIRECTORY))?;
            let current = &lineup.issuers[0];
            let mut signers = Vec::new();
            for issuing in &lineup.issuers {
                let key = issuing.key(keys)?;
                signers.extend(key.map(|key| Arc::new(Signer { issuing: issuing.clone(), key })));
            }
            if signers.first().is_none_or(|signer| signer.issuing.id != current.id) {
                let reason = "is missing: nothing can be signed without it".to_owned();
                return Err(AuthorityError::Invalid { path: current.directory.join(ISSUER_KEY), reason });
            }
            let public = lineup.public()?;
            let chains = lineup.issuers.iter().map(|issuer| lineup.chain_of(issuer)).collect();
            Ok(Self { roots: lineup.roots(), chains, public, signers, lineup })
        })
    }

    /// Every root that is handed out, that of the issuer that signs first.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The certificate that signs.
    pub(crate) fn issuer(&self) -> &CertificateDer<'static> {
        self.current().certificate()
    }

    /// What is sent after a leaf: the intermediate that signs, those above it without the root, and the root as certified
    /// by the other roots that are handed out.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chains[0]
    }

    /// SHA-256 of the certificate of each issuer whose root is handed out.
    pub(crate) fn issuer_digests(&self) -> Vec<[u8; 32]> {
        self.lineup.issuers.iter().map(Issuing::digest).collect()
    }

    /// As [`chain`](Self::chain), for a leaf that was signed by whichever issuer has this digest. `None` when its root is
    /// no longer handed out.
    pub(crate) fn chain_of(&self, issuer_digest: &[u8; 32]) -> Option<&[CertificateDer<'static>]> {
        let index = self.lineup.issuers.iter().position(|issuer| issuer.digest() == *issuer_digest)?;
        Some(&self.chains[index])
    }

    /// The issuer that signs.
    pub(crate) fn issuing(&self) -> &Issuing {
        self.current()
    }

    /// The key that signs.
    pub(crate) fn issuer_key(&self) -> &IssuerKey {
        &self.signers[0].key
    }

    /// Every issuer whose key is here, the one that signs certificates first: each signs a CRL of its own, those that are
    /// next ahead of need.
    pub(crate) fn signers(&self) -> &[Arc<Signer>] {
        &self.signers
    }

    /// The certificates that sign, of all issuers.
    pub(crate) fn issuing_certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.lineup.issuers.iter().map(Issuing::certificate)
    }

    /// When the first of intermediates and root expires: no leaf lives longer.
    pub(crate) fn issuer_not_after(&self) -> OffsetDateTime {
        self.current().not_after
    }

    /// Of `names`, those that the name constraints of the CA's own certificates exclude.
    pub(crate) fn excluded<'a>(&self, names: impl IntoIterator<Item = &'a SubjectAltName>) -> Vec<&'a SubjectAltName> {
        names.into_iter().filter(|name| !self.current().constraints.permit(name)).collect()
    }

    /// Whether a public key, by its digest, is one of the CA's own.
    pub(crate) fn owns_key(&self, digest: &[u8; 32]) -> bool {
        self.lineup.issuers.iter().any(|issuer| issuer.key_digests.contains(digest))
    }

    /// What everyone may know.
    pub(crate) fn public(&self) -> &CaCertificate {
        &self.public
    }

    /// The trust domain of SPIFFE ids.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.lineup.settings.trust_domain
    }

    fn current(&self) -> &Issuing {
        &self.lineup.issuers[0]
    }
}

impl Lineup {
    fn load(data_dir: &Path) -> Result<Self, AuthorityError> {
        steadily(data_dir, || Self::read(&data_dir.join(files::DIRECTORY)))
    }

    fn read(directory: &Path) -> Result<Self, AuthorityError> {
        files::check_private(directory, "700")?;
        let settings = files::read_settings(directory)?;
        let mut issuers = vec![Issuing::load(directory, IssuerState::Issuing)?];
        for (name, state) in [(NEXT, IssuerState::Next), (FORMER, IssuerState::Former)] {
            for id in content::issuer_ids(&directory.join(name))? {
                issuers.push(Issuing::load(&directory.join(name).join(id), state)?);
            }
        }
        let cross = directory.join(CROSS);
        let cross = if cross.exists() { issuing::read_certificates(&cross, CROSS_LIMIT)? } else { Vec::new() };
        Ok(Self { settings, issuers, cross })
    }

    fn public(&self) -> Result<CaCertificate, AuthorityError> {
        let current = &self.issuers[0];
        let (root_path, issuer_path) = (current.directory.join(ROOT), current.directory.join(ISSUER));
        let end = |path: &Path, der| -> Result<_, AuthorityError> {
            Ok(issuing::parse(path, der)?.validity().not_after.to_datetime())
        };
        Ok(CaCertificate {
            root_pem: certificates_to_pem(std::slice::from_ref(&current.root)),
            roots_pem: certificates_to_pem(&self.roots()),
            root_fingerprint: fingerprint(&current.root),
            root_not_after: end(&root_path, &current.root)?,
            issuer_not_after: end(&issuer_path, current.certificate())?,
            root_path,
        })
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for issuer in &self.issuers {
            if !roots.contains(&issuer.root) {
                roots.push(issuer.root.clone());
            }
        }
        roots
    }

    fn chain_of(&self, issuer: &Issuing) -> Vec<CertificateDer<'static>> {
        let roots = self.roots();
        let certifies = |cross: &CertificateDer<'static>| {
            let (Ok((_, cross)), Ok((_, root))) =
                (X509Certificate::from_der(cross), X509Certificate::from_der(&issuer.root))
            else {
                return false;
            };
            let by_another = roots.iter().any(|by| {
                *by != issuer.root
                    && X509Certificate::from_der(by).is_ok_and(|(_, by)| issuing::is_signed_by(&cross, &by))
            });
            by_another && cross.subject().as_raw() == root.subject().as_raw() && cross.public_key() == root.public_key()
        };
        issuer.chain.iter().chain(self.cross.iter().filter(|cross| certifies(cross))).cloned().collect()
    }
}

impl InitOptions {
    fn settings(&self) -> Settings {
        Settings { trust_domain: self.trust_domain.clone(), name: Some(self.name.clone()), generation: 1 }
    }
}

/// Reads what a change may put another in the place of meanwhile: again, until nothing moved.
fn steadily<T>(data_dir: &Path, read: impl Fn() -> Result<T, AuthorityError>) -> Result<T, AuthorityError> {
    if data_dir.join(files::REQUEST).exists() && !files::exists(data_dir) {
        return Err(awaits_import(data_dir));
    }
    if !files::exists(data_dir) {
        return Err(AuthorityError::Missing(data_dir.to_owned()));
    }
    files::check_not_writable_by_others(data_dir)?;
    for _ in 1..STEADY_ATTEMPTS {
        let before = Stamp::of(data_dir);
        if before.is_none() {
            let _lock = Lock::acquire(data_dir)?;
            files::recover(data_dir)?;
            continue;
        }
        let result = read();
        if Stamp::of(data_dir) == before {
            return result;
        }
    }
    read()
}

/// A fresh key for an issuer, and what is kept of it.
fn issuing_key(
    key_type: KeyType,
    uri: Option<&str>,
    keys: &KeySettings,
) -> Result<(IssuerKey, IssuerFiles), AuthorityError> {
    let Some(uri) = uri else {
        let key = generate::key(key_type)?;
        let files = IssuerFiles::default().with(ISSUER_KEY, keys.encode(&key)?.as_bytes());
        return Ok((IssuerKey::Local(key), files));
    };
    #[cfg(feature = "pkcs11")]
    {
        let key = pkcs11::TokenKey::find_or_make(&pkcs11::TokenUri::parse(uri)?, key_type)?;
        let files = IssuerFiles::default().with(content::ISSUER_URI, uri.as_bytes());
        Ok((IssuerKey::Token(key), files))
    }
    #[cfg(not(feature = "pkcs11"))]
    {
        let _ = uri;
        Err(AuthorityError::Option { what: "key", reason: NO_PKCS11 })
    }
}

fn awaits_import(data_dir: &Path) -> AuthorityError {
    let request = data_dir.join(files::REQUEST).join(files::REQUEST_FILE);
    AuthorityError::AwaitsImport { data_dir: data_dir.to_owned(), request }
}

/// SHA-256 of a certificate, as `sha256:` and 64 hexadecimal digits.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    sha256_text(&sha256(certificate))
}

#[cfg(not(feature = "pkcs11"))]
const NO_PKCS11: &str = "this crank-ca was built without PKCS#11 (the cargo feature `pkcs11`)";

/// Far more changes than can happen while some files are read.
const STEADY_ATTEMPTS: usize = 10;

/// More than a handful of roots can have.
const CROSS_LIMIT: usize = 64;

#[cfg(test)]
mod tests;
