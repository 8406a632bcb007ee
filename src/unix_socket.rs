//! Owns the file of a Unix socket: binding it without a moment in which others could connect, replacing one that a dead
//! agent left, and removing it in the end.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `status`, `health` and `renew`.
    Control,
    /// The SPIFFE Workload API.
    WorkloadApi,
}

impl Purpose {
    /// The setting of its path.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Control => "control.socket",
            Self::WorkloadApi => "workload_api.socket",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control socket",
            Self::WorkloadApi => "socket of the Workload API",
        })
    }
}

/// Why a Unix socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers on it.
    #[error("another agent answers on {}", .0.display())]
    InUse(PathBuf),
    /// Something stands at the path that is not ours to remove.
    #[error("{} is there already and is no socket of this user; remove it or set {}", path.display(), purpose.setting())]
    Obstructed {
        /// The path.
        path: PathBuf,
        /// What was to be there.
        purpose: Purpose,
    },
    /// The system refused.
    #[error("cannot {action} the {purpose} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the socket is for.
        purpose: Purpose,
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl SocketError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InUse(_) => "locked",
            Self::Obstructed { .. } => "obstructed",
            Self::Io { .. } => "io",
        }
    }

    /// Whether the volume cannot be written at present, rather than the setting being wrong.
    #[must_use]
    pub fn forbids_writing_only(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(
            Errno::from_io_error(source),
            Some(Errno::ROFS | Errno::NOSPC | Errno::DQUOT | Errno::ACCESS | Errno::PERM)
        )
    }
}

/// A socket file that is ours, removed on drop unless somebody else's has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    purpose: Purpose,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

impl SocketFile {
    /// Binds `path` and listens, with the file of exactly this mode before the first connection can come.
    pub(crate) fn bind(path: &Path, mode: u32, purpose: Purpose) -> Result<(Self, OwnedFd), SocketError> {
        let io = |action| move |error: Errno| failed(action, purpose, path, error.into());
        remove_stale(path, purpose)?;
        let address = SocketAddrUnix::new(path).map_err(io("name"))?;
        let socket = new_socket().map_err(io("make"))?;
        rustix::net::bind(&socket, &address).map_err(|error| match error {
            Errno::ADDRINUSE => SocketError::InUse(path.to_owned()),
            error => io("bind")(error),
        })?;
        // Nobody can connect before `listen`, so the mode that the umask left is of no use to anyone.
        let identity = set_mode(path, mode).map_err(io("protect"))?;
        let file = Self { path: path.to_owned(), purpose, identity };
        rustix::net::listen(&socket, BACKLOG).map_err(io("listen on"))?;
        if file.is_ours() { Ok((file, socket)) } else { Err(SocketError::InUse(path.to_owned())) }
    }

    /// Gives the file another mode.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), SocketError> {
        let failed = |error: Errno| failed("protect", self.purpose, &self.path, error.into());
        let identity = set_mode(&self.path, mode).map_err(failed)?;
        if identity == self.identity { Ok(()) } else { Err(SocketError::InUse(self.path.clone())) }
    }

    /// Whether the file is still there, and leads here.
    pub(crate) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            // Failing leaves a stale socket, which the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket of this user on which nobody answers. Anything else at `path` stays and is an error.
fn remove_stale(path: &Path, purpose: Purpose) -> Result<(), SocketError> {
    let io = |action| move |source: io::Error| failed(action, purpose, path, source);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at")(error)),
    };
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Obstructed { path: path.to_owned(), purpose });
    }
    match connect(path) {
        // A full queue means that somebody listens.
        Ok(()) | Err(Errno::AGAIN) => return Err(SocketError::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(io("try")(error.into())),
    }
    let unchanged = fs::symlink_metadata(path).is_ok_and(|now| identity(&now) == identity(&found));
    if !unchanged {
        return Err(SocketError::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(io("remove the stale"))
}

fn failed(action: &'static str, purpose: Purpose, path: &Path, source: io::Error) -> SocketError {
    SocketError::Io { action, purpose, path: path.to_owned(), source }
}

fn connect(path: &Path) -> Result<(), Errno> {
    rustix::net::connect(new_socket()?, &SocketAddrUnix::new(path)?)
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Sets the mode of the socket at `path`, following no symbolic link, and tells which file it was.
fn set_mode(path: &Path, mode: u32) -> Result<Identity, Errno> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::EXIST);
    }
    // chmod(2) follows links and fchmod(2) takes no O_PATH descriptor; by way of /proc it is this very file.
    rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// The longest path of a Unix socket, in bytes: `sun_path` without its closing zero byte (unix(7)).
pub(crate) const PATH_LIMIT: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn bind(path: &Path) -> Result<(SocketFile, OwnedFd), SocketError> {
        SocketFile::bind(path, 0o600, Purpose::Control)
    }

    #[test]
    fn the_socket_has_its_mode_and_is_gone_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        bound.0.set_mode(0o666).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o666);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_somebody_answers_on_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        assert!(connect(&path).is_ok(), "the first one still listens");
    }

    #[test]
    fn a_socket_that_a_dead_agent_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(connect(&path), Err(Errno::CONNREFUSED));
        let _bound = bind(&path).unwrap();
        assert!(connect(&path).is_ok());
    }

    #[test]
    fn files_and_symbolic_links_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "x").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o640)).unwrap();
        let stale = directory.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        for (name, target) in [("to-file", "precious"), ("to-socket", "stale"), ("dangling", "nothing")] {
            let link = directory.path().join(name);
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(matches!(bind(&link), Err(SocketError::Obstructed { .. })), "{name}");
            assert!(link.is_symlink());
        }
        assert!(matches!(bind(&precious), Err(SocketError::Obstructed { .. })));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
        assert!(!directory.path().join("nothing").exists());
        assert!(set_mode(&directory.path().join("to-file"), 0o600).is_err());
        assert!(set_mode(&directory.path().join("to-socket"), 0o600).is_err());
        assert_eq!(fs::metadata(&precious).unwrap().permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_successor_at_the_same_path_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        drop(first);
        assert!(connect(&path).is_ok());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = bind(Path::new("/nonexistent/s")).unwrap_err();
        assert!(error.to_string() == "cannot bind the control socket /nonexistent/s", "{error}");
    }
}
