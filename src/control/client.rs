//! Owns the caller's side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Command, DEADLINE, REPLY_LIMIT, Readiness, Reply, Request, StatusReport};
use crate::duration::format_duration;
use crate::events::EventError;
use crate::exit::Exit;
use crate::identity::CertificateMetadata;

/// The agent's state.
///
/// # Errors
/// When there is no answer within [`DEADLINE`], or none that can be used.
pub async fn status(socket: &Path) -> Result<StatusReport, ClientError> {
    match ask(socket, Command::Status, DEADLINE).await? {
        Reply::Status(report) => Ok(*report),
        reply => Err(unexpected(reply)),
    }
}

/// Whether a usable certificate is on disk now.
///
/// # Errors
/// When there is no answer within [`DEADLINE`], or none that can be used.
pub async fn health(socket: &Path) -> Result<Readiness, ClientError> {
    match ask(socket, Command::Health, DEADLINE).await? {
        Reply::Health(readiness) => Ok(readiness),
        reply => Err(unexpected(reply)),
    }
}

/// Has the agent renew now, and waits for the outcome for at most `deadline`. When that has passed, the agent goes on.
///
/// # Errors
/// When the renewal fails, or its outcome does not come.
pub async fn renew(socket: &Path, deadline: Duration) -> Result<CertificateMetadata, ClientError> {
    match ask(socket, Command::Renew, deadline).await? {
        Reply::Renewed { certificate } => Ok(certificate),
        reply => Err(unexpected(reply)),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The socket belongs to another user.
    #[error("the agent on {} answers only root and the user that it runs as", .0.display())]
    Denied(PathBuf),
    /// The answer took too long.
    #[error("the agent on {} did not answer within {}", socket.display(), format_duration(*deadline))]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long we waited.
        deadline: Duration,
    },
    /// The answer is none of ours.
    #[error("what answers on {} is no agent, or another version of it", .0.display())]
    Broken(PathBuf),
    /// The agent says that it failed.
    #[error("{}", .0.message)]
    Failed(EventError),
}

impl ClientError {
    /// How a command ends that got this.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotRunning { .. } | Self::TimedOut { .. } => Exit::Unavailable,
            Self::Denied(_) => Exit::Refused,
            Self::Broken(_) => Exit::Internal,
            Self::Failed(error) => match error.kind.as_str() {
                "busy" | "stopping" | "timeout" => Exit::Unavailable,
                kind => Exit::of_error_kind(kind),
            },
        }
    }
}

async fn ask(socket: &Path, command: Command, deadline: Duration) -> Result<Reply, ClientError> {
    let timed_out = |_| ClientError::TimedOut { socket: socket.to_owned(), deadline };
    let line = timeout(deadline, exchange(socket, command)).await.map_err(timed_out)?;
    let line = line.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => ClientError::NotRunning { socket: socket.to_owned(), source },
    })?;
    // An agent that does not answer this user closes without a word.
    if line.is_empty() {
        return Err(ClientError::Denied(socket.to_owned()));
    }
    let reply = (line.len() <= REPLY_LIMIT).then(|| serde_json::from_slice(&line).ok()).flatten();
    reply.ok_or_else(|| ClientError::Broken(socket.to_owned()))
}

async fn exchange(socket: &Path, command: Command) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&Request { command: command.name().to_owned() })?;
    line.push(b'\n');
    // A server that is full replies and closes without reading.
    let written = stream.write_all(&line).await;
    let mut reply = Vec::new();
    let read = stream.take(REPLY_LIMIT as u64 + 1).read_to_end(&mut reply).await;
    match (reply.is_empty(), written, read) {
        (true, Err(error), _) | (true, _, Err(error)) if !left(&error) => Err(error),
        _ => Ok(reply),
    }
}

fn left(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Failed { error } => ClientError::Failed(EventError { message: printable_message(&error), ..error }),
        _ => ClientError::Failed(EventError::new("internal", "the agent answered another question")),
    }
}

fn printable_message(error: &EventError) -> String {
    crate::printable::printable(&error.message, 2 * crate::printable::FOREIGN_TEXT_LIMIT)
}
