//! Owns the agent's side of the control socket. Whatever a caller does, it holds one connection for a bounded time.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    CONNECTION_LIMIT, Command, ControlState, DEADLINE, RENEWAL_DEADLINE, REPLY_LIMIT, REQUEST_LIMIT, Readiness,
    RenewRequest, Reply, Request, StatusReport,
};
use crate::events::EventError;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::status::FurtherStatus;
use crate::unix_socket::{Purpose, SocketError, SocketFile};

/// A bound control socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    file: SocketFile,
}

impl ControlServer {
    /// Binds the socket file with `mode`. One that a dead agent of this user left is replaced; anything else at `path`
    /// is an error. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another agent answers there, something else stands there, or the system refuses.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let (file, socket) = SocketFile::bind(path, mode, Purpose::Control)?;
        let listener = UnixListener::from_std(StdUnixListener::from(socket)).map_err(|source| SocketError::Io {
            action: "listen on",
            purpose: Purpose::Control,
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { listener, file })
    }

    /// Whether callers still reach it: its file may have been removed or replaced.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.file.is_ours()
    }

    /// Answers until `cancelled`, or until it notices, within a few minutes, that its file is gone, so that nobody can reach
    /// it. Connections that are open then are told so and closed; later ones wait for the next run.
    pub async fn run(self: Arc<Self>, state: ControlState, cancelled: CancellationToken) {
        let connection =
            Connection { state, checks: Arc::new(Semaphore::new(CHECK_LIMIT)), cancelled: cancelled.child_token() };
        let mut connections = JoinSet::new();
        let mut look = interval(LOOK_INTERVAL);
        loop {
            let accepted = tokio::select! {
                () = connection.cancelled.cancelled() => break,
                _ = look.tick() => if self.is_reachable() { continue } else { break },
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if connections.len() >= CONNECTION_LIMIT => refuse_when_full(&stream),
                Ok((stream, _)) => {
                    connections.spawn(connection.clone().serve(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the control socket");
                    // Mostly a lack of descriptors, which trying at once would not mend.
                    tokio::select! {
                        () = connection.cancelled.cancelled() => break,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        connection.cancelled.cancel();
        // Each of them sees the cancellation; the deadline is for one whose caller does not read.
        let drain = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_DEADLINE, drain).await;
    }
}

#[derive(Clone)]
struct Connection {
    state: ControlState,
    checks: Arc<Semaphore>,
    cancelled: CancellationToken,
}

impl Connection {
    async fn serve(self, mut stream: UnixStream) {
        if !may_speak(&stream) {
            return;
        }
        let request = self.request(&mut stream).await;
        let reply = match request {
            Ok(Command::Status) => {
                let readiness = self.readiness().await;
                let mut status = self.state.status.borrow().clone();
                let further = self.state.further.iter();
                let further = further.map(|(name, status)| (name.clone(), status.borrow().clone()));
                status.certificates = further.map(|(name, status)| FurtherStatus { name, status }).collect();
                Reply::Status(Box::new(StatusReport { status, readiness }))
            }
            Ok(Command::Health) => Reply::Health(self.readiness().await),
            Ok(Command::Renew) => match self.renew(&mut stream).await {
                Some(reply) => reply,
                None => return,
            },
            Err(error) => Reply::Failed { error },
        };
        if let Ok(Err(error)) = timeout(DEADLINE, stream.write_all(&line(&reply))).await {
            tracing::debug!(%error, "the caller on the control socket left before its reply");
        }
    }

    async fn request(&self, stream: &mut UnixStream) -> Result<Command, EventError> {
        let read = timeout(DEADLINE, read_request(stream));
        tokio::pin!(read);
        let request = tokio::select! {
            read = read.as_mut() => read,
            // Who has just connected is still answered.
            () = self.cancelled.cancelled() => match timeout(LAST_REQUEST_DEADLINE, read).await {
                Ok(read) => read,
                Err(_) => return Err(stopping()),
            },
        };
        request.unwrap_or_else(|_| Err(EventError::new("timeout", "the request did not come in time")))
    }

    async fn readiness(&self) -> Readiness {
        let not_ready = |reason: &str| Readiness { ready: false, reason: Some(printable(reason, FOREIGN_TEXT_LIMIT)) };
        // Held by the check itself, so that a hanging disk takes up no more threads than this.
        let Ok(permit) = Arc::clone(&self.checks).try_acquire_owned() else {
            return not_ready("earlier checks of the certificate directory have not ended");
        };
        let check = Arc::clone(&self.state.readiness);
        let running = spawn_blocking(move || {
            let _permit = permit;
            check()
        });
        match timeout(CHECK_DEADLINE, running).await {
            Ok(Ok(Ok(()))) => Readiness { ready: true, reason: None },
            Ok(Ok(Err(reason))) => not_ready(&reason),
            Ok(Err(_)) => not_ready("the check of the certificate directory failed"),
            Err(_) => not_ready("the check of the certificate directory did not end in time"),
        }
    }

    /// `None` when the caller left.
    async fn renew(&self, stream: &mut UnixStream) -> Option<Reply> {
        let failed = |error| Some(Reply::Failed { error });
        let (reply, outcome) = oneshot::channel();
        match self.state.renew.try_send(RenewRequest { reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return failed(EventError::new("busy", "others wait for a renewal already")),
            Err(TrySendError::Closed(_)) => return failed(stopping()),
        }
        let mut ignored = [0; 1];
        tokio::select! {
            () = self.cancelled.cancelled() => failed(stopping()),
            _ = stream.read(&mut ignored) => None,
            outcome = timeout(RENEWAL_DEADLINE, outcome) => match outcome {
                Ok(Ok(Ok(certificate))) => Some(Reply::Renewed { certificate }),
                Ok(Ok(Err(error))) => failed(error),
                Ok(Err(_)) => failed(stopping()),
                Err(_) => failed(EventError::new("timeout", "the renewal has not ended; the agent goes on trying")),
            },
        }
    }
}

/// Whether the process at the other end runs as root or as the same user as this one.
fn may_speak(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused a caller on the control socket: another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a caller on the control socket: its user is not known");
            false
        }
    }
}

async fn read_request(stream: &mut UnixStream) -> Result<Command, EventError> {
    let bad = |message: &str| EventError::new("bad_request", message);
    let mut buffer = Vec::new();
    let mut limited = stream.take(REQUEST_LIMIT as u64 + 1);
    while !buffer.contains(&b'\n') {
        let read = limited.read_buf(&mut buffer).await.map_err(|_| bad("the request cannot be read"))?;
        if buffer.len() > REQUEST_LIMIT {
            return Err(bad(&format!("the request has more than {REQUEST_LIMIT} bytes")));
        }
        if read == 0 {
            break;
        }
    }
    let line = buffer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let expected = "expected one line such as {\"command\":\"status\"}";
    let request: Request = serde_json::from_slice(line).map_err(|error| bad(&format!("{expected}: {error}")))?;
    let found = Command::ALL.into_iter().find(|command| command.name() == request.command);
    found.ok_or_else(|| bad(&format!("unknown command `{}`: expected status, health or renew", request.command)))
}

/// The reply as one line, within the limit.
fn line(reply: &Reply) -> Vec<u8> {
    let text = |reply: &Reply| serde_json::to_vec(reply).ok().filter(|line| line.len() < REPLY_LIMIT);
    let too_long = || Reply::Failed { error: EventError::new("internal", "the reply is too long") };
    let mut line = text(reply).or_else(|| text(&too_long())).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Says so as far as that takes no waiting.
fn refuse_when_full(stream: &UnixStream) {
    let error = EventError::new("busy", "too many connections at a time");
    if let Err(error) = stream.try_write(&line(&Reply::Failed { error }))
        && error.kind() != io::ErrorKind::WouldBlock
    {
        tracing::debug!(%error, "the caller on the control socket left before its reply");
    }
}

fn stopping() -> EventError {
    EventError::new("stopping", "the agent is stopping")
}

/// Readiness checks at a time.
const CHECK_LIMIT: usize = 4;

/// How long a readiness check may take; shorter than a caller waits.
const CHECK_DEADLINE: Duration = Duration::from_secs(4);

/// The wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How often the file of the socket is looked at.
const LOOK_INTERVAL: Duration = Duration::from_mins(5);

/// How long after the end a request of an open connection may still come.
const LAST_REQUEST_DEADLINE: Duration = Duration::from_millis(200);

/// How long open connections may take to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);
