//! Owns private keys: making them, holding them, wiping them. Nothing here prints one.

use std::fmt;
use std::str::FromStr;

use pkcs8::spki::SubjectPublicKeyInfoRef;
use pkcs8::{LineEnding, PrivateKeyInfo, SecretDocument};
use rcgen::{KeyPair, PublicKeyData, RsaKeySize};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::sha256;

/// The algorithm and size of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519 (RFC 8410). Few TLS servers and no browser take it.
    Ed25519,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 3072 bits.
    Rsa3072,
    /// RSA of 4096 bits; takes seconds to make.
    Rsa4096,
}

impl KeyType {
    /// Every key type, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::Ed25519, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The name used in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyType {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL.into_iter().find(|key_type| key_type.name() == text).ok_or(KeyError::UnknownType)
    }
}

/// A key that cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name of a key type is none of [`KeyType::ALL`].
    #[error("expected one of ecdsa-p256, ecdsa-p384, ed25519, rsa-2048, rsa-3072, rsa-4096")]
    UnknownType,
    /// The crypto library could not make a key.
    #[error("cannot generate a {0} key")]
    Generation(KeyType),
    /// The bytes are no PEM private key in PKCS#8, SEC1 or PKCS#1.
    #[error("not a PEM private key (PKCS#8, SEC1 or PKCS#1, unencrypted)")]
    Unreadable,
}

/// A private key. Wiped on drop; its `Debug` shows nothing; it can be neither cloned nor serialised by serde.
pub struct PrivateKey {
    pair: KeyPair,
}

impl PrivateKey {
    /// Makes a fresh key. RSA takes up to seconds: call it off the async threads.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let pair = match key_type {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            KeyType::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
            KeyType::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        };
        pair.map(|pair| Self { pair }).map_err(|_| KeyError::Generation(key_type))
    }

    /// Reads a PEM private key: `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (SEC1) or `RSA PRIVATE KEY` (PKCS#1). Text
    /// around the PEM block is ignored.
    ///
    /// # Errors
    /// When there is no such block, it is encrypted, or the key is of a kind that is not supported.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        use rustls::pki_types::pem::PemObject;
        // What this program writes is read without a copy left behind; of other forms, the decoder leaves one.
        let own = std::str::from_utf8(pem).ok().and_then(|text| SecretDocument::from_pem(text).ok());
        if let Some((PKCS8_LABEL, document)) = own {
            return Self::from_pkcs8_der(document.as_bytes());
        }
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Unreadable)?;
        let pair = KeyPair::try_from(&der).map_err(|_| KeyError::Unreadable);
        der.zeroize();
        pair.map(|pair| Self { pair })
    }

    /// Reads an unencrypted PKCS#8 key as DER. No copy is left behind but that of `der`, which is the caller's.
    ///
    /// # Errors
    /// When it does not parse, or the key is of a kind that is not supported.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der));
        pair.map(|pair| Self { pair }).map_err(|_| KeyError::Unreadable)
    }

    /// The key as PKCS#8 PEM, in memory that is wiped on drop.
    ///
    /// # Errors
    /// When a key read from SEC1 or PKCS#1 cannot be re-encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let document = SecretDocument::try_from(self.pair.serialized_der()).map_err(|_| KeyError::Unreadable)?;
        document.to_pem(self.pem_label(), LineEnding::LF).map_err(|_| KeyError::Unreadable)
    }

    /// The key as unencrypted PKCS#8 DER, whatever form it was read in; in memory that is wiped on drop.
    ///
    /// # Errors
    /// When a key read from SEC1 or PKCS#1 cannot be re-encoded.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let der = self.pair.serialized_der();
        if self.pem_label() == PKCS8_LABEL {
            return Ok(Zeroizing::new(der.to_vec()));
        }
        // Both older forms are what PKCS#8 wraps (RFC 5958, section 2), under the algorithm of the public key.
        let public = self.public_key_der();
        let public = SubjectPublicKeyInfoRef::try_from(public.as_slice()).map_err(|_| KeyError::Unreadable)?;
        let document = SecretDocument::encode_msg(&PrivateKeyInfo::new(public.algorithm, der));
        document.map(|document| document.to_bytes()).map_err(|_| KeyError::Unreadable)
    }

    /// The key for rustls. rustls keeps its own copy for as long as it uses it.
    #[must_use]
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        let bytes = self.pair.serialized_der().to_vec();
        PrivateKeyDer::try_from(bytes)
            .unwrap_or_else(|_| PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialized_der().to_vec())))
    }

    /// A second copy of the key, wiped like the first. For putting it into another bundle, and no other use.
    pub(crate) fn try_clone(&self) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::try_from(self.pair.serialized_der()).map_err(|_| KeyError::Unreadable)?;
        KeyPair::try_from(&der).map(|pair| Self { pair }).map_err(|_| KeyError::Unreadable)
    }

    /// DER of the public key (`SubjectPublicKeyInfo`).
    #[must_use]
    pub fn public_key_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// SHA-256 of [`public_key_der`](Self::public_key_der).
    #[must_use]
    pub fn public_key_digest(&self) -> [u8; 32] {
        sha256(&self.public_key_der())
    }

    /// For signing with rcgen.
    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    fn pem_label(&self) -> &'static str {
        match PrivateKeyDer::try_from(self.pair.serialized_der()) {
            Ok(PrivateKeyDer::Sec1(_)) => "EC PRIVATE KEY",
            Ok(PrivateKeyDer::Pkcs1(_)) => "RSA PRIVATE KEY",
            _ => PKCS8_LABEL,
        }
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

const PKCS8_LABEL: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_type_is_made_written_and_read_back() {
        for key_type in KeyType::ALL {
            let key = PrivateKey::generate(key_type).unwrap();
            let pem = key.to_pem().unwrap();
            assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key_type}");
            let again = PrivateKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(key.public_key_der(), again.public_key_der(), "{key_type}");
            assert_eq!(key_type.name().parse(), Ok(key_type));
        }
    }

    #[test]
    fn pkcs8_is_made_of_the_older_forms() {
        for key_type in KeyType::ALL {
            let key = PrivateKey::generate(key_type).unwrap();
            let der = key.to_pkcs8_der().unwrap();
            let inner = PrivateKeyInfo::try_from(der.as_slice()).unwrap().private_key;
            let label = match key_type {
                KeyType::EcdsaP256 | KeyType::EcdsaP384 => "EC PRIVATE KEY",
                KeyType::Ed25519 => continue,
                KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => "RSA PRIVATE KEY",
            };
            let older = pkcs8::der::pem::encode_string(label, LineEnding::LF, inner).unwrap();
            let older = PrivateKey::from_pem(older.as_bytes()).unwrap();
            assert_eq!(older.pem_label(), label);
            let again = older.to_pkcs8_der().unwrap();
            let again = KeyPair::try_from(&PrivatePkcs8KeyDer::from(again.as_slice())).unwrap();
            assert_eq!(again.subject_public_key_info(), key.public_key_der(), "{key_type}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
    }

    #[test]
    fn garbage_is_unreadable() {
        for bad in [&b""[..], b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(PrivateKey::from_pem(bad).unwrap_err(), KeyError::Unreadable);
        }
    }
}
