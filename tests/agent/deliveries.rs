//! Deliveries and their proof: a worker that is told and followed, one that does not follow, one that falls back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crank_agent::crypto::crypto_provider;
use crank_agent::identity::CertificateBundle;
use crank_agent::store::read_bundle;
use rustix::process::Signal;

use crate::processes::{Agent, Ca, Worker, until};

/// A worker that reads its files when it is told to by a request on a Unix socket, and serves TLS with what it has read.
struct Server {
    address: SocketAddr,
    socket: PathBuf,
    state: Arc<State>,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct State {
    files: PathBuf,
    config: Mutex<Option<Arc<rustls::ServerConfig>>>,
    follows: AtomicBool,
    told: AtomicUsize,
}

impl State {
    fn load(&self) {
        if let Ok(bundle) = read_bundle(&self.files) {
            *self.config.lock().unwrap() = Some(server_config(&bundle));
        }
    }
}

fn server_config(bundle: &CertificateBundle) -> Arc<rustls::ServerConfig> {
    let builder = rustls::ServerConfig::builder_with_provider(crypto_provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(bundle.chain().to_vec(), bundle.key().to_rustls()).unwrap())
}

impl Server {
    fn start(files: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("reload.sock");
        let (listener, control) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&socket).unwrap());
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { files: files.to_owned(), ..State::default() });
        state.follows.store(true, Ordering::SeqCst);
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in control.incoming().map_while(Result::ok) {
                own.told.fetch_add(1, Ordering::SeqCst);
                if own.follows.load(Ordering::SeqCst) {
                    own.load();
                }
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                let status = if request == "POST /-/reload HTTP/1.1" { "200 OK" } else { "404 Not Found" };
                let _ = write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let Some(config) = own.config.lock().unwrap().clone() else { continue };
                std::thread::spawn(move || {
                    let mut connection = rustls::ServerConnection::new(config).unwrap();
                    let mut stream = rustls::Stream::new(&mut connection, &mut stream);
                    let _ = stream.read(&mut [0; 16]);
                });
            }
        });
        Self { address, socket, state, _directory: directory }
    }

    fn told(&self) -> usize {
        self.state.told.load(Ordering::SeqCst)
    }

    fn follow(&self, follows: bool) {
        self.state.follows.store(follows, Ordering::SeqCst);
    }

    /// A worker of `ca` with this server, and the agent beside it.
    fn worker(ca: &Ca, settings: &[(&str, &str)]) -> (Self, Worker) {
        let mut worker = Worker::of(ca, "streaming");
        let server = Self::start(&worker.certificates());
        for (name, value) in [
            ("NAME", "app"),
            ("SOCKET", &server.socket.display().to_string()),
            ("PATH", "/-/reload"),
            ("PROBE", &server.address.to_string()),
            ("PROBE_INTERVAL", "1s"),
            ("SERVED_WITHIN", "1s"),
            ("ATTEMPTS", "2"),
        ] {
            worker.set(&format!("CRANK_DELIVER_1_{name}"), value);
        }
        for (name, value) in settings {
            worker.set(name, value);
        }
        (server, worker)
    }
}

