//! Owns the Rego engine of this process: the set of rules in force, and the threads on which they are evaluated.

mod cases;
mod check;
mod directory;
mod message;
mod reload;
mod rules;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::engine::{Answer, Asked, Engine};
use super::input::{Hook, Input};
use super::{PolicyError, PolicyStatus};
use crate::bounded::ReadError;

use threads::{Threads, on_large_stack};

pub use cases::{CaseError, CaseReport, Cases, run_test_rules};
pub use directory::{PolicyFiles, SourceFile};
pub use rules::RuleSet;

/// A set of rules that cannot be put in force. The text names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// The directory cannot be listed.
    #[error("cannot read the policy directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read, or is larger than what is left of the limit for all of them.
    #[error(transparent)]
    File(#[from] ReadError),
    /// More files than a set has.
    #[error("{path} has more than {limit} files")]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// The most there may be.
        limit: usize,
    },
    /// A file that is no text.
    #[error("{0} is not UTF-8")]
    NotUtf8(PathBuf),
    /// A directory in the directory.
    #[error("{0} is a directory: a set is one directory, and what is below it would not be read")]
    Nested(PathBuf),
    /// Rego that does not parse, or cannot be evaluated as it is.
    #[error("{0}")]
    Rules(String),
    /// A data file.
    #[error("{name}: {reason}")]
    Data {
        /// The file.
        name: String,
        /// What is wrong with it; printable.
        reason: String,
    },
    /// A rule that no file has.
    #[error(
        "no file has the rule `{0}` of package crank: each hook needs one that gives an object, and a \
             default alone is none"
    )]
    NoRule(Hook),
    /// A function that is not available.
    #[error("the rules call `{name}`, which is not available here: {reason}")]
    Function {
        /// Which.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A function that calls itself.
    #[error("the rules are recursive: {0}")]
    Recursive(String),
    /// More rules than a set has.
    #[error("the hooks reach {found} rules, more than {limit}")]
    TooManyRules {
        /// So many.
        found: usize,
        /// The most there may be.
        limit: usize,
    },
    /// No thread is to be had.
    #[error("cannot start a thread for the rules")]
    Thread,
}

/// The rules of a directory, evaluated in this process. When the directory changes, the whole new set takes over, or else
/// the old one stays.
pub(crate) struct RegoEngine {
    current: watch::Receiver<Current>,
    threads: Threads,
    timeout: Duration,
    _reloading: DropGuard,
}

/// The set in force, and what is wrong with a newer one.
#[derive(Clone)]
struct Current {
    set: Arc<RuleSet>,
    problem: Option<String>,
}

impl RegoEngine {
    /// The set under `directory`, kept in step with it until this is dropped. Blocks on the file system; needs a tokio
    /// runtime.
    pub(crate) fn start(directory: &Path, timeout: Duration) -> Result<Self, RegoError> {
        let set = Arc::new(RuleSet::load(directory)?);
        tracing::info!(directory = %directory.display(), revision = set.revision(), "policy rules in force");
        let threads = Threads::start(std::thread::available_parallelism().map_or(4, |cores| cores.get() * 2))?;
        let (sender, current) = watch::channel(Current { set, problem: None });
        let cancel = CancellationToken::new();
        tokio::spawn(reload::keep_current(directory.to_owned(), sender, cancel.clone()));
        Ok(Self { current, threads, timeout, _reloading: cancel.drop_guard() })
    }
}

impl Engine for RegoEngine {
    fn ask(&self, input: Input) -> Asked<'_> {
        let set = Arc::clone(&self.current.borrow().set);
        Box::pin(async move {
            let timeout = self.timeout;
            let basis = format!("rego {}", set.revision());
            let value = self.threads.run(move || set.evaluate(&input, timeout)).await;
            let value = value.unwrap_or_else(|| Err(PolicyError::new("the evaluation of the rules panicked")));
            Ok(Answer { value: value?, basis })
        })
    }

    fn status(&self) -> PolicyStatus {
        let Current { set, problem } = self.current.borrow().clone();
        PolicyStatus { engine: "rego", revision: Some(set.revision().to_owned()), problem }
    }
}

#[cfg(test)]
mod tests;
