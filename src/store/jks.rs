//! Owns Java keystores (JKS), as `sun.security.provider.JavaKeyStore` reads them. Their protection is weak (SHA-1, one
//! round); they are for programs that read nothing else.
//!
//! The same certificate and password give the same bytes: what is to be unique, follows from the certificate.

use aws_lc_rs::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::der::{algorithm, octets, sequence, utf16};
use super::keystore::{Password, aliases};
use crate::identity::CertificateBundle;

/// Key, leaf and intermediates as one entry.
pub(super) fn jks(bundle: &CertificateBundle, password: &Password, alias: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let key = bundle.key().to_pkcs8_der().map_err(|error| error.to_string())?;
    let protected = protect(&key, password, &bundle.leaf_digest()[..SALT]);
    let mut store = Writer::begin(1, alias.len() + protected.len() + size(bundle.chain()));
    store.entry(PRIVATE_KEY, alias, bundle);
    store.bytes(&protected);
    store.count(bundle.chain().len());
    bundle.chain().iter().for_each(|certificate| store.certificate(certificate));
    Ok(store.finish(password))
}

/// The roots as trusted entries.
pub(super) fn jks_roots(bundle: &CertificateBundle, password: &Password, alias: &str) -> Zeroizing<Vec<u8>> {
    let roots = bundle.roots();
    let mut store = Writer::begin(roots.len(), size(roots) + roots.len() * (alias.len() + 8));
    for (alias, root) in aliases(alias, roots) {
        store.entry(TRUSTED, &alias, bundle);
        store.certificate(root);
    }
    store.finish(password)
}

/// A keystore being written: numbers are big-endian, texts and bytes have their length before them.
struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Of fixed size, so that no copy of a key is left behind by growing.
    fn begin(entries: usize, size: usize) -> Self {
        let mut store = Self(Zeroizing::new(Vec::with_capacity(size + OVERHEAD * (entries + 1))));
        store.0.extend(MAGIC.to_be_bytes());
        store.0.extend(VERSION.to_be_bytes());
        store.count(entries);
        store
    }

    fn count(&mut self, count: usize) {
        self.0.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    /// A text of ASCII, in which Java's modified UTF-8 is as any other.
    fn text(&mut self, text: &str) {
        self.0.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.0.extend(text.as_bytes());
    }

    /// The beginning of an entry, which was made when the certificate was.
    fn entry(&mut self, tag: u32, alias: &str, bundle: &CertificateBundle) {
        self.0.extend(tag.to_be_bytes());
        self.text(alias);
        let made = bundle.not_before().unix_timestamp().saturating_mul(1000);
        self.0.extend(made.to_be_bytes());
    }

    fn certificate(&mut self, certificate: &CertificateDer<'_>) {
        self.text("X.509");
        self.bytes(certificate);
    }

    /// Ends it with a digest of password and content.
    fn finish(mut self, password: &Password) -> Zeroizing<Vec<u8>> {
        let digest = sha1(&[&wide(password), WHITENER, &self.0]);
        self.0.extend(digest.as_ref());
        self.0
    }
}

/// The key under the password, as an `EncryptedPrivateKeyInfo` (RFC 5208, section 6) by Sun's own algorithm: the key is
/// combined with a stream of digests, each of the password and the one before, the first of the salt.
fn protect(key: &[u8], password: &Password, salt: &[u8]) -> Vec<u8> {
    let password = wide(password);
    let mut protected = salt.to_vec();
    let mut stream = salt.to_vec();
    for block in key.chunks(SHA1) {
        stream = sha1(&[&password, &stream]).as_ref().to_vec();
        protected.extend(block.iter().zip(&stream).map(|(key, stream)| key ^ stream));
    }
    protected.extend(sha1(&[&password, key]).as_ref());
    sequence(&[&algorithm(KEY_PROTECTOR), &octets(&protected)])
}

fn wide(password: &Password) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(utf16(password.as_str()))
}

fn sha1(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

fn size(certificates: &[CertificateDer<'_>]) -> usize {
    certificates.iter().map(|certificate| certificate.len() + OVERHEAD).sum()
}

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const PRIVATE_KEY: u32 = 1;
const TRUSTED: u32 = 2;

/// What Java puts between password and content.
const WHITENER: &[u8] = b"Mighty Aphrodite";

/// 1.3.6.1.4.1.42.2.17.1.1 as DER.
const KEY_PROTECTOR: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x2a, 0x02, 0x11, 0x01, 0x01];

const SALT: usize = 20;
const SHA1: usize = 20;

/// More bytes than tag, time and lengths of an entry, or the digest at the end, take.
const OVERHEAD: usize = 64;
