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
mod lineup;
mod options;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod rotation;
mod signer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::crypto::{sha256, sha256_text};
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{KeyType, SubjectAltName, TrustDomain};

use content::{Content, ISSUER, ISSUER_KEY, IssuerFiles, ROOT, ROOT_KEY};
pub use error::AuthorityError;
pub(crate) use files::{Lock, Stamp, check_not_writable_by_others, check_private, check_secret, create_private};
use generate::Generation;
pub use import::{ImportKey, ImportOptions, Imported};
pub use issuing::IssuerState;
pub(crate) use issuing::Issuing;
pub(crate) use key::IssuerKey;
pub use key::KeySettings;
use lineup::{Lineup, steadily};
pub use options::InitOptions;
pub use rotation::{IssuerFacts, RotateOptions, Rotated};
pub(crate) use signer::Signer;

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
    /// The first of them as PEM.
    chain_pem: String,
    roots: Vec<CertificateDer<'static>>,
    public: CaCertificate,
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
                if let Some(key) = key {
                    signers.push(Arc::new(Signer::new(issuing.clone(), key)?));
                }
            }
            if signers.first().is_none_or(|signer| signer.issuing().id != current.id) {
                let reason = "is missing: nothing can be signed without it".to_owned();
                return Err(AuthorityError::Invalid { path: current.directory.join(ISSUER_KEY), reason });
            }
            let public = lineup.public()?;
            let chains: Vec<_> = lineup.issuers.iter().map(|issuer| lineup.chain_of(issuer)).collect();
            let chain_pem = certificates_to_pem(&chains[0]);
            Ok(Self { roots: lineup.roots(), chains, chain_pem, public, signers, lineup })
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

    /// The same as PEM.
    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
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

    /// The one that signs certificates.
    pub(crate) fn signer(&self) -> &Signer {
        &self.signers[0]
    }

    /// The key that signs.
    pub(crate) fn issuer_key(&self) -> &IssuerKey {
        self.signer().key()
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

#[cfg(test)]
mod tests;
