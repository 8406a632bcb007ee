//! Owns the certificate directory: publishes each certificate as one generation, reads it back, notices and puts right
//! what others change.
//!
//! The layout is that of the kubelet's projected volumes, so that whatever watches those watches this:
//!
//! ```text
//! /etc/certs/
//!   ..2026_08_20_12_34_56.9f3c2a1b00d4e5f6/    a generation: client.crt client.key ca.crt ca.crl credential-bundle.pem …
//!   ..data -> ..2026_08_20_12_34_56.9f3c…      the generation in force; swapped by one rename
//!   client.crt -> ..data/client.crt            stable links, made once; the same for the other files
//! ```
//!
//! `ca.crl` is there where the CA publishes CRLs. Another CRL makes another generation, with the same key and certificate.
//! So does another set of further files, another password of a keystore, other roots of another trust domain: all that is
//! in the directory is of one generation.
//!
//! A crash at any instruction leaves the generation before or the one after in force, whole, because the swap is one
//! rename and everything below it is on disk by then.
//!
//! # Reading a pair safely
//!
//! Key and certificate opened by two paths are of two generations when the swap falls in between. Either open
//! `credential-bundle.pem`, which holds key and chain in one file; or open the directory `..data` once, and then the
//! files relative to it (`openat`). An earlier generation stays for [`FilesConfig::keep_generations`], so that a reader
//! that opened it finds all of its files. [`read_bundle`] does this.

mod content;
mod der;
mod directory;
mod error;
mod further;
mod generation;
mod jks;
mod keystore;
mod layout;
mod links;
mod lock;
mod pkcs12;
mod place;
mod publish;
mod read;
mod record;
mod recovery;
mod sweep;
mod uvicorn;
mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Now;
use crate::config::FilesConfig;
use crate::identity::CertificateBundle;
use crate::printable::error_chain;

use directory::Directory;
use generation::{Staging, new_name, remove_generation};
use layout::PublishedFile;
use links::{DataLink, data_link};
use lock::Lock;
use place::open_or_make;
use sweep::Superseded;
use verify::Baseline;

pub use error::StoreError;
pub use further::{Content, ContentKind, FileName, FurtherFile, Keystore};
pub use layout::{
    CERTIFICATE_FILE, CREDENTIAL_BUNDLE_FILE, CRL_FILE, DATA_LINK, FEDERATED_DOMAIN_LIMIT, FEDERATED_PREFIX, KEY_FILE,
    ROOTS_FILE, federated_name,
};
pub use read::{Origin, Published, read_bundle};
pub use record::GenerationRecord;
pub use uvicorn::UvicornConfig;
pub use verify::{Change, ChangeKind};

/// The certificate directory of one agent. All calls block on the disk; one that writes waits for the one before.
#[derive(Debug)]
pub struct Store {
    config: FilesConfig,
    writer: Mutex<Writer>,
    expected: Mutex<Expected>,
}

#[derive(Debug, Default)]
struct Writer {
    lock: Option<Lock>,
    superseded: Superseded,
}

/// What the disk is compared with. Kept apart from the writer, so that a probe does not wait for a slow disk.
#[derive(Debug, Default)]
struct Expected {
    current: Option<Baseline>,
    /// About to be current, or current already: set before the swap.
    next: Option<Baseline>,
}

/// What [`Store::heal`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healed {
    /// Nothing: the disk is as it was published.
    Nothing,
    /// Stable links were put back; readers have the same generation as before.
    Links,
    /// The certificate was published again, as the generation of this name.
    Published(String),
}

impl Store {
    /// Opens the certificate directory for the one agent that writes it, and puts right what a crash or someone else
    /// left there. The directory is made when only its last component is missing; `/etc/certs` is not, as it is the
    /// place of a mount. On a volume that cannot be written at present (full, read-only, no permission) the store opens
    /// too, since what is there can be read: [`check_writable`](Self::check_writable) tells.
    ///
    /// # Errors
    /// When the directory is missing, cannot be opened, or is another agent's.
    pub fn open(config: &FilesConfig) -> Result<Self, StoreError> {
        let store = Self { config: config.clone(), writer: Mutex::default(), expected: Mutex::default() };
        match store.begin() {
            Ok(_) => {}
            Err(error) if error.forbids_writing_only() => drop(Directory::open(&config.directory)?),
            Err(error) => return Err(error),
        }
        Ok(store)
    }

