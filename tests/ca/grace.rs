//! Certificates that have expired: they renew themselves within the grace, and serve for nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crank_agent::ca::{CaConfig, Server};
use crank_agent::clock::{Clock, Now, SystemClock};
use crank_agent::identity::PrivateKey;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::harness::{TestCa, identity, key_and_csr};

/// The system's clock, and how many seconds wall time is ahead of it.
#[derive(Debug, Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        Now { wall: now.wall + time::Duration::seconds(self.0.load(Ordering::Relaxed)), ..now }
    }
}

/// A CA whose leaves live for a minute.
async fn ca_with(grace: Duration) -> (TestCa, Arc<Ahead>) {
    let clock = Arc::new(Ahead::default());
    let ca = TestCa::start_by(Arc::clone(&clock) as Arc<dyn Clock>, |config| {
        (config.lifetime, config.renewal_grace) = (Duration::from_mins(1), grace);
    });
    (ca.await, clock)
}

async fn enrolled(ca: &TestCa, worker: &str) -> (Vec<CertificateDer<'static>>, PrivateKey) {
    let token = ca.token(worker, &[]).await;
    let (key, csr) = key_and_csr(&identity(worker, &[]));
    (ca.enrol(&ca.client(), Some(&token), worker, &csr).await.chain(), key)
}

/// The status of a renewal, 0 when the handshake already fails.
async fn renew(ca: &TestCa, (chain, key): &(Vec<CertificateDer<'static>>, PrivateKey), worker: &str) -> u16 {
    let (_, csr) = key_and_csr(&identity(worker, &[]));
    let body = serde_json::json!({ "csr": csr, "service_name": worker }).to_string();
    let client = ca.client_as(chain.clone(), key);
    let sent = ca.send(&client, reqwest::Method::POST, "/certificates/csr", None, body).await;
    sent.map_or(0, |reply| reply.status)
}

#[tokio::test]
async fn without_grace_an_expired_certificate_ends_the_handshake() {
    let (ca, clock) = ca_with(Duration::ZERO).await;
    let worker = enrolled(&ca, "streaming").await;
    assert_eq!(renew(&ca, &worker, "streaming").await, 200);
    clock.0.store(62, Ordering::Relaxed);
    assert_eq!(renew(&ca, &worker, "streaming").await, 0);
}

#[tokio::test]
async fn within_the_grace_it_renews_the_same_identity_and_no_other() {
    let (ca, clock) = ca_with(Duration::from_hours(1)).await;
    let worker = enrolled(&ca, "streaming").await;
    clock.0.store(62, Ordering::Relaxed);
    assert_eq!(renew(&ca, &worker, "streaming").await, 200);
    assert_eq!(renew(&ca, &worker, "other").await, 403);
    clock.0.store(3_500, Ordering::Relaxed);
    assert_eq!(renew(&ca, &worker, "streaming").await, 200);
    clock.0.store(3_662, Ordering::Relaxed);
    assert_eq!(renew(&ca, &worker, "streaming").await, 0);
}

#[tokio::test]
async fn a_connection_that_outlives_the_grace_renews_nothing() {
    let (ca, clock) = ca_with(Duration::from_hours(1)).await;
    let (chain, key) = enrolled(&ca, "streaming").await;
    let client = ca.client_as(chain, &key);
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    assert_eq!(ca.enrol(&client, None, "streaming", &csr).await.status, 200);
    clock.0.store(3_662, Ordering::Relaxed);
    let reply = ca.enrol(&client, None, "streaming", &csr).await;
    assert_eq!(reply.status, 401, "{}", reply.body);
    assert!(reply.detail().contains("has expired"), "{}", reply.detail());
}

#[tokio::test]
async fn a_grace_beyond_a_week_is_refused() {
    let ca = TestCa::start().await;
    let names = vec!["localhost".parse().unwrap()];
    let mut config = CaConfig::new(ca.data_dir(), "127.0.0.1:0".parse().unwrap(), names);
    config.renewal_grace = Duration::from_hours(7 * 24) + Duration::from_secs(1);
    let error = Server::start(config, Arc::new(SystemClock), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "renewal grace: expected at most 7d");
}
