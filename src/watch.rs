//! Owns the notice that a file changed: [`FileWatcher`] watches the directories that a set of paths leads through.

mod chain;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// How long changes are collected before they are told as one.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// Tells when something changed at one of a set of paths: at the file, or at a symbolic link on the way to it, such as
/// `..data` in a volume of the kubelet. It sleeps until then. A change may be told that was none; and since on some file
/// systems none is told, look now and then all the same, and [`rearm`](Self::rearm) before.
pub struct FileWatcher {
    paths: BTreeSet<PathBuf>,
    /// `None` only while it is dropped.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    shared: Arc<Mutex<Shared>>,
    changes: mpsc::Receiver<()>,
    /// Held, so that the channel stays open when the watching thread ends: silence instead of an endless stream.
    _open: mpsc::Sender<()>,
    /// When to tell of a change that was seen.
    due: Option<Instant>,
}

/// Files cannot be watched. Polling is what remains.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system's limit of inotify instances or watches is reached.
    #[error("cannot watch files: the limit of inotify instances or watches is reached (fs.inotify.max_user_…)")]
    Limit,
    /// A directory cannot be watched for another reason.
    #[error("cannot watch {path}")]
    Failed {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// The watching thread could not be started, or has ended.
    #[error("cannot watch files: no thread can be had for it")]
    NoThread,
}

impl WatchError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Limit => "watch_limit",
            Self::Failed { .. } => "watch_failed",
            Self::NoThread => "watch_no_thread",
        }
    }
}

impl FileWatcher {
    /// Watches `paths`, which need not exist. Look at the files after this returns: what changes from then on is told.
    ///
    /// # Errors
    /// When watching is not possible here.
    pub fn new(paths: &BTreeSet<PathBuf>) -> Result<Self, WatchError> {
        // What cannot be made absolute has no directory to watch.
        let paths = paths.iter().filter_map(|path| std::path::absolute(path).ok()).collect();
        let shared = Arc::new(Mutex::new(Shared::default()));
        // One message is as good as many.
        let (sender, changes) = mpsc::channel(1);
        let handler = {
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            move |event: notify::Result<Event>| {
                if lock(&shared).concerns(&event) {
                    // Full: the change will be told with the one before.
                    let _ = sender.try_send(());
                }
            }
        };
        let watcher = guard(|| notify::recommended_watcher(handler), Path::new("files"))?;
        let mut watcher =
            Self { paths, watcher: Some(watcher), watched: BTreeMap::new(), shared, changes, _open: sender, due: None };
        watcher.rearm()?;
        Ok(watcher)
    }

    /// Watches whatever is, comes and goes in `directory`, which need not exist; not what is in directories below it.
    ///
    /// # Errors
    /// When watching is not possible here.
    pub fn of_directory(directory: &Path) -> Result<Self, WatchError> {
        Self::new(&[directory.join(ANY)].into())
    }

    /// Waits for a change, and then for [`DEBOUNCE`], so that changes that belong together are told once. Watches have
    /// been re-armed when it returns. Cancel-safe: a change that was seen is told by the next call.
    ///
    /// # Errors
    /// When there was a change, but not all paths are watched any longer.
    pub async fn changed(&mut self) -> Result<(), WatchError> {
        let due = match self.due {
            Some(due) => due,
            None if self.changes.recv().await.is_some() => *self.due.insert(Instant::now() + DEBOUNCE),
            None => std::future::pending().await,
        };
        sleep_until(due).await;
        self.due = None;
        while self.changes.try_recv().is_ok() {}
        self.rearm().map(drop)
    }

