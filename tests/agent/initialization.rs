//! `init` beside what is there already, and two agents of one program.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::liar::{LyingCa, success};
use crate::processes::{Ca, Worker, until};
use crank_agent::agent::Surroundings;
use crank_agent::config::{Arguments, Facts, load};
use crank_agent::events::{CertificateEvent, EventBus};
use tokio_util::sync::CancellationToken;

fn worker_of(ca: &LyingCa, directory: &std::path::Path) -> Worker {
    let root_file = directory.join("root.crt");
    ca.write_root(&root_file);
    let worker = Worker::at("streaming", &ca.url(), &root_file);
    worker.write_token("any-token");
    worker
}

#[test]
fn init_leaves_a_valid_certificate_alone_and_replaces_an_expired_one() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path());
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    let elsewhere = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    assert_eq!(worker_of(&ca, elsewhere.path()).run_once(&["init"]).status.code(), Some(0));
    // Long enough for two of these and what is between them, as fast as the machine is at the moment.
    let life = Duration::from_secs(4).max(8 * begun.elapsed());
    ca.answer(move |authority, csr, stream| {
        let soon = time::OffsetDateTime::now_utc() + life;
        success(authority, &authority.sign(csr, |params| params.not_after = soon), stream);
    });
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
    let bundle = crank_agent::store::read_bundle(&worker.certificates()).unwrap();
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(worker.serial().unwrap(), bundle.serial());
    until("it expires", || (time::OffsetDateTime::now_utc() >= bundle.not_after()).then_some(()));
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_ne!(worker.serial().unwrap(), bundle.serial());
    assert!(String::from_utf8(output.stdout).unwrap().contains("CERT_EXPIRED"));
}

#[test]
fn an_agent_does_not_start_while_init_has_the_directory() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path());
    ca.answer(|_, _, stream| drop(std::io::Read::read(stream, &mut [0; 1])));
    let mut init = worker.command(&["init"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let lock = worker.certificates().join(".crank-agent.lock");
    until("init has the directory", || std::fs::read_to_string(&lock).is_ok_and(|text| !text.is_empty()).then_some(()));
    let output = worker.run_once(&["run"]);
    assert_eq!(output.status.code(), Some(73), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("in use by another agent") && text.contains(&init.id().to_string()), "{text}");
    init.kill().unwrap();
    init.wait().unwrap();
}

#[tokio::test]
async fn two_agents_live_in_one_process() {
    let ca = Ca::start("1h");
    let stop = CancellationToken::new();
    let (issued, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut agents = Vec::new();
    for name in ["one", "two"] {
        let worker = Worker::of(&ca, name);
        let environment =
            worker.environment().iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let arguments = Arguments::new(environment, Facts::read());
        let config = load(&arguments).unwrap();
        let bus = EventBus::default();
        let issued = issued.clone();
        bus.subscribe(move |record| {
            if record.event == CertificateEvent::CertIssued {
                let _ = issued.send(record.worker_id.to_string());
            }
        });
        let surroundings = Surroundings { stop: stop.clone(), ..Surroundings::telling(bus) };
        agents.push((worker, tokio::spawn(crank_agent::agent::run(arguments, config, surroundings))));
    }
    let mut names = Vec::new();
    while names.len() < 2 {
        names.push(tokio::time::timeout(Duration::from_mins(1), events.recv()).await.unwrap().unwrap());
    }
    names.sort();
    assert_eq!(names, ["one", "two"]);
    stop.cancel();
    for (worker, agent) in agents {
        agent.await.unwrap().unwrap();
        assert!(worker.serial().is_some());
    }
}
