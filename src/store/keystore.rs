//! Owns keystores: PKCS#12 files (RFC 7292), and the password of one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKey, PrivateKeyChain};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::error::{StoreError, shown};
use crate::bounded::read_file;
use crate::identity::CertificateBundle;
use crate::printable::error_chain;

/// The password of a keystore. Never shown.
pub(super) struct Password(Zeroizing<String>);

impl Password {
    /// Reads the password from a file, of which the last line break is not a part.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let wrong = |reason: String| StoreError::Password { path: shown(path), reason };
        let bytes = read_file(path, LIMIT).map_err(|error| wrong(error_chain(&error)))?;
        let text = std::str::from_utf8(&bytes).unwrap_or("\0");
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        // Java takes no others, and programs differ in how they encode them.
        let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !plain || !(MINIMUM..=MAXIMUM).contains(&text.len()) {
            return Err(wrong(format!("expected one line of {MINIMUM} to {MAXIMUM} printable ASCII characters")));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Key, leaf and intermediates as the one entry of a PKCS#12 file, encrypted by AES-256 under PBKDF2 with HMAC-SHA-256,
/// which Java since 8u301 and OpenSSL since 1.1.1 read.
pub(super) fn pkcs12(bundle: &CertificateBundle, password: &Password, alias: &str) -> Result<Vec<u8>, String> {
    let der = bundle.key().to_pkcs8_der().map_err(|error| error.to_string())?;
    let key = PrivateKey::from_der(&der).map_err(|error| error.to_string())?;
    let chain = bundle.chain().iter().map(certificate).collect::<Result<Vec<_>, _>>()?;
    let chain = PrivateKeyChain::new(bundle.leaf_digest().as_slice(), key, chain);
    let mut keystore = KeyStore::new();
    keystore.add_entry(alias, KeyStoreEntry::PrivateKeyChain(chain));
    keystore.writer(password.as_str()).write().map_err(|error| error.to_string())
}

/// The roots as trusted entries of a PKCS#12 file.
pub(super) fn pkcs12_roots(roots: &[CertificateDer<'_>], password: &Password, alias: &str) -> Result<Vec<u8>, String> {
    let mut keystore = KeyStore::new();
    for (alias, root) in aliases(alias, roots) {
        keystore.add_entry(&alias, KeyStoreEntry::Certificate(certificate(root)?));
    }
    keystore.writer(password.as_str()).write().map_err(|error| error.to_string())
}

/// Whether `bytes` are a PKCS#12 file under this password with what [`pkcs12`], or for `roots` [`pkcs12_roots`], puts
/// into it.
pub(super) fn is_pkcs12_of(bytes: &[u8], bundle: &CertificateBundle, password: &Password, roots: bool) -> bool {
    let Ok(found) = Pkcs12Archive::from_pkcs12(bytes, password.as_str()) else { return false };
    let expected = if roots { bundle.roots() } else { bundle.chain() };
    let keys = match (found.keys.as_slice(), bundle.key().to_pkcs8_der()) {
        ([], _) => roots,
        ([found], Ok(key)) => !roots && found.key.as_der() == key.as_slice(),
        _ => false,
    };
    let found: BTreeSet<&[u8]> = found.certs.iter().map(|certificate| certificate.cert.as_der()).collect();
    keys && found == expected.iter().map(AsRef::as_ref).collect()
}

/// The name of each root: that of the settings, and of the second and those after it with a number.
pub(super) fn aliases<'a, 'b>(
    alias: &'a str,
    roots: &'a [CertificateDer<'b>],
) -> impl Iterator<Item = (String, &'a CertificateDer<'b>)> {
    roots.iter().enumerate().map(move |(index, root)| match index {
        0 => (alias.to_owned(), root),
        index => (format!("{alias}-{}", index + 1), root),
    })
}

fn certificate(der: &CertificateDer<'_>) -> Result<Certificate, String> {
    Certificate::from_der(der).map_err(|error| error.to_string())
}

/// The shortest password: what Java's `keytool` takes.
const MINIMUM: usize = 6;
const MAXIMUM: usize = 256;

/// The largest password file, in bytes.
const LIMIT: u64 = 4096;
