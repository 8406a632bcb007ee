//! Revocation over the interface and by command: who may, what it does at once, and what survives a kill.

use std::time::Duration;

use crank_agent::ca::Admins;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::crl::{fetch, serials};
use super::harness::{TestCa, client_config, client_with_config, eventually, identity, key_and_csr};
use super::process::{Directory, Process, crank_ca, text};

fn with_admin(config: &mut crank_agent::ca::CaConfig) {
    config.revocation.admins = Admins::new(&["spiffe://crank.local/worker/ops"]).unwrap();
}

#[tokio::test]
async fn a_worker_revokes_its_own_certificate_and_is_told_the_same_again() {
    let ca = TestCa::start().await;
    let worker = ca.worker("streaming").await;
    let other = ca.worker("streaming").await;
    let first = ca.revoke(&other.client, &worker.serial, r#"{"reason":"keyCompromise"}"#).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.body["status"], "success");
    assert_eq!(first.body["serial_number"], worker.serial);
    assert_eq!((&first.body["revoked"], &first.body["reason"]), (&Value::Bool(true), &"keyCompromise".into()));
    let plain = worker.serial.replace(':', "").to_uppercase();
    let again = ca.revoke(&other.client, &format!("{plain}?reason=superseded"), "").await;
    assert_eq!((again.status, &again.body), (200, &first.body));
}

#[tokio::test]
async fn nobody_else_revokes_it() {
    let ca = TestCa::start_with(with_admin).await;
    let worker = ca.worker("streaming").await;
    let other = ca.worker("other").await;
    let token = ca.token("streaming", &[]).await;
    let path = format!("/certificates/{}", worker.serial);

    let reply = ca.revoke(&other.client, &worker.serial, "").await;
    assert_eq!((reply.status, &reply.body["type"]), (403, &"urn:crank-ca:problem:not_permitted".into()));
    let nobody = ca.revoke(&ca.client(), &worker.serial, "").await;
    assert_eq!(nobody.status, 401);
    let by_token = ca.send(&ca.client(), Method::DELETE, &path, Some(&token), "").await.unwrap();
    assert_eq!(by_token.status, 401);
    // The CA's own certificate is no worker's, whatever it says.
    assert_eq!(ca.revoke(&other.client, "41:02", "").await.status, 404);
    assert_eq!(ca.revoke(&other.client, "nonsense", "").await.status, 404);
    let bad = ca.revoke(&worker.client, &worker.serial, r#"{"reason":"boredom"}"#).await;
    assert!(bad.status == 400 && bad.detail().contains("cessationOfOperation"), "{}", bad.body);
    assert_eq!(ca.revoke(&worker.client, &worker.serial, "{}").await.status, 200);
}

#[tokio::test]
async fn an_admin_revokes_any_until_it_is_revoked_itself() {
    let ca = TestCa::start_with(with_admin).await;
    let admin = ca.worker("ops").await;
    let (first, second) = (ca.worker("streaming").await, ca.worker("streaming").await);
    let reply = ca.revoke(&admin.client, &first.serial, "").await;
    assert_eq!((reply.status, &reply.body["reason"]), (200, &"unspecified".into()));
    assert_eq!(ca.revoke(&admin.client, &admin.serial, "").await.status, 200);
    let reply = ca.revoke(&admin.client, &second.serial, "").await;
    assert_eq!((reply.status, &reply.body["type"]), (401, &"urn:crank-ca:problem:certificate_revoked".into()));
}

#[tokio::test]
async fn a_revoked_certificate_renews_nothing_and_its_key_gets_no_other() {
    let ca = TestCa::start().await;
    let worker = ca.worker("streaming").await;
    assert_eq!(ca.revoke(&worker.client, &worker.serial, "").await.status, 200);
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let reply = ca.enrol(&worker.client, None, "streaming", &csr).await;
    assert_eq!((reply.status, &reply.body["type"]), (401, &"urn:crank-ca:problem:certificate_revoked".into()));
    assert_eq!(ca.revoke(&worker.client, &worker.serial, "").await.status, 401);

    let token = ca.token("streaming", &[]).await;
    let identity = identity("streaming", &[]);
    let same_key =
        crank_agent::identity::csr::generate_csr(&identity, &worker.key, crank_agent::identity::KeyType::EcdsaP256);
    let reply = ca.enrol(&ca.client(), Some(&token), "streaming", &same_key.unwrap()).await;
    assert!(reply.status == 403 && reply.detail().contains("was revoked"), "{}", reply.body);
    let (_, fresh) = key_and_csr(&identity);
    assert_eq!(ca.enrol(&ca.client(), Some(&token), "streaming", &fresh).await.status, 200);
}

#[tokio::test]
async fn a_serving_process_hears_within_a_second_what_a_command_revokes() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let url = format!("https://localhost:{}", process.port);
    let mut revoked = Vec::new();
    for _ in 0..2 {
        let (_, csr) = key_and_csr(&identity("streaming", &[]));
        let chain = process.enrol(&client, Some(&directory.token("streaming")), &csr).await.chain();
        revoked.push(super::harness::serial_of(&chain[0]));
    }
    let data = directory.data();
    let begun = std::time::Instant::now();
    let output = crank_ca(&["revoke", "--data-dir", &data, "--worker", "streaming", "--reason", "superseded"]);
    let (told, command) = (std::time::Instant::now(), begun.elapsed());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(revoked.iter().all(|serial| said.contains(serial)) && said.lines().count() == 2, "{said}");
    revoked.sort();
    eventually("both are on the CRL", || async { serials(&fetch(&client, &url).await.der) == revoked }).await;
    // A look each second, a signature, and the time in which this machine does something at the moment.
    assert!(told.elapsed() < Duration::from_secs(2) + command, "{:?}, the command {command:?}", told.elapsed());

    // All are revoked, so there is nothing left to do; and what is no serial is told.
    for further in [["--worker", "streaming"], ["--serial", "41:02"], ["--worker", "nobody"]] {
        let output = crank_ca(&[&["revoke", "--data-dir", &data], &further[..]].concat());
        assert_eq!(output.status.code(), Some(78), "{further:?}: {}", text(&output.stdout));
    }
    let again = crank_ca(&["revoke", "--data-dir", &data, "--serial", &revoked[0]]);
    assert!(text(&again.stdout).contains("superseded"), "{}", text(&again.stderr));
    for usage in [&["--serial", "41", "--worker", "a"][..], &[], &["--serial", "41", "--reason", "KeyCompromise"]] {
        let output = crank_ca(&[&["revoke", "--data-dir", &data], usage].concat());
        assert_eq!(output.status.code(), Some(2), "{usage:?}");
    }
}

#[tokio::test]
async fn what_was_recorded_before_a_kill_is_on_the_crl_after_it() {
    let directory = Directory::with_ca();
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let mut revoked = Vec::new();
    let mut numbers = Vec::new();
    for round in 0..5 {
        let mut process = Process::start(&directory);
        let url = format!("https://localhost:{}", process.port);
        let crl = fetch(&client, &url).await;
        assert_eq!(serials(&crl.der), revoked, "round {round}");
        numbers.push(crl.number());
        let (key, csr) = key_and_csr(&identity("streaming", &[]));
        let chain = process.enrol(&client, Some(&directory.token("streaming")), &csr).await.chain();
        let serial = super::harness::serial_of(&chain[0]);
        let worker = client_with_config(client_config(&directory.root_pem(), Some((chain, key.to_rustls()))));
        // Dead as soon as the answer is there, before, between or after number, signature and CRL; in one round before
        // there is a process to sign anything.
        if round == 2 {
            process.end(Signal::KILL);
            let output = crank_ca(&["revoke", "--data-dir", &directory.data(), "--serial", &serial]);
            assert!(output.status.success(), "{}", text(&output.stderr));
        } else {
            let response = worker.delete(format!("{url}/certificates/{serial}")).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            process.end(Signal::KILL);
        }
        revoked.push(serial);
        revoked.sort();
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[tokio::test]
async fn the_audit_trail_has_the_request_and_the_revocation() {
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let chain = process.enrol(&client, Some(&directory.token("streaming")), &csr).await.chain();
    let serial = super::harness::serial_of(&chain[0]);
    let worker = client_with_config(client_config(&directory.root_pem(), Some((chain, key.to_rustls()))));
    let url = format!("https://localhost:{}/certificates", process.port);
    let ask = async |serial: &str| {
        let request = worker.delete(format!("{url}/{serial}?reason=superseded")).header("x-correlation-id", "mine");
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("41:02").await, 404);
    assert_eq!(ask(&serial).await, 200);
    process.end(Signal::TERM);
    let lines: Vec<Value> = process.log.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
    let facts: Vec<_> = lines
        .iter()
        .filter(|line| line["target"] == "crank::audit" && line["event"] != "CERTIFICATE_REQUESTED")
        .map(|line| {
            assert_eq!((&line["correlation_id"], &line["actor"]), (&"mine".into(), &"worker:streaming".into()));
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (field("event"), field("decision"), field("kind"), field("serial"))
        })
        .collect();
    let line = |event: &str, decision: &str, kind: &str, serial: &str| {
        (event.to_owned(), decision.to_owned(), kind.to_owned(), serial.to_owned())
    };
    let expected = [
        line("REVOCATION_REQUESTED", "refused", "unknown_serial", "41:02"),
        line("REVOCATION_REQUESTED", "revoked", "", &serial),
        line("CERTIFICATE_REVOKED", "", "", &serial),
    ];
    assert_eq!(facts, expected);
}
