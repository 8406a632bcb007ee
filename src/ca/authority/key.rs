//! Owns the CA's keys at rest: plain or encrypted PKCS#8 files, opened with a passphrase from another file.

use std::path::{Path, PathBuf};

use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{EncryptionScheme, scrypt};
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo, SecretDocument};
use rcgen::{PublicKeyData, SigningKey};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::AuthorityError;
use super::files;
use crate::identity::PrivateKey;

/// How the CA's keys are opened, and protected when they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySettings {
    /// A file with the passphrase of encrypted keys, read each time that keys are. One line; neither writable by the
    /// group nor open to others.
    pub passphrase_file: Option<PathBuf>,
}

/// A key that signs certificates.
#[derive(Debug)]
pub(crate) enum IssuerKey {
    /// In this process's memory.
    Local(PrivateKey),
    /// In a hardware security module.
    #[cfg(feature = "pkcs11")]
    Token(super::pkcs11::TokenKey),
}

impl IssuerKey {
    /// DER of the public key (`SubjectPublicKeyInfo`).
    pub(crate) fn public_key_der(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    /// The key itself, where it is in memory.
    #[cfg_attr(not(feature = "pkcs11"), expect(clippy::unnecessary_wraps, reason = "a key in a module is none"))]
    pub(crate) fn local(&self) -> Option<&PrivateKey> {
        match self {
            Self::Local(key) => Some(key),
            #[cfg(feature = "pkcs11")]
            Self::Token(_) => None,
        }
    }

    /// Whether signing may take long and has to be kept off the async threads.
    #[cfg_attr(not(feature = "pkcs11"), expect(clippy::unused_self, reason = "keys of modules are slow"))]
    pub(crate) fn is_slow(&self) -> bool {
        #[cfg(feature = "pkcs11")]
        return matches!(self, Self::Token(_));
        #[cfg(not(feature = "pkcs11"))]
        false
    }
}

impl PublicKeyData for IssuerKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Local(key) => key.pair().der_bytes(),
            #[cfg(feature = "pkcs11")]
            Self::Token(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::Local(key) => key.pair().algorithm(),
            #[cfg(feature = "pkcs11")]
            Self::Token(key) => key.algorithm(),
        }
    }
}

impl SigningKey for IssuerKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Local(key) => key.pair().sign(message),
            #[cfg(feature = "pkcs11")]
            Self::Token(key) => key.sign(message),
        }
    }
}

impl KeySettings {
    /// The PEM of `key` for a file: encrypted where there is a passphrase.
    pub(super) fn encode(&self, key: &PrivateKey) -> Result<Zeroizing<String>, AuthorityError> {
        let failed = || AuthorityError::Generation { what: "key" };
        let plain = key.to_pem().map_err(|_| failed())?;
        match self.passphrase()? {
            None => Ok(plain),
            Some(passphrase) => encrypt(&plain, &passphrase).ok_or_else(failed),
        }
    }

    /// The key in the file at `path`, whose content is `pem`.
    pub(super) fn decode(&self, path: &Path, pem: &[u8]) -> Result<PrivateKey, AuthorityError> {
        let invalid = |reason: String| AuthorityError::Invalid { path: path.to_owned(), reason };
        let locked = |reason: String| AuthorityError::Locked { path: path.to_owned(), reason };
        let Some(encrypted) = encrypted_document(pem) else {
            return PrivateKey::from_pem(pem).map_err(|error| invalid(error.to_string()));
        };
        let Some(passphrase) = self.passphrase()? else {
            return Err(locked("the key is encrypted: give its passphrase with --passphrase-file".to_owned()));
        };
        let info = EncryptedPrivateKeyInfo::try_from(encrypted.as_bytes())
            .map_err(|_| invalid("is no encrypted PKCS#8 key".to_owned()))?;
        if !is_affordable(&info.encryption_algorithm) {
            let reason =
                "is encrypted in another way than PBES2 with scrypt or PBKDF2, or at a cost beyond all measure";
            return Err(invalid(reason.to_owned()));
        }
        let file = self.passphrase_file.as_deref().unwrap_or(Path::new("")).display();
        let wrong = || locked(format!("the passphrase in {file} does not open this key"));
        let document = info.decrypt(passphrase.as_slice()).map_err(|_| wrong())?;
        // A wrong passphrase passes the padding once in 256 times.
        let pem = document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|_| wrong())?;
        PrivateKey::from_pem(pem.as_bytes()).map_err(|_| wrong())
    }

    fn passphrase(&self) -> Result<Option<Zeroizing<Vec<u8>>>, AuthorityError> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        secret_line(path, "expected a passphrase of one line").map(Some)
    }
}

/// The one line of a file that holds a secret.
pub(super) fn secret_line(path: &Path, expected: &str) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let content = files::read_private(path)?;
    files::check_secret(path)?;
    let line = content.strip_suffix(b"\n").unwrap_or(&content);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.contains(&b'\n') {
        return Err(AuthorityError::Locked { path: path.to_owned(), reason: expected.to_owned() });
    }
    Ok(Zeroizing::new(line.to_vec()))
}

