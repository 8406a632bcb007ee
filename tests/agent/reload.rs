//! Changes of the configuration while the agent runs: a good one is put in force, a bad one is told once, and neither
//! costs the certificate or the agent.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::liar::{Authority, LyingCa, Stream, reply, success};
use crate::processes::{Agent, Ca, Worker, free_address, listening, until};
use rustix::process::Signal;

/// A worker of a CA that signs for `lifetime`, and the CA, whose root is in `directory`.
fn worker_of_liar(directory: &Path, lifetime: Duration) -> (LyingCa, Worker) {
    let ca = LyingCa::start();
    let root_file = directory.join("root.crt");
    ca.write_root(&root_file);
    ca.answer(move |authority, csr, stream| sign_for(authority, csr, stream, lifetime));
    let worker = Worker::at("streaming", &ca.url(), &root_file);
    worker.write_token("any-token");
    (ca, worker)
}

fn sign_for(authority: &Authority, csr: &str, stream: &mut Stream, lifetime: Duration) {
    let certificate = authority.sign(csr, |params| params.not_after = time::OffsetDateTime::now_utc() + lifetime);
    success(authority, &certificate, stream);
}

fn refuse(_: &Authority, _: &str, stream: &mut Stream) {
    reply(stream, "403 Forbidden", "application/json", br#"{"detail":"not now"}"#);
}

fn is_ready(worker: &Worker) -> bool {
    worker.run_once(&["health"]).status.code() == Some(0)
}

/// What the agent was asked to do after `before` has been done, and nothing that came before is still to come.
fn settle(agent: &Agent, worker: &Worker) {
    let renewals = agent.count("CERT_RENEWED");
    assert_eq!(worker.run_once(&["renew"]).status.code(), Some(0));
    agent.event("CERT_RENEWED", renewals + 1);
}

#[test]
fn a_port_in_use_is_refused_once_and_the_old_configuration_works_on() {
    let ca = Ca::start("1h");
    let mut worker = Worker::of(&ca, "streaming");
    worker.unset("CRANK_SERVER_LISTEN");
    let free = free_address();
    worker.configure(&format!("[server]\nlisten = \"{free}\"\n"));
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap();
    worker.configure(&format!("[server]\nlisten = \"{address}\"\n"));
    let rejected = agent.event("CONFIG_REJECTED", 1);
    let message = rejected["error"]["message"].as_str().unwrap();
    assert!(message.contains("cannot listen on") && message.contains(&address.to_string()), "{message}");
    until("the old listener is back", || TcpStream::connect(free).ok());
    // Files that change are no reason to try again; an operator's word is.
    settle(&agent, &worker);
    settle(&agent, &worker);
    assert_eq!(agent.count("CONFIG_REJECTED"), 1);
    agent.signal(Signal::HUP);
    agent.event("CONFIG_REJECTED", 2);
    drop(occupied);
    agent.signal(Signal::HUP);
    agent.event("CONFIG_RELOADED", 1);
    TcpStream::connect(address).unwrap();
    assert!(is_ready(&worker) && agent.is_running());
    assert_eq!(agent.count("CERT_ISSUED"), 1);
}

#[test]
fn a_reload_costs_no_probe() {
    const RELOADS: usize = 20;
    let ca = Ca::start("1h");
    let (worker, address, agent) = listening(&ca);
    let mut probes = 0;
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for reload in 1..=RELOADS {
                worker.configure(&format!("[schedule]\ncheck_interval = \"{}m\"\n", 10 + reload));
                agent.event("CONFIG_RELOADED", reload);
            }
        });
        while !reloads.is_finished() {
            TcpStream::connect(address).unwrap();
            let health = worker.run_once(&["health"]);
            assert_eq!(health.status.code(), Some(0), "{health:?}");
            probes += 1;
        }
    });
    assert!(probes > RELOADS, "{probes}");
}

#[test]
fn a_wrong_configuration_is_told_once() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    worker.configure("first_mistake = 1\n");
    agent.event("CONFIG_REJECTED", 1);
    // Another file changes, which has been noticed once it is put back.
    std::fs::remove_file(worker.certificates().join("client.key")).unwrap();
    agent.event("CERT_FILES_HEALED", 1);
    assert_eq!(agent.count("CONFIG_REJECTED"), 1);
    worker.configure("second_mistake = 1\n");
    let second = agent.event("CONFIG_REJECTED", 2);
    assert!(second["error"]["message"].as_str().unwrap().contains("second_mistake"), "{second}");
}

