//! Owns the certificate directory: publishes each certificate as one generation, reads it back, notices and puts right
//! what others change.
//!
//! The layout is that of the kubelet's projected volumes, so that whatever watches those watches this:
//!
//! ```text
//! /etc/certs/
//!   ..2026_08_20_12_34_56.9f3c2a1b00d4e5f6/    a generation: client.crt client.key ca.crt credential-bundle.pem
//!   ..data -> ..2026_08_20_12_34_56.9f3c…      the generation in force; swapped by one rename
//!   client.crt -> ..data/client.crt            stable links, made once; the same for the other three files
//! ```
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

mod directory;
mod error;
mod generation;
mod layout;
mod links;
mod lock;
mod read;
mod recovery;
mod sweep;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens};
use rustix::io::Errno;
use time::OffsetDateTime;

use crate::clock::Now;
use crate::config::FilesConfig;
use crate::identity::{BundleError, CertificateBundle};
use crate::schedule::RenewalRecord;

use directory::Directory;
use generation::{Staging, new_name, remove_generation};
use layout::{FINISHED_MODE, GenerationName, PublishedFile};
use links::{DataLink, StableLink, data_link, stable_link};
use lock::Lock;
use sweep::Superseded;
use verify::Baseline;

pub use error::StoreError;
pub use layout::{CERTIFICATE_FILE, CREDENTIAL_BUNDLE_FILE, DATA_LINK, KEY_FILE, ROOTS_FILE};
pub use read::{Origin, Published, read_bundle};
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
        let current = read::read_current(&Directory::open(&self.config.directory)?)?;
        Ok(current.map(|current| {
            *self.expected() = Expected { current: current.baseline, next: None };
            current.published
        }))
    }

    /// Whether a certificate could be published now: the lock is ours, and a file of a key's protection and size can be
    /// written. To be asked before a CA is, whose certificate would be lost.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn check_writable(&self, now: Now) -> Result<(), StoreError> {
        let (_writer, directory) = self.begin()?;
        links::check_obstructions(&directory)?;
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
    pub fn publish(&self, bundle: &CertificateBundle, record: &RenewalRecord, now: Now) -> Result<String, StoreError> {
        let name = new_name(now.wall);
        let generation = name.to_string();
        let result = self.begin().and_then(|(mut writer, directory)| {
            links::check_obstructions(&directory)?;
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

    /// What differs on disk from what was last published or loaded; nothing before either.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn verify(&self) -> Result<Vec<Change>, StoreError> {
        let Some(directory) = self.directory_if_any()? else {
            return Ok(vec![Change { path: ".".to_owned(), kind: ChangeKind::Missing }]);
        };
        let Some(baseline) = self.baseline(&directory)? else { return Ok(Vec::new()) };
        let mut changes = verify::changed_generation(&directory, &baseline, &self.config)?;
        changes.extend(verify::changed_links(&directory)?);
        Ok(changes)
    }

    /// Puts right what [`verify`](Self::verify) finds: by putting back links where nothing else changed, or else by
    /// publishing `bundle` again.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn heal(&self, bundle: &CertificateBundle, record: &RenewalRecord, now: Now) -> Result<Healed, StoreError> {
        let changes = self.verify()?;
        if changes.is_empty() {
            return Ok(Healed::Nothing);
        }
        let stable: BTreeSet<&str> = PublishedFile::LINKED.map(PublishedFile::name).into();
        if changes.iter().all(|change| stable.contains(change.path.as_str())) {
            let (_writer, directory) = self.begin()?;
            links::check_obstructions(&directory)?;
            links::ensure_stable_links(&directory)?;
            return Ok(Healed::Links);
        }
        self.publish(bundle, record, now).map(Healed::Published)
    }

    /// Whether a usable certificate is on disk at `now`: the one last published or loaded, unchanged, in its dates. Reads
    /// five small files; never waits for a publication.
    #[must_use]
    pub fn usable(&self, now: OffsetDateTime) -> bool {
        let Ok(Some(directory)) = self.directory_if_any() else { return false };
        let Ok(Some(baseline)) = self.baseline(&directory) else { return false };
        let in_dates = baseline.not_before <= now && now < baseline.not_after;
        let unchanged = |changes: Result<Vec<Change>, StoreError>| {
            changes.is_ok_and(|changes| !changes.iter().any(Change::hides_certificate))
        };
        in_dates
            && unchanged(verify::changed_generation(&directory, &baseline, &self.config))
            && unchanged(verify::changed_links(&directory))
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
        let DataLink::Generation(in_force) = data_link(&directory)? else { return Ok(None) };
        let expected = self.baseline(&directory)?.map(|baseline| baseline.generation);
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

    /// The paths that readers use, for a watcher.
    #[must_use]
    pub fn watched_paths(&self) -> BTreeSet<PathBuf> {
        PublishedFile::LINKED.iter().map(|file| self.config.directory.join(file.name())).collect()
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
            recovery::recover(&directory)?;
            writer.lock = Some(lock);
        }
        Ok((writer, directory))
    }

    fn adopt_plain_files(
        &self,
        writer: &mut Writer,
        directory: &Directory,
        bundle: &CertificateBundle,
        now: Now,
    ) -> Result<(), StoreError> {
        if data_link(directory)? != DataLink::Missing
            || stable_link(directory, PublishedFile::Certificate)? != StableLink::PlainFile
        {
            return Ok(());
        }
        // Files that do not fit each other have nothing to preserve.
        let Ok(Some(plain)) = read::read_plain_files(directory) else { return Ok(()) };
        if plain.leaf_digest() == bundle.leaf_digest() {
            return Ok(());
        }
        self.write_generation(writer, directory, new_name(now.wall), &plain, None, now)
    }

    fn write_generation(
        &self,
        writer: &mut Writer,
        directory: &Directory,
        name: GenerationName,
        bundle: &CertificateBundle,
        record: Option<&RenewalRecord>,
        now: Now,
    ) -> Result<(), StoreError> {
        let previous = match data_link(directory)? {
            DataLink::Generation(previous) => Some(previous),
            _ => None,
        };
        let staging = Staging::begin(directory, name)?;
        let baseline = self.write_files(&staging, directory, bundle, record)?;
        staging.finish()?;
        if let Some(previous) = &previous {
            stamp(directory, previous, now.wall);
        }
        links::prepare_swap(directory, staging.name().as_str())?;
        self.expected().next = Some(baseline);
        let swapped = links::swap(directory);
        {
            let mut expected = self.expected();
            let next = expected.next.take();
            if swapped.is_ok() {
                expected.current = next;
            }
        }
        swapped?;
        staging.keep();
        if let Some(previous) = previous.as_deref().and_then(GenerationName::parse) {
            writer.superseded.supersede(previous, now);
        }
        directory.sync()?;
        links::ensure_stable_links(directory)
    }

    fn write_files(
        &self,
        staging: &Staging<'_>,
        directory: &Directory,
        bundle: &CertificateBundle,
        record: Option<&RenewalRecord>,
    ) -> Result<Baseline, StoreError> {
        let mut baseline = Baseline::new(staging.name().to_string(), bundle);
        let mut write = |file: PublishedFile, bytes: &[u8]| {
            let digest = staging.write(file, bytes, file.protection(&self.config))?;
            baseline.expect(file, digest);
            Ok::<(), StoreError>(())
        };
        let encoding = |error| StoreError::Content {
            path: error::shown(&directory.path().join(KEY_FILE)),
            source: BundleError::Key(error),
        };
        write(PublishedFile::Key, bundle.key_pem().map_err(encoding)?.as_bytes())?;
        write(PublishedFile::Certificate, bundle.chain_pem().as_bytes())?;
        write(PublishedFile::Roots, bundle.roots_pem().as_bytes())?;
        write(PublishedFile::CredentialBundle, bundle.credential_bundle_pem().map_err(encoding)?.as_bytes())?;
        if let Some(record) = record {
            let text = serde_json::to_vec(record)
                .map_err(|error| StoreError::io("encode", Path::new(PublishedFile::Record.name()), error))?;
            write(PublishedFile::Record, &text)?;
        }
        Ok(baseline)
    }

    fn directory_if_any(&self) -> Result<Option<Directory>, StoreError> {
        match Directory::open(&self.config.directory) {
            Ok(directory) => Ok(Some(directory)),
            Err(StoreError::NoDirectory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What to compare with: around a swap, whichever of the two generations `..data` names.
    fn baseline(&self, directory: &Directory) -> Result<Option<Baseline>, StoreError> {
        let data = data_link(directory)?;
        let expected = self.expected();
        let next = expected.next.as_ref().filter(|next| data == DataLink::Generation(next.generation.clone()));
        Ok(next.or(expected.current.as_ref()).cloned())
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the time on a generation that is about to be superseded, for a process after this one. Where that fails, the
/// time of its making stands.
fn stamp(directory: &Directory, generation: &str, now: OffsetDateTime) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: now.unix_timestamp(), tv_nsec: 0 },
    };
    if let Ok(generation) = directory.child(generation) {
        let _ = futimens(generation.fd(), &times);
    }
}

fn open_or_make(path: &Path) -> Result<Directory, StoreError> {
    match Directory::open(path) {
        Err(StoreError::NoDirectory { .. }) if path != Path::new(MOUNT_POINT) => {}
        result => return result,
    }
    // The parent of the default in a home directory is this program's as well.
    if let Some(parent) = path.parent().filter(|parent| parent.ends_with(HOME_PARENT)) {
        make(parent)?;
    }
    make(path)?;
    Directory::open(path)
}

fn make(path: &Path) -> Result<(), StoreError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(FINISHED_MODE)) {
        Ok(()) => {
            // Readers are to pass whatever the umask says.
            let directory = Directory::open(path)?;
            fchmod(directory.fd(), Mode::from_raw_mode(FINISHED_MODE))
                .map_err(|error| StoreError::io("set the mode of", path, error))
        }
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => Err(StoreError::NoDirectory { directory: error::shown(path) }),
        Err(error) => Err(StoreError::io("make", path, error)),
    }
}

/// Where a volume is mounted by the contract with workers. Made here, it would hide that the mount is missing.
const MOUNT_POINT: &str = "/etc/certs";

const HOME_PARENT: &str = ".crank";

/// More than key and chain take.
const PROBE_SIZE: usize = 32 * 1024;