fn encrypted_document(pem: &[u8]) -> Option<SecretDocument> {
    let text = std::str::from_utf8(pem).ok()?;
    let (label, document) = SecretDocument::from_pem(text).ok()?;
    (label == ENCRYPTED).then_some(document)
}

fn encrypt(pem: &str, passphrase: &[u8]) -> Option<Zeroizing<String>> {
    let (_, plain) = SecretDocument::from_pem(pem).ok()?;
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    aws_lc_rs::rand::fill(&mut salt).ok()?;
    aws_lc_rs::rand::fill(&mut iv).ok()?;
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P, 32).ok()?;
    let parameters = Parameters::scrypt_aes256cbc(cost, &salt, &iv).ok()?;
    let info = PrivateKeyInfo::try_from(plain.as_bytes()).ok()?;
    info.encrypt_with_params(parameters, passphrase).ok()?.to_pem(ENCRYPTED, LineEnding::LF).ok()
}

/// Whether opening takes no more than some seconds and some hundred megabytes.
fn is_affordable(scheme: &EncryptionScheme<'_>) -> bool {
    let EncryptionScheme::Pbes2(parameters) = scheme else { return false };
    match &parameters.kdf {
        Kdf::Scrypt(scrypt) => {
            let blocks = u64::from(scrypt.block_size) * u64::from(scrypt.parallelization);
            scrypt.cost_parameter.checked_mul(128 * blocks.max(1)).is_some_and(|bytes| bytes <= SCRYPT_LIMIT)
        }
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count <= PBKDF2_LIMIT,
        _ => false,
    }
}

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// With `r` of 8 and `p` of 5: 16 MiB, and a quarter of a second. OpenSSL opens no keys that take 32 MiB.
const SCRYPT_LOG_N: u8 = 14;

const SCRYPT_R: u32 = 8;

const SCRYPT_P: u32 = 5;

/// In bytes of `128 N r p`.
const SCRYPT_LIMIT: u64 = 256 * 1024 * 1024;

const PBKDF2_LIMIT: u32 = 10_000_000;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::identity::KeyType;

    fn settings(directory: &TempDir, passphrase: &str, mode: u32) -> KeySettings {
        let path = directory.path().join("passphrase");
        let _ = fs::remove_file(&path);
        fs::write(&path, passphrase).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        KeySettings { passphrase_file: Some(path) }
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_and_no_other() {
        let directory = TempDir::new().unwrap();
        let key = PrivateKey::generate(KeyType::EcdsaP384).unwrap();
        let path = Path::new("issuing.key");
        let pem = settings(&directory, "correct horse\n", 0o600).encode(&key).unwrap();
        assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        for good in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let opened = settings(&directory, good, 0o440).decode(path, pem.as_bytes()).unwrap();
            assert_eq!(opened.public_key_der(), key.public_key_der());
        }
        let error = settings(&directory, "wrong", 0o600).decode(path, pem.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("issuing.key: the passphrase in /") && error.ends_with("does not open this key"));
        let error = KeySettings::default().decode(path, pem.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "issuing.key: the key is encrypted: give its passphrase with --passphrase-file");
    }

    #[test]
    fn a_passphrase_file_that_is_missing_empty_or_open_to_others_is_refused() {
        let directory = TempDir::new().unwrap();
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        for bad in ["", "\n", "two\nlines\n"] {
            let error = settings(&directory, bad, 0o600).encode(&key).unwrap_err().to_string();
            assert!(error.ends_with("expected a passphrase of one line"), "{error}");
        }
        for mode in [0o604, 0o644, 0o660, 0o666] {
            let error = settings(&directory, "p", mode).encode(&key).unwrap_err();
            assert!(matches!(error, AuthorityError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
        let missing = KeySettings { passphrase_file: Some(directory.path().join("nowhere")) };
        assert!(matches!(missing.encode(&key), Err(AuthorityError::File { action: "read", .. })));
    }

    #[test]
    fn what_would_take_all_memory_or_all_day_is_not_tried() {
        let cost = |log_n| scrypt::Params::new(log_n, 8, 1, 32).unwrap();
        let (salt, iv) = ([0; 16], [0; 16]);
        let affordable = |parameters| is_affordable(&EncryptionScheme::Pbes2(parameters));
        assert!(affordable(Parameters::scrypt_aes256cbc(cost(17), &salt, &iv).unwrap()));
        assert!(!affordable(Parameters::scrypt_aes256cbc(cost(24), &salt, &iv).unwrap()));
        assert!(affordable(Parameters::pbkdf2_sha256_aes256cbc(600_000, &salt, &iv).unwrap()));
        assert!(!affordable(Parameters::pbkdf2_sha256_aes256cbc(50_000_000, &salt, &iv).unwrap()));
    }
}
