//! The service manager's side of `sd_notify(3)`: a datagram socket that hears what the real programs tell.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::processes::{Ca, PATIENCE, Worker};

/// Listens where `NOTIFY_SOCKET` leads.
struct Listener {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
    /// Everything heard that was no status.
    heard: Vec<String>,
    status: String,
}

impl Listener {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { socket, directory, heard: Vec::new(), status: String::new() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// Takes what comes until `enough`; fails when that is not within the time.
    fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not told: {what}; heard {:?}, status {:?}", self.heard, self.status);
            self.take(left);
        }
    }

    /// Takes what has come already.
    fn drain(&mut self) {
        while self.take(Duration::from_millis(1)) {}
    }

    fn take(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        let message = match self.socket.recv(&mut buffer) {
            Ok(length) => String::from_utf8(buffer[..length].to_vec()).unwrap(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) => panic!("{error}"),
        };
        match message.strip_prefix("STATUS=") {
            Some(status) => status.clone_into(&mut self.status),
            None => self.heard.push(message),
        }
        true
    }

    fn count(&self, message: &str) -> usize {
        self.heard.iter().filter(|heard| heard.split('\n').next() == Some(message)).count()
    }

    /// The messages in order, without signs of life.
    fn states(&self) -> Vec<&str> {
        let heard = self.heard.iter().map(|heard| heard.split('\n').next().unwrap());
        heard.filter(|heard| *heard != "WATCHDOG=1").collect()
    }
}

#[test]
fn an_agent_is_ready_with_its_certificate_tells_reloads_and_its_end_and_lives() {
    let mut ca = Ca::stopped("1h");
    let mut listener = Listener::new();
    // A sign of life each half second.
    let worker = Worker::of(&ca, "streaming")
        .with("NOTIFY_SOCKET", listener.path().to_str().unwrap())
        .with("WATCHDOG_USEC", "1000000");
    let mut agent = worker.start();
    agent.event("CA_UNAVAILABLE", 1);
    // Told early, this would be taken for the end of the start.
    agent.signal(Signal::HUP);
    listener.until("why it is not ready", |listener| {
        listener.status.contains("is not ready: no certificate yet; last attempt failed")
    });
    listener.drain();
    assert_eq!(listener.states(), [""; 0], "nothing is ready without a certificate");

    ca.restart();
    listener.until("READY", |listener| listener.count("READY=1") == 1);
    let serial = worker.serial().expect("ready means that the certificate is on disk");
    listener.until("the certificate", |listener| listener.status.contains(&format!("has certificate {serial} until ")));
    let lives = listener.count("WATCHDOG=1");
    listener.until("signs of life", |listener| listener.count("WATCHDOG=1") >= lives + 3);

    // Unchanged, refused, and in force: each reload ends.
    let settings = ["", "nonsense = 1", "[schedule]\ncheck_interval = \"30m\""];
    for (number, text) in settings.iter().enumerate() {
        std::fs::write(worker.config_file(), text).unwrap();
        agent.signal(Signal::HUP);
        listener.until("the end of the reload", |listener| listener.count("READY=1") == number + 2);
        assert_eq!(listener.count("RELOADING=1"), number + 1, "{:?}", listener.heard);
    }
    let reload = listener.heard.iter().find(|heard| heard.starts_with("RELOADING=1")).unwrap();
    let micros: u64 = reload.split_once("\nMONOTONIC_USEC=").unwrap().1.parse().unwrap();
    assert!(micros > 0);
    let lives = listener.count("WATCHDOG=1");
    listener.until("signs of life after a reload", |listener| listener.count("WATCHDOG=1") >= lives + 3);

    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    listener.drain();
    assert_eq!(listener.states().last(), Some(&"STOPPING=1"));
    assert_eq!(listener.count("STOPPING=1"), 1);
}

#[test]
fn an_agent_that_hangs_gives_no_sign_of_life() {
    let ca = Ca::start("1h");
    let mut listener = Listener::new();
    let worker = Worker::of(&ca, "streaming")
        .with("NOTIFY_SOCKET", listener.path().to_str().unwrap())
        .with("WATCHDOG_USEC", "400000");
    let agent = worker.start();
    listener.until("signs of life", |listener| listener.count("WATCHDOG=1") >= 3);
    agent.signal(Signal::STOP);
    listener.drain();
    // Ten times what a living one keeps silent.
    assert!(!listener.take(Duration::from_secs(2)), "{:?}", listener.heard);
    agent.signal(Signal::CONT);
    let lives = listener.count("WATCHDOG=1");
    listener.until("signs of life again", |listener| listener.count("WATCHDOG=1") > lives);
}

#[test]
fn a_ca_is_ready_when_it_listens_tells_reloads_and_its_end_and_lives() {
    let mut ca = Ca::stopped("1h");
    let mut listener = Listener::new();
    std::fs::write(ca.config_file(), "").unwrap();
    ca.set("NOTIFY_SOCKET", listener.path().to_str().unwrap());
    ca.set("WATCHDOG_USEC", "200000");
    ca.spawn();
    listener.until("READY", |listener| listener.count("READY=1") == 1);
    assert!(std::net::TcpStream::connect(ca.address).is_ok(), "ready means that it listens");
    assert_eq!(listener.status, format!("serving on {}", ca.address));
    let lives = listener.count("WATCHDOG=1");
    listener.until("signs of life", |listener| listener.count("WATCHDOG=1") >= lives + 3);
    for (number, text) in ["renewal_grace = \"1h\"", "nonsense = 1"].iter().enumerate() {
        std::fs::write(ca.config_file(), text).unwrap();
        ca.signal(Signal::HUP);
        listener.until("the end of the reload", |listener| listener.count("READY=1") == number + 2);
        assert_eq!(listener.count("RELOADING=1"), number + 1, "{:?}", listener.heard);
    }
    ca.signal(Signal::TERM);
    listener.until("STOPPING", |listener| listener.states().last() == Some(&"STOPPING=1"));
}
