//! Owns backups: keys, certificates and a consistent copy of the record in one directory, with digests of all of it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroize;

use super::Records;
use crate::ca::authority::{AuthorityError, Lock, create_private};
use crate::ca::state::{Counts, Database, State, StateError};
use crate::printable::hex;

/// A backup that cannot be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something already.
    #[error("{} exists already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// Keys or certificates were changed at the same time.
    #[error("the keys or certificates of the CA were changed meanwhile: make the backup again")]
    Changed,
    /// The backup is not whole, or not one.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The record.
    #[error(transparent)]
    State(#[from] StateError),
}

impl BackupError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists(_) => "backup_exists",
            Self::Changed => "backup_changed",
            Self::Damaged { .. } => "backup_damaged",
            Self::File { .. } => "backup_file",
            Self::Authority(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// The moment of the record's copy.
    pub created_at: OffsetDateTime,
    /// How much is in the copy; `None` where the record is in `PostgreSQL`, which has tools of its own.
    pub counts: Option<Counts>,
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The form of the backup.
    pub(super) version: u32,
    /// The program that made it.
    pub(super) program: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
    /// How much is in the record's copy, where there is one.
    pub(super) counts: Option<Counts>,
    /// Every file, by its path in the backup.
    pub(super) files: BTreeMap<String, FileFacts>,
}

/// What a file is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileFacts {
    pub(super) size: u64,
    /// Hexadecimal.
    pub(super) sha256: String,
    /// The permission bits it had.
    pub(super) mode: u32,
}

impl Records {
    /// Puts a backup of the CA into the new directory `out`, which appears whole or not at all; readable to its owner
    /// only, for the CA's keys are in it. The serving CA goes on meanwhile.
    ///
    /// # Errors
    /// When there is something at `out`, or files or the record fail.
    pub async fn back_up(&self, out: &Path) -> Result<BackupReport, BackupError> {
        if out.symlink_metadata().is_ok() {
            return Err(BackupError::Exists(out.to_owned()));
        }
        let mut staging = out.as_os_str().to_owned();
        staging.push(format!(".{}.new", std::process::id()));
        let staging = PathBuf::from(staging);
        let made = self.back_up_into(&staging, out).await;
        if made.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        made
    }

    async fn back_up_into(&self, staging: &Path, out: &Path) -> Result<BackupReport, BackupError> {
        make_directory(staging)?;
        let authority = staging.join(AUTHORITY);
        make_directory(&authority)?;
        let data_dir = self.data_dir.clone();
        let mut files = blocking(move || {
            let _lock = Lock::acquire(&data_dir)?;
            copy_authority(&data_dir.join(AUTHORITY), Some(&authority))
        })
        .await?;
        let created_at = self.now();
        let counts = match self.database {
            Database::Sqlite => Some(self.copy_record(staging, &mut files).await?),
            Database::Postgres(_) => None,
        };
        let data_dir = self.data_dir.clone();
        let now = blocking(move || {
            let _lock = Lock::acquire(&data_dir)?;
            copy_authority(&data_dir.join(AUTHORITY), None)
        })
        .await?;
        let before = files.iter().filter(|(name, _)| *name != RECORD);
        if !now.iter().eq(before) {
            return Err(BackupError::Changed);
        }
        let program = concat!("crank-ca ", env!("CARGO_PKG_VERSION")).to_owned();
        let manifest = Manifest { version: VERSION, program, created_at, counts, files };
        let path = staging.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| BackupError::Damaged { path: path.clone(), reason: error.to_string() })?;
        write_private(&path, &text)?;
        sync_below(staging)?;
        // Fails on a directory that has come to be there meanwhile, unless that is empty.
        fs::rename(staging, out).map_err(failed("write", out))?;
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(parent)?;
        Ok(BackupReport { created_at, counts })
    }

    /// A copy of the record that opens, is examined and counted.
    async fn copy_record(
        &self,
        staging: &Path,
        files: &mut BTreeMap<String, FileFacts>,
    ) -> Result<Counts, BackupError> {
        let path = staging.join(RECORD);
        create_private(&path)?;
        self.state.copy_into(&path).await?;
        let copy = State::open(staging, &Database::Sqlite).await?;
        let examined = async { Ok::<_, StateError>((copy.problems().await?, copy.counts().await?)) }.await;
        copy.close().await;
        let (problems, counts) = examined?;
        if let Some(reason) = problems.into_iter().next() {
            return Err(BackupError::Damaged { path, reason });
        }
        remove_companions(staging)?;
        let facts = blocking(move || {
            let mut facts = digest_of(&path)?;
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed("write", &path))?;
            facts.mode = 0o600;
            Ok(facts)
        })
        .await?;
        files.insert(RECORD.to_owned(), facts);
        Ok(counts)
    }
}

