//! How often anybody may ask, and how many connections anybody may hold.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crank_agent::ca::{Budget, CaConfig, RequestLimits};
use crank_agent::clock::Clock;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::by_hand::ByHand;
use super::harness::{TestCa, client_config, identity, key_and_csr};

const OFF: Budget = Budget { rate: 0, burst: 1 };

/// A CA that counts by a clock which the test moves.
async fn ca_with(source: Budget, worker: Budget) -> (TestCa, Arc<ByHand>) {
    let clock = Arc::new(ByHand::default());
    let limits = RequestLimits { source, worker, ..RequestLimits::default() };
    let change = |config: &mut CaConfig| config.limits = limits;
    (TestCa::start_by(Arc::clone(&clock) as Arc<dyn Clock>, change).await, clock)
}

/// A client that comes from `address`, of which this machine has many.
fn client_from(ca: &TestCa, address: &str) -> Client {
    Client::builder()
        .tls_backend_preconfigured(client_config(&ca.running.root_pem(), None))
        .local_address(address.parse::<IpAddr>().unwrap())
        .timeout(Duration::from_mins(1))
        .no_proxy()
        .build()
        .unwrap()
}

async fn wait_told(ca: &TestCa, client: &Client, method: Method, path: &str) -> Option<u64> {
    let response = client.request(method, ca.url(path)).body("{}").send().await.unwrap();
    if response.status() != 429 {
        return None;
    }
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let correlation_id = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
    let wait = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((&body["status"], &body["correlation_id"]), (&429.into(), &correlation_id.into()));
    assert!(body["detail"].as_str().unwrap().ends_with(&format!("come back in {wait} s")), "{body}");
    Some(wait)
}

#[tokio::test]
async fn a_source_that_asks_too_often_is_told_when_to_come_back_and_others_notice_nothing() {
    let (ca, clock) = ca_with(Budget { rate: 1, burst: 10 }, OFF).await;
    let (one, other) = (client_from(&ca, "127.0.0.1"), client_from(&ca, "127.0.0.2"));
    // The connection costs one, each request another.
    for _ in 0..9 {
        assert_eq!(wait_told(&ca, &one, Method::GET, "/provider/config").await, None);
    }
    let wait = wait_told(&ca, &one, Method::GET, "/provider/config").await.unwrap();
    // One second, and as much again at most.
    assert!((2..=3).contains(&wait), "{wait}");
    assert_eq!(wait_told(&ca, &other, Method::GET, "/provider/config").await, None);
    // A probe has the address of those whom it helps.
    assert_eq!(wait_told(&ca, &one, Method::GET, "/health").await, None);
    clock.advance(wait);
    assert_eq!(wait_told(&ca, &one, Method::GET, "/provider/config").await, None);
}

#[tokio::test]
async fn failures_cost_more_than_successes_and_whoever_only_fails_is_hung_up_on() {
    let (ca, _clock) = ca_with(Budget { rate: 1, burst: 40 }, OFF).await;
    let (one, other) = (client_from(&ca, "127.0.0.1"), client_from(&ca, "127.0.0.2"));
    let mut answered = 0;
    while wait_told(&ca, &one, Method::POST, "/certificates/csr").await.is_none() {
        answered += 1;
    }
    // Each cost eleven.
    assert_eq!(answered, 4);
    // Handshakes that fail cost as much. What is owed grows to twice the burst.
    let mut hung_up = false;
    for _ in 0..20 {
        let mut plain = TcpStream::connect(ca.running.address()).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.ok();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        // Whoever gets as far as the handshake is told by an alert that it failed.
        hung_up = answer.is_empty();
    }
    assert!(hung_up);
    assert!(client_from(&ca, "127.0.0.1").get(ca.url("/health")).send().await.is_err());
    assert_eq!(wait_told(&ca, &other, Method::GET, "/provider/config").await, None);
}

#[tokio::test]
async fn a_worker_that_asks_too_often_is_told_when_to_come_back_and_others_notice_nothing() {
    let (ca, _clock) = ca_with(OFF, Budget { rate: 1, burst: 15 }).await;
    let token = ca.token("streaming", &[]).await;
    let (_, foreign) = key_and_csr(&identity("streaming", &["foreign.example"]));
    // One for the request and ten for its failure, which leaves the token good.
    let mut refused = 0;
    let reply = loop {
        let reply = ca.enrol(&ca.client(), Some(&token), "streaming", &foreign).await;
        if reply.status != 403 {
            break reply;
        }
        refused += 1;
    };
    assert_eq!(refused, 2);
    assert_eq!(reply.status, 429, "{}", reply.body);
    assert!(reply.detail().starts_with("too many requests for this worker"), "{}", reply.detail());
    let other = ca.token("other", &[]).await;
    let (_, csr) = key_and_csr(&identity("other", &[]));
    assert_eq!(ca.enrol(&ca.client(), Some(&other), "other", &csr).await.status, 200);
}

#[tokio::test]
async fn a_stranger_cannot_spend_what_a_worker_has() {
    let (ca, _clock) = ca_with(OFF, Budget { rate: 1, burst: 3 }).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    for _ in 0..20 {
        assert_eq!(ca.enrol(&ca.client(), Some("crank_x"), "streaming", &csr).await.status, 401);
    }
    let token = ca.token("streaming", &[]).await;
    assert_eq!(ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.status, 200);
}

#[tokio::test]
async fn one_source_does_not_get_all_connections() {
    let ca = TestCa::start_with(|config| config.max_connections = 4).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(ca.running.address()).await.unwrap());
    }
    let mut third = TcpStream::connect(ca.running.address()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), third.read(&mut [0; 1])).await;
    assert!(matches!(ended.expect("hung up on at once"), Ok(0) | Err(_)));
    let other = client_from(&ca, "127.0.0.2");
    assert_eq!(other.get(ca.url("/health")).send().await.unwrap().status(), 200);
    // And those that go make room.
    drop(held);
    super::harness::eventually("there is room again", || async {
        client_from(&ca, "127.0.0.1").get(ca.url("/health")).send().await.is_ok()
    })
    .await;
}
