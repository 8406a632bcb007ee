//! Owns the socket: accepting, the number of connections, and the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::http::Site;
use super::tls::HotConfig;
use super::{ServeError, Sources};
use crate::slots::Slots;

/// A socket that is listened on. Clones share it: connections that come while one [`Server`] gives way to the next wait
/// in its backlog and are not refused.
#[derive(Debug, Clone)]
pub struct Listener {
    socket: Arc<TcpListener>,
    address: SocketAddr,
}

/// The TLS listener, not yet running.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    tls: HotConfig,
    site: Arc<Site>,
    slots: Slots,
}

/// The most connections at once.
pub const MAX_CONNECTIONS: usize = 64;

impl Listener {
    /// Listens on `address`; port 0 takes a free one. Connections wait until [`Server::run`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        Ok(Self { socket: Arc::new(socket), address })
    }

    /// The address listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Server {
    /// Serves on `listener` from [`run`](Self::run) on.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub fn new(listener: Listener, sources: Sources) -> Result<Self, ServeError> {
        let tls = HotConfig::new(sources.bundle, sources.clock)?;
        let site = Arc::new(Site::new(sources.metrics_allow, sources.readiness, sources.metrics));
        Ok(Self { listener, tls, site, slots: Slots::new(MAX_CONNECTIONS) })
    }

    /// Serves until `cancel` is cancelled, then lets requests in progress end, for at most `drain`.
    pub async fn run(mut self, cancel: CancellationToken, drain: Duration) {
        tracing::info!(address = %self.listener.address, "listening");
        let mut connections = JoinSet::new();
        let mut failures = 0;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = self.tls.follow() => {}
                Some(ended) = connections.join_next() => note_panic(ended),
                accepted = self.listener.socket.accept() => match accepted {
                    Ok((stream, peer)) => {
                        failures = 0;
                        let Some(connection) = self.admit(stream, peer, &cancel).await else { break };
                        connections.spawn(connection.run());
                    }
                    Err(error) => {
                        if failures == 0 {
                            tracing::warn!(%error, "cannot accept connections; trying on");
                        }
                        failures += 1;
                        let _ = timeout(accept_pause(failures), cancel.cancelled()).await;
                    }
                },
            }
        }
        drop(self.listener);
        let ended = timeout(drain, async {
            while let Some(ended) = connections.join_next().await {
                note_panic(ended);
            }
        });
        if ended.await.is_err() {
            tracing::warn!(open = connections.len(), "connections cut off at the end of the drain");
            connections.abort_all();
        }
    }

    /// Waits for a slot; `None` when cancelled. Others wait in the backlog of the system meanwhile.
    async fn admit(&mut self, stream: TcpStream, peer: SocketAddr, cancel: &CancellationToken) -> Option<Connection> {
        let slot = tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            slot = self.slots.take() => slot,
        };
        // Answers are small and whole; a failure to say so only costs time.
        let _ = stream.set_nodelay(true);
        Some(Connection {
            stream,
            peer,
            tls: self.tls.newest(),
            slot,
            slots: self.slots.clone(),
            site: Arc::clone(&self.site),
            drain: cancel.clone(),
        })
    }
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// How long to wait after `failures` failures to accept in a row, as when file descriptors have run out: 100 ms,
/// doubling, to 1 s.
fn accept_pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);
    FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_longer_with_each_failure_and_never_spins() {
        let pauses: Vec<u128> = [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| accept_pause(n).as_millis()).to_vec();
        assert_eq!(pauses, [100, 100, 200, 400, 800, 1_000, 1_000]);
    }
}
