//! Owns what a generation may hold beside the files that are always in it: further files, by name and content.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use super::layout::{CERTIFICATE_FILE, CREDENTIAL_BUNDLE_FILE, CRL_FILE, FEDERATED_PREFIX, KEY_FILE, ROOTS_FILE};
use crate::identity::TrustDomain;

/// The name of a further file: a file of its own in the certificate directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// Takes a name.
    ///
    /// # Errors
    /// The text says what was expected.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if !plain || text.starts_with('.') || !(1..=100).contains(&text.len()) {
            return Err("a file name of at most 100 letters, digits, `.`, `-` and `_` that does not begin with `.`");
        }
        let always = [CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE, CRL_FILE, CREDENTIAL_BUNDLE_FILE];
        if always.contains(&text) || text.starts_with(FEDERATED_PREFIX) {
            return Err("another name than that of a file that is there anyway");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A further file of each generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherFile {
    /// Its name in the certificate directory.
    pub name: FileName,
    /// What is in it.
    pub content: Content,
    /// Its mode.
    pub mode: u32,
    /// The numeric user id to own it; `None`: the agent's own.
    pub owner: Option<u32>,
    /// The numeric group id to own it; `None`: the one that the file system gives.
    pub group: Option<u32>,
}

/// What is in a further file, with all that it takes to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The key as PKCS#8 PEM.
    Key,
    /// The leaf alone as PEM.
    Leaf,
    /// The intermediates without the leaf as PEM; empty where there are none.
    Intermediates,
    /// Leaf and intermediates as PEM.
    Certificate,
    /// The roots as PEM.
    Roots,
    /// The CRLs as PEM; no file where there are none.
    Crl,
    /// Key, leaf, intermediates as PEM.
    CredentialBundle,
    /// Leaf, intermediates, key as PEM, the order that `HAProxy` documents.
    CertificateAndKey,
    /// The roots of another trust domain as PEM; no file where none are known.
    FederatedRoots(TrustDomain),
    /// Key, leaf and intermediates as one entry of a PKCS#12 file (RFC 7292).
    Pkcs12(Keystore),
    /// The roots as trusted entries of a PKCS#12 file.
    Pkcs12Roots(Keystore),
    /// Key, leaf and intermediates as one entry of a Java keystore.
    Jks(Keystore),
    /// The roots as trusted entries of a Java keystore.
    JksRoots(Keystore),
}

/// What it takes to make a keystore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keystore {
    /// The file with its password, read anew for every publication.
    pub password_file: PathBuf,
    /// The name of the entry; of several roots with a number.
    pub alias: String,
}

/// What is in a further file, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as those of Content")]
pub enum ContentKind {
    Key,
    Leaf,
    Intermediates,
    Certificate,
    Roots,
    Crl,
    CredentialBundle,
    CertificateAndKey,
    FederatedRoots,
    Pkcs12,
    Pkcs12Roots,
    Jks,
    JksRoots,
}

impl ContentKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Key,
        Self::Leaf,
        Self::Intermediates,
        Self::Certificate,
        Self::Roots,
        Self::Crl,
        Self::CredentialBundle,
        Self::CertificateAndKey,
        Self::FederatedRoots,
        Self::Pkcs12,
        Self::Pkcs12Roots,
        Self::Jks,
        Self::JksRoots,
    ];

    /// The name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Leaf => "leaf",
            Self::Intermediates => "intermediates",
            Self::Certificate => "certificate",
            Self::Roots => "roots",
            Self::Crl => "crl",
            Self::CredentialBundle => "credential-bundle",
            Self::CertificateAndKey => "certificate-and-key",
            Self::FederatedRoots => "federated-roots",
            Self::Pkcs12 => "pkcs12",
            Self::Pkcs12Roots => "pkcs12-roots",
            Self::Jks => "jks",
            Self::JksRoots => "jks-roots",
        }
    }

    /// Whether the private key is in it.
    #[must_use]
    pub fn holds_key(self) -> bool {
        matches!(self, Self::Key | Self::CredentialBundle | Self::CertificateAndKey | Self::Pkcs12 | Self::Jks)
    }

    /// Whether it has a password.
    #[must_use]
    pub fn is_keystore(self) -> bool {
        matches!(self, Self::Pkcs12 | Self::Pkcs12Roots | Self::Jks | Self::JksRoots)
    }

    /// Whether it is of the roots or CRLs alone, and so stays when a certificate is withdrawn.
    pub(super) fn is_of_peers(self) -> bool {
        matches!(self, Self::Roots | Self::Crl | Self::FederatedRoots | Self::Pkcs12Roots | Self::JksRoots)
    }
}

impl FromStr for ContentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(|kind| format!("`{}`", kind.name())).collect();
            format!("one of {}", names.join(", "))
        })
    }
}

impl Content {
    /// Which content it is.
    #[must_use]
    pub fn kind(&self) -> ContentKind {
        match self {
            Self::Key => ContentKind::Key,
            Self::Leaf => ContentKind::Leaf,
            Self::Intermediates => ContentKind::Intermediates,
            Self::Certificate => ContentKind::Certificate,
            Self::Roots => ContentKind::Roots,
            Self::Crl => ContentKind::Crl,
            Self::CredentialBundle => ContentKind::CredentialBundle,
            Self::CertificateAndKey => ContentKind::CertificateAndKey,
            Self::FederatedRoots(_) => ContentKind::FederatedRoots,
            Self::Pkcs12(_) => ContentKind::Pkcs12,
            Self::Pkcs12Roots(_) => ContentKind::Pkcs12Roots,
            Self::Jks(_) => ContentKind::Jks,
            Self::JksRoots(_) => ContentKind::JksRoots,
        }
    }

    /// The settings of a keystore; `None`: it is none.
    #[must_use]
    pub fn keystore(&self) -> Option<&Keystore> {
        match self {
            Self::Pkcs12(keystore) | Self::Pkcs12Roots(keystore) | Self::Jks(keystore) | Self::JksRoots(keystore) => {
                Some(keystore)
            }
            _ => None,
        }
    }
}

/// What tells one set of further files from another, for the record of a generation. Modes and owners are compared on the
/// disk, and passwords by the keystores.
pub(super) fn describe(files: &[FurtherFile]) -> String {
    let mut text = String::new();
    for file in files {
        let alias = file.content.keystore().map_or("", |keystore| &keystore.alias);
        let domain = match &file.content {
            Content::FederatedRoots(domain) => domain.as_str(),
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {alias}{domain}", file.name.as_str(), file.content.kind().name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_directory_and_beside_what_is_there() {
        for good in ["haproxy.pem", "svid_key.pem", "A-1", "keystore.p12"] {
            assert_eq!(FileName::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(101);
        for bad in ["", ".", "..", "..data", ".hidden", "a/b", "../x", "client.key", "ca.crl", "a b", "a\n", &long] {
            assert!(FileName::new(bad).is_err(), "{bad}");
        }
        assert!(FileName::new("federated.example.org.crt").is_err());
    }

    #[test]
    fn every_kind_is_read_by_its_name() {
        for kind in ContentKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("pem".parse::<ContentKind>().unwrap_err().contains("`pkcs12-roots`"));
    }
}
