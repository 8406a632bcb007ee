//! Owns the course of a trial: a CA, a worker's agent with an example's settings, a server, clients, renewals, and what came
//! of it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crank_agent::duration::parse_duration;
use crank_agent::mtls::create_mtls_client_config;
use crank_agent::store::read_bundle;
use rustls::pki_types::CertificateDer;

use crate::connection::Protocol;
use crate::load::{Load, Tally};
use crate::processes::{Agent, Ca, Worker, free_address, until};
use crate::server::{Example, Server, example};

const ROTATIONS: usize = 20;

/// The worker's side, to be completed by each test.
pub(crate) struct Side {
    pub(crate) worker: Worker,
    pub(crate) address: SocketAddr,
    pub(crate) settings: Example,
}

impl Side {
    pub(crate) fn files(&self) -> String {
        self.worker.certificates().display().to_string()
    }

    fn leaf(&self) -> CertificateDer<'static> {
        read_bundle(&self.worker.certificates()).unwrap().chain()[0].clone()
    }
}

pub(crate) struct Trial {
    name: String,
    side: Side,
    server: Server,
    agent: Agent,
    client: (Worker, Agent),
    _ca: Ca,
}

impl Trial {
    /// Starts what `make` makes, and the agent of `worker` with the settings at `path` below the examples.
    pub(crate) fn new(worker: &str, path: &str, make: impl FnOnce(&mut Side) -> Server) -> Self {
        let ca = Ca::start("1h");
        let client = Worker::of(&ca, "client");
        let clients_agent = client.start();
        clients_agent.event("CERT_ISSUED", 1);
        let worker = Worker::of(&ca, worker);
        let address = free_address();
        let mut settings = example(path).with("/etc/certs", worker.certificates().display());
        if settings.text().contains("localhost:8443") {
            settings = settings.with("localhost:8443", format!("localhost:{}", address.port()));
        }
        let mut side = Side { worker, address, settings };
        let mut server = make(&mut side);
        std::fs::write(side.worker.config_file(), side.settings.text()).unwrap();
        let first = side.worker.run_once(&["init"]);
        assert!(first.status.success(), "{first:?}");
        server.start();
        until("the server accepts connections", || {
            server.assert_running();
            TcpStream::connect(address).ok()
        });
        let agent = side.worker.start();
        agent.event("CERT_DELIVERED", 1);
        Self { name: path.to_owned(), side, server, agent, client: (client, clients_agent), _ca: ca }
    }

    /// Renews under load.
    pub(crate) fn run(mut self, protocol: Protocol) -> Outcome {
        let config = create_mtls_client_config(&self.client.0.certificates()).unwrap();
        let load = Load::start(self.side.address, config, protocol);
        let mut proofs = vec![(self.side.leaf(), Instant::now())];
        let mut delays = Vec::new();
        load.flows();
        for round in 1..=ROTATIONS {
            let renewed = self.side.worker.run_once(&["renew"]);
            assert!(renewed.status.success(), "{renewed:?}");
            let leaf = self.side.leaf();
            let delivered = self.agent.event("CERT_DELIVERED", round + 1);
            proofs.push((leaf, Instant::now()));
            let detail = delivered["detail"].as_str().unwrap();
            let delay = detail.split_once(", ").unwrap().1.strip_suffix(" after publication").unwrap();
            delays.push(parse_duration(delay).unwrap());
            load.flows();
        }
        let tally = load.end();
        self.server.assert_running();
        for fault in ["CERT_NOT_SERVED", "CERT_DELIVERY_FAILED"] {
            assert_eq!(self.agent.count(fault), 0, "{fault}");
        }
        assert_eq!(self.agent.count("CERT_DELIVERED"), ROTATIONS + 1);
        let outcome = Outcome::new(&proofs, delays, tally);
        println!("{}: {}", self.name, outcome.summary);
        outcome.tally.failures.iter().for_each(|failure| println!("  {failure}"));
        outcome
    }
}

/// What came of a trial.
pub(crate) struct Outcome {
    tally: Tally,
    /// Of connections begun after the proof of one certificate that got an older one: how long after it.
    late: Vec<Duration>,
    summary: String,
}

impl Outcome {
    fn new(proofs: &[(CertificateDer<'static>, Instant)], mut delays: Vec<Duration>, tally: Tally) -> Self {
        let mut late = Vec::new();
        let mut seen = vec![0; proofs.len()];
        for (begun, leaf) in &tally.handshakes {
            let number = proofs.iter().position(|(published, _)| published == leaf).expect("it was never published");
            seen[number] += 1;
            // Proven by then, and newer.
            late.extend(proofs.get(number + 1).and_then(|(_, proven)| begun.checked_duration_since(*proven)));
        }
        assert!(seen.iter().all(|count| *count > 0), "handshakes by certificate: {seen:?}");
        delays.sort_unstable();
        let at = |percent: usize| delays[(delays.len() * percent).div_ceil(100) - 1];
        let summary = format!(
            "{} handshakes, {} requests, {} repeated, {} announced ends, {} failed; served after {:?} (p50), {:?} (p99); \
             after the proof {} got an older certificate, the last {:?} after it",
            tally.handshakes.len(),
            tally.requests,
            tally.repeated,
            tally.ended,
            tally.failures.len(),
            at(50),
            at(99),
            late.len(),
            late.iter().max().copied().unwrap_or_default(),
        );
        Self { tally, late, summary }
    }

    pub(crate) fn assert_nothing_failed(&self) {
        assert_eq!(self.tally.failures, [""; 0], "{}", self.summary);
    }

    /// No connection was closed without a word before.
    pub(crate) fn assert_nothing_repeated(&self) {
        assert_eq!(self.tally.repeated, 0, "{}", self.summary);
    }

    /// At most one failure for each renewal.
    pub(crate) fn assert_little_failed(&self) {
        assert!(self.tally.failures.len() <= ROTATIONS, "{}\n{:?}", self.summary, self.tally.failures);
    }

    /// Not one connection was closed, and each is of the newest certificate.
    pub(crate) fn assert_nothing_noticed(&self) {
        let Tally { repeated, ended, .. } = self.tally;
        assert_eq!((repeated, ended, self.late.len()), (0, 0, 0), "{}", self.summary);
    }

    pub(crate) fn assert_old_certificate_is_gone_within(&self, bound: Duration) {
        assert!(self.late.iter().all(|late| *late < bound), "{}", self.summary);
    }
}
