//! Revocation, CRLs and renewal at the CA's wish, from the operator's command to the files of the worker.

use std::time::{Duration, Instant};

use crank_agent::store::read_bundle;

use crate::processes::{Agent, Ca, Worker, until};

/// A worker with push, and an agent that has had its certificate for long enough to ask for another.
fn running(ca: &Ca, name: &str, change: impl FnOnce(Worker) -> Worker) -> (Worker, Agent) {
    let worker = change(Worker::of(ca, name).with("CRANK_SCHEDULE_MIN_INTERVAL", "1s"));
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    (worker, agent)
}

fn health(worker: &Worker) -> i32 {
    worker.run_once(&["health"]).status.code().unwrap()
}

/// The numbers of the published CRLs, as `status` shows them.
fn status(worker: &Worker) -> serde_json::Value {
    serde_json::from_slice(&worker.run_once(&["status", "--json"]).stdout).unwrap_or_default()
}

#[test]
fn a_revoked_worker_has_another_certificate_within_seconds() {
    let ca = Ca::start("1h");
    let begun = Instant::now();
    let (worker, agent) = running(&ca, "streaming", |worker| worker);
    let first = begun.elapsed();
    let serial = worker.serial().unwrap();
    worker.write_token(&ca.token("streaming"));
    // Once a CRL is published the agent is at rest, and its question waits at the CA.
    until("there is a CRL", || worker.certificates().join("ca.crl").exists().then_some(()));
    ca.run(&["revoke", "--serial", &serial, "--reason", "keyCompromise"]);
    let revoked = Instant::now();
    let successor = until("another certificate is on disk", || worker.serial().filter(|found| *found != serial));
    let took = revoked.elapsed();
    println!("from revocation to another certificate on disk: {} ms", took.as_millis());
    // A look of the CA each second, a second between attempts, and the time that the first certificate took.
    assert!(took < Duration::from_secs(3) + 2 * first, "{took:?}, the first {first:?}");
    let event = agent.event("CERT_REVOKED", 1);
    assert_eq!(event["cert_metadata"]["serial"], serial.as_str());
    assert!(event["detail"].as_str().unwrap().ends_with("keyCompromise"), "{event}");
    assert_eq!(agent.event("CERT_ISSUED", 2)["cert_metadata"]["serial"], successor.as_str());
    assert_eq!((agent.count("CERT_REVOKED"), health(&worker)), (1, 0));
}

#[test]
fn a_revoked_worker_without_a_credential_is_not_ready_until_it_has_one() {
    let ca = Ca::start("1h");
    let (worker, mut agent) = running(&ca, "streaming", |worker| worker.with("CRANK_REVOCATION_FILES", "withdraw"));
    ca.run(&["revoke", "--worker", "streaming", "--reason", "privilegeWithdrawn"]);
    agent.event("CERT_REVOKED", 1);
    let failed = agent.event("CSR_FAILED", 1);
    assert_eq!(failed["error"]["kind"], "unauthenticated", "the token was used: {failed}");
    let files = ["client.key", "client.crt", "credential-bundle.pem"].map(|name| worker.certificates().join(name));
    until("the files are withdrawn", || files.iter().all(|file| !file.exists()).then_some(()));
    assert!(worker.certificates().join("ca.crt").exists());
    let health = worker.run_once(&["health"]);
    assert_eq!(health.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&health.stdout).contains("revoked: privilegeWithdrawn"), "{health:?}");
    assert!(agent.is_running());
    worker.write_token(&ca.token("streaming"));
    agent.event("CERT_ISSUED", 2);
    assert!(files.iter().all(|file| file.exists()));
    assert_eq!(self::health(&worker), 0);
}

#[test]
fn a_restart_does_not_forget_a_revocation() {
    let ca = Ca::start("1h");
    let (worker, mut agent) = running(&ca, "streaming", |worker| worker);
    let serial = worker.serial().unwrap();
    ca.run(&["revoke", "--serial", &serial]);
    agent.event("CSR_FAILED", 1);
    agent.kill();
    let agent = worker.start();
    agent.event("CERT_ADOPTED", 1);
    agent.event("CSR_FAILED", 1);
    assert_eq!((health(&worker), worker.serial()), (1, Some(serial)));
    assert_eq!(agent.count("CERT_REVOKED"), 0, "told by the run before");
    worker.write_token(&ca.token("streaming"));
    agent.event("CERT_ISSUED", 1);
    assert_eq!(health(&worker), 0);
}

#[test]
fn the_crl_reaches_the_others() {
    let ca = Ca::start("1h");
    let (reader, _agent) = running(&ca, "reader", |worker| worker);
    let (outcast, _other) = running(&ca, "outcast", |worker| worker);
    let leaf = read_bundle(&outcast.certificates()).unwrap().chain()[0].clone();
    let serial = reader.serial();
    ca.run(&["revoke", "--worker", "outcast", "--reason", "superseded"]);
    let listed = || {
        let bundle = read_bundle(&reader.certificates()).unwrap();
        bundle.crls().iter().find_map(|crl| crl.entry_of(&leaf))
    };
    let entry = until("the CRL that has it is published", listed);
    assert_eq!(entry.reason.name(), "superseded");
    assert_eq!(reader.serial(), serial, "the same certificate");
    let status = status(&reader);
    assert_eq!(status["crl"]["numbers"].as_array().map(Vec::len), Some(1), "{status}");
}

#[test]
fn a_fleet_renews_when_the_operator_asks() {
    let ca = Ca::start("1h");
    let (worker, agent) = running(&ca, "streaming", |worker| worker);
    let (other, _other_agent) = running(&ca, "untouched", |worker| worker);
    let (serial, untouched) = (worker.serial(), other.serial());
    let explanation = "a new issuer\nis coming";
    ca.run(&["rotate", "--match", "worker=stream*", "--within", "2s", "--explanation", explanation]);
    let event = agent.event("RENEWAL_REQUESTED", 1);
    assert!(event["detail"].as_str().unwrap().contains("a new issuer"), "{event}");
    agent.event("CERT_RENEWED", 1);
    assert_ne!(worker.serial(), serial);
    assert_eq!(other.serial(), untouched);
    assert_eq!(agent.count("RENEWAL_REQUESTED"), 1);
}

#[test]
fn the_agent_is_told_again_after_the_ca_was_away() {
    let mut ca = Ca::start("1h");
    let quick = |worker: Worker| worker.with("CRANK_SCHEDULE_MAX_BACK_OFF", "1s");
    let (worker, agent) = running(&ca, "streaming", quick);
    worker.write_token(&ca.token("streaming"));
    ca.kill();
    ca.run(&["revoke", "--worker", "streaming"]);
    ca.restart();
    agent.event("CERT_REVOKED", 1);
    agent.event("CERT_ISSUED", 2);
    assert_eq!(agent.count("CA_UNAVAILABLE"), 0, "that nobody tells is no failure");
}
