//! The TLS listener, met by real clients.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod foreign;
mod limits;
mod running;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crank_agent::identity::{CertificateBundle, DnsName, PrivateKey};
use crank_agent::serve::AllowedClient;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use running::{AGENT, DRAIN, PROMETHEUS, Running, allow, handshake};
use support::{TestCa, client_config, expired, valid_now};

#[tokio::test]
async fn probes_answer_anyone_over_tls() {
    let running = Running::ready().await;
    for path in ["/livez", "/readyz", "/startupz", "/health/live", "/health/ready"] {
        assert_eq!(running.get(path, None).await.unwrap(), (200, "ok".to_owned()), "{path}");
    }
    assert_eq!(running.get("/health", None).await.unwrap(), (200, r#"{"status":"healthy"}"#.to_owned()));
    running.switches.ready.store(false, Ordering::SeqCst);
    assert_eq!(running.get("/readyz", None).await.unwrap(), (503, "not ready: no certificate yet".to_owned()));
    assert_eq!(running.get("/livez", None).await.unwrap().0, 200);
}

#[tokio::test]
async fn handshakes_are_refused_until_the_first_certificate() {
    let running = Running::empty().await;
    let error = running.connect(None).await.err().expect("refused");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    running.publish(running.ca.issue(&AGENT, valid_now()));
    assert_eq!(running.get("/livez", None).await.unwrap().0, 200);
}

#[tokio::test]
async fn plain_http_gets_no_answer() {
    let running = Running::ready().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DRAIN, stream.read_to_end(&mut answer)).await.expect("closed");
    // At most a TLS alert record.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn a_new_certificate_is_seen_on_the_next_connection_and_an_open_one_goes_on() {
    let running = Running::ready().await;
    let mut open = running.connect(None).await.unwrap();
    let old_leaf = open.leaf();
    assert_eq!(open.get("/livez").await.unwrap().0, 200);

    let new = running.publish(running.ca.issue(&AGENT, valid_now()));
    let next = running.connect(None).await.unwrap();
    assert_eq!(next.leaf(), new.chain()[0].to_vec());
    assert_ne!(next.leaf(), old_leaf);
    assert_eq!(open.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn new_roots_verify_the_next_client() {
    let running = Running::ready().await;
    let other = TestCa::new("second");
    let client = other.issue(&[PROMETHEUS], valid_now());
    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    assert!(running.get("/metrics", Some(&client)).await.is_err());
    let old = running.ca.issue(&AGENT, valid_now());
    let key = PrivateKey::from_pem(old.key_pem().unwrap().as_bytes()).unwrap();
    let roots = vec![running.ca.root().clone(), other.root().clone()];
    running.publish(CertificateBundle::new(old.chain().to_vec(), key, roots).unwrap());
    assert_eq!(running.get("/metrics", Some(&client)).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_bundle_that_cannot_be_served_leaves_the_old_certificate() {
    let running = Running::ready().await;
    let before = running.connect(None).await.unwrap().leaf();
    running.publish(running.ca.issue_with(&AGENT, valid_now(), |params| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
    }));
    assert_eq!(running.connect(None).await.unwrap().leaf(), before);
}

#[tokio::test]
async fn metrics_are_for_clients_on_the_list_only() {
    let running = Running::ready().await;
    let listed = running.ca.issue(&[PROMETHEUS, "scraper.example"], valid_now());
    let other = running.ca.issue(&["spiffe://crank.local/worker/other", "prometheus"], valid_now());
    let status = async |identity| running.get("/metrics", identity).await.map(|answer| answer.0);

    // Nobody by default.
    assert_eq!(status(None).await.unwrap(), 401);
    assert_eq!(status(Some(&listed)).await.unwrap(), 403);

    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    assert_eq!(status(None).await.unwrap(), 401);
    assert_eq!(status(Some(&other)).await.unwrap(), 403);
    let (code, text) = running.get("/metrics", Some(&listed)).await.unwrap();
    assert_eq!(code, 200);
    assert!(text.contains("\ncrank_agent_ready 1\n") && text.contains("crank_cert_issuance_total 0"), "{text}");

    running.metrics_allow.send_replace(vec![AllowedClient::Dns(DnsName::new("scraper.example").unwrap())]);
    assert_eq!(status(Some(&listed)).await.unwrap(), 200);
    running.metrics_allow.send_replace(Vec::new());
    assert_eq!(status(Some(&listed)).await.unwrap(), 403);
}

#[tokio::test]
async fn a_client_certificate_that_does_not_verify_ends_the_handshake() {
    let running = Running::ready().await;
    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    let server_only = running.ca.issue_with(&[PROMETHEUS], valid_now(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (what, identity) in [
        ("another authority", TestCa::new("first").issue(&[PROMETHEUS], valid_now())),
        ("expired", running.ca.issue(&[PROMETHEUS], expired())),
        ("not for clients", server_only),
    ] {
        for path in ["/metrics", "/livez"] {
            assert!(running.get(path, Some(&identity)).await.is_err(), "{what}: {path}");
        }
    }
}

#[tokio::test]
async fn every_connection_verifies_the_client_anew() {
    let running = Running::ready().await;
    let config = Arc::new(client_config(&running.ca, Some(&running.ca.issue(&[PROMETHEUS], valid_now()))));
    for _ in 0..2 {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let mut raw = handshake(stream, Arc::clone(&config)).await.unwrap();
        assert_eq!(raw.get("/livez").await.unwrap().0, 200);
        let kind = raw.0.get_ref().1.handshake_kind().unwrap();
        assert!(matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest), "{kind:?}");
    }
}

#[tokio::test]
async fn head_has_no_body_and_post_is_refused() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    raw.0.write_all(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        raw.read_into(&mut text).await.unwrap();
    }
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"), "{text}");
    raw.0.write_all(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    let (status, text) = raw.answer().await.unwrap();
    assert_eq!(status, 405);
    assert!(text.to_ascii_lowercase().contains("allow: get, head"), "{text}");
}
