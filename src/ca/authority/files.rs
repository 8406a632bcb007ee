//! Owns the files of a CA: where they are, their modes, and that they appear together.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::AuthorityError;
use super::content::{Content, ISSUER_KEY, ISSUER_URI};
use crate::bounded::{ReadError, read_file};
use crate::identity::TrustDomain;

/// The directory that appears in one rename, below the data directory.
pub(super) const DIRECTORY: &str = "authority";

/// A key and a request that wait for their certificate, below the data directory.
pub(super) const REQUEST: &str = "request";

/// The request in it.
pub(super) const REQUEST_FILE: &str = "issuing.csr";

/// What else belongs to a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The trust domain of SPIFFE ids.
    pub(super) trust_domain: TrustDomain,
    /// Begins the names of roots and intermediates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// How many roots this CA has made.
    #[serde(default = "one")]
    pub(super) generation: u32,
}

fn one() -> u32 {
    1
}

/// Tells one state of a directory from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp([i64; 6]);

impl Stamp {
    /// The stamp of the CA's directory below `data_dir`; `None` when it cannot be examined.
    pub(crate) fn of(data_dir: &Path) -> Option<Self> {
        let metadata = fs::metadata(data_dir.join(DIRECTORY)).ok()?;
        let identity = [metadata.dev(), metadata.ino()].map(u64::cast_signed);
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        Some(Self([identity[0], identity[1], times[0], times[1], times[2], times[3]]))
    }
}

/// Held while a data directory is changed in a way that must not happen twice at once. Freed on drop, and by the
/// kernel when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of `data_dir`.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, AuthorityError> {
        let path = data_dir.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("write", &path))?;
        for _ in 0..LOCK_ATTEMPTS {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(failed("lock", &path)(error.into())),
            }
        }
        Err(AuthorityError::Busy(data_dir.to_owned()))
    }
}

impl Drop for Lock {
    /// Closing alone would leave the lock with a child process that has been forked and has not executed yet.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Writes `content` below `data_dir` so that either all of it is there or none.
pub(super) fn publish(data_dir: &Path, content: &Content) -> Result<(), AuthorityError> {
    let _lock = prepare(data_dir)?;
    if exists(data_dir) {
        return Err(AuthorityError::Exists(data_dir.to_owned()));
    }
    let target = data_dir.join(DIRECTORY);
    let staging = stage(data_dir, content)?;
    // The rename fails on a target that is not empty: even without the lock nothing would be overwritten.
    fs::rename(&staging, &target).map_err(failed("write", &target))?;
    remove(&data_dir.join(REQUEST))?;
    sync_upwards(data_dir)
}

/// Changes the content below `data_dir`; readers see the one before or the one after, whole.
pub(super) fn change<T>(
    data_dir: &Path,
    edit: impl FnOnce(&mut Content) -> Result<T, AuthorityError>,
) -> Result<T, AuthorityError> {
    check_not_writable_by_others(data_dir)?;
    let _lock = Lock::acquire(data_dir)?;
    recover(data_dir)?;
    remove(&data_dir.join(BEFORE))?;
    let target = data_dir.join(DIRECTORY);
    let mut content = Content::read(&target)?;
    let result = edit(&mut content)?;
    let staging = stage(data_dir, &content)?;
    exchange(data_dir, &staging, &target)?;
    sync_directory(data_dir)?;
    // What others put there is theirs.
    for entry in fs::read_dir(&staging).map_err(failed("read", &staging))?.flatten() {
        if entry.file_name().to_str().is_none_or(|name| !Content::owns(name)) {
            let kept = target.join(entry.file_name());
            fs::rename(entry.path(), &kept).map_err(failed("write", &kept))?;
        }
    }
    remove(&staging)?;
    sync_directory(&target)?;
    sync_directory(data_dir)?;
    Ok(result)
}

/// Writes a key, or where it is, and a request for a certificate of it, together or not at all.
pub(super) fn publish_request(
    data_dir: &Path,
    settings: &Settings,
    key: &str,
    in_module: bool,
    request: &str,
) -> Result<PathBuf, AuthorityError> {
    let _lock = prepare(data_dir)?;
    let target = data_dir.join(REQUEST);
    if target.exists() {
        let request = target.join(REQUEST_FILE);
        return Err(AuthorityError::AwaitsImport { data_dir: data_dir.to_owned(), request });
    }
    let staging = data_dir.join(STAGING);
    remove(&staging)?;
    DirBuilder::new().mode(0o700).create(&staging).map_err(failed("create", &staging))?;
    write_settings(&staging, settings)?;
    write(&staging.join(if in_module { ISSUER_URI } else { ISSUER_KEY }), key.as_bytes(), 0o600)?;
    write(&staging.join(REQUEST_FILE), request.as_bytes(), 0o644)?;
    sync_directory(&staging)?;
    fs::rename(&staging, &target).map_err(failed("write", &target))?;
    sync_upwards(data_dir)?;
    Ok(target.join(REQUEST_FILE))
}

/// Removes the request, whose certificate is there now.
pub(super) fn remove_request(data_dir: &Path) -> Result<(), AuthorityError> {
    let _lock = Lock::acquire(data_dir)?;
    remove(&data_dir.join(REQUEST))
}

/// Whether there is a CA below `data_dir`.
pub(super) fn exists(data_dir: &Path) -> bool {
    data_dir.join(DIRECTORY).exists() || data_dir.join(BEFORE).exists()
}

/// Puts back what a crash in the middle of a change took away. Holds for file systems that cannot exchange directories.
pub(super) fn recover(data_dir: &Path) -> Result<(), AuthorityError> {
    let (target, before) = (data_dir.join(DIRECTORY), data_dir.join(BEFORE));
    if target.exists() || !before.exists() {
        return Ok(());
    }
    fs::rename(&before, &target).map_err(failed("write", &target))
}

fn prepare(data_dir: &Path) -> Result<Lock, AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed("create", data_dir))?;
    check_not_writable_by_others(data_dir)?;
    Lock::acquire(data_dir)
}

