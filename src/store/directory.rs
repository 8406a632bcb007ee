//! Owns the file system calls: everything in a certificate directory is reached by one name relative to an open
//! directory, and no symbolic link is followed.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fsync, mkdirat, open, openat, openat2, readlinkat,
    renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::{StoreError, shown};

/// An open directory, and the path it was opened by, for messages.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Missing,
    /// A symbolic link and its target.
    Link(String),
    File,
    Directory,
    Other,
}

/// A file's bytes, wiped on drop, and what the file system says of it.
pub(super) struct Contents {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) stat: Stat,
}

impl Directory {
    /// Opens the directory at `path`, which comes from the configuration: links in it are followed.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOENT) => Err(StoreError::NoDirectory { directory: shown(path) }),
            Err(Errno::NOTDIR) => Err(StoreError::obstructed(path, "not a directory")),
            Err(error) => Err(StoreError::io("open", path, error)),
        }
    }

    /// Opens the directory `name` in this one.
    pub(super) fn child(&self, name: &str) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.open_beneath(name, flags, Mode::empty()).map_err(|error| self.refused("open", name, error))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Makes the directory `name`, for its owner alone. `false`: there is something of that name.
    pub(super) fn make_child(&self, name: &str, mode: u32) -> Result<bool, StoreError> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.refused("make", name, error)),
        }
    }

    /// Makes the file `name` for writing, with mode 0600 whatever the umask adds to it. There must be nothing of that
    /// name.
    pub(super) fn create(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.open_beneath(name, flags, Mode::from_raw_mode(0o600));
        fd.map(File::from).map_err(|error| self.refused("create", name, error))
    }

    /// Opens the regular file `name` with `flags`.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<(File, Stat), StoreError> {
        // Not to wait for the other end, should someone have put a FIFO there.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        let fd = self.open_beneath(name, flags, mode).map_err(|error| self.refused("open", name, error))?;
        let stat = fstat(&fd).map_err(|error| self.refused("examine", name, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StoreError::obstructed(&self.path.join(name), "not a regular file"));
        }
        Ok((File::from(fd), stat))
    }

    /// Reads the regular file `name`, of at most `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Contents, StoreError> {
        let path = self.path.join(name);
        let (mut file, stat) = self.file(name, OFlags::RDONLY)?;
        let too_large = || StoreError::TooLarge { path: shown(&path), limit };
        let size = u64::try_from(stat.st_size).ok().filter(|size| *size <= limit).ok_or_else(too_large)?;
        // One byte more, to see that the file ends; of fixed size, so that no copy is left behind by growing.
        let capacity = usize::try_from(size + 1).map_err(|_| too_large())?;
        let mut bytes = Zeroizing::new(vec![0; capacity]);
        let mut length = 0;
        while length < capacity {
            match file.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
        }
        if length == capacity {
            return Err(StoreError::io("read", &path, std::io::Error::other("it grew meanwhile")));
        }
        bytes.truncate(length);
        Ok(Contents { bytes, stat })
    }

    /// What stands under `name`.
    pub(super) fn entry(&self, name: &str) -> Result<Entry, StoreError> {
        let Some(stat) = self.stat(name)? else { return Ok(Entry::Missing) };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Entry::File,
            FileType::Directory => Entry::Directory,
            FileType::Symlink => match readlinkat(&self.fd, name, Vec::new()) {
                Ok(target) => Entry::Link(target.to_string_lossy().into_owned()),
                Err(Errno::NOENT) => Entry::Missing,
                // Replaced by something that is not a link since it was examined.
                Err(Errno::INVAL) => Entry::Other,
                Err(error) => return Err(self.refused("examine", name, error)),
            },
            _ => Entry::Other,
        })
    }

    /// What the file system says of `name` itself.
    pub(super) fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.refused("examine", name, error)),
        }
    }

    /// Calls `visit` with every name in the directory that is UTF-8; others are not the store's.
    pub(super) fn each_name(&self, mut visit: impl FnMut(&str)) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("list", &self.path, error);
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().to_str() {
                visit(name);
            }
        }
        Ok(())
    }

    /// Makes a symbolic link to `target` at `name`, replacing a file or link.
    pub(super) fn make_link(&self, name: &str, target: &str) -> Result<(), StoreError> {
        self.remove_file(name)?;
        symlinkat(target, &self.fd, name).map_err(|error| self.refused("create", name, error))
    }

    /// Moves `from` over `to`, a file or link.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        renameat(&self.fd, from, &self.fd, to).map_err(|error| self.refused("replace", to, error))
    }

    /// Removes the file or link `name`; nothing of that name is fine.
    pub(super) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(StoreError::obstructed(&self.path.join(name), "a directory")),
            Err(error) => Err(self.refused("remove", name, error)),
        }
    }

    /// Removes the directory `name` if it is empty. `false`: it is not.
    pub(super) fn remove_empty_child(&self, name: &str) -> Result<bool, StoreError> {
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(self.refused("remove", name, error)),
        }
    }

    /// Waits until the directory's names are on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fsync(&self.fd).map_err(|error| StoreError::io("sync", &self.path, error))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens one name. `openat2` has the kernel see to it that the name stays in the directory; where it is missing or
    /// filtered (old kernels, old seccomp profiles), `NOFOLLOW` does as much for a name without a slash.
    fn open_beneath(&self, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        if name.contains('/') {
            return Err(Errno::INVAL);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(self.fd.as_fd(), name, flags, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM) => openat(self.fd.as_fd(), name, flags, mode),
            result => result,
        }
    }

    fn refused(&self, action: &'static str, name: &str, error: Errno) -> StoreError {
        let path = self.path.join(name);
        match error {
            Errno::NOENT if matches!(action, "open" | "examine") => StoreError::Missing { path: shown(&path) },
            Errno::LOOP => StoreError::obstructed(&path, "a symbolic link"),
            Errno::NOTDIR => StoreError::obstructed(&path, "not a directory"),
            Errno::ISDIR => StoreError::obstructed(&path, "a directory"),
            error => StoreError::io(action, &path, error),
        }
    }
}
