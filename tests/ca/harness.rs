//! A CA in this process, and clients that verify it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crank_agent::ca::{CaConfig, RunningCa, Server, initialize_controller_certificates};
use crank_agent::clock::{Clock, SystemClock};
use crank_agent::config::Environment;
use crank_agent::identity::csr::generate_csr;
use crank_agent::identity::{KeyType, PrivateKey, RequestedIdentity, SubjectAltName, TrustDomain, WorkerId};
use reqwest::{Client, Method};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) struct TestCa {
    directory: TempDir,
    pub(crate) running: RunningCa,
    pub(crate) cancel: CancellationToken,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) correlation_id: String,
}

impl Reply {
    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        assert_eq!(self.status, 200, "{}", self.body);
        chain_from(self.body["certificate"].as_str().unwrap())
    }
}

impl TestCa {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut CaConfig)) -> Self {
        Self::start_by(Arc::new(SystemClock), change).await
    }

    /// One that takes its time from `clock`.
    pub(crate) async fn start_by(clock: Arc<dyn Clock>, change: impl FnOnce(&mut CaConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("ca");
        initialize_controller_certificates(&data, Environment::Development).unwrap();
        let names = vec!["localhost".parse().unwrap(), "cert-authority".parse().unwrap()];
        let mut config = CaConfig::new(data, "127.0.0.1:0".parse().unwrap(), names);
        change(&mut config);
        let cancel = CancellationToken::new();
        let running = Server::start(config, clock, cancel.clone()).await.unwrap();
        Self { directory, running, cancel }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.running.address().port())
    }

    /// A client that trusts this CA and shows no certificate.
    pub(crate) fn client(&self) -> Client {
        client_with_config(client_config(&self.running.root_pem(), None))
    }

    /// A client that shows `chain`.
    pub(crate) fn client_as(&self, chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Client {
        client_with_config(client_config(&self.running.root_pem(), Some((chain, key.to_rustls()))))
    }

    pub(crate) async fn token(&self, worker: &str, names: &[&str]) -> String {
        let worker = WorkerId::new(worker).unwrap();
        let names = names.iter().map(|name| name.parse::<SubjectAltName>().unwrap());
        let created = self.running.tokens().create(worker, Duration::from_mins(10), names).await.unwrap();
        created.secret.expose().to_owned()
    }

    pub(crate) async fn enrol(&self, client: &Client, token: Option<&str>, worker: &str, csr: &str) -> Reply {
        let body = json!({ "csr": csr, "service_name": worker }).to_string();
        self.send(client, Method::POST, "/certificates/csr", token, body).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Result<Reply, reqwest::Error> {
        send(client, method, &self.url(path), token, body).await
    }

    pub(crate) async fn issued(&self) -> u64 {
        self.running.manager().issued_count().await.unwrap()
    }
}

/// A worker with its certificate.
pub(crate) struct Worker {
    /// Shows the certificate.
    pub(crate) client: Client,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKey,
    /// As `4a:3b:…`.
    pub(crate) serial: String,
}

impl TestCa {
    /// A worker that has enrolled.
    pub(crate) async fn worker(&self, id: &str) -> Worker {
        let token = self.token(id, &[]).await;
        let (key, csr) = key_and_csr(&identity(id, &[]));
        let chain = self.enrol(&self.client(), Some(&token), id, &csr).await.chain();
        let client = self.client_as(chain.clone(), &key);
        let serial = serial_of(&chain[0]);
        Worker { client, chain, key, serial }
    }

    pub(crate) async fn revoke(&self, client: &Client, serial: &str, body: &str) -> Reply {
        let path = format!("/certificates/{serial}");
        self.send(client, Method::DELETE, &path, None, body.to_owned()).await.unwrap()
    }
}

pub(crate) fn serial_of(certificate: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    crank_agent::identity::metadata::serial_text(parsed.tbs_certificate.raw_serial())
}

pub(crate) async fn send(
    client: &Client,
    method: Method,
    url: &str,
    token: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Result<Reply, reqwest::Error> {
    let mut request = client.request(method, url).body(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    let header = response.headers().get("x-correlation-id");
    let correlation_id = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = response.bytes().await?;
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Reply { status, body, correlation_id })
}

pub(crate) fn client_config(
    root_pem: &str,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

pub(crate) fn client_with_config(config: ClientConfig) -> Client {
    Client::builder().tls_backend_preconfigured(config).timeout(Duration::from_mins(1)).no_proxy().build().unwrap()
}

pub(crate) fn identity(worker: &str, names: &[&str]) -> RequestedIdentity {
    let names = names.iter().map(|name| name.parse::<SubjectAltName>().unwrap());
    RequestedIdentity::new(WorkerId::new(worker).unwrap(), &TrustDomain::new("crank.local").unwrap(), names)
}

/// A fresh key and the agent's own CSR for it.
pub(crate) fn key_and_csr(identity: &RequestedIdentity) -> (PrivateKey, String) {
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let csr = generate_csr(identity, &key, KeyType::EcdsaP256).unwrap();
    (key, csr)
}

pub(crate) fn chain_from(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

/// Verifies the chain to the root for both uses, and that the leaf is for `key` and has exactly `names`.
pub(crate) fn assert_good(reply: &Reply, root_pem: &str, key: &PrivateKey, names: &BTreeSet<SubjectAltName>) {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let chain = reply.chain();
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap();
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &chain[1..], UnixTime::now(), usage, None, None).unwrap();
    }
    let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(parsed.public_key().raw, key.public_key_der());
    let metadata = crank_agent::identity::CertificateMetadata::of(&parsed, time::OffsetDateTime::now_utc());
    let mut expected: Vec<String> = names.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(metadata.names, expected);
}

/// Polls `condition` until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    eventually_within(Duration::from_secs(30), what, condition).await;
}

/// Polls `condition` until it holds; for what takes longer than most.
pub(crate) async fn eventually_within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = tokio::time::Instant::now() + patience;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
