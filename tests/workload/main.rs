//! The Workload API with real processes: a crank-ca, an agent, and clients that others wrote.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail and speak as tests do")]

mod access;
mod caller;
mod chained;
mod foreign;
mod limits;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../agent/processes.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent")]
mod processes;
mod rust_client;
mod spire;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;

use processes::{Agent, Ca, PATIENCE, Worker};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The socket of the worker's Workload API.
fn socket(worker: &Worker) -> PathBuf {
    worker.certificates().with_file_name("workload.sock")
}

/// A worker of `ca` with the Workload API.
fn worker(ca: &Ca) -> Worker {
    let worker = Worker::of(ca, "streaming");
    let path = socket(&worker).display().to_string();
    worker.with("CRANK_WORKLOAD_API_SOCKET", &path)
}

/// The same, and its agent, which has a certificate.
fn running(ca: &Ca, change: impl FnOnce(Worker) -> Worker) -> (Worker, Agent) {
    let worker = change(worker(ca));
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    (worker, agent)
}

/// Has the agent renew, and tells the new serial.
fn renew(worker: &Worker) -> String {
    let before = worker.serial();
    assert!(worker.run_once(&["renew"]).status.success());
    let after = worker.serial();
    assert_ne!(before, after);
    after.unwrap()
}

/// Tries until there is something.
async fn eventually<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let trying = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap_or_else(|_| panic!("it did not come about: {what}"))
}

/// A client by `chain` and `key` that trusts `roots`.
fn client(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>, roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    client.with_root_certificates(roots).with_client_auth_cert(chain, key.clone_key()).unwrap()
}

/// A handshake of `chain` with itself, both sides verified by `roots`. Tells the leaf that the server saw.
async fn mutual_tls(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
) -> Vec<u8> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store.clone()), Arc::clone(&provider));
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = server.with_client_cert_verifier(verifier.build().unwrap());
    let server = server.with_single_cert(chain.clone(), key.clone_key()).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from("streaming").unwrap();
    let (accepted, connected) = tokio::join!(
        TlsAcceptor::from(Arc::new(server)).accept(far),
        TlsConnector::from(Arc::new(client(chain, key, store))).connect(name, near)
    );
    let (accepted, _connected) = (accepted.unwrap(), connected.unwrap());
    accepted.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
