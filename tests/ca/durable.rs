//! Durable before sent: whatever a client has received is in the record, whenever the CA is killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crank_agent::ca::{Database, Tokens};
use crank_agent::clock::SystemClock;
use crank_agent::identity::WorkerId;
use reqwest::{Client, Method};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use sqlx::Row;
use tokio::task::JoinSet;

use super::harness::{Reply, client_config, client_with_config, eventually, identity, key_and_csr, send};
use super::process::{Directory, Process};

/// How many clients ask at the same time.
const CLIENTS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_certificate_that_was_received_is_recorded_when_the_ca_is_killed_under_load() {
    const EACH: usize = 40;
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let received = Arc::new(AtomicUsize::new(0));
    let load = load(&directory, &process, EACH, &received).await;
    eventually("a hundred certificates", async || received.load(Ordering::Relaxed) > 100).await;
    process.end(Signal::KILL);
    let received = load.join_all().await.concat();
    assert!(received.len() < CLIENTS * EACH, "the kill came too late");

    let recorded = recorded(Path::new(&directory.data())).await;
    for leaf in &received {
        assert_eq!(recorded.get(leaf.as_ref()).map(String::as_str), Some("issued"), "received, but not recorded");
    }
    println!("{} received, {} recorded when it was killed", received.len(), recorded.len());
}

/// One after the other, each certificate takes two transactions, one before it is signed and one before it is sent; at the
/// same time, many share one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace"]
async fn each_certificate_waits_for_its_own_two_syncs_and_those_of_the_same_time_share_them() {
    const ALONE: usize = 20;
    const EACH: usize = 10;
    let directory = Directory::with_ca();
    let trace = directory.path("trace");
    let output = trace.display().to_string();
    // In a process aside, so that the one started is the CA.
    let strace = ["strace", "-D", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "signal=none", "-o", &output];
    let mut process = Process::start_under(&strace, &directory);
    let syncs = || fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("sync(")).count();
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let tokens = tokens(&directory).await;
    for number in 0..ALONE {
        let worker = format!("alone-{number}");
        let token = token(&tokens, &worker).await;
        let (_, csr) = key_and_csr(&identity(&worker, &[]));
        let before = syncs();
        enrol(&client, process.port, &worker, &token, &csr).await.unwrap().chain();
        assert!(syncs() >= before + 2, "certificate {number} was sent before it was on disk");
    }
    let before = syncs();
    let load = load(&directory, &process, EACH, &Arc::new(AtomicUsize::new(0))).await;
    assert_eq!(load.join_all().await.concat().len(), CLIENTS * EACH);
    let together = syncs() - before;
    assert!(together < CLIENTS * EACH, "{together} syncs: nothing is shared");
    println!("{together} syncs for {} certificates at the same time", CLIENTS * EACH);
    process.end(Signal::TERM);
}

/// Clients that enrol until they are done or the CA is gone. Each gives back the leaves it has received.
async fn load(
    directory: &Directory,
    process: &Process,
    each: usize,
    received: &Arc<AtomicUsize>,
) -> JoinSet<Vec<CertificateDer<'static>>> {
    let tokens = tokens(directory).await;
    let mut prepared = Vec::new();
    for client in 0..CLIENTS {
        let mut requests = Vec::new();
        for number in 0..each {
            let worker = format!("worker-{client}-{number}");
            let token = token(&tokens, &worker).await;
            let (_, csr) = key_and_csr(&identity(&worker, &[]));
            requests.push((worker, token, csr));
        }
        prepared.push(requests);
    }
    tokens.close().await;
    let mut clients = JoinSet::new();
    for requests in prepared {
        let (port, root, received) = (process.port, directory.root_pem(), Arc::clone(received));
        clients.spawn(async move {
            let client = client_with_config(client_config(&root, None));
            let mut leaves = Vec::new();
            for (worker, token, csr) in requests {
                let Ok(reply) = enrol(&client, port, &worker, &token, &csr).await else { break };
                leaves.push(reply.chain().remove(0));
                received.fetch_add(1, Ordering::Relaxed);
            }
            leaves
        });
    }
    clients
}

async fn enrol(client: &Client, port: u16, worker: &str, token: &str, csr: &str) -> Result<Reply, reqwest::Error> {
    let url = format!("https://localhost:{port}/certificates/csr");
    let body = json!({ "csr": csr, "service_name": worker }).to_string();
    send(client, Method::POST, &url, Some(token), body).await
}

async fn tokens(directory: &Directory) -> Tokens {
    Tokens::open(Path::new(&directory.data()), &Database::Sqlite, Arc::new(SystemClock)).await.unwrap()
}

async fn token(tokens: &Tokens, worker: &str) -> String {
    let created = tokens.create(WorkerId::new(worker).unwrap(), Duration::from_mins(10), []).await.unwrap();
    created.secret.expose().to_owned()
}

/// The state of every certificate in the record, by its DER.
async fn recorded(data: &Path) -> BTreeMap<Vec<u8>, String> {
    let url = format!("sqlite://{}", data.join("ca.sqlite3").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let rows =
        sqlx::query("SELECT der, status FROM certificates WHERE der IS NOT NULL").fetch_all(&pool).await.unwrap();
    pool.close().await;
    rows.iter().map(|row| (row.get::<Vec<u8>, _>(0), row.get(1))).collect()
}
