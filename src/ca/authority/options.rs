//! Owns what `init` needs to know.

use super::KeySettings;
use super::files::Settings;
use crate::identity::{KeyType, TrustDomain};

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

impl InitOptions {
    pub(super) fn settings(&self) -> Settings {
        Settings { trust_domain: self.trust_domain.clone(), name: Some(self.name.clone()), generation: 1 }
    }
}