fn delivery(worker: &Worker) -> serde_json::Value {
    let status = worker.run_once(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    status["deliveries"][0].clone()
}

fn renew(worker: &Worker) {
    assert_eq!(worker.run_once(&["renew"]).status.code(), Some(0));
}

fn health(worker: &Worker) -> Option<i32> {
    worker.run_once(&["health"]).status.code()
}

fn start(worker: &Worker) -> Agent {
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    agent
}

#[test]
fn a_worker_is_told_of_each_certificate_and_seen_to_serve_it() {
    let ca = Ca::start("1h");
    let (server, worker) = Server::worker(&ca, &[]);
    let agent = start(&worker);
    for round in 1..=3 {
        let delivered = agent.event("CERT_DELIVERED", round);
        assert_eq!(delivered["cert_metadata"]["serial"], worker.serial().unwrap().as_str());
        assert!(delivered["detail"].as_str().unwrap().starts_with("app, "), "{delivered}");
        let renewed = if round == 1 { agent.event("CERT_ISSUED", 1) } else { agent.event("CERT_RENEWED", round - 1) };
        assert_eq!(delivered["correlation_id"], renewed["correlation_id"]);
        assert_eq!(server.told(), round);
        let status = delivery(&worker);
        assert_eq!((&status["name"], &status["result"]), (&"app".into(), &"served".into()), "{status}");
        renew(&worker);
    }
    // A changed configuration is none of a new certificate.
    agent.event("CERT_DELIVERED", 4);
    let told = server.told();
    std::fs::write(worker.config_file(), "[schedule]\ncheck_interval = \"30m\"\n").unwrap();
    agent.signal(Signal::HUP);
    agent.event("CONFIG_RELOADED", 1);
    renew(&worker);
    agent.event("CERT_DELIVERED", 5);
    assert_eq!(server.told(), told + 1);
    assert_eq!(agent.count("CERT_NOT_SERVED"), 0);
}

#[test]
fn a_worker_that_does_not_follow_is_reported_until_it_does() {
    let ca = Ca::start("1h");
    let (server, worker) = Server::worker(&ca, &[("CRANK_DELIVER_1_NOT_SERVED", "not-ready")]);
    let agent = start(&worker);
    agent.event("CERT_DELIVERED", 1);
    let old = worker.serial().unwrap();
    server.follow(false);
    renew(&worker);
    let reported = agent.event("CERT_NOT_SERVED", 1);
    assert_eq!((&reported["severity"], &reported["error"]["kind"]), (&"CRITICAL".into(), &"not_served".into()));
    let message = reported["error"]["message"].as_str().unwrap();
    assert!(message.contains("app") && message.contains(&old), "{message}");
    assert_eq!(server.told(), 3, "the first certificate, and two attempts");
    assert_eq!(health(&worker), Some(1));
    assert_eq!(delivery(&worker)["result"], "not_served");
    server.state.load();
    agent.event("CERT_DELIVERED", 2);
    assert_eq!(health(&worker), Some(0));
    assert_eq!(agent.count("CERT_NOT_SERVED"), 1);
}

#[test]
fn a_worker_that_falls_back_between_renewals_is_noticed_and_told() {
    let ca = Ca::start("1h");
    let (server, worker) = Server::worker(&ca, &[]);
    let agent = start(&worker);
    agent.event("CERT_DELIVERED", 1);
    let old = server.state.config.lock().unwrap().clone();
    renew(&worker);
    agent.event("CERT_DELIVERED", 2);
    // Told, it finds the new one.
    (*server.state.config.lock().unwrap()).clone_from(&old);
    agent.event("CERT_DELIVERED", 3);
    assert_eq!(server.told(), 3);
    // Told, it does not.
    server.follow(false);
    *server.state.config.lock().unwrap() = old;
    agent.event("CERT_NOT_SERVED", 1);
    assert_eq!(health(&worker), Some(0), "it is only reported");
}

#[test]
fn one_delivery_waits_for_another_and_a_failure_holds_up_none() {
    let ca = Ca::start("1h");
    let directory = tempfile::tempdir().unwrap();
    let (log, gone) = (directory.path().join("log"), directory.path().join("gone.pid"));
    let (log, gone) = (log.display().to_string(), gone.display().to_string());
    let mut worker = Worker::of(&ca, "streaming");
    let script = |text: &str| format!("exec = [\"/bin/sh\", \"-c\", \"{text}\"]");
    let first = script(&format!("echo first $CRANK_CERT_SERIAL >> {log}; echo no such unit >&2; exit 4"));
    let third = script(&format!("echo third $CRANK_CERT_SERIAL >> {log}"));
    let text = format!(
        "[[deliver]]\nname = \"first\"\nattempts = 2\n{first}\n\
         [[deliver]]\nname = \"second\"\nattempts = 1\nsignal = \"HUP\"\npid_file = \"{gone}\"\n\
         [[deliver]]\nname = \"third\"\n{third}\n"
    );
    std::fs::write(worker.config_file(), text).unwrap();
    worker.set("CRANK_CONFIG", &worker.config_file().display().to_string());
    let agent = start(&worker);
    let failed = agent.event("CERT_DELIVERY_FAILED", 1);
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("first: ") && message.contains("no such unit"), "{message}");
    agent.event("CERT_DELIVERED", 1);
    let serial = worker.serial().unwrap();
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines, format!("first {serial}\nfirst {serial}\nthird {serial}\n"));
    let status = until("the status of all", || {
        let status = worker.run_once(&["status"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        text.contains("third: delivered").then_some(text)
    });
    assert!(status.contains("first: failed") && status.contains("second: nobody"), "{status}");
    assert_eq!(agent.count("CERT_DELIVERY_FAILED"), 1);
}
