//! Owns what keystores of all formats have in common: a password, and the names of entries.

use std::fmt;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::error::{StoreError, shown};
use crate::bounded::read_file;
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

/// The shortest password: what Java's `keytool` takes.
const MINIMUM: usize = 6;
const MAXIMUM: usize = 256;

/// The largest password file, in bytes.
const LIMIT: u64 = 4096;
