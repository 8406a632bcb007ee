//! Owns the comparison of the disk with what was published: changes made by someone else.

use std::collections::BTreeMap;
use std::fmt;

use rustix::fs::Stat;
use rustix::process::geteuid;
use time::OffsetDateTime;

use super::directory::Directory;
use super::error::StoreError;
use super::layout::{CrlFile, DATA_LINK, Protection, PublishedFile};
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
            ChangeKind::Mode { .. } | ChangeKind::Owner { .. } => false,
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
            ChangeKind::Owner { user, group } => write!(f, "{path} belongs to {user}:{group}"),
        }
    }
}

/// What was published: a digest of each file, and the dates of the certificate.
#[derive(Debug, Clone)]
pub(super) struct Baseline {
    pub(super) generation: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    digests: BTreeMap<PublishedFile, [u8; 32]>,
}

impl Baseline {
    pub(super) fn new(generation: String, bundle: &CertificateBundle) -> Self {
        Self { generation, not_before: bundle.not_before(), not_after: bundle.not_after(), digests: BTreeMap::new() }
    }

    /// `file` is expected to have content with this SHA-256.
    pub(super) fn expect(&mut self, file: PublishedFile, digest: [u8; 32]) {
        self.digests.insert(file, digest);
    }

    /// Whether a CRL was published with the certificate.
    pub(super) fn crl(&self) -> CrlFile {
        if self.digests.contains_key(&PublishedFile::Crl) { CrlFile::There } else { CrlFile::Absent }
    }

    /// The same for those files only without which there is no certificate.
    pub(super) fn of_certificate(mut self) -> Self {
        self.digests.retain(|file, _| !matches!(file, PublishedFile::Crl | PublishedFile::Record));
        self
    }
}

/// The stable links that are not as they should be.
pub(super) fn changed_links(directory: &Directory, crl: CrlFile) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for file in PublishedFile::LINKED {
        let link = stable_link(directory, file)?;
        let kind = match link {
            // What stands there without a CRL of ours is someone else's, unless it is our link to nothing.
            _ if !file.belongs(crl) && link != StableLink::Ours => continue,
            StableLink::Ours if file.belongs(crl) => continue,
            StableLink::Missing => ChangeKind::Missing,
            StableLink::Ours | StableLink::PlainFile | StableLink::Foreign | StableLink::Directory => {
                ChangeKind::Redirected
            }
        };
        changes.push(Change { path: file.name().to_owned(), kind });
    }
    Ok(changes)
}

/// How `data`, which is what `..data` is, and what is behind it differ from `baseline`.
pub(super) fn changed_generation(
    directory: &Directory,
    data: &DataLink,
    baseline: &Baseline,
    config: &FilesConfig,
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
    for (&file, digest) in &baseline.digests {
        let change = |kind| Change { path: file.link_target(), kind };
        match generation.read(file.name(), file.limit()) {
            Ok(contents) => {
                if sha256(&contents.bytes) != *digest {
                    changes.push(change(ChangeKind::Content));
                }
                changes.extend(changed_protection(&contents.stat, file.protection(config)).map(change));
            }
            Err(StoreError::Missing { .. }) => changes.push(change(ChangeKind::Missing)),
            Err(StoreError::Obstructed { .. } | StoreError::TooLarge { .. }) => {
                changes.push(change(ChangeKind::Content));
            }
            // The agent's own read permission was taken away.
            Err(error) if error.kind() == "permission" => {
                changes.extend(
                    generation
                        .stat(file.name())?
                        .and_then(|stat| changed_protection(&stat, file.protection(config)))
                        .map(change),
                );
            }
            Err(error) => return Err(error),
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