    /// Reads the certificate on disk; `None`: there is none. From here on [`verify`](Self::verify) compares with it.
    ///
    /// # Errors
    /// When there is one that cannot be read (`kind` as of the cause) or is of no use (`corrupt`, `missing`,
    /// `obstructed`). A new one may be published in all these cases.
    pub fn load(&self) -> Result<Option<Published>, StoreError> {
        let current = read::read_current(&Directory::open(&self.config.directory)?, Some(&self.config))?;
        Ok(current.map(|current| {
            *self.expected() = Expected { current: current.baseline, next: None };
            let published = current.published;
            let crls = current.crls.unwrap_or_else(|error| {
                tracing::warn!(error = %error_chain(&error), "the CRL on disk is of no use; the CA is asked for another");
                Vec::new()
            });
            Published { bundle: published.bundle.with_crls(crls), ..published }
        }))
    }

    /// Whether a certificate could be published now: the lock is ours, and a file of a key's protection and size can be
    /// written, and passwords of keystores read. To be asked before a CA is, whose certificate would be lost.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn check_writable(&self, now: Now) -> Result<(), StoreError> {
        let (_writer, directory) = self.begin()?;
        links::check_obstructions(&directory, &PublishedFile::ALWAYS.map(|file| file.name().into_owned()))?;
        for keystore in self.config.further.iter().filter_map(|file| file.content.keystore()) {
            content::password_digest(&keystore.password_file)?;
        }
        let staging = Staging::begin(&directory, new_name(now.wall))?;
        let file = PublishedFile::CredentialBundle;
        staging.write(file, &vec![0; PROBE_SIZE], file.protection(&self.config)).map(drop)
    }

    /// Publishes `bundle` as the generation in force, and returns its name. When plain files of the same names stand in
    /// the directory, they are published first as they are: while links take their place one by one, all of them and the
    /// links lead to the same pair.
    ///
    /// # Errors
    /// The generation before is then still in force, unless the links could not be put in place after the swap, or the
    /// swap could not be synced. Publishing again is right in all cases.
    pub fn publish(
        &self,
        bundle: &CertificateBundle,
        record: &GenerationRecord,
        now: Now,
    ) -> Result<String, StoreError> {
        let name = new_name(now.wall);
        let generation = name.to_string();
        let result = self.begin().and_then(|(mut writer, directory)| {
            links::check_obstructions(&directory, &publish::names(&self.config, bundle))?;
            self.adopt_plain_files(&mut writer, &directory, bundle, now)?;
            self.write_generation(&mut writer, &directory, name, bundle, Some(record), now)
        });
        match result {
            Ok(()) => Ok(generation),
            Err(source) => Err(StoreError::Publish {
                generation,
                directory: error::shown(&self.config.directory),
                source: Box::new(source),
            }),
        }
    }

    /// Keeps another record beside the certificate in force. Where that is not the one last published, nothing is kept.
    ///
    /// # Errors
    /// The record before is then still there.
    pub fn keep_record(&self, record: &GenerationRecord) -> Result<(), StoreError> {
        let (_writer, directory) = self.begin()?;
        let (DataLink::Generation(found), Some(baseline)) = self.baseline(&directory)? else { return Ok(()) };
        if found == baseline.generation { self.write_record(&directory, &found, record) } else { Ok(()) }
    }

    /// Takes key and certificate away in one step; roots and CRLs stay. The generation before is removed as any other.
    /// From here on there is nothing to compare with, until something is published.
    ///
    /// # Errors
    /// Key and certificate are then still there.
    pub fn withdraw(&self, bundle: &CertificateBundle, record: &GenerationRecord, now: Now) -> Result<(), StoreError> {
        let (mut writer, directory) = self.begin()?;
        self.write_withdrawal(&mut writer, &directory, bundle, record, now)
    }

    /// What differs on disk from what was last published or loaded; nothing before either.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn verify(&self) -> Result<Vec<Change>, StoreError> {
        let Some(directory) = self.directory_if_any()? else {
            return Ok(vec![Change { path: ".".to_owned(), kind: ChangeKind::Missing }]);
        };
        let (data, Some(baseline)) = self.baseline(&directory)? else { return Ok(Vec::new()) };
        let mut changes = verify::changed_generation(&directory, &data, &baseline)?;
        let linked = baseline.linked();
        changes.extend(verify::changed_links(&directory, &linked)?);
        let stray = links::stray_links(&directory, &linked)?;
        changes.extend(stray.into_iter().map(|path| Change { path, kind: ChangeKind::Redirected }));
        Ok(changes)
    }

    /// Puts right what [`verify`](Self::verify) finds: by putting back links where nothing else changed, or else by
    /// publishing `bundle` again.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn heal(&self, bundle: &CertificateBundle, record: &GenerationRecord, now: Now) -> Result<Healed, StoreError> {
        let changes = self.verify()?;
        if changes.is_empty() {
            return Ok(Healed::Nothing);
        }
        // What is in a generation, and the link to it, have names that begin so.
        if !changes.iter().any(|change| change.path.starts_with('.')) {
            let (_writer, directory) = self.begin()?;
            links::check_obstructions(&directory, &publish::names(&self.config, bundle))?;
            links::ensure_stable_links(&directory, &publish::names(&self.config, bundle))?;
            return Ok(Healed::Links);
        }
        self.publish(bundle, record, now).map(Healed::Published)
    }

    /// Whether a usable certificate is on disk at `now`: the one last published or loaded, unchanged, in its dates. Reads
    /// four small files; never waits for a publication.
    #[must_use]
    pub fn usable(&self, now: OffsetDateTime) -> bool {
        let Ok(Some(directory)) = self.directory_if_any() else { return false };
        let Ok((data, Some(baseline))) = self.baseline(&directory) else { return false };
        let in_dates = baseline.not_before <= now && now < baseline.not_after;
        let unchanged = |changes: Result<Vec<Change>, StoreError>| {
            changes.is_ok_and(|changes| !changes.iter().any(Change::hides_certificate))
        };
        let needed = baseline.of_certificate();
        in_dates
            && unchanged(verify::changed_links(&directory, &needed.linked()))
            && unchanged(verify::changed_generation(&directory, &data, &needed))
    }

    /// Removes the generations that were superseded longer ago than they are kept, and remains of failed writes. Returns
    /// how long until the next is due. Their number is not limited: the schedule's least interval between renewals limits
    /// it.
    ///
    /// # Errors
    /// The first failure; the others are removed all the same. Call again with the next check.
    pub fn sweep(&self, now: Now) -> Result<Option<Duration>, StoreError> {
        let (mut writer, directory) = self.begin()?;
        // With `..data` lost, the last good generation may be any of them.
        let (DataLink::Generation(in_force), expected) = self.baseline(&directory)? else { return Ok(None) };
        let expected = expected.map(|baseline| baseline.generation);
        let (mut kept, mut next, mut failure) = (Vec::new(), None, None);
        for found in recovery::list_generations(&directory)? {
            if found.name.as_str() == in_force || Some(found.name.as_str()) == expected.as_deref() {
                continue;
            }
            let remaining = if found.finished {
                let since = writer.superseded.since(&found.name, now, found.modified);
                since.remaining(now, self.config.keep_generations)
            } else {
                Duration::ZERO
            };
            if remaining.is_zero() {
                if let Err(error) = remove_generation(&directory, &found.name) {
                    failure.get_or_insert(error);
                }
            } else {
                next = Some(next.map_or(remaining, |next: Duration| next.min(remaining)));
                kept.push(found.name);
            }
        }
        writer.superseded.retain(&kept.into_iter().collect());
        failure.map_or(Ok(next), Err)
    }

    /// Lets another store of this process have the directory, though readers may still hold this one. Writing takes the
    /// lock again.
    pub fn release(&self) {
        // Held only while something is being written: by someone who has not stopped, and needs the lock.
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.lock = None;
        }
    }

    /// The paths that readers use, for a watcher.
    #[must_use]
    pub fn watched_paths(&self) -> BTreeSet<PathBuf> {
        let always = PublishedFile::ALWAYS.iter().chain([&PublishedFile::Crl]);
        let further = self.config.further.iter().map(|file| self.config.directory.join(file.name.as_str()));
        let passwords = self.config.further.iter().filter_map(|file| file.content.keystore());
        let passwords = passwords.map(|keystore| keystore.password_file.clone());
        always.map(|file| self.config.directory.join(&*file.name())).chain(further).chain(passwords).collect()
    }

    /// The right to write: the mutex, the lock on the directory that is there now, and recovery when it was just taken.
    fn begin(&self) -> Result<(MutexGuard<'_, Writer>, Directory), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = open_or_make(&self.config.directory)?;
        let held = match &writer.lock {
            Some(lock) => lock.is_of(&directory)?,
            None => false,
        };
        if !held {
            writer.lock = None;
            let lock = Lock::acquire(&directory)?;
            recovery::recover(&directory, &self.config)?;
            writer.lock = Some(lock);
        }
        Ok((writer, directory))
    }

    fn directory_if_any(&self) -> Result<Option<Directory>, StoreError> {
        match Directory::open(&self.config.directory) {
            Ok(directory) => Ok(Some(directory)),
            Err(StoreError::NoDirectory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What `..data` is and what to compare with: around a swap, whichever of the two generations it names. The link is
    /// read under the lock, so that no swap comes between.
    fn baseline(&self, directory: &Directory) -> Result<(DataLink, Option<Baseline>), StoreError> {
        let expected = self.expected();
        let data = data_link(directory)?;
        let next = expected.next.as_ref().filter(|next| data == DataLink::Generation(next.generation.clone()));
        Ok((data, next.or(expected.current.as_ref()).cloned()))
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More than key and chain take.
const PROBE_SIZE: usize = 32 * 1024;
