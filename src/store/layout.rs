//! Owns the names in a certificate directory: the files of a generation, the links to them, the generations.

use std::borrow::Cow;
use std::fmt;

use time::{OffsetDateTime, UtcOffset};

use super::further::{Content, FurtherFile};
use crate::config::FilesConfig;
use crate::identity::{CertificateBundle, TrustDomain};

/// Leaf and intermediates as PEM, leaf first.
pub const CERTIFICATE_FILE: &str = "client.crt";

/// The private key as PKCS#8 PEM.
pub const KEY_FILE: &str = "client.key";

/// The trust roots as PEM.
pub const ROOTS_FILE: &str = "ca.crt";

/// The CRLs by which peers are judged, as PEM; where the CA publishes any.
pub const CRL_FILE: &str = "ca.crl";

/// Private key, then leaf and intermediates, in one file: whole by one open.
pub const CREDENTIAL_BUNDLE_FILE: &str = "credential-bundle.pem";

/// The link that names the current generation.
pub const DATA_LINK: &str = "..data";

/// What [`DATA_LINK`] is made as before it is moved into place.
pub(super) const DATA_TEMPORARY: &str = "..data_tmp";

const TEMPORARY_SUFFIX: &str = "_tmp";

/// What is kept beside a certificate for the agent alone.
const RECORD_FILE: &str = ".renewal.json";

/// Held by the agent that writes the directory.
pub(super) const LOCK_FILE: &str = ".crank-agent.lock";

/// The mode of a generation under construction: nobody else's business.
pub(super) const UNFINISHED_MODE: u32 = 0o700;

/// The mode of a finished generation: readers pass, the files protect themselves.
pub(super) const FINISHED_MODE: u32 = 0o755;

/// The largest file that is read, in bytes.
pub(super) const FILE_LIMIT: u64 = 1024 * 1024;

/// The largest [`CRL_FILE`] that is read, in bytes: above the largest that may be configured, as PEM.
pub(super) const CRL_FILE_LIMIT: u64 = 96 * 1024 * 1024;

/// What the record of a generation is written as before it takes the place of the one before.
pub(super) const RECORD_TEMPORARY: &str = "..renewal.json_tmp";

/// What the name of a file with the roots of another trust domain begins with; its name follows, and `.crt`.
pub const FEDERATED_PREFIX: &str = "federated.";

/// What such a name ends with.
pub(super) const FEDERATED_SUFFIX: &str = ".crt";

/// A file of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishedFile<'a> {
    CredentialBundle,
    Key,
    Certificate,
    Roots,
    Crl,
    /// The roots of another trust domain.
    Federated(&'a TrustDomain),
    Further(&'a FurtherFile),
    Record,
}

impl<'a> PublishedFile<'a> {
    /// The files that every generation with a certificate has, and that have a stable link.
    pub(super) const ALWAYS: [Self; 4] = [Self::Roots, Self::Key, Self::Certificate, Self::CredentialBundle];

    /// The files with a stable link in a generation of `bundle`, in the order in which they are written and linked: the
    /// key before its certificate.
    pub(super) fn linked(config: &'a FilesConfig, bundle: &'a CertificateBundle) -> Vec<Self> {
        let crl = (!bundle.crls().is_empty()).then_some(Self::Crl);
        let federated = bundle.federated().keys().map(Self::Federated);
        let there = |file: &&FurtherFile| match &file.content {
            Content::Crl => !bundle.crls().is_empty(),
            Content::FederatedRoots(domain) => bundle.federated().contains_key(domain),
            _ => true,
        };
        let further = config.further.iter().filter(there).map(Self::Further);
        Self::ALWAYS.into_iter().chain(crl).chain(federated).chain(further).collect()
    }

    /// Whether it is of the roots or CRLs alone, and so stays when a certificate is withdrawn.
    pub(super) fn is_of_peers(self) -> bool {
        match self {
            Self::Roots | Self::Crl | Self::Federated(_) => true,
            Self::Further(file) => file.content.kind().is_of_peers(),
            _ => false,
        }
    }

    /// Whether the certificate serves without it.
    pub(super) fn is_optional(self) -> bool {
        match self {
            Self::Crl | Self::Federated(_) | Self::Record => true,
            Self::Further(file) => matches!(file.content, Content::Crl | Content::FederatedRoots(_)),
            _ => false,
        }
    }

    /// The most bytes that are read of it.
    pub(super) fn limit(self) -> u64 {
        match self {
            Self::Crl => CRL_FILE_LIMIT,
            Self::Further(file) if file.content == Content::Crl => CRL_FILE_LIMIT,
            _ => FILE_LIMIT,
        }
    }

    pub(super) fn name(self) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Self::CredentialBundle => CREDENTIAL_BUNDLE_FILE,
            Self::Key => KEY_FILE,
            Self::Certificate => CERTIFICATE_FILE,
            Self::Roots => ROOTS_FILE,
            Self::Crl => CRL_FILE,
            Self::Federated(domain) => return Cow::Owned(federated_name(domain)),
            Self::Further(file) => file.name.as_str(),
            Self::Record => RECORD_FILE,
        })
    }

    pub(super) fn protection(self, config: &FilesConfig) -> Protection {
        let mode = match self {
            Self::CredentialBundle | Self::Key => config.key_mode,
            Self::Certificate | Self::Roots | Self::Crl | Self::Federated(_) => 0o644,
            Self::Further(file) => return Protection { mode: file.mode, owner: file.owner, group: file.group },
            // Read by the agent alone.
            Self::Record => return Protection { mode: 0o600, owner: None, group: None },
        };
        Protection { mode, owner: config.owner, group: config.group }
    }
}

