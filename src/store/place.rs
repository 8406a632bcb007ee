//! Owns where the certificate directory is made, and where it must not be.

use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;

use super::directory::Directory;
use super::error::{StoreError, shown};
use super::layout::FINISHED_MODE;

/// Opens the certificate directory, and makes it when only its last component is missing.
pub(super) fn open_or_make(path: &Path) -> Result<Directory, StoreError> {
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
        Err(Errno::NOENT) => Err(StoreError::NoDirectory { directory: shown(path) }),
        Err(error) => Err(StoreError::io("make", path, error)),
    }
}

/// Where a volume is mounted by the contract with workers. Made here, it would hide that the mount is missing.
const MOUNT_POINT: &str = "/etc/certs";

const HOME_PARENT: &str = ".crank";
