//! Owns how the store fails: [`StoreError`] and its fixed labels.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::identity::BundleError;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// What went wrong on disk. Paths in it are printable; causes are in the source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The certificate directory is not there, and is not one that the store may make.
    #[error("certificate directory {directory} does not exist: mount a volume there, or set CERT_DIR to one")]
    NoDirectory {
        /// The certificate directory.
        directory: String,
    },
    /// Another agent writes the same directory.
    #[error("certificate directory {directory} is in use by another agent ({holder})")]
    Locked {
        /// The certificate directory.
        directory: String,
        /// The other agent's process id and host name, as it wrote them.
        holder: String,
    },
    /// Something else stands where a file, link or directory of the store belongs. It is left alone.
    #[error("{path} is {found}, which this program does not make: move it away")]
    Obstructed {
        /// What is in the way.
        path: String,
        /// What was found there.
        found: &'static str,
    },
    /// The volume ignores file modes or owners, so that a private key would be open to others.
    #[error("{path} cannot be protected: the volume does not keep {what}")]
    Unprotected {
        /// The file; it has no content yet.
        path: String,
        /// `file modes` or `file owners`.
        what: &'static str,
    },
    /// A file that belongs to a certificate is not there.
    #[error("{path} is missing")]
    Missing {
        /// The file.
        path: String,
    },
    /// A file is larger than any that the store writes.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// What a file contains is of no use, or does not fit the file beside it.
    #[error("{path} is of no use")]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The password of a keystore cannot be used.
    #[error("the password of a keystore in {path} cannot be used: {reason}")]
    Password {
        /// The password file.
        path: String,
        /// What is wrong with it; printable, and without the password.
        reason: String,
    },
    /// A generation was not published; the one before stays in place.
    #[error("cannot publish generation {generation} under {directory}")]
    Publish {
        /// The name of the generation.
        generation: String,
        /// The certificate directory.
        directory: String,
        /// The step that failed.
        #[source]
        source: Box<StoreError>,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoDirectory { .. } => "no_directory",
            Self::Locked { .. } => "locked",
            Self::Obstructed { .. } => "obstructed",
            Self::Unprotected { .. } => "unprotected",
            Self::Missing { .. } => "missing",
            Self::TooLarge { .. } | Self::Content { .. } => "corrupt",
            Self::Password { .. } => "password",
            Self::Publish { source, .. } => source.kind(),
            Self::Io { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOSPC | Errno::DQUOT) => "no_space",
                Some(Errno::ROFS) => "read_only",
                Some(Errno::ACCESS | Errno::PERM) => "permission",
                _ => "io",
            },
        }
    }

    /// Whether the volume cannot be written at present, while what is on it may be read.
    pub(super) fn forbids_writing_only(&self) -> bool {
        matches!(self.kind(), "no_space" | "read_only" | "permission")
    }

    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: shown(path), source: source.into() }
    }

    pub(super) fn obstructed(path: &Path, found: &'static str) -> Self {
        Self::Obstructed { path: shown(path), found }
    }
}

/// A path as text for people.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.display().to_string(), FOREIGN_TEXT_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printable::error_chain;

    #[test]
    fn the_chain_reads_as_one_sentence_and_the_kind_is_that_of_the_cause() {
        let path = Path::new("/etc/certs/client.key");
        let error = StoreError::Publish {
            generation: "..2026_01_01_00_00_00.0000000000000000".to_owned(),
            directory: "/etc/certs".to_owned(),
            source: Box::new(StoreError::io("write", path, Errno::NOSPC)),
        };
        assert_eq!(error.kind(), "no_space");
        assert_eq!(
            error_chain(&error),
            "cannot publish generation ..2026_01_01_00_00_00.0000000000000000 under /etc/certs: \
             cannot write /etc/certs/client.key: No space left on device (os error 28)"
        );
    }

    #[test]
    fn a_path_cannot_inject_into_a_line() {
        assert_eq!(shown(Path::new("/a\nb")), "/a\\nb");
    }
}
