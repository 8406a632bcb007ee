//! Replies that do not arrive: a request that is repeated with the same key costs neither token nor certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crank_agent::ca::{CertificateAuthorityManager, Database, Tokens};
use crank_agent::clock::SystemClock;
use crank_agent::config::Environment;
use crank_agent::identity::WorkerId;
use crank_agent::policy::DefaultPolicy;
use reqwest::{Client, Method};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::harness::{Reply, TestCa, client_config, client_with_config, identity, key_and_csr, send};
use super::process::{Directory, Process};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_clients_with_one_token_and_one_key_all_get_the_one_certificate() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        requests.spawn(request(ca.client(), ca.url("/certificates/csr"), Some(token.clone()), csr.clone()));
    }
    let replies: Vec<Reply> = requests.join_all().await.into_iter().map(Result::unwrap).collect();
    let first = replies[0].chain();
    assert!(replies.iter().all(|reply| reply.chain() == first));
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_renewals_at_once_with_one_key_all_get_the_one_certificate() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let chain = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.chain();
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let client = ca.client_as(chain.clone(), &key);
        requests.spawn(request(client, ca.url("/certificates/csr"), None, csr.clone()));
    }
    let replies: Vec<Reply> = requests.join_all().await.into_iter().map(Result::unwrap).collect();
    let first = replies[0].chain();
    assert!(replies.iter().all(|reply| reply.chain() == first));
    assert_eq!(ca.issued().await, 2);
}

/// At random instants from before the request to after the reply; in every second round, as soon as the token is seen
/// to be used, and then the client forgets a reply that may have come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_killed_while_it_issues_ends_with_one_certificate_for_the_token() {
    const KILLS: u32 = 50;
    let directory = Directory::with_ca();
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let mut process = Process::start(&directory);
    let usual = usual_time(&directory, &process, &client).await;
    let (mut unanswered, mut used_unanswered) = (0, 0);
    for round in 0..KILLS {
        let tokens = tokens(Path::new(&directory.data())).await;
        let worker = WorkerId::new(&format!("worker-{round}")).unwrap();
        let created = tokens.create(worker.clone(), Duration::from_mins(10), []).await.unwrap();
        let token = created.secret.expose().to_owned();
        let used_serial = async || {
            let records = tokens.list().await.unwrap();
            records.into_iter().find(|record| record.id == created.id).unwrap().used_serial
        };
        let (_, csr) = key_and_csr(&identity(worker.as_str(), &[]));
        let ask = |process: &Process| {
            let url = format!("https://localhost:{}/certificates/csr", process.port);
            request_for(worker.to_string(), client.clone(), url, Some(token.clone()), csr.clone())
        };

        let first = tokio::spawn(ask(&process));
        let forgets = round % 2 == 1;
        if forgets {
            while used_serial().await.is_none() {
                tokio::task::yield_now().await;
            }
        } else {
            // Where exactly it hits does not matter.
            tokio::time::sleep(usual * (round / 2) / (KILLS / 2) * 5 / 4).await;
        }
        process.end(Signal::KILL);
        let first = first.await.unwrap().ok().filter(|reply| !forgets && reply.status == 200);
        let used = used_serial().await;

        process = Process::start(&directory);
        let again = ask(&process).await.unwrap();
        let serial = serial(&again);
        assert_eq!(used_serial().await.as_ref(), Some(&serial));
        assert!(used.is_none_or(|used| used == serial), "another certificate than the recorded one");
        match first {
            Some(first) => assert_eq!(first.chain(), again.chain()),
            None => unanswered += 1,
        }
        used_unanswered += u32::from(forgets);
        tokens.close().await;
    }
    assert!(unanswered > KILLS / 2, "hardly a kill came in time");
    println!("{unanswered} of {KILLS} without reply, {used_unanswered} of them with the token used");
    process.end(Signal::TERM);
    let data = directory.data();
    let manager = CertificateAuthorityManager::open(
        Path::new(&data),
        &Database::Sqlite,
        Box::new(DefaultPolicy::default()),
        Environment::Production,
        Arc::new(SystemClock),
    );
    assert_eq!(manager.await.unwrap().issued_count().await.unwrap(), u64::from(KILLS) + 1);
}

#[tokio::test]
async fn a_repeat_is_told_apart_in_the_audit_trail() {
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let token = directory.token("streaming");
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let url = format!("https://localhost:{}/certificates/csr", process.port);
    for _ in 0..2 {
        request(client.clone(), url.clone(), Some(token.clone()), csr.clone()).await.unwrap().chain();
    }
    process.end(Signal::TERM);
    let lines = process.log.iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let audit: Vec<Value> = lines.filter(|line| line["target"] == "crank::audit").collect();
    assert_eq!(audit.len(), 2);
    assert_eq!((&audit[0]["decision"], &audit[1]["decision"]), (&json!("issued"), &json!("repeated")));
    for field in ["serial", "decision_id", "detail", "credential", "worker_id"] {
        assert_eq!(audit[0][field], audit[1][field], "{field}");
        assert_ne!(audit[0][field], "", "{field}");
    }
}

async fn request(client: Client, url: String, token: Option<String>, csr: String) -> Result<Reply, reqwest::Error> {
    request_for("streaming".to_owned(), client, url, token, csr).await
}

async fn request_for(
    worker: String,
    client: Client,
    url: String,
    token: Option<String>,
    csr: String,
) -> Result<Reply, reqwest::Error> {
    let body = json!({ "csr": csr, "service_name": worker }).to_string();
    send(&client, Method::POST, &url, token.as_deref(), body).await
}

async fn tokens(data: &Path) -> Tokens {
    Tokens::open(data, &Database::Sqlite, Arc::new(SystemClock)).await.unwrap()
}

/// How long a request takes that nobody disturbs, on a connection of its own.
async fn usual_time(directory: &Directory, process: &Process, client: &Client) -> Duration {
    let token = directory.token("streaming");
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let url = format!("https://localhost:{}/certificates/csr", process.port);
    let begun = Instant::now();
    request(client.clone(), url, Some(token), csr).await.unwrap().chain();
    begun.elapsed()
}

fn serial(reply: &Reply) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let chain = reply.chain();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    crank_agent::identity::CertificateMetadata::of(&leaf, time::OffsetDateTime::now_utc()).serial
}
