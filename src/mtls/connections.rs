//! Owns the connections of an mTLS client: how many there are, to whom, and by which certificate.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::{Client, Request, Response, redirect};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// All connections of a client. A client of reqwest keeps any number of them and counts none, so that each is one of
/// its own here.
#[derive(Debug)]
pub(super) struct Connections {
    tls: ClientConfig,
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    /// The newest that was asked for.
    epoch: u64,
    /// The longest idle first.
    idle: VecDeque<(Line, Instant)>,
}

/// A client that has one connection, or is about to make it.
#[derive(Debug, Clone)]
struct Line {
    client: Client,
    route: Route,
}

/// What makes one connection as good as another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// The state of the directory by which it was made.
    pub(super) epoch: u64,
}

/// Leave for one request to have a connection to itself.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// A connection that one request has to itself. Dropped, it closes.
#[derive(Debug)]
pub(super) struct InUse {
    connections: Arc<Connections>,
    line: Line,
    /// It may be used again.
    whole: bool,
    _turn: Turn,
}

impl Connections {
    pub(super) fn new(tls: ClientConfig) -> Self {
        Self { tls, turns: Arc::new(Semaphore::new(MAX_CONNECTIONS)), state: Mutex::default() }
    }

    /// A client for one connection.
    pub(super) fn build(&self) -> Result<Client, reqwest::Error> {
        Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(true)
            .http1_only()
            .no_proxy()
            // To another host it would take along what was meant for this one.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
    }

    /// `None`: as many requests as may be were under way until `deadline`.
    pub(super) async fn turn(&self, deadline: Instant) -> Option<Turn> {
        match timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(permit)) => Some(Turn { _permit: permit }),
            _ => None,
        }
    }

    /// A connection on `route`: one that is idle, or a new one. Idle ones of an earlier state are closed, and the one that
    /// has been idle for longest where there would be too many.
    pub(super) async fn take(self: &Arc<Self>, turn: Turn, route: Route) -> Result<InUse, reqwest::Error> {
        let (line, since) = {
            let mut state = self.state();
            state.close_old(&route);
            let (line, since) = match state.find(&route) {
                Some((line, since)) => (line, Some(since)),
                None => (Line { client: self.build()?, route }, None),
            };
            state.in_use += 1;
            if state.in_use + state.idle.len() > MAX_CONNECTIONS {
                state.idle.pop_front();
            }
            (line, since)
        };
        let taken = InUse { connections: Arc::clone(self), line, whole: false, _turn: turn };
        if since.is_some_and(|since| since.elapsed() < RETURN_TIME) {
            // Else hyper, not having it back yet, would make another beside it.
            for _ in 0..RETURN_TURNS {
                tokio::task::yield_now().await;
            }
        }
        Ok(taken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close_old(&mut self, route: &Route) {
        self.epoch = self.epoch.max(route.epoch);
        let epoch = self.epoch;
        self.idle.retain(|(line, since)| line.route.epoch == epoch && since.elapsed() < IDLE_TIMEOUT);
    }

    /// The one on `route` that was used last, of those that hyper has taken back for certain, or of all.
    fn find(&mut self, route: &Route) -> Option<(Line, Instant)> {
        let rested = |(line, since): &(Line, Instant)| line.route == *route && since.elapsed() >= RETURN_TIME;
        let index = self.idle.iter().rposition(rested);
        let index = index.or_else(|| self.idle.iter().rposition(|(line, _)| line.route == *route));
        index.and_then(|index| self.idle.remove(index))
    }
}

impl InUse {
    /// Sends `request` over it.
    pub(super) async fn execute(&self, request: Request) -> Result<Response, reqwest::Error> {
        self.line.client.execute(request).await
    }

    /// Leaves it to the next request. The answer was read to its end.
    pub(super) fn give_back(mut self) {
        self.whole = true;
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        state.in_use -= 1;
        if self.whole && self.line.route.epoch == state.epoch {
            state.idle.push_back((self.line.clone(), Instant::now()));
        }
        if state.idle.len() > MAX_IDLE {
            state.idle.pop_front();
        }
    }
}

/// Also the most requests under way: each has one to itself.
pub(super) const MAX_CONNECTIONS: usize = 20;

pub(super) const MAX_IDLE: usize = 10;

/// As long as a request, so that none made with an earlier certificate is left after that.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// In which hyper takes a connection back, by a task of its own, after the last byte of an answer was read.
const RETURN_TIME: Duration = Duration::from_millis(1);

const RETURN_TURNS: usize = 4;
