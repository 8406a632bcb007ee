//! Owns the lock on a certificate directory: one agent writes it at a time.

use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::{FlockOperation, OFlags, flock, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::directory::Directory;
use super::error::{StoreError, shown};
use super::layout::LOCK_FILE;
use crate::printable::printable;

/// Held until dropped, or until the process ends in whatever way: the kernel's lock, not the file's existence, counts.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of `directory`, or says who has it.
    pub(super) fn acquire(directory: &Directory) -> Result<Self, StoreError> {
        let path = directory.path().join(LOCK_FILE);
        // The file may be removed between opening and locking it; then the lock is not the directory's.
        for _ in 0..ATTEMPTS {
            let (file, stat) = directory.file(LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
            // A file with another name elsewhere, or of someone else, was planted.
            if stat.st_nlink > 1 || stat.st_uid != geteuid().as_raw() {
                return Err(StoreError::obstructed(&path, "a file of someone else"));
            }
            let mut lock = Self { file };
            match flock(&lock.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let holder = lock.holder().unwrap_or_else(|| "one that left no name".to_owned());
                    return Err(StoreError::Locked { directory: shown(directory.path()), holder });
                }
                Err(error) => return Err(StoreError::io("lock", &path, error)),
            }
            if lock.is_of(directory)? {
                lock.sign().ok_or_else(|| StoreError::obstructed(&path, "a file of someone else"))?;
                return Ok(lock);
            }
        }
        Err(StoreError::io("lock", &path, Errno::AGAIN))
    }

    /// Whether this is still the lock of the directory: it may have been removed, or the directory made anew.
    pub(super) fn is_of(&self, directory: &Directory) -> Result<bool, StoreError> {
        let ours =
            fstat(&self.file).map_err(|error| StoreError::io("examine", &directory.path().join(LOCK_FILE), error))?;
        let there = directory.stat(LOCK_FILE)?;
        Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)))
    }

    /// Writes who holds the lock, for the message of the next. `None`: the file holds something else and is left as it
    /// is. A full disk does not matter.
    fn sign(&mut self) -> Option<()> {
        let text = self.content()?;
        if !text.is_empty() && parse_holder(&text).is_none() {
            return None;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let line = holder_line(std::process::id(), host.trim());
        let _ =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(line.as_bytes()));
        Some(())
    }

    fn holder(&mut self) -> Option<String> {
        parse_holder(&self.content()?)
    }

    fn content(&mut self) -> Option<String> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        (&self.file).take(CONTENT_LIMIT + 1).read_to_string(&mut text).ok()?;
        (text.len() as u64 <= CONTENT_LIMIT).then_some(text)
    }
}

impl Drop for Lock {
    /// Closing alone would leave the lock with a child process that has been forked and has not executed yet.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// What the holder writes: `process 17 on host-a`.
fn holder_line(process: u32, host: &str) -> String {
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
    format!("process {process} on {host}\n")
}

/// The holder by its own words; `None` when that is not what the file contains.
fn parse_holder(text: &str) -> Option<String> {
    let line = text.strip_suffix('\n')?;
    let (process, _) = line.strip_prefix("process ")?.split_once(" on ")?;
    let number: u32 = process.parse().ok()?;
    (number > 0).then(|| printable(line, 128))
}

const ATTEMPTS: usize = 8;

const CONTENT_LIMIT: u64 = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_holder_is_read_back(process in 1_u32.., host in ".{0,80}") {
            let line = holder_line(process, &host);
            prop_assert!(line.len() as u64 <= CONTENT_LIMIT);
            let holder = parse_holder(&line).unwrap();
            let expected = format!("process {process} on ");
            prop_assert!(holder.starts_with(&expected));
        }

        #[test]
        fn what_is_said_of_the_holder_is_one_line(text in "(process 1 on )?.*\n?") {
            if let Some(holder) = parse_holder(&text) {
                prop_assert!(!holder.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn a_dropped_lock_is_free_although_a_child_has_its_file_open() {
        let temporary = tempfile::TempDir::new().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        let lock = Lock::acquire(&directory).unwrap();
        let inherited = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::acquire(&directory), Err(StoreError::Locked { .. })));
        drop(lock);
        Lock::acquire(&directory).unwrap();
        drop(inherited);
    }

    #[test]
    fn other_files_are_not_taken_for_a_lock() {
        for other in
            ["root:x:0:0:root:/root:/bin/sh\n", "17\n", "process x on y\n", "process 1 on y", "process 0 on y\n"]
        {
            assert_eq!(parse_holder(other), None, "{other}");
        }
    }
}