fn stage(data_dir: &Path, content: &Content) -> Result<PathBuf, AuthorityError> {
    let staging = data_dir.join(STAGING);
    // What a crash left behind; nobody else is here while the lock is held.
    remove(&staging)?;
    DirBuilder::new().mode(0o700).create(&staging).map_err(failed("create", &staging))?;
    content.write(&staging)?;
    Ok(staging)
}

/// Puts `staging` in the place of `target`, which is at `staging` afterwards.
fn exchange(data_dir: &Path, staging: &Path, target: &Path) -> Result<(), AuthorityError> {
    use rustix::io::Errno;
    match renameat_with(CWD, staging, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => return Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(error) => return Err(failed("write", target)(error.into())),
    }
    // In two steps: between them nothing is there, which readers wait out and `recover` mends.
    let before = data_dir.join(BEFORE);
    remove(&before)?;
    fs::rename(target, &before).map_err(failed("write", target))?;
    fs::rename(staging, target).map_err(failed("write", target))?;
    fs::rename(&before, staging).map_err(failed("write", staging))
}

fn remove(directory: &Path) -> Result<(), AuthorityError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// The data directory may itself be new.
fn sync_upwards(data_dir: &Path) -> Result<(), AuthorityError> {
    sync_directory(data_dir)?;
    match data_dir.canonicalize().map_err(failed("read", data_dir))?.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Makes an empty file that only its owner can read, unless it exists.
pub(crate) fn create_private(path: &Path) -> Result<(), AuthorityError> {
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all().map_err(failed("write", path)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("write", path)(error)),
    }
}

/// Refuses a file or directory that group or others can read or write.
pub(crate) fn check_private(path: &Path, fix: &'static str) -> Result<(), AuthorityError> {
    check_mode(path, 0o077, fix)
}

/// Refuses a file with a secret that others can read, or the group write. The group may read: that is how a volume of
/// secrets is given to a process that is not root.
pub(crate) fn check_secret(path: &Path) -> Result<(), AuthorityError> {
    check_mode(path, 0o027, "600")
}

/// Refuses a directory in which group or others could replace files.
pub(crate) fn check_not_writable_by_others(path: &Path) -> Result<(), AuthorityError> {
    check_mode(path, 0o022, "700")
}

/// Reads a file of at most [`FILE_LIMIT`] bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    read_private(path).map(|bytes| bytes.to_vec())
}

/// As [`read`], into memory that is wiped.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    read_file(path, FILE_LIMIT).map_err(|error| match error {
        ReadError::Io { source, .. } => failed("read", path)(source),
        other => AuthorityError::Invalid { path: path.to_owned(), reason: other.to_string() },
    })
}

/// The settings of a CA.
pub(super) fn read_settings(directory: &Path) -> Result<Settings, AuthorityError> {
    let path = directory.join(SETTINGS);
    let bytes = read(&path)?;
    serde_json::from_slice(&bytes).map_err(|error| AuthorityError::Invalid { path, reason: error.to_string() })
}

/// Writes the settings of a CA.
pub(super) fn write_settings(directory: &Path, settings: &Settings) -> Result<(), AuthorityError> {
    let path = directory.join(SETTINGS);
    let text = serde_json::to_vec_pretty(settings)
        .map_err(|error| AuthorityError::Invalid { path: path.clone(), reason: error.to_string() })?;
    write(&path, &text, 0o600)
}

fn check_mode(path: &Path, forbidden: u32, fix: &'static str) -> Result<(), AuthorityError> {
    let metadata = fs::metadata(path).map_err(failed("read", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(AuthorityError::Exposed { path: path.to_owned(), mode, fix });
    }
    Ok(())
}

/// Writes a file that does not exist, and syncs it.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(mode).open(path).map_err(failed("write", path))?;
    file.write_all(content).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("write", path))
}

/// Syncs the names in a directory.
pub(super) fn sync_directory(path: &Path) -> Result<(), AuthorityError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("write", path))
}

/// The error of an action on a file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path: PathBuf = path.to_owned();
    move |source| AuthorityError::File { action, path, source }
}

/// The settings.
pub(super) const SETTINGS: &str = "settings.json";

const STAGING: &str = ".authority.new";

/// Where the content before a change is for an instant, on file systems that cannot exchange directories.
const BEFORE: &str = ".authority.old";

const FILE_LIMIT: u64 = 64 * 1024;

const LOCK_ATTEMPTS: u32 = 100;

const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
