//! Owns keeping the set in force in step with its directory: on notice of a change, and every few seconds all the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::directory::PolicyFiles;
use super::rules::RuleSet;
use super::{Current, RegoError};
use crate::printable::error_chain;
use crate::watch::FileWatcher;

/// Puts each new set of `directory` in force as a whole, until cancelled. One that is not fit leaves the old one, with
/// the reason beside it.
pub(super) async fn keep_current(directory: PathBuf, current: watch::Sender<Current>, cancel: CancellationToken) {
    let mut watcher = FileWatcher::of_directory(&directory)
        .inspect_err(|error| tracing::warn!(error = %error_chain(error), "looking for changed policies every 5 s"))
        .ok();
    loop {
        let changed = async {
            match &mut watcher {
                // An error means that not all is watched; polling goes on.
                Some(watcher) => drop(watcher.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep(POLL) => {}
        }
        if let Some(watcher) = &mut watcher {
            let _ = watcher.rearm();
        }
        let before = current.borrow().clone();
        let path = directory.clone();
        let read = tokio::task::spawn_blocking(move || look(&path, &before)).await;
        match read {
            Ok(Some(next)) => {
                report(&directory, &next);
                current.send_replace(next);
            }
            Ok(None) => {}
            Err(_) => tracing::error!("reading the policy directory panicked; the rules in force stay"),
        }
    }
}

/// What is to be in force now; `None` where nothing has changed.
fn look(directory: &Path, before: &Current) -> Option<Current> {
    let next = PolicyFiles::read(directory).and_then(|files| {
        if files.digest() == before.set.revision() {
            return Ok(Arc::clone(&before.set));
        }
        RuleSet::compile(files).map(Arc::new)
    });
    let next = match next {
        Ok(set) => Current { set, problem: None },
        Err(error) => Current { set: Arc::clone(&before.set), problem: Some(problem(&error)) },
    };
    let same = next.set.revision() == before.set.revision() && next.problem == before.problem;
    (!same).then_some(next)
}

fn problem(error: &RegoError) -> String {
    error_chain(error)
}

fn report(directory: &Path, next: &Current) {
    let (directory, revision) = (directory.display(), next.set.revision());
    match &next.problem {
        None => tracing::info!(%directory, revision, "policy rules in force"),
        Some(problem) => {
            tracing::error!(%directory, revision, error = problem, "changed policy rules refused, the old ones stay");
        }
    }
}

/// On some file systems no change is told.
const POLL: Duration = Duration::from_secs(5);