#[test]
fn an_expired_certificate_does_not_end_the_agent_at_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, worker) = worker_of_liar(directory.path(), Duration::from_secs(4));
    let worker = worker.with("CRANK_CA_STARTUP_WAIT", "1s");
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    ca.answer(refuse);
    agent.event("CERT_EXPIRED", 1);
    for (reload, interval) in ["20m", "30m"].into_iter().enumerate() {
        let failures = agent.count("CSR_FAILED");
        worker.configure(&format!("[schedule]\ncheck_interval = \"{interval}\"\n"));
        agent.event("CONFIG_RELOADED", reload + 1);
        agent.signal(Signal::USR1);
        agent.event("CSR_FAILED", failures + 1);
    }
    assert!(agent.is_running());
    assert_eq!((agent.count("CERT_EXPIRED"), agent.count("CERT_ISSUED")), (1, 1));
    ca.answer(|authority, csr, stream| sign_for(authority, csr, stream, Duration::from_hours(1)));
    agent.signal(Signal::USR1);
    agent.event("CERT_RENEWED", 1);
    assert!(is_ready(&worker));
}

#[test]
fn another_directory_gets_the_certificate_without_the_ca() {
    let mut ca = Ca::start("1h");
    let mut worker = Worker::of(&ca, "streaming");
    worker.unset("CERT_DIR");
    let place = |name: &str| worker.config_file().with_file_name(name);
    let (first, second) = (place("first"), place("second"));
    let socket = place("socket");
    let text = |directory: &Path| {
        format!("[files]\ndirectory = \"{}\"\n[control]\nsocket = \"{}\"\n", directory.display(), socket.display())
    };
    worker.configure(&text(&first));
    let mut agent = worker.start();
    let serial = agent.event("CERT_ISSUED", 1)["cert_metadata"]["serial"].as_str().unwrap().to_owned();
    ca.kill();
    worker.configure(&text(&second));
    agent.event("CONFIG_RELOADED", 1);
    agent.event("CERT_ADOPTED", 1);
    let moved = crank_agent::store::read_bundle(&second).unwrap();
    assert_eq!(moved.serial(), serial);
    assert!(is_ready(&worker) && agent.is_running());
    assert_eq!(agent.count("CSR_SUBMITTED"), 1);
    // The first directory is free for others.
    drop(crank_agent::store::Store::open(&crank_agent::config::FilesConfig {
        directory: first,
        owner: None,
        group: None,
        key_mode: 0o600,
        keep_generations: Duration::from_mins(1),
        further: Vec::new(),
    }));
}

#[test]
fn another_worker_id_gets_another_certificate_in_the_same_directory() {
    let ca = Ca::start("1h");
    let mut worker = Worker::of(&ca, "streaming");
    worker.unset("SERVICE_NAME");
    worker.configure("worker_id = \"streaming\"\n");
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    // Without a token for it the agent waits for one, and lives.
    worker.configure("worker_id = \"batch\"\n");
    agent.event("CONFIG_RELOADED", 1);
    agent.event("CSR_FAILED", 1);
    assert!(!is_ready(&worker) && agent.is_running());
    worker.write_token(&ca.token("batch"));
    let renewed = agent.event("CERT_RENEWED", 1);
    assert_eq!(renewed["worker_id"], "batch");
    assert!(renewed["cert_metadata"]["subject"].as_str().unwrap().starts_with("CN=batch,"), "{renewed}");
    assert!(is_ready(&worker));
}

#[test]
fn a_change_during_the_wait_for_a_first_certificate_is_put_in_force() {
    let ca = Ca::start("1h");
    let mut worker = Worker::of(&ca, "streaming");
    worker.unset("CA_SERVICE_URL");
    let nobody = free_address();
    worker.configure(&format!("[ca]\nurl = \"https://localhost:{}\"\n", nobody.port()));
    let agent = worker.start();
    agent.event("CA_UNAVAILABLE", 2);
    worker.configure(&format!("[ca]\nurl = \"{}\"\n", ca.url()));
    agent.event("CONFIG_RELOADED", 1);
    agent.event("CERT_ISSUED", 1);
}

