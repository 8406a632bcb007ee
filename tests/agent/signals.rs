//! Signals at awkward moments.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::liar::LyingCa;
use crate::processes::{Agent, Ca, Worker, listening, until};
use crate::reload::half_a_request;
use rustix::process::Signal;

/// The longest that the end may take.
const DRAIN: Duration = Duration::from_secs(5);

/// A CA that takes requests and answers none.
struct BlackHole {
    ca: LyingCa,
    waiting: Arc<AtomicUsize>,
}

impl BlackHole {
    fn start() -> Self {
        let hole = Self { ca: LyingCa::start(), waiting: Arc::default() };
        let waiting = Arc::clone(&hole.waiting);
        hole.ca.answer(move |_, _, stream| {
            waiting.fetch_add(1, Ordering::SeqCst);
            // Until the agent hangs up.
            let _ = stream.read(&mut [0; 1]);
        });
        hole
    }

    fn worker(&self, directory: &std::path::Path) -> Worker {
        let root_file = directory.join("root.crt");
        self.ca.write_root(&root_file);
        let worker = Worker::at("streaming", &self.ca.url(), &root_file);
        worker.write_token("any-token");
        worker
    }

    /// Waits until `count` requests have come.
    fn until_asked(&self, count: usize) {
        until("the CA is asked", || (self.waiting.load(Ordering::SeqCst) >= count).then_some(()));
    }
}

fn ends_in_time(agent: &mut Agent) {
    let begun = Instant::now();
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    let took = begun.elapsed();
    // Beside the drain a process has to end, which takes as long as the machine is busy.
    let begun = Instant::now();
    assert!(Command::new(env!("CARGO_BIN_EXE_crank-agent")).arg("--version").output().unwrap().status.success());
    let process = begun.elapsed();
    assert!(took <= DRAIN + Duration::from_secs(1) + 5 * process, "{took:?}, another process {process:?}");
}

#[test]
fn the_end_comes_in_time_while_the_agent_waits_for_a_first_certificate() {
    let ca = Ca::stopped("1h");
    let worker = Worker::of(&ca, "streaming");
    let mut agent = worker.start();
    agent.event("CA_UNAVAILABLE", 1);
    ends_in_time(&mut agent);
}

#[test]
fn the_end_comes_in_time_while_the_ca_does_not_answer() {
    let hole = BlackHole::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = hole.worker(directory.path());
    let mut agent = worker.start();
    hole.until_asked(1);
    ends_in_time(&mut agent);
    // And for `init`.
    let null = std::process::Stdio::null;
    let mut process = worker.command(&["init"]).stdout(null()).stderr(null()).spawn().unwrap();
    hole.until_asked(2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&process), Signal::TERM).unwrap();
    let begun = Instant::now();
    assert_eq!(until("init ends", || process.try_wait().unwrap()).code(), Some(69));
    assert!(begun.elapsed() < DRAIN);
}

#[test]
fn a_ca_that_does_not_answer_does_not_hold_up_the_start_beyond_its_time() {
    let hole = BlackHole::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = hole.worker(directory.path()).with("CRANK_CA_STARTUP_WAIT", "1s").with("CRANK_CA_TIMEOUT", "10m");
    let begun = Instant::now();
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn the_end_comes_in_time_during_a_reload() {
    let ca = Ca::start("1h");
    let (worker, address, mut agent) = listening(&ca);
    let _client = half_a_request(&worker, address);
    std::fs::write(worker.config_file(), "[schedule]\ncheck_interval = \"30m\"\n").unwrap();
    // While the listener drains, who connects waits for the next.
    until("the reload has begun", || (!answers(address)).then_some(()));
    ends_in_time(&mut agent);
}

/// Whether a stranger's words are answered or cut off within a moment.
fn answers(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let answer = stream.write_all(b"no TLS").and_then(|()| stream.read(&mut [0; 16]));
    !answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn the_end_comes_in_time_while_clients_hold_connections() {
    let ca = Ca::start("1h");
    let (worker, address, mut agent) = listening(&ca);
    let _clients: Vec<_> = (0..5).map(|_| half_a_request(&worker, address)).collect();
    ends_in_time(&mut agent);
}

#[test]
fn a_probe_of_an_agent_that_hangs_gives_up() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    agent.signal(Signal::STOP);
    let begun = Instant::now();
    let output = worker.run_once(&["health"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    agent.signal(Signal::CONT);
    assert_eq!(worker.run_once(&["health"]).status.code(), Some(0));
}

#[test]
fn a_hang_up_without_a_change_changes_nothing() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let published = std::fs::read_link(worker.certificates().join("..data")).unwrap();
    for _ in 0..3 {
        agent.signal(Signal::HUP);
        assert_eq!(worker.run_once(&["health"]).status.code(), Some(0));
    }
    assert_eq!(std::fs::read_link(worker.certificates().join("..data")).unwrap(), published);
    for event in ["CONFIG_RELOADED", "CONFIG_REJECTED", "CERT_ADOPTED", "CERT_RENEWED"] {
        assert_eq!(agent.count(event), 0, "{event}");
    }
    ends_in_time(&mut agent);
}
