//! Owns the comparison of the disk with what was published: changes made by someone else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use rustix::fs::Stat;
use rustix::process::geteuid;
use time::OffsetDateTime;

use super::content::password_digest;
use super::directory::Directory;
use super::error::StoreError;
use super::layout::{DATA_LINK, Protection, PublishedFile, link_target};
use super::links::{DataLink, StableLink, stable_link};
use crate::config::FilesConfig;
use crate::crypto::sha256;
use crate::identity::CertificateBundle;

/// Something in the certificate directory that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file or link, relative to the certificate directory; `.` is the directory itself.
    pub path: String,
    /// What is different.
    pub kind: ChangeKind,
}

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is not there.
    Missing,
    /// The link leads elsewhere, or is not a link.
    Redirected,
    /// The content is another, or something that is not a file stands in its place.
    Content,
    /// The mode is another.
    Mode {
        /// The mode found.
        found: u32,
        /// The mode it should have.
        expected: u32,
    },
    /// It is a keystore under another password than that of its password file.
    Password,
    /// The owner or group is another.
    Owner {
        /// User id found.
        user: u32,
        /// Group id found.
        group: u32,
    },
}

impl Change {
    /// Whether a reader may miss the certificate or read another. A mode or owner is to be put right too, but the
    /// certificate is there.
    #[must_use]
    pub fn hides_certificate(&self) -> bool {
        match self.kind {
            ChangeKind::Missing | ChangeKind::Redirected | ChangeKind::Content => true,
            ChangeKind::Mode { .. } | ChangeKind::Owner { .. } | ChangeKind::Password => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.kind {
            ChangeKind::Missing => write!(f, "{path} is missing"),
            ChangeKind::Redirected => write!(f, "{path} leads elsewhere"),
            ChangeKind::Content => write!(f, "{path} has another content"),
            ChangeKind::Mode { found, expected } => write!(f, "{path} has mode {found:04o} instead of {expected:04o}"),
            ChangeKind::Password => write!(f, "{path} has another password than its password file"),
            ChangeKind::Owner { user, group } => write!(f, "{path} belongs to {user}:{group}"),
        }
    }
}

/// What was published: each file, and the dates of the certificate.
#[derive(Debug, Clone)]
pub(super) struct Baseline {
    pub(super) generation: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    /// By name.
    files: BTreeMap<String, ExpectedFile>,
}

/// A file as it was published.
#[derive(Debug, Clone)]
struct ExpectedFile {
    digest: [u8; 32],
    protection: Protection,
    limit: u64,
    /// Whether there is a stable link to it.
    linked: bool,
    /// Whether the certificate serves without it.
    optional: bool,
    /// The password file, and the digest of the password in it.
    password: Option<(PathBuf, [u8; 32])>,
}

impl Baseline {
    pub(super) fn new(generation: String, bundle: &CertificateBundle) -> Self {
        let (not_before, not_after) = (bundle.not_before(), bundle.not_after());
        Self { generation, not_before, not_after, files: BTreeMap::new() }
    }

    /// `file` is expected to have content with this SHA-256, and the password one with that.
    pub(super) fn expect(
        &mut self,
        file: PublishedFile<'_>,
        config: &FilesConfig,
        digest: [u8; 32],
        password: Option<[u8; 32]>,
    ) {
        let password_file = match file {
            PublishedFile::Further(further) => further.content.keystore().map(|keystore| &keystore.password_file),
            _ => None,
        };
        let expected = ExpectedFile {
            digest,
            protection: file.protection(config),
            limit: file.limit(),
            linked: file != PublishedFile::Record,
            optional: file.is_optional(),
            password: password_file.cloned().zip(password),
        };
        self.files.insert(file.name().into_owned(), expected);
    }

    /// The names that have a stable link.
    pub(super) fn linked(&self) -> Vec<String> {
        self.files.iter().filter(|(_, file)| file.linked).map(|(name, _)| name.clone()).collect()
    }

    /// The same for those files only without which there is no certificate.
    pub(super) fn of_certificate(mut self) -> Self {
        self.files.retain(|_, file| !file.optional);
        self
    }
}

/// The stable links of these names that are not as they should be.
pub(super) fn changed_links(directory: &Directory, names: &[String]) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for name in names {
        let kind = match stable_link(directory, name)? {
            StableLink::Ours => continue,
            StableLink::Missing => ChangeKind::Missing,
            StableLink::PlainFile | StableLink::Foreign | StableLink::Directory => ChangeKind::Redirected,
        };
        changes.push(Change { path: name.clone(), kind });
    }
    Ok(changes)
}

/// How `data`, which is what `..data` is, and what is behind it differ from `baseline`.
pub(super) fn changed_generation(
    directory: &Directory,
    data: &DataLink,
    baseline: &Baseline,
) -> Result<Vec<Change>, StoreError> {
    let of_link = |kind| Ok(vec![Change { path: DATA_LINK.to_owned(), kind }]);
    match data {
        DataLink::Generation(name) if *name == baseline.generation => {}
        DataLink::Missing => return of_link(ChangeKind::Missing),
        _ => return of_link(ChangeKind::Redirected),
    }
    let generation = match directory.child(&baseline.generation) {
        Ok(generation) => generation,
        Err(StoreError::Missing { .. } | StoreError::Obstructed { .. }) => return of_link(ChangeKind::Missing),
        Err(error) => return Err(error),
    };
    let mut changes = Vec::new();
    for (name, file) in &baseline.files {
        let change = |kind| Change { path: link_target(name), kind };
        match generation.read(name, file.limit) {
            Ok(contents) => {
                if sha256(&contents.bytes) != file.digest {
                    changes.push(change(ChangeKind::Content));
                }
                changes.extend(changed_protection(&contents.stat, file.protection).map(change));
            }
            Err(StoreError::Missing { .. }) => changes.push(change(ChangeKind::Missing)),
            Err(StoreError::Obstructed { .. } | StoreError::TooLarge { .. }) => {
                changes.push(change(ChangeKind::Content));
            }
            // The agent's own read permission was taken away.
            Err(error) if error.kind() == "permission" => {
                let stat = generation.stat(name)?;
                changes.extend(stat.and_then(|stat| changed_protection(&stat, file.protection)).map(change));
            }
            Err(error) => return Err(error),
        }
        // A password file that cannot be read asks for no other keystore: that could not be made.
        if let Some((path, digest)) = &file.password
            && password_digest(path).is_ok_and(|found| found != *digest)
        {
            changes.push(change(ChangeKind::Password));
        }
    }
    Ok(changes)
}

fn changed_protection(stat: &Stat, protection: Protection) -> Option<ChangeKind> {
    let found = stat.st_mode & 0o7777;
    if found != protection.mode {
        return Some(ChangeKind::Mode { found, expected: protection.mode });
    }
    let owner = protection.owner.unwrap_or_else(|| geteuid().as_raw());
    let differs = owner != stat.st_uid || protection.group.is_some_and(|group| group != stat.st_gid);
    differs.then_some(ChangeKind::Owner { user: stat.st_uid, group: stat.st_gid })
}
