//! Owns a further file of a generation, and another trust domain, while their settings are being read, and what must fit
//! together in them.

use std::path::PathBuf;

use super::{Fault, FederatedDomain};
use crate::identity::{TrustDomain, WorkerId};
use crate::store::{Content, ContentKind, FEDERATED_DOMAIN_LIMIT, FileName, FurtherFile, Keystore};

/// Each value of a `[[file]]` that has been read. A field is empty while its setting has no valid value.
#[derive(Debug, Clone, Default)]
pub(super) struct FileDraft {
    pub(super) name: Option<FileName>,
    pub(super) content: Option<ContentKind>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) alias: Option<String>,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

/// Who may read the files for which nobody says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readers {
    pub(super) key_mode: u32,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

impl FileDraft {
    /// What is wrong between values that are good one by one. `federated`: the domains of `[[federate]]`.
    pub(super) fn faults(&self, federated: &[&TrustDomain]) -> Vec<Fault> {
        let Some(content) = self.content else { return Vec::new() };
        let mut faults = Vec::new();
        let mut only = |name: &'static str, given: bool, wanted: bool, of: &str| match (given, wanted) {
            (true, false) => faults.push((name, format!("{of}, without which it means nothing"))),
            (false, true) => faults.push((name, format!("one, as `content` is `{}`", content.name()))),
            _ => {}
        };
        let keystore = content.is_keystore();
        only("password_file", self.password_file.is_some(), keystore, "a keystore as `content`");
        only("alias", self.alias.is_some(), keystore && self.alias.is_some(), "a keystore as `content`");
        let roots = content == ContentKind::FederatedRoots;
        only("trust_domain", self.trust_domain.is_some(), roots, "`federated-roots` as `content`");
        if content.holds_key() && self.mode.is_some_and(|mode| mode & 0o007 != 0) {
            faults.push(("mode", "one in which only owner and group read, as there is a key in it".to_owned()));
        }
        if let (true, Some(domain)) = (roots, &self.trust_domain)
            && !federated.contains(&domain)
        {
            faults.push(("trust_domain", "the trust domain of a table `[[federate]]`".to_owned()));
        }
        faults
    }

    /// The file, or the name of the first value that is missing.
    pub(super) fn assemble(self, worker_id: &WorkerId, readers: Readers) -> Result<FurtherFile, &'static str> {
        let name = self.name.ok_or("name")?;
        let kind = self.content.ok_or("content")?;
        let (password_file, alias, trust_domain) = (self.password_file, self.alias, self.trust_domain);
        let keystore = move || {
            let alias = alias.unwrap_or_else(|| worker_id.as_str().to_owned());
            Ok::<_, &'static str>(Keystore { password_file: password_file.ok_or("password_file")?, alias })
        };
        let content = match kind {
            ContentKind::Key => Content::Key,
            ContentKind::Leaf => Content::Leaf,
            ContentKind::Intermediates => Content::Intermediates,
            ContentKind::Certificate => Content::Certificate,
            ContentKind::Roots => Content::Roots,
            ContentKind::Crl => Content::Crl,
            ContentKind::CredentialBundle => Content::CredentialBundle,
            ContentKind::CertificateAndKey => Content::CertificateAndKey,
            ContentKind::FederatedRoots => Content::FederatedRoots(trust_domain.ok_or("trust_domain")?),
            ContentKind::Pkcs12 => Content::Pkcs12(keystore()?),
            ContentKind::Pkcs12Roots => Content::Pkcs12Roots(keystore()?),
            ContentKind::Jks => Content::Jks(keystore()?),
            ContentKind::JksRoots => Content::JksRoots(keystore()?),
        };
        let mode = match (self.mode, kind.holds_key(), self.group) {
            (Some(mode), ..) => mode,
            (None, false, _) => 0o644,
            (None, true, Some(_)) => 0o640,
            (None, true, None) => readers.key_mode,
        };
        let (owner, group) = (self.owner.or(readers.owner), self.group.or(readers.group));
        Ok(FurtherFile { name, content, mode, owner, group })
    }
}

/// Each value of a `[[federate]]` that has been read.
#[derive(Debug, Clone, Default)]
pub(super) struct FederationDraft {
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) roots_file: Option<PathBuf>,
}

impl FederationDraft {
    /// What is wrong between values that are good one by one.
    pub(super) fn faults(&self, own: Option<&TrustDomain>) -> Vec<Fault> {
        match &self.trust_domain {
            Some(domain) if Some(domain) == own => {
                vec![("trust_domain", "another trust domain than `identity.trust_domain`".to_owned())]
            }
            Some(domain) if domain.as_str().len() > FEDERATED_DOMAIN_LIMIT => {
                vec![(
                    "trust_domain",
                    format!("one of at most {FEDERATED_DOMAIN_LIMIT} bytes, as a file is named by it"),
                )]
            }
            _ => Vec::new(),
        }
    }

    /// The domain, or the name of the first value that is missing.
    pub(super) fn assemble(self) -> Result<FederatedDomain, &'static str> {
        let trust_domain = self.trust_domain.ok_or("trust_domain")?;
        Ok(FederatedDomain { trust_domain, roots_file: self.roots_file.ok_or("roots_file")? })
    }
}
