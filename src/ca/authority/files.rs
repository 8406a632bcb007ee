//! Owns the files of a CA: where they are, their modes, and that they appear together.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::AuthorityError;
use super::generate::Material;
use crate::bounded::{ReadError, read_file};
use crate::identity::TrustDomain;

/// The directory that appears in one rename, below the data directory.
pub(super) const DIRECTORY: &str = "authority";

/// The root certificate.
pub(super) const ROOT: &str = "root.crt";

/// The root's key; may be moved to a safe once the CA is made.
pub(super) const ROOT_KEY: &str = "root.key";

/// The intermediate that signs.
pub(super) const ISSUER: &str = "issuing.crt";

/// The intermediate's key.
pub(super) const ISSUER_KEY: &str = "issuing.key";

/// What else belongs to a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The trust domain of SPIFFE ids.
    pub(super) trust_domain: TrustDomain,
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

/// Writes `material` below `data_dir` so that either all of it is there or none.
pub(super) fn publish(data_dir: &Path, material: &Material) -> Result<(), AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed("create", data_dir))?;
    check_not_writable_by_others(data_dir)?;
    let _lock = Lock::acquire(data_dir)?;
    let target = data_dir.join(DIRECTORY);
    if target.exists() {
        return Err(AuthorityError::Exists(data_dir.to_owned()));
    }
    let staging = data_dir.join(STAGING);
    // What a crash left behind; nobody else is here while the lock is held.
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &staging)(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&staging).map_err(failed("create", &staging))?;
    let settings = Settings { trust_domain: material.trust_domain.clone() };
    let settings = serde_json::to_vec_pretty(&settings)
        .map_err(|error| AuthorityError::Invalid { path: staging.join(SETTINGS), reason: error.to_string() })?;
    write(&staging.join(ROOT), material.root.as_bytes(), 0o644)?;
    write(&staging.join(ROOT_KEY), material.root_key.as_bytes(), 0o600)?;
    write(&staging.join(ISSUER), material.issuer.as_bytes(), 0o644)?;
    write(&staging.join(ISSUER_KEY), material.issuer_key.as_bytes(), 0o600)?;
    write(&staging.join(SETTINGS), &settings, 0o600)?;
    sync_directory(&staging)?;
    // The rename fails on a target that is not empty: even without the lock nothing would be overwritten.
    fs::rename(&staging, &target).map_err(failed("write", &target))?;
    sync_directory(data_dir)?;
    // The data directory may itself be new.
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

/// Refuses a directory in which group or others could replace files.
pub(super) fn check_not_writable_by_others(path: &Path) -> Result<(), AuthorityError> {
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

fn check_mode(path: &Path, forbidden: u32, fix: &'static str) -> Result<(), AuthorityError> {
    let metadata = fs::metadata(path).map_err(failed("read", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(AuthorityError::Exposed { path: path.to_owned(), mode, fix });
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(mode).open(path).map_err(failed("write", path))?;
    file.write_all(content).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("write", path))
}

fn sync_directory(path: &Path) -> Result<(), AuthorityError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("write", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path: PathBuf = path.to_owned();
    move |source| AuthorityError::File { action, path, source }
}

const SETTINGS: &str = "settings.json";

const STAGING: &str = ".authority.new";

const FILE_LIMIT: u64 = 64 * 1024;

const LOCK_ATTEMPTS: u32 = 100;

const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