/// What an open record leaves beside its file.
pub(super) fn remove_companions(directory: &Path) -> Result<(), BackupError> {
    for name in [".lock", "ca.sqlite3-wal", "ca.sqlite3-shm"] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The facts of the files in the CA's directory and below, which are copied on the way where a place is given.
fn copy_authority(from: &Path, to: Option<&Path>) -> Result<BTreeMap<String, FileFacts>, BackupError> {
    let mut files = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(below) = directories.pop() {
        let directory = from.join(&below);
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let entry = entry.map_err(failed("read", &directory))?;
            let (path, place) = (entry.path(), below.join(entry.file_name()));
            let Some(name) = place.to_str() else {
                return Err(BackupError::Damaged { path, reason: "expected a name of UTF-8".to_owned() });
            };
            // Files through links, as Kubernetes mounts them; not the hidden directories that those lead to.
            if entry.file_type().map_err(failed("read", &path))?.is_dir() {
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                if place.components().count() > DEEPEST {
                    let reason = format!("expected no directory {DEEPEST} deep");
                    return Err(BackupError::Damaged { path, reason });
                }
                if let Some(to) = to {
                    make_directory(&to.join(&place))?;
                }
                directories.push(place);
            } else if fs::metadata(&path).map_err(failed("read", &path))?.is_file() {
                let facts = match to {
                    Some(to) => copy(&path, &to.join(&place), 0o600)?,
                    None => digest_of(&path)?,
                };
                files.insert(format!("{AUTHORITY}/{name}"), facts);
            }
        }
    }
    Ok(files)
}

/// Makes a directory that only its owner can enter.
pub(super) fn make_directory(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed("create", path))
}

/// Syncs a directory and all below.
pub(super) fn sync_below(directory: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        if entry.file_type().map_err(failed("read", directory))?.is_dir() {
            sync_below(&entry.path())?;
        }
    }
    sync(directory)
}

/// Copies a file, on disk when this returns.
pub(super) fn copy(from: &Path, to: &Path, mode: u32) -> Result<FileFacts, BackupError> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(to).map_err(failed("write", to))?;
    let facts = read_through(from, |bytes| file.write_all(bytes).map_err(failed("write", to)))?;
    file.sync_all().map_err(failed("write", to))?;
    Ok(facts)
}

fn digest_of(path: &Path) -> Result<FileFacts, BackupError> {
    read_through(path, |_| Ok(()))
}

fn read_through(path: &Path, mut take: impl FnMut(&[u8]) -> Result<(), BackupError>) -> Result<FileFacts, BackupError> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o777;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut size = 0;
    let mut buffer = vec![0; CHUNK];
    let read = loop {
        match file.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                size += count as u64;
                context.update(&buffer[..count]);
                if let Err(error) = take(&buffer[..count]) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(failed("read", path)(error)),
        }
    };
    // It may have been a key.
    buffer.zeroize();
    read?;
    let sha256 = hex(context.finish().as_ref());
    Ok(FileFacts { size, sha256, mode })
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(failed("write", path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

pub(super) fn sync(directory: &Path) -> Result<(), BackupError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write", directory))
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { action, path, source }
}

/// Runs what blocks on the file system where it blocks nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StateError::Closed)?
}

/// The directory of keys and certificates, in a backup as in a data directory.
pub(super) const AUTHORITY: &str = "authority";

/// The record's file, in a backup as in a data directory.
pub(super) const RECORD: &str = "ca.sqlite3";

/// Where a backup says what it holds.
pub(super) const MANIFEST: &str = "manifest.json";

/// The form of backups that is written, and the one that is read.
pub(super) const VERSION: u32 = 1;

/// How deep directories may lie below the CA's: one for each issuer, in one for each state.
const DEEPEST: usize = 3;

const CHUNK: usize = 256 * 1024;
