//! Owns what the defaults depend on: [`Facts`] about this machine, read once, and the default certificate directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Facts about where the agent runs. Read once at start, so that a reload cannot move the certificate directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether `/etc/certs` is a directory that this process may write.
    pub etc_certs_writable: bool,
    /// Whether this is a container.
    pub in_container: bool,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// The file to look user names up in, in the form of passwd(5).
    pub users: PathBuf,
    /// The file to look group names up in, in the form of group(5).
    pub groups: PathBuf,
}

impl Facts {
    /// The facts of this machine.
    #[must_use]
    pub fn read() -> Self {
        let marked = ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists());
        let etc_certs = Path::new(ETC_CERTS);
        Self {
            etc_certs_writable: etc_certs.is_dir() && rustix::fs::access(etc_certs, Access::WRITE_OK).is_ok(),
            in_container: marked || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            home: std::env::home_dir(),
            users: PathBuf::from("/etc/passwd"),
            groups: PathBuf::from("/etc/group"),
        }
    }

    /// The certificate directory where none is set: `/etc/certs` where that can be written, and in every container,
    /// so that a missing mount fails there with a clear error; else `.crank/certs` in the home directory. `None`
    /// without a usable home.
    #[must_use]
    pub fn default_directory(&self) -> Option<PathBuf> {
        if self.etc_certs_writable || self.in_container {
            return Some(PathBuf::from(ETC_CERTS));
        }
        let home = self.home.as_ref().filter(|home| home.is_absolute() && home.as_os_str() != OsStr::new("/"));
        home.map(|home| home.join(".crank/certs"))
    }
}

const ETC_CERTS: &str = "/etc/certs";

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(etc_certs_writable: bool, in_container: bool, home: Option<&str>) -> Option<PathBuf> {
        let home = home.map(PathBuf::from);
        Facts { etc_certs_writable, in_container, home, ..Facts::read() }.default_directory()
    }

    #[test]
    fn etc_certs_is_taken_where_it_can_be_written_or_in_a_container() {
        for (writable, container) in [(true, false), (false, true), (true, true)] {
            assert_eq!(directory(writable, container, Some("/home/a")), Some(PathBuf::from("/etc/certs")));
        }
    }

    #[test]
    fn elsewhere_it_is_below_the_home() {
        assert_eq!(directory(false, false, Some("/home/a")), Some(PathBuf::from("/home/a/.crank/certs")));
        for home in [None, Some(""), Some("relative"), Some("/")] {
            assert_eq!(directory(false, false, home), None, "{home:?}");
        }
    }
}
