//! Owns the making of a CA from a backup: every file as it was, in a place where no CA is, and no token good by accident.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::Records;
use super::backup::{
    AUTHORITY, BackupError, FileFacts, MANIFEST, Manifest, RECORD, VERSION, blocking, copy, failed, make_directory,
    remove_companions, sync, sync_below,
};
use crate::bounded::read_file;
use crate::ca::authority::{Lock, check_not_writable_by_others};
use crate::ca::state::{Counts, Database, State};
use crate::clock::Clock;
use crate::printable::printable;

/// What becomes of tokens that the backup knows as unused. They may have been used after it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnusedTokens {
    /// They are revoked: whoever had one needs another.
    Revoke,
    /// They are good again, each for one certificate.
    Keep,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// When the backup was made.
    pub created_at: OffsetDateTime,
    /// How much is recorded; `None` when the record is in `PostgreSQL` and not in the backup.
    pub counts: Option<Counts>,
    /// How many tokens were revoked.
    pub revoked_tokens: u64,
}

/// Makes the CA that is in the backup `from` again, under `data_dir`, where no CA may be. Either all of it appears or
/// nothing that counts. Needs a tokio runtime.
///
/// # Errors
/// When there is a CA or a record already, the backup is not whole, or files or the record fail.
pub async fn restore(
    from: &Path,
    data_dir: &Path,
    unused: UnusedTokens,
    clock: Arc<dyn Clock>,
) -> Result<RestoreReport, BackupError> {
    let staging = data_dir.join(STAGING);
    let (lock, manifest) = {
        let (from, data_dir, staging) = (from.to_owned(), data_dir.to_owned(), staging.clone());
        blocking(move || {
            let manifest = read_manifest(&from)?;
            let lock = prepare(&data_dir, &staging)?;
            take_over(&from, &staging, &manifest)?;
            Ok((lock, manifest))
        })
        .await?
    };
    let mut revoked_tokens = 0;
    if manifest.counts.is_some() {
        revoked_tokens = adopt_record(&staging, unused, clock).await?;
    }
    let data_dir = data_dir.to_owned();
    blocking(move || {
        publish(&data_dir, &staging)?;
        drop(lock);
        Ok(())
    })
    .await?;
    Ok(RestoreReport { created_at: manifest.created_at, counts: manifest.counts, revoked_tokens })
}

fn read_manifest(from: &Path) -> Result<Manifest, BackupError> {
    let path = from.join(MANIFEST);
    let damaged = |reason: String| BackupError::Damaged { path: path.clone(), reason: printable(&reason, 300) };
    let bytes = read_file(&path, MANIFEST_LIMIT).map_err(|error| damaged(error.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.version != VERSION {
        return Err(damaged(format!("expected version {VERSION} of a backup, not {}", manifest.version)));
    }
    for name in manifest.files.keys() {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let in_authority = name.strip_prefix(AUTHORITY).and_then(|rest| rest.strip_prefix('/'));
        let in_authority = in_authority.is_some_and(|rest| rest.split('/').all(plain));
        if !in_authority && name != RECORD {
            return Err(damaged(format!("expected no file {name}")));
        }
    }
    if manifest.files.contains_key(RECORD) != manifest.counts.is_some() {
        return Err(damaged("expected counts and a record, or neither".to_owned()));
    }
    Ok(manifest)
}

/// Takes the place, if it is free.
fn prepare(data_dir: &Path, staging: &Path) -> Result<Lock, BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed("create", data_dir))?;
    check_not_writable_by_others(data_dir)?;
    let lock = Lock::acquire(data_dir)?;
    let authority = data_dir.join(AUTHORITY);
    if authority.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(authority));
    }
    let record = data_dir.join(RECORD);
    if staging.exists() {
        // An earlier restore did not end, so the record without a CA is its own.
        fs::remove_dir_all(staging).map_err(failed("remove", staging))?;
        if record.exists() {
            fs::remove_file(&record).map_err(failed("remove", &record))?;
        }
    } else if record.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(record));
    }
    for directory in [staging, &staging.join(AUTHORITY)] {
        make_directory(directory)?;
    }
    Ok(lock)
}

/// Copies every file and compares what was read with what the backup says of itself.
fn take_over(from: &Path, staging: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    for (name, facts) in &manifest.files {
        let path = from.join(name);
        // Nothing but the owner ever writes; certificates may be read by all.
        let mode = (facts.mode & 0o644) | 0o600;
        let target = staging.join(name);
        if let Some(directory) = target.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create", directory))?;
        }
        let read = copy(&path, &target, mode)?;
        if (FileFacts { mode: facts.mode, ..read }) != *facts {
            let reason = "is not the file that the backup was made with".to_owned();
            return Err(BackupError::Damaged { path, reason });
        }
    }
    Ok(())
}

/// Opens the record, which brings an older one up to date, examines it, and makes unused tokens useless. Returns how many.
async fn adopt_record(staging: &Path, unused: UnusedTokens, clock: Arc<dyn Clock>) -> Result<u64, BackupError> {
    let state = State::open(staging, &Database::Sqlite).await?;
    let records =
        Records { state, data_dir: staging.to_owned(), database: Database::Sqlite, clock: Arc::clone(&clock) };
    let report = records.check().await?;
    if let Some(reason) = report.problems.into_iter().next() {
        return Err(BackupError::Damaged { path: PathBuf::from(RECORD), reason });
    }
    let revoked = match unused {
        UnusedTokens::Revoke => records.state.revoke_unused_tokens(clock.now().wall).await?,
        UnusedTokens::Keep => 0,
    };
    records.close().await;
    remove_companions(staging)?;
    Ok(revoked)
}

/// The record first: what makes a CA is its directory of keys.
fn publish(data_dir: &Path, staging: &Path) -> Result<(), BackupError> {
    sync_below(staging)?;
    let record = staging.join(RECORD);
    if record.exists() {
        let target = data_dir.join(RECORD);
        fs::rename(&record, &target).map_err(failed("write", &target))?;
        sync(data_dir)?;
    }
    let target = data_dir.join(AUTHORITY);
    fs::rename(staging.join(AUTHORITY), &target).map_err(failed("write", &target))?;
    sync(data_dir)?;
    fs::remove_dir_all(staging).map_err(failed("remove", staging))?;
    if let Some(parent) = data_dir.canonicalize().map_err(failed("read", data_dir))?.parent() {
        sync(parent)?;
    }
    Ok(())
}

const STAGING: &str = ".restore.new";

const MANIFEST_LIMIT: u64 = 1024 * 1024;
