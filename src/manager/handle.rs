//! Owns how others talk to a running manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use crate::events::EventError;
use crate::identity::{CertificateBundle, CertificateMetadata};
use crate::status::AgentStatus;

/// Talks to a running manager.
#[derive(Debug, Clone)]
pub struct ManagerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) told: Arc<Told>,
    pub(super) published: watch::Receiver<Option<Arc<CertificateBundle>>>,
    pub(super) status: watch::Receiver<AgentStatus>,
}

/// What a manager is told.
#[derive(Debug)]
pub enum Command {
    /// Renew now; the outcome of the attempt goes to the sender, if there is one.
    Renew(Option<oneshot::Sender<RenewOutcome>>),
    /// Something in the certificate directory changed.
    FilesChanged,
    /// A token or root file changed.
    CredentialsChanged,
}

/// How an attempt that was asked for ended: the new certificate, or why there is none.
pub type RenewOutcome = Result<CertificateMetadata, EventError>;

impl ManagerHandle {
    /// The certificate in force, and its successors.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Option<Arc<CertificateBundle>>> {
        self.published.clone()
    }

    /// The status, and its successors.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.clone()
    }

    /// Tells the manager something. `false` when it has stopped, or has more than it can take.
    #[must_use]
    pub fn tell(&self, command: Command) -> bool {
        self.told.tell(command, &self.commands)
    }
}

/// For each kind of command that nobody waits for: whether one is on its way. So a file that changes all the time does
/// not fill the queue while the manager is in a long attempt.
#[derive(Debug, Default)]
pub(super) struct Told {
    renew: AtomicBool,
    files: AtomicBool,
    credentials: AtomicBool,
}

impl Told {
    /// Sends `command` unless one like it waits. `false` when it cannot be sent.
    pub(super) fn tell(&self, command: Command, commands: &mpsc::Sender<Command>) -> bool {
        let Some(waiting) = self.flag(&command) else { return commands.try_send(command).is_ok() };
        if waiting.swap(true, Ordering::AcqRel) {
            return !commands.is_closed();
        }
        let sent = commands.try_send(command).is_ok();
        if !sent {
            waiting.store(false, Ordering::Release);
        }
        sent
    }

    /// `command` has reached the manager: what changes from now on is another.
    pub(super) fn take(&self, command: &Command) {
        if let Some(waiting) = self.flag(command) {
            waiting.store(false, Ordering::Release);
        }
    }

    fn flag(&self, command: &Command) -> Option<&AtomicBool> {
        match command {
            Command::Renew(None) => Some(&self.renew),
            Command::Renew(Some(_)) => None,
            Command::FilesChanged => Some(&self.files),
            Command::CredentialsChanged => Some(&self.credentials),
        }
    }
}
