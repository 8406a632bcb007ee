//! Owns one generation directory: building it out of sight, and taking it down again.

use std::io::Write;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;
use time::OffsetDateTime;

use super::directory::Directory;
use super::error::{StoreError, shown};
use super::layout::{
    CREDENTIAL_BUNDLE_FILE, FINISHED_MODE, GenerationName, KEY_FILE, Protection, PublishedFile, UNFINISHED_MODE,
};
use crate::crypto::sha256;

/// A generation under construction. Until it is finished nobody else can enter it; dropped, it is removed.
pub(super) struct Staging<'a> {
    parent: &'a Directory,
    directory: Directory,
    name: GenerationName,
    keep: bool,
}

impl<'a> Staging<'a> {
    /// Makes an empty generation under a name that is not in use.
    pub(super) fn begin(parent: &'a Directory, name: GenerationName) -> Result<Self, StoreError> {
        if !parent.make_child(name.as_str(), UNFINISHED_MODE)? {
            return Err(StoreError::io("make", &parent.path().join(name.as_str()), Errno::EXIST));
        }
        let directory = match parent.child(name.as_str()) {
            Ok(directory) => directory,
            Err(error) => {
                let _ = parent.remove_empty_child(name.as_str());
                return Err(error);
            }
        };
        let staging = Self { parent, directory, name, keep: false };
        staging.check_seclusion()?;
        Ok(staging)
    }

    /// Writes `file`, protected before it has content, and waits until it is on disk. Returns the content's SHA-256.
    pub(super) fn write(
        &self,
        file: PublishedFile<'_>,
        bytes: &[u8],
        protection: Protection,
    ) -> Result<[u8; 32], StoreError> {
        write_file(&self.directory, &file.name(), bytes, protection)
    }

    /// Opens the generation to readers and waits until it is on disk.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let path = self.directory.path();
        fchmod(self.directory.fd(), Mode::from_raw_mode(FINISHED_MODE))
            .map_err(|error| StoreError::io("set the mode of", path, error))?;
        self.directory.sync()
    }

    /// From here on the generation stays.
    pub(super) fn keep(mut self) -> GenerationName {
        self.keep = true;
        self.name.clone()
    }

    pub(super) fn name(&self) -> &GenerationName {
        &self.name
    }

    /// The directory opened is the one made: ours, and closed to others. Who may write to the certificate directory
    /// could have put another in its place.
    fn check_seclusion(&self) -> Result<(), StoreError> {
        let path = self.directory.path();
        let stat = fstat(self.directory.fd()).map_err(|error| StoreError::io("examine", path, error))?;
        if stat.st_uid != geteuid().as_raw() {
            return Err(StoreError::Unprotected { path: shown(path), what: "file owners" });
        }
        if stat.st_mode & 0o777 != UNFINISHED_MODE {
            return Err(StoreError::Unprotected { path: shown(path), what: "file modes" });
        }
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed now is removed on the next start.
            let _ = remove_generation(self.parent, &self.name);
        }
    }
}

/// Makes the file `name`, protected before it has content, and waits until it is on disk. Returns the content's SHA-256.
pub(super) fn write_file(
    directory: &Directory,
    name: &str,
    bytes: &[u8],
    protection: Protection,
) -> Result<[u8; 32], StoreError> {
    let path = directory.path().join(name);
    let mut output = directory.create(name)?;
    let mode = Mode::from_raw_mode(protection.mode);
    fchmod(&output, mode).map_err(|error| StoreError::io("set the mode of", &path, error))?;
    if protection.owner.is_some() || protection.group.is_some() {
        let (owner, group) = (protection.owner.map(Uid::from_raw), protection.group.map(Gid::from_raw));
        fchown(&output, owner, group).map_err(|error| StoreError::io("set the owner and group of", &path, error))?;
    }
    let stat = fstat(&output).map_err(|error| StoreError::io("examine", &path, error))?;
    if stat.st_mode & 0o7777 != protection.mode {
        return Err(StoreError::Unprotected { path: shown(&path), what: "file modes" });
    }
    if protection.owner.is_some_and(|owner| owner != stat.st_uid)
        || protection.group.is_some_and(|group| group != stat.st_gid)
    {
        return Err(StoreError::Unprotected { path: shown(&path), what: "file owners" });
    }
    output.write_all(bytes).map_err(|error| StoreError::io("write", &path, error))?;
    output.sync_all().map_err(|error| StoreError::io("sync", &path, error))?;
    Ok(sha256(bytes))
}

/// A name for a new generation, different from any other.
pub(super) fn new_name(now: OffsetDateTime) -> GenerationName {
    let mut bytes = [0; 8];
    // The system's random source does not fail after boot; were it to, a name in use would be refused, not reused.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    GenerationName::new(now, u64::from_le_bytes(bytes))
}

/// Removes the files of a generation, those with the key first, and then the directory. A directory in it is not of the
/// store and stays, and with it the generation's: `false`.
pub(super) fn remove_generation(parent: &Directory, name: &GenerationName) -> Result<bool, StoreError> {
    let directory = match parent.child(name.as_str()) {
        Ok(directory) => directory,
        Err(StoreError::Missing { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut names = vec![CREDENTIAL_BUNDLE_FILE.to_owned(), KEY_FILE.to_owned()];
    // Further files are of the settings of their time.
    directory.each_name(|name| {
        if name != "." && name != ".." && names.len() < FILES_LIMIT && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    })?;
    for name in names {
        match directory.remove_file(&name) {
            Ok(()) | Err(StoreError::Obstructed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    parent.remove_empty_child(name.as_str())
}

/// More files than a generation has; what is above it stays for the next time.
const FILES_LIMIT: usize = 1000;