/// The longest trust domain, in bytes, that can be the name of a file in full.
pub const FEDERATED_DOMAIN_LIMIT: usize = 240;

/// The file of the roots of `domain`.
#[must_use]
pub fn federated_name(domain: &TrustDomain) -> String {
    format!("{FEDERATED_PREFIX}{}{FEDERATED_SUFFIX}", domain.as_str())
}

/// The trust domain whose roots are in the file of this name.
pub(super) fn federated_domain(name: &str) -> Option<TrustDomain> {
    TrustDomain::new(name.strip_prefix(FEDERATED_PREFIX)?.strip_suffix(FEDERATED_SUFFIX)?).ok()
}

/// What the stable link of this name says.
pub(super) fn link_target(name: &str) -> String {
    format!("{DATA_LINK}/{name}")
}

/// What the stable link of this name is made as before it is moved into place.
pub(super) fn link_temporary(name: &str) -> String {
    format!("..{name}{TEMPORARY_SUFFIX}")
}

/// Whether a link of this name was on its way into place when its maker stopped.
pub(super) fn is_link_temporary(name: &str) -> bool {
    name.starts_with("..") && name.ends_with(TEMPORARY_SUFFIX)
}

/// Who may read a file. No group: the one that the file system gives, which a set-group-id directory decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) mode: u32,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

/// The name of a generation that this program made: `..2026_08_20_12_34_56.9f3c2a1b00d4e5f6`. The time is for people;
/// the random part keeps names apart when the clock stands still or goes back, and from those of the kubelet, which end
/// in fewer digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GenerationName(String);

impl GenerationName {
    pub(super) fn new(now: OffsetDateTime, random: u64) -> Self {
        let now = now.to_offset(UtcOffset::UTC);
        Self(format!(
            "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}.{random:016x}",
            now.year().clamp(0, 9999),
            u8::from(now.month()),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
        ))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        const PATTERN: &[u8] = b"..dddd_dd_dd_dd_dd_dd.xxxxxxxxxxxxxxxx";
        let fits = text.len() == PATTERN.len()
            && text.bytes().zip(PATTERN).all(|(byte, pattern)| match pattern {
                b'd' => byte.is_ascii_digit(),
                b'x' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
                exact => byte == *exact,
            });
        fits.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GenerationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `..data` may lead to `target`: a hidden directory right beside it, made by this program or by another that
/// keeps the same layout.
pub(super) fn is_generation_beside(target: &str) -> bool {
    target.len() > 2
        && target.len() < 256
        && target.starts_with("..")
        && !target.contains(['/', '\0'])
        && target != DATA_LINK
        && target != DATA_TEMPORARY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_made_is_recognised(seconds in -400_000_000_000_i64..300_000_000_000, random: u64) {
            let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let name = GenerationName::new(now, random);
            prop_assert_eq!(GenerationName::parse(name.as_str()), Some(name.clone()));
            prop_assert!(is_generation_beside(name.as_str()));
        }

        #[test]
        fn names_differ_when_the_clock_stands_still(first: u64, second: u64) {
            prop_assume!(first != second);
            let now = OffsetDateTime::UNIX_EPOCH;
            prop_assert_ne!(GenerationName::new(now, first), GenerationName::new(now, second));
        }

        #[test]
        fn nothing_that_leads_elsewhere_is_beside(prefix in "[./a-z]{0,6}", rest in ".{0,12}") {
            let target = format!("{prefix}{rest}");
            if is_generation_beside(&target) {
                prop_assert!(!target.contains('/') && target != ".." && target != "." && !target.is_empty());
            }
        }
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for foreign in [
            "..data",
            "..2026_08_20_12_34_56.123456789",
            "..2026_08_20_12_34_56.9F3C2A1B00D4E5F6",
            "..2026_08_20_12_34_56.9f3c2a1b00d4e5f6x",
            ".2026_08_20_12_34_56.9f3c2a1b00d4e5f60",
            "../026_08_20_12_34_56.9f3c2a1b00d4e5f6",
            "",
        ] {
            assert_eq!(GenerationName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn generations_of_the_kubelet_may_be_read() {
        assert!(is_generation_beside("..2026_08_20_12_34_56.123456789"));
        for elsewhere in ["..", "/etc", "../x", "..x/y", "x", "..data", "..data_tmp"] {
            assert!(!is_generation_beside(elsewhere), "{elsewhere}");
        }
    }
}
