//! Owns the running of named tasks: the first that fails stops all, and stopping takes no longer than it may.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// A set of tasks that live and end together. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    cancel: CancellationToken,
    running: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
}

/// Why a set of tasks did not end well.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("task `{name}` failed")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error.
        #[source]
        source: BoxError,
    },
    /// A task panicked.
    #[error("task `{name}` panicked: {message}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// What it panicked with; printable.
        message: String,
    },
    /// A task went on after it was asked to stop, and was aborted.
    #[error("task `{name}` did not stop within {} s and was aborted", drain.as_secs_f64())]
    NotStopped {
        /// The task; the first by name if there are several.
        name: &'static str,
        /// How long it was given.
        drain: Duration,
    },
}

/// Any error of any task. Tasks of all parts meet here, so this is the one place for a boxed error.
pub type BoxError = Box<dyn Error + Send + Sync>;

impl Tasks {
    /// An empty set that stops when `cancel` is cancelled, and cancels it when a task fails.
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, running: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts a task. It should end soon after the token is cancelled; it may end well before that. If it fails or
    /// panics, the token is cancelled at once. Needs a tokio runtime.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let cancel = self.cancel.clone();
        let handle = self.running.spawn(async move {
            // Also dropped, and so cancels, when the task panics.
            let cancel_others = cancel.drop_guard();
            let result = task.await.map_err(Into::into);
            if result.is_ok() {
                cancel_others.disarm();
            }
            result
        });
        self.names.insert(handle.id(), name);
    }

    /// Waits until every task has ended. Once the token is cancelled, tasks that are still running after `drain` are
    /// aborted.
    ///
    /// # Errors
    /// The first failure; what the other tasks end with after it is logged.
    pub async fn join(mut self, drain: Duration) -> Result<(), TaskError> {
        let mut first = None;
        let cancel = self.cancel.clone();
        let stopped = async {
            cancel.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                biased;
                ended = self.running.join_next_with_id() => match ended {
                    None => return first.map_or(Ok(()), Err),
                    Some(ended) => self.note(ended, &mut first),
                },
                () = &mut stopped => break,
            }
        }
        // Sorted, so that the same state gives the same message.
        let mut late: Vec<&'static str> = self.names.into_values().collect();
        late.sort_unstable();
        // Not awaited: a task that never yields would hold us here.
        self.running.abort_all();
        for &name in &late {
            tracing::warn!(task = name, drain_seconds = drain.as_secs_f64(), "task aborted: it did not stop in time");
        }
        match (first, late.first()) {
            (Some(error), _) => Err(error),
            (None, Some(&name)) => Err(TaskError::NotStopped { name, drain }),
            (None, None) => Ok(()),
        }
    }

    fn note(&mut self, ended: Result<(Id, Result<(), BoxError>), JoinError>, first: &mut Option<TaskError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result.map_err(Ending::Error)),
            Err(error) => (error.id(), Err(Ending::Join(error))),
        };
        let name = self.names.remove(&id).unwrap_or("unknown");
        let error = match result {
            Ok(()) => return tracing::debug!(task = name, "task ended"),
            Err(Ending::Error(source)) => TaskError::Failed { name, source },
            Err(Ending::Join(error)) => TaskError::Panicked { name, message: panic_text(error) },
        };
        if first.is_none() {
            *first = Some(error);
        } else {
            tracing::warn!(task = name, %error, cause = error.source().map(tracing::field::display), "task failed too");
        }
    }
}

impl TaskError {
    /// The task.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failed { name, .. } | Self::Panicked { name, .. } | Self::NotStopped { name, .. } => name,
        }
    }
}

enum Ending {
    Error(BoxError),
    Join(JoinError),
}

fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "aborted".to_owned() };
    let payload: &(dyn Any + Send) = &*payload;
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    printable(text, FOREIGN_TEXT_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);

    async fn until_cancelled(cancel: CancellationToken) -> Result<(), Infallible> {
        cancel.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_stops_the_others_and_is_reported_by_name() {
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        tasks.spawn("patient", until_cancelled(cancel.clone()));
        tasks.spawn("broken", async { Err(io::Error::other("disk on fire")) });
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(error.to_string(), "task `broken` failed");
        assert_eq!(error.source().unwrap().to_string(), "disk on fire");
        assert!(cancel.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_with_its_name_and_message() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let fragile = async || -> Result<(), Infallible> { panic!("line one\nline two") };
        tasks.spawn("fragile", fragile());
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(error.to_string(), "task `fragile` panicked: line one\\nline two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_cancels_before_anyone_joins() {
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        tasks.spawn("broken", async { Err(io::Error::other("at once")) });
        tokio::time::timeout(DRAIN, cancel.cancelled()).await.unwrap();
        assert_eq!(tasks.join(DRAIN).await.unwrap_err().name(), "broken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_well_does_not_stop_the_others() {
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        tasks.spawn("short", async { Ok::<(), Infallible>(()) });
        tasks.spawn("patient", until_cancelled(cancel.clone()));
        let joined = tokio::spawn(tasks.join(DRAIN));
        // Under paused time this returns when nothing is left to run.
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!joined.is_finished());
        cancel.cancel();
        joined.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_aborted_after_the_drain() {
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        tasks.spawn("stubborn", std::future::pending::<Result<(), Infallible>>());
        tasks.spawn("patient", until_cancelled(cancel.clone()));
        cancel.cancel();
        let start = tokio::time::Instant::now();
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(error.to_string(), "task `stubborn` did not stop within 5 s and was aborted");
        assert_eq!(start.elapsed(), DRAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_set_is_joined_at_once() {
        Tasks::new(CancellationToken::new()).join(DRAIN).await.unwrap();
    }
}
