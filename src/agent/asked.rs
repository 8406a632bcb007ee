//! Owns how the running agent is asked: the control socket, made again where its file is lost.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::kept::Kept;
use super::life::note;
use super::readiness::DiskReadiness;
use crate::control::{ControlServer, ControlState, RenewRequest};
use crate::manager::{Command, ManagerHandle};
use crate::printable::error_chain;
use crate::schedule::SLICE;
use crate::serve::Readiness as _;
use crate::tasks::Tasks;

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
        readiness: Arc<DiskReadiness>,
        handle: &ManagerHandle,
        stop: &CancellationToken,
    ) {
        let (renew, mut renewals) = mpsc::channel::<RenewRequest>(1);
        let state = ControlState { status: handle.status(), readiness: Arc::new(move || readiness.ready()), renew };
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
        let told = handle.clone();
        tasks.spawn("renewals", async move {
            // Ends with the control task, which holds the sender.
            while let Some(request) = renewals.recv().await {
                note(told.tell(Command::Renew(Some(request.reply))));
            }
            Ok::<(), Infallible>(())
        });
    }
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
