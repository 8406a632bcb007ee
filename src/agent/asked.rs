//! Owns how the running agent is asked: the control socket, made again where its file is lost.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::kept::Kept;
use super::life::note;
use super::readiness::AgentReadiness;
use crate::control::{ControlServer, ControlState, RenewRequest};
use crate::events::EventError;
use crate::manager::{Command, ManagerHandle};
use crate::printable::error_chain;
use crate::schedule::SLICE;
use crate::serve::Readiness as _;
use crate::tasks::Tasks;

/// The managers, by the names of their certificates; the first has none, and comes first.
pub(super) type Handles = Vec<(Option<String>, ManagerHandle)>;

/// Where the agent is asked.
pub(super) struct Socket {
    bound: Option<Arc<ControlServer>>,
    kept: Arc<Kept>,
    path: PathBuf,
    /// Told when the file is gone.
    lost: Arc<Notify>,
}

impl Socket {
    /// The socket at `path`, where it is bound already.
    pub(super) fn new(bound: Option<Arc<ControlServer>>, kept: Arc<Kept>, path: PathBuf) -> Self {
        Self { bound, kept, path, lost: Arc::default() }
    }

    /// Whom to tell that the file is gone.
    pub(super) fn lost(&self) -> Arc<Notify> {
        Arc::clone(&self.lost)
    }

    /// Serves it and what is asked by it. Where the file of the socket cannot be made, or is lost, it is made again.
    pub(super) fn spawn(
        self,
        tasks: &mut Tasks,
        readiness: Arc<AgentReadiness>,
        handles: &Handles,
        stop: &CancellationToken,
    ) {
        let (renew, mut renewals) = mpsc::channel::<RenewRequest>(1);
        let further = handles.iter().filter_map(|(name, handle)| Some((name.clone()?, handle.status())));
        let state = ControlState {
            status: handles[0].1.status(),
            further: further.collect(),
            readiness: Arc::new(move || readiness.ready()),
            renew,
        };
        let token = stop.clone();
        tasks.spawn("control", async move {
            let Self { mut bound, kept, path, lost } = self;
            while !token.is_cancelled() {
                let Some(control) = bound.take().or_else(|| bind_again(&kept, &path)) else {
                    let _ = tokio::time::timeout(SLICE, token.cancelled()).await;
                    continue;
                };
                let served = token.child_token();
                let run = control.run(state.clone(), served.clone());
                tokio::pin!(run);
                tokio::select! {
                    () = run.as_mut() => {}
                    () = lost.notified() => {
                        served.cancel();
                        run.await;
                    }
                }
            }
            Ok::<(), Infallible>(())
        });
        let handles = handles.clone();
        tasks.spawn("renewals", async move {
            // Ends with the control task, which holds the sender.
            while let Some(request) = renewals.recv().await {
                renew_all(&handles, request);
            }
            Ok::<(), Infallible>(())
        });
    }
}

/// Has every certificate renewed. Who asked is told of the first, or of one that was not.
fn renew_all(handles: &Handles, request: RenewRequest) {
    if let [(_, handle)] = &handles[..] {
        note(handle.tell(Command::Renew(Some(request.reply))));
        return;
    }
    let ask = |(name, handle): &(Option<String>, ManagerHandle)| {
        let (sender, receiver) = oneshot::channel();
        note(handle.tell(Command::Renew(Some(sender))));
        (name.clone(), receiver)
    };
    let answers: Vec<_> = handles.iter().map(ask).collect();
    // Ends with the managers, which hold the senders.
    tokio::spawn(async move {
        let mut outcome = None;
        for (name, answer) in answers {
            // Without an answer, neither is there one for who asked: the agent is stopping.
            let Ok(answer) = answer.await else { return };
            let answer = answer.map_err(|error| match name {
                None => error,
                Some(name) => EventError { message: format!("certificate `{name}`: {}", error.message), ..error },
            });
            outcome = match (outcome, answer) {
                (None, answer) | (Some(Ok(_)), answer @ Err(_)) => Some(answer),
                (before, _) => before,
            };
        }
        if let Some(outcome) = outcome {
            let _ = request.reply.send(outcome);
        }
    });
}

fn bind_again(kept: &Kept, path: &Path) -> Option<Arc<ControlServer>> {
    match kept.control(path) {
        Ok(control) => {
            tracing::info!("the control socket is there again");
            Some(control)
        }
        Err(error) => {
            tracing::debug!(error = %error_chain(&error), "there is still no control socket");
            None
        }
    }
}
