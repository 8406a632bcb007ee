//! Owns what the agent hears from outside: signals, and changes of files.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::AgentError;
use crate::printable::error_chain;
use crate::schedule::SLICE;
use crate::watch::FileWatcher;

/// What is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Renew,
    /// A watched file may have changed.
    Files,
}

/// The signals of this process. Opened once: a signal that comes while one life of the agent gives way to the next is
/// heard by the next.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
}

impl Signals {
    /// From here on no signal of these ends the process by itself.
    pub(super) fn begin() -> Result<Self, AgentError> {
        let open = |kind| signal(kind).map_err(AgentError::Signals);
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hang_up: open(SignalKind::hangup())?,
            user1: open(SignalKind::user_defined1())?,
        })
    }

    /// The next signal; with `only_stop`, the others wait for a later call. Cancel-safe.
    pub(super) async fn next(&mut self, only_stop: bool) -> Heard {
        tokio::select! {
            biased;
            () = stopped(&mut self.terminate, &mut self.interrupt) => Heard::Stop,
            _ = self.hang_up.recv(), if !only_stop => Heard::Reload,
            _ = self.user1.recv(), if !only_stop => Heard::Renew,
        }
    }

    /// Waits for the end; other signals wait for later.
    pub(super) async fn stop(&mut self) {
        stopped(&mut self.terminate, &mut self.interrupt).await;
    }
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Watches files, and looks at them now and then all the same, since on some file systems no change is told.
#[derive(Debug)]
pub(super) struct Files {
    paths: BTreeSet<PathBuf>,
    watcher: Option<FileWatcher>,
    credentials: BTreeMap<PathBuf, Option<Stamp>>,
    look_at: Instant,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Watches `paths` and `credentials`.
    pub(super) fn watch(mut paths: BTreeSet<PathBuf>, credentials: BTreeSet<PathBuf>) -> Self {
        paths.extend(credentials.iter().cloned());
        let watcher = match FileWatcher::new(&paths) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "files are looked at now and then instead");
                None
            }
        };
        let credentials = credentials.into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect();
        Self { paths, watcher, credentials, look_at: Instant::now() + LOOK_INTERVAL }
    }

    /// Waits for a change, or until it is time to look. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            sleep(SLICE).await;
            self.watcher = FileWatcher::new(&self.paths).ok();
            return;
        };
        let result = tokio::select! {
            result = watcher.changed() => result,
            () = sleep_until(self.look_at) => {
                self.look_at = Instant::now() + LOOK_INTERVAL;
                watcher.rearm().map(drop)
            }
        };
        if let Err(error) = result {
            tracing::warn!(error = %error_chain(&error), "files are looked at now and then instead");
            self.watcher = None;
        }
    }

    /// Whether a credential file is another than at the last call. That a published file changed is no reason to ask the
    /// CA again.
    pub(super) fn credentials_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, stamp) in &mut self.credentials {
            let now = Stamp::of(path);
            changed |= now != *stamp;
            *stamp = now;
        }
        changed
    }
}

impl Stamp {
    /// `None`: there is no such file, or none that can be looked at.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// How often files are looked at whatever the watch says.
const LOOK_INTERVAL: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_file_that_comes_goes_or_is_replaced_is_a_change_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (token, other) = (directory.path().join("token"), directory.path().join("client.crt"));
        let mut files = Files::watch([other.clone()].into(), [token.clone()].into());
        assert!(!files.credentials_changed());
        std::fs::write(&other, "x").unwrap();
        assert!(!files.credentials_changed());
        std::fs::write(&token, "one").unwrap();
        assert!(files.credentials_changed());
        assert!(!files.credentials_changed());
        // Of the same length, as a rotated token is.
        let next = directory.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &token).unwrap();
        assert!(files.credentials_changed());
        std::fs::remove_file(&token).unwrap();
        assert!(files.credentials_changed());
        assert!(!files.credentials_changed());
    }
}
