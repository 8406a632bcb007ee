//! Owns the socket of the Workload API: accepting, the limits on connections, and the drain.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::access::{Access, AllowedCaller, Caller, socket_mode};
use super::connection::{Connection, REFUSED_LIFE};
use super::methods::{Methods, Verdict};
use super::state::{Feed, Sources};
use crate::slots::Slots;
use crate::unix_socket::{Purpose, SocketError, SocketFile};

/// A bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct WorkloadSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl WorkloadSocket {
    /// Binds the socket file, open to those who may call. One that a dead agent of this user left is replaced; anything else
    /// at `path` is an error. Needs a tokio runtime.
    ///
    /// # Errors
    /// When somebody answers there, something else stands there, or the system refuses.
    pub fn bind(path: &Path, allowed: &[AllowedCaller]) -> Result<Self, SocketError> {
        let (file, socket) = SocketFile::bind(path, socket_mode(allowed), Purpose::WorkloadApi)?;
        let listener = UnixListener::from_std(StdUnixListener::from(socket)).map_err(|source| SocketError::Io {
            action: "listen on",
            purpose: Purpose::WorkloadApi,
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { listener, file })
    }

    /// Opens or closes it to others, where other callers are allowed now.
    ///
    /// # Errors
    /// When the system refuses, or its file is gone.
    pub fn allow(&self, allowed: &[AllowedCaller]) -> Result<(), SocketError> {
        self.file.set_mode(socket_mode(allowed))
    }

    /// Whether callers still reach it: its file may have been removed or replaced.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.file.is_ours()
    }
}

/// Serves the Workload API and Envoy's secret discovery.
pub struct WorkloadServer {
    feed: Feed,
    doors: Doors,
}

/// How connections come in.
struct Doors {
    access: Access,
    methods: Methods,
    slots: Slots,
    /// Those who are refused are told so, on few connections beside the others.
    refused: Arc<Semaphore>,
    connections: JoinSet<()>,
}

impl WorkloadServer {
    /// Serves what `sources` have to those whom `allowed` names, root, and the user of this process.
    #[must_use]
    pub fn new(sources: Vec<Sources>, allowed: Vec<AllowedCaller>) -> Self {
        let feed = Feed::new(sources);
        let methods = Methods {
            snapshots: feed.snapshots(),
            calls: Arc::new(Semaphore::new(CALL_LIMIT)),
            stop: CancellationToken::new(),
        };
        let doors = Doors {
            access: Access::new(allowed),
            methods,
            slots: Slots::new(CONNECTION_LIMIT),
            refused: Arc::new(Semaphore::new(REFUSED_LIMIT)),
            connections: JoinSet::new(),
        };
        Self { feed, doors }
    }

    /// Serves on `socket` until `cancelled`; then every call is ended, within `drain`. Where there is no socket, or its file is
    /// lost, `bind_again` is asked for another from time to time.
    pub async fn run(
        self,
        socket: Option<Arc<WorkloadSocket>>,
        bind_again: impl Fn() -> Option<Arc<WorkloadSocket>>,
        cancelled: CancellationToken,
        drain: Duration,
    ) {
        let Self { mut feed, mut doors } = self;
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = feed.follow() => {}
            () = doors.open(socket, bind_again) => {}
        }
        doors.close(drain).await;
    }
}

impl Doors {
    async fn open(
        &mut self,
        mut socket: Option<Arc<WorkloadSocket>>,
        bind_again: impl Fn() -> Option<Arc<WorkloadSocket>>,
    ) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                _ = look.tick() => {
                    if !socket.as_ref().is_some_and(|socket| socket.is_reachable()) {
                        socket = bind_again();
                    }
                    continue;
                }
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection's task panicked");
                    }
                    continue;
                }
                accepted = accept(socket.as_deref()) => accepted,
            };
            match accepted {
                Ok(stream) => self.admit(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the socket of the Workload API");
                    // Mostly a lack of descriptors, which trying at once would not mend.
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts a connection, or drops it where there are as many as there may be.
    async fn admit(&mut self, stream: UnixStream) {
        let Some(caller) = Caller::of(&stream) else { return };
        let methods = self.methods.clone();
        if self.access.admits(caller) {
            let Ok(slot) = timeout(SLOT_TIMEOUT, self.slots.take()).await else {
                return tracing::warn!("too many connections to the Workload API: one more was dropped");
            };
            self.connections.spawn(Connection { methods, verdict: Verdict::Admitted, slot: Some(slot) }.serve(stream));
        } else if let Ok(permit) = Arc::clone(&self.refused).try_acquire_owned() {
            let connection = Connection { methods, verdict: Verdict::Refused, slot: None };
            self.connections.spawn(async move {
                let _permit = permit;
                let _ = timeout(REFUSED_LIFE, connection.serve(stream)).await;
            });
        }
    }

    async fn close(mut self, drain: Duration) {
        self.methods.stop.cancel();
        let ended = timeout(drain, async { while self.connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::debug!(open = self.connections.len(), "connections to the Workload API cut off");
        }
    }
}

async fn accept(socket: Option<&WorkloadSocket>) -> io::Result<UnixStream> {
    match socket {
        Some(socket) => socket.listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// The most connections of those who may call.
pub const CONNECTION_LIMIT: usize = 32;

/// The most calls at a time, over all connections.
pub const CALL_LIMIT: usize = 128;

/// The most connections of those who may not.
const REFUSED_LIMIT: usize = 4;

/// How long a newcomer waits for one that is idle to make room.
const SLOT_TIMEOUT: Duration = Duration::from_millis(200);

/// How often the file of the socket is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
