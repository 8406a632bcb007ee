//! Owns the reading of small foreign files: never a device or a pipe, never more than a limit.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's error.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("cannot read {0}: expected a regular file")]
    NotAFile(PathBuf),
    /// Larger than anything that belongs there.
    #[error("cannot read {path}: expected at most {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

/// The content of a regular file of at most `limit` bytes, in memory that is wiped on drop.
///
/// # Errors
/// When it cannot be opened or read, is no regular file, or is larger.
pub fn read_file(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let fail = |source| ReadError::Io { path: path.to_owned(), source };
    // Without O_NONBLOCK, opening a pipe waits for its writer.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    if metadata.len() > limit {
        return Err(ReadError::TooLarge { path: path.to_owned(), limit });
    }
    // Sized in advance, so that no copy is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(limit.min(metadata.len() + 1)).unwrap_or(0)));
    file.take(limit + 1).read_to_end(&mut content).map_err(fail)?;
    if content.len() as u64 > limit {
        return Err(ReadError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_limit_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_file(&path, 5).unwrap().as_slice(), b"12345");
        assert!(matches!(read_file(&path, 4), Err(ReadError::TooLarge { limit: 4, .. })));
    }

    #[test]
    fn endless_and_blocking_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [Path::new("/dev/zero"), directory.path(), &pipe] {
            assert!(matches!(read_file(path, 10), Err(ReadError::NotAFile(_))), "{}", path.display());
        }
        let error = read_file(Path::new("/nowhere"), 1).unwrap_err().to_string();
        assert_eq!(error, "cannot read /nowhere: No such file or directory (os error 2)");
    }
}
