//! Owns what is in each file of a generation: bytes, made from the certificate.

use std::path::Path;

use zeroize::Zeroizing;

use super::error::{StoreError, shown};
use super::further::{Content, ContentKind, Keystore};
use super::jks::{jks, jks_roots};
use super::keystore::Password;
use super::layout::PublishedFile;
use super::pkcs12::{pkcs12, pkcs12_roots};
use crate::crypto::sha256;
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{BundleError, CertificateBundle, KeyError};

/// The content of a file.
pub(super) struct Rendered {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The SHA-256 of the password, where there is one.
    pub(super) password: Option<[u8; 32]>,
}

impl Rendered {
    fn plain(text: impl Into<Vec<u8>>) -> Self {
        Self { bytes: Zeroizing::new(text.into()), password: None }
    }

    fn secret(text: &str) -> Self {
        Self { bytes: Zeroizing::new(text.as_bytes().to_vec()), password: None }
    }
}

/// The content of `file` in a generation of `bundle`. The record is not made here.
pub(super) fn render(file: PublishedFile<'_>, bundle: &CertificateBundle) -> Result<Rendered, StoreError> {
    let key = |error: KeyError| content_error(file, BundleError::Key(error));
    Ok(match file {
        PublishedFile::CredentialBundle => Rendered::secret(&bundle.credential_bundle_pem().map_err(key)?),
        PublishedFile::Key => Rendered::secret(&bundle.key_pem().map_err(key)?),
        PublishedFile::Certificate => Rendered::plain(bundle.chain_pem()),
        PublishedFile::Roots => Rendered::plain(bundle.roots_pem()),
        PublishedFile::Crl => Rendered::plain(bundle.crls_pem()),
        PublishedFile::Federated(domain) => {
            Rendered::plain(certificates_to_pem(bundle.federated().get(domain).map_or(&[], Vec::as_slice)))
        }
        PublishedFile::Record => Rendered::plain(Vec::new()),
        PublishedFile::Further(further) => match &further.content {
            Content::Key => return render(PublishedFile::Key, bundle),
            Content::Leaf => Rendered::plain(certificates_to_pem(&bundle.chain()[..1])),
            Content::Intermediates => Rendered::plain(certificates_to_pem(&bundle.chain()[1..])),
            Content::Certificate => return render(PublishedFile::Certificate, bundle),
            Content::Roots => return render(PublishedFile::Roots, bundle),
            Content::Crl => return render(PublishedFile::Crl, bundle),
            Content::CredentialBundle => return render(PublishedFile::CredentialBundle, bundle),
            Content::CertificateAndKey => Rendered::secret(&certificate_and_key(bundle).map_err(key)?),
            Content::FederatedRoots(domain) => return render(PublishedFile::Federated(domain), bundle),
            Content::Pkcs12(keystore)
            | Content::Pkcs12Roots(keystore)
            | Content::Jks(keystore)
            | Content::JksRoots(keystore) => {
                let password = Password::read(&keystore.password_file)?;
                let bytes = render_keystore(further.content.kind(), keystore, bundle, &password);
                let bytes = bytes.map_err(|reason| {
                    StoreError::io("make", Path::new(&*file.name()), std::io::Error::other(reason))
                })?;
                Rendered { bytes, password: Some(sha256(password.as_str().as_bytes())) }
            }
        },
    })
}

fn render_keystore(
    kind: ContentKind,
    keystore: &Keystore,
    bundle: &CertificateBundle,
    password: &Password,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let alias = &keystore.alias;
    match kind {
        ContentKind::Pkcs12 => pkcs12(bundle, password, alias).map(Zeroizing::new),
        ContentKind::Pkcs12Roots => Ok(Zeroizing::new(pkcs12_roots(bundle.roots(), password, alias))),
        ContentKind::Jks => jks(bundle, password, alias),
        _ => Ok(jks_roots(bundle, password, alias)),
    }
}

/// The SHA-256 of the password of a file that has one.
pub(super) fn password_digest(path: &Path) -> Result<[u8; 32], StoreError> {
    Ok(sha256(Password::read(path)?.as_str().as_bytes()))
}

/// Leaf, intermediates, key.
fn certificate_and_key(bundle: &CertificateBundle) -> Result<Zeroizing<String>, KeyError> {
    let key = bundle.key_pem()?;
    let chain = bundle.chain_pem();
    // Sized in advance, so that no copy of the key is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
    text.push_str(&chain);
    text.push_str(&key);
    Ok(text)
}

fn content_error(file: PublishedFile<'_>, source: BundleError) -> StoreError {
    StoreError::Content { path: shown(Path::new(&*file.name())), source }
}
