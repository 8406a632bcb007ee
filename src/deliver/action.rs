//! Owns the performing of one attempt to tell a worker, within its deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::settings::Action;
use super::{call, exec, signal};
use crate::clock::Clock;
use crate::duration::format_duration;
use crate::identity::CertificateBundle;

/// Why a worker was not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is nobody.
    Nobody(String),
    /// It went wrong.
    Failed(String),
}

/// What is told of the publication.
#[derive(Debug, Clone)]
pub(super) struct Occasion {
    pub(super) delivery: String,
    pub(super) worker_id: String,
    pub(super) directory: PathBuf,
    pub(super) correlation_id: String,
    pub(super) bundle: Arc<CertificateBundle>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Performs `action` for at most `deadline`. Dropped before its end, it leaves nothing running.
pub(super) async fn perform(action: &Action, occasion: &Occasion, deadline: Duration) -> Result<(), Failure> {
    let attempt = async {
        match action {
            Action::Signal(signal, target) => {
                let (signal, target) = (*signal, target.clone());
                let sent = tokio::task::spawn_blocking(move || signal::send(signal, &target)).await;
                sent.unwrap_or_else(|error| Err(Failure::Failed(error.to_string())))
            }
            Action::Exec(argv) => exec::run(argv, occasion).await,
            Action::Call(call) => call::call(call, occasion, deadline).await,
        }
    };
    match tokio::time::timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Failed(format!("it did not end within {}", format_duration(deadline)))),
    }
}
