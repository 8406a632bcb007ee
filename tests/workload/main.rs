//! The Workload API with real processes: a crank-ca, an agent, and clients that others wrote.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail and speak as tests do")]

mod access;
mod caller;
mod limits;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../agent/processes.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent")]
mod processes;
mod rust_client;
mod streams;

use std::path::PathBuf;

use processes::{Agent, Ca, PATIENCE, Worker};

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