    /// Watches what the paths lead through now: directories may have been made, removed or replaced, and links moved.
    /// `true`: something was watched anew, so that changes may have been missed before. Look at the files afterwards.
    ///
    /// # Errors
    /// When a directory cannot be watched; all others are.
    pub fn rearm(&mut self) -> Result<bool, WatchError> {
        let mut anew = false;
        let mut failure = None;
        for _ in 0..REARM_ROUNDS {
            let mut points = BTreeSet::new();
            for path in &self.paths {
                chain::trace(path, &chain::look, &mut points);
            }
            let directories: BTreeSet<PathBuf> =
                points.iter().filter_map(|point| point.parent()).map(Path::to_owned).collect();
            let lost = {
                let mut shared = lock(&self.shared);
                shared.any_in = points.iter().filter_map(|point| any_in(point)).map(Path::to_owned).collect();
                shared.points = points;
                shared.directories.clone_from(&directories);
                std::mem::take(&mut shared.lost)
            };
            failure = None;
            let changed = self.watch_only(&directories, &lost, &mut failure);
            anew |= changed;
            // What was watched anew may have moved on before it was.
            if !changed {
                break;
            }
        }
        failure.map_or(Ok(anew), Err)
    }

    fn watch_only(
        &mut self,
        directories: &BTreeSet<PathBuf>,
        lost: &BTreeSet<PathBuf>,
        failure: &mut Option<WatchError>,
    ) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        self.watched.retain(|path, identity| {
            let keep = directories.contains(path) && !lost.contains(path) && Identity::of(path) == Some(*identity);
            if !keep {
                // An error says that the watch is gone already.
                let _ = guard(|| watcher.unwatch(path), path);
            }
            keep
        });
        let mut anew = false;
        for path in directories {
            if self.watched.contains_key(path) {
                continue;
            }
            let Some(identity) = Identity::of(path) else { continue };
            match guard(|| watcher.watch(path, RecursiveMode::NonRecursive), path) {
                Ok(()) => {
                    self.watched.insert(path.clone(), identity);
                    anew = true;
                }
                // Removed since it was looked at: the next round watches what is left.
                Err(WatchError::Failed { source, .. }) if matches!(source.kind, ErrorKind::PathNotFound) => anew = true,
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        anew
    }
}

impl fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatcher").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        // It panics when its thread has ended.
        let watcher = self.watcher.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
    }
}

/// Shared with the watching thread.
#[derive(Debug, Default)]
struct Shared {
    /// The names whose change is to be told.
    points: BTreeSet<PathBuf>,
    /// The directories of the points.
    directories: BTreeSet<PathBuf>,
    /// Directories in which the change of any name is to be told.
    any_in: BTreeSet<PathBuf>,
    /// Directories that were removed or moved: to be watched anew even if they look the same.
    lost: BTreeSet<PathBuf>,
}

impl Shared {
    fn concerns(&mut self, event: &notify::Result<Event>) -> bool {
        let Ok(event) = event else { return true };
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        let gone = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        let mut concerned = event.need_rescan();
        for path in &event.paths {
            if self.directories.contains(path) {
                concerned = true;
                if gone {
                    self.lost.insert(path.clone());
                }
            }
            concerned |= self.points.contains(path);
            concerned |= path.parent().is_some_and(|directory| self.any_in.contains(directory));
        }
        concerned
    }
}

/// The directory whose entries are meant by a point that stands for any of them.
fn any_in(point: &Path) -> Option<&Path> {
    point.parent().filter(|_| point.file_name().is_some_and(|name| name == ANY))
}

/// Tells one directory from another of the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::stat(path).ok()?;
        Some(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// Calls into the watcher, which panics when its thread could not be started or has ended.
fn guard<T>(call: impl FnOnce() -> notify::Result<T>, path: &Path) -> Result<T, WatchError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(match &source.kind {
            ErrorKind::MaxFilesWatch => WatchError::Limit,
            ErrorKind::Io(error) if is_limit(error) => WatchError::Limit,
            _ => WatchError::Failed { path: printable(&path.display().to_string(), FOREIGN_TEXT_LIMIT), source },
        }),
        Err(_) => Err(WatchError::NoThread),
    }
}

fn is_limit(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC))
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands for any name in a directory. No file is called so by people who want it to be read.
const ANY: &str = "\u{1}any";

/// Each round after the first is needed only when links move at that moment.
const REARM_ROUNDS: usize = 3;
