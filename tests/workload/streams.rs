//! What a stream says over time: the state as it is, each change, and why it ends.

use std::os::unix::fs::MetadataExt;

use crank_agent::store::read_bundle;
use rustix::process::Signal;

use crate::caller::{BUNDLES, Caller, METADATA, PERMISSION_DENIED, SVID, UNAVAILABLE};
use crate::processes::{Ca, until};
use crate::{eventually, renew, running, socket, worker};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_the_state_at_once_and_then_each_rotation() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let mut caller = Caller::connect(&socket(&worker)).await;
    let mut stream = caller.call(SVID, &[METADATA]).await.unwrap();
    for _ in 0..3 {
        stream.message_with(&read_bundle(&worker.certificates()).unwrap()).await;
        renew(&worker);
    }
    stream.message_with(&read_bundle(&worker.certificates()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_before_the_first_certificate_has_it_when_it_is_there() {
    let mut ca = Ca::start("1h");
    let worker = worker(&ca).with("CRANK_SCHEDULE_MAX_BACK_OFF", "1s").with("CRANK_SCHEDULE_MIN_INTERVAL", "1s");
    ca.kill();
    let agent = worker.start();
    agent.event("CA_UNAVAILABLE", 1);
    let mut caller = Caller::connect(&socket(&worker)).await;
    let stream = caller.call(SVID, &[METADATA]);
    let mut stream = stream.await.unwrap();
    ca.restart();
    agent.event("CERT_ISSUED", 1);
    assert_eq!(stream.message_with(&read_bundle(&worker.certificates()).unwrap()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_revoked_worker_is_taken_back_and_roots_are_not() {
    let ca = Ca::start("1h");
    let (worker, agent) = running(&ca, |worker| {
        worker.with("CRANK_REVOCATION_FILES", "withdraw").with("CRANK_SCHEDULE_MIN_INTERVAL", "1s")
    });
    let mut caller = Caller::connect(&socket(&worker)).await;
    let mut svid = caller.call(SVID, &[METADATA]).await.unwrap();
    let mut bundles = caller.call(BUNDLES, &[METADATA]).await.unwrap();
    assert!(svid.message().await.is_some() && bundles.message().await.is_some());
    ca.run(&["revoke", "--worker", "streaming", "--reason", "privilegeWithdrawn"]);
    // CRLs may come before.
    while svid.message().await.is_some() {}
    let (status, message) = svid.end_after_all();
    assert_eq!(status, PERMISSION_DENIED);
    assert!(message.starts_with("no identity issued"), "{message}");
    assert_eq!(caller.refusal(SVID, &[METADATA]).await.0, PERMISSION_DENIED);
    let mut again = caller.call(BUNDLES, &[METADATA]).await.unwrap();
    assert!(again.message().await.is_some());
    worker.write_token(&ca.token("streaming"));
    agent.event("CERT_ISSUED", 2);
    // What is told by two channels may be refused between the two.
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let mut stream = eventually("the certificate is served", async || {
        let mut stream = caller.call(SVID, &[METADATA]).await.unwrap();
        stream.peek().await.then_some(stream)
    })
    .await;
    stream.message_with(&bundle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_reaches_both_streams() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    until("there is a CRL", || worker.certificates().join("ca.crl").exists().then_some(()));
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let crl = bundle.crls()[0].der().to_vec();
    let mut caller = Caller::connect(&socket(&worker)).await;
    for path in [SVID, BUNDLES] {
        let mut stream = caller.call(path, &[METADATA]).await.unwrap();
        let message = stream.message().await.unwrap();
        assert!(message.windows(crl.len()).any(|part| part == crl), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_ends_streams_and_keeps_the_socket() {
    let ca = Ca::start("1h");
    let (worker, agent) = running(&ca, |worker| worker);
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let file = std::fs::metadata(socket(&worker)).unwrap().ino();
    let mut caller = Caller::connect(&socket(&worker)).await;
    let mut stream = caller.call(SVID, &[METADATA]).await.unwrap();
    stream.message_with(&bundle).await;
    std::fs::write(worker.config_file(), "[log]\nfilter = \"debug\"\n").unwrap();
    assert_eq!(stream.end().await.0, UNAVAILABLE);
    // At no time is there nobody to connect to.
    let mut caller = Caller::connect(&socket(&worker)).await;
    caller.call(SVID, &[METADATA]).await.unwrap().message_with(&bundle).await;
    agent.event("CONFIG_RELOADED", 1);
    assert_eq!(std::fs::metadata(socket(&worker)).unwrap().ino(), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_ends_streams_and_takes_its_socket_away() {
    let ca = Ca::start("1h");
    let (worker, mut agent) = running(&ca, |worker| worker);
    let mut caller = Caller::connect(&socket(&worker)).await;
    let mut stream = caller.call(BUNDLES, &[METADATA]).await.unwrap();
    assert!(stream.message().await.is_some());
    agent.signal(Signal::TERM);
    while stream.message().await.is_some() {}
    assert_eq!(stream.end_after_all().0, UNAVAILABLE);
    assert!(agent.wait().success());
    assert!(!socket(&worker).exists());
}

#[test]
fn without_the_setting_there_is_no_socket() {
    let ca = Ca::start("1h");
    let mut worker = worker(&ca);
    worker.unset("CRANK_WORKLOAD_API_SOCKET");
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    assert!(!socket(&worker).exists());
    let path = socket(&worker);
    std::fs::write(worker.config_file(), format!("[workload_api]\nsocket = \"{}\"\n", path.display())).unwrap();
    agent.event("CONFIG_RELOADED", 1);
    assert!(path.exists());
    std::fs::write(worker.config_file(), "").unwrap();
    agent.event("CONFIG_RELOADED", 2);
    assert!(!path.exists());
}