#[test]
fn a_reload_is_no_news_of_the_certificate_and_keeps_what_status_tells() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let status = || -> serde_json::Value {
        serde_json::from_slice(&worker.run_once(&["status", "--json"]).stdout).unwrap_or_default()
    };
    let before = until("a status with the last attempt", || {
        let status = status();
        status["last_attempt"].is_object().then_some(status)
    });
    worker.configure("[schedule]\ncheck_interval = \"30m\"\n");
    agent.event("CONFIG_RELOADED", 1);
    let after = until("a status with a certificate", || {
        let status = status();
        status["certificate"].is_object().then_some(status)
    });
    for field in ["started_at", "last_attempt", "ca", "next_renewal"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!((agent.count("CERT_ADOPTED"), agent.count("CSR_SUBMITTED")), (0, 1));
}

#[test]
fn a_client_that_holds_a_connection_does_not_end_the_agent_at_a_reload() {
    let ca = Ca::start("1h");
    let (worker, address, mut agent) = listening(&ca);
    let mut clients: Vec<_> = (0..3).map(|_| half_a_request(&worker, address)).collect();
    worker.configure("[schedule]\ncheck_interval = \"30m\"\n");
    agent.event("CONFIG_RELOADED", 1);
    until("the listener is back", || TcpStream::connect(address).ok());
    until("the agent is ready", || is_ready(&worker).then_some(()));
    assert!(agent.is_running());
    clients.clear();
}

/// A client of the agent's listener that has begun a request and does not end it.
pub(crate) fn half_a_request(
    worker: &Worker,
    address: std::net::SocketAddr,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let bundle = crank_agent::store::read_bundle(&worker.certificates()).unwrap();
    let trust = crank_agent::tls::ServerTrust::Roots(bundle.roots().to_vec());
    let config =
        Arc::new(crank_agent::tls::client_config(&trust, None, Arc::new(crank_agent::clock::SystemClock)).unwrap());
    until("the listener shakes hands", || {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).ok()?);
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").and_then(|()| stream.flush()).ok()?;
        Some(stream)
    })
}

#[test]
fn another_log_filter_is_in_force_at_once() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    settle(&agent, &worker);
    assert!(!agent.log().contains("obtaining a certificate"));
    worker.configure("[log]\nfilter = \"info,crank_agent=debug\"\n");
    agent.event("CONFIG_RELOADED", 1);
    settle(&agent, &worker);
    assert!(agent.log().contains("obtaining a certificate"));
}

#[test]
fn a_second_root_reaches_the_worker_without_a_new_certificate_and_a_wrong_one_costs_nothing() {
    let ca = Ca::start("1h");
    let directory = tempfile::tempdir().unwrap();
    let root_file = directory.path().join("roots.crt");
    let (own, other) = (std::fs::read_to_string(ca.root_file()).unwrap(), Authority::new("Other").root.pem());
    let write = |text: &str| {
        std::fs::write(root_file.with_extension("new"), text).unwrap();
        std::fs::rename(root_file.with_extension("new"), &root_file).unwrap();
    };
    let mut worker = Worker::of(&ca, "streaming");
    worker.set("CRANK_CA_ROOT_FILE", &root_file.display().to_string());
    // Else the CA's own word would keep its root.
    worker.set("CRANK_CA_FOLLOW_ROOTS", "false");
    // The file comes later than the agent.
    let mut agent = worker.start();
    agent.event("CSR_FAILED", 1);
    write(&own);
    let serial = agent.event("CERT_ISSUED", 1)["cert_metadata"]["serial"].clone();
    write(&format!("{own}{other}"));
    let roots = || crank_agent::store::read_bundle(&worker.certificates()).unwrap().roots().len();
    until("both roots are published", || (roots() == 2).then_some(()));
    assert_eq!(worker.serial().unwrap(), serial.as_str().unwrap());
    assert_eq!(agent.count("CSR_SUBMITTED"), 2);
    // One that does not fit: the certificate stays, and when the file is good again nothing is asked for.
    write(&other);
    agent.event("CA_UNAVAILABLE", 1);
    assert_eq!((worker.serial().unwrap().as_str(), roots()), (serial.as_str().unwrap(), 2));
    write(&own);
    until("one root is published", || (roots() == 1).then_some(()));
    assert!(is_ready(&worker) && agent.is_running());
    assert_eq!(agent.count("CERT_RENEWED"), 0);
}
