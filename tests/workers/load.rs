//! Owns the clients that never stop asking, and their tally.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::connection::{Answered, Connection, Failure, Protocol};
use crate::processes::until;

/// Running clients.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What became of what the clients did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) handshakes: Vec<(Instant, CertificateDer<'static>)>,
    pub(crate) requests: usize,
    /// Made again, since the kept connection had been closed when they were sent.
    pub(crate) repeated: usize,
    /// Connections whose end the server had announced with an answer.
    pub(crate) ended: usize,
    pub(crate) failures: Vec<String>,
}

struct Shared {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    protocol: Protocol,
    stop: AtomicBool,
    /// Answers to clients with new connections, and to those that keep theirs.
    answers: [AtomicUsize; 2],
    tally: Mutex<Tally>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, config: ClientConfig, protocol: Protocol) -> Self {
        let shared = Arc::new(Shared {
            address,
            config: Arc::new(config),
            protocol,
            stop: AtomicBool::new(false),
            answers: [AtomicUsize::new(0), AtomicUsize::new(0)],
            tally: Mutex::default(),
        });
        let client = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let clients = vec![client(fresh), client(fresh), client(kept), client(kept)];
        Self { shared, clients }
    }

    /// Waits for answers to requests of now, over new connections and kept ones.
    pub(crate) fn flows(&self) {
        let counts = || self.shared.answers.each_ref().map(|count| count.load(Ordering::Relaxed));
        let goal = counts().map(|count| count + FLOW);
        until("requests are answered", || {
            let counts = counts();
            (counts[0] >= goal[0] && counts[1] >= goal[1]).then_some(())
        });
    }

    pub(crate) fn end(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        std::mem::take(&mut *self.shared.tally.lock().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// A connection for each request.
fn fresh(shared: &Shared) {
    while shared.goes_on() {
        let Some(mut connection) = shared.connect() else { continue };
        match connection.ask() {
            Ok(_) => shared.answered(0),
            Err(Failure::Closed(error) | Failure::Failed(error)) => shared.failed("request", &error),
        }
        connection.close();
    }
}

/// A connection for as long as the server wants.
fn kept(shared: &Shared) {
    let mut connection: Option<Connection> = None;
    let mut used = false;
    while shared.goes_on() {
        if connection.is_none() {
            (connection, used) = (shared.connect(), false);
        }
        let Some(open) = &mut connection else { continue };
        match open.ask() {
            Ok(Answered::Kept) => {
                used = true;
                shared.answered(1);
                continue;
            }
            Ok(Answered::Last) => {
                shared.answered(1);
                shared.tally.lock().unwrap().ended += 1;
            }
            // As every client of HTTP does.
            Err(Failure::Closed(_)) if used => shared.tally.lock().unwrap().repeated += 1,
            Err(Failure::Closed(error) | Failure::Failed(error)) => shared.failed("request", &error),
        }
        connection = None;
    }
    if let Some(connection) = connection {
        connection.close();
    }
}

impl Shared {
    /// Paces the load, which shares the machine with the server.
    fn goes_on(&self) -> bool {
        thread::park_timeout(PACE);
        !self.stop.load(Ordering::Relaxed)
    }

    fn connect(&self) -> Option<Connection> {
        match Connection::open(self.address, &self.config, self.protocol) {
            Ok(connection) => {
                let seen = (connection.begun, connection.leaf.clone());
                self.tally.lock().unwrap().handshakes.push(seen);
                Some(connection)
            }
            Err(error) => {
                self.failed("handshake", &error);
                None
            }
        }
    }

    fn answered(&self, kind: usize) {
        self.answers[kind].fetch_add(1, Ordering::Relaxed);
        self.tally.lock().unwrap().requests += 1;
    }

    fn failed(&self, what: &str, error: &std::io::Error) {
        self.tally.lock().unwrap().failures.push(format!("{what}: {error}"));
    }
}

const PACE: Duration = Duration::from_millis(4);

/// Answers that are waited for after each renewal.
const FLOW: usize = 20;
