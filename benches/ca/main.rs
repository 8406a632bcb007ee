//! Measures crank-ca under load, beside the limit that cryptography sets and beside step-ca:
//! `cargo bench --profile release-ca --bench ca`.
//!
//! Clients in this process enrol with join tokens and renew by certificate, over real TLS 1.3 connections on loopback that
//! are kept alive or fresh for each request, without session resumption, as agents do. Keys, CSRs and tokens are made ahead
//! of the clock. Clients and server share the cores, so beside the rate that came out stands the processor time of the
//! server for one certificate, against the same of `openssl speed` for the cryptography in it. After each run the serials
//! received are compared with those recorded. `PostgreSQL` and step-ca are measured where they are on the PATH (see
//! tests/lab/install).
//!
//! Settings, all optional: `CRANK_BENCH_CA`, a program to measure in place of the one that is built; `CRANK_BENCH_RUNS`, 5
//! by default; `CRANK_BENCH_REQUESTS` in each, 10,000; `CRANK_BENCH_CONNECTIONS`, 64; `CRANK_BENCH_ONLY`, a part of the names
//! of what to measure; `CRANK_BENCH_MEMORY=1` for memory at 100,000 certificates and at 5,000 connections instead.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

mod limit;
mod load;
#[path = "../support/machine.rs"]
mod machine;
mod memory;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "each bench uses its own part of it")]
mod process;
mod report;
mod server;
mod work;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crank_agent::identity::bundle::certificates_from_pem;
use crank_agent::identity::metadata::serial_text;
use hyper::body::Bytes;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use limit::{Limit, Shown};
use load::{Connections, Lane};
use machine::machine;
use process::processor_time;
use report::{Figures, Table};
use server::{Kind, Server};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let settings = Settings::from_environment()?;
    println!("machine: {}", machine());
    if settings.memory {
        return memory::measure(&settings).await;
    }
    let limit = Limit::measure(3)?;
    println!("{}", limit.line());
    let mut table = Table::new(limit);
    // All in turn, round by round, so that a machine whose speed drifts is unfair to nobody.
    for round in 0..settings.runs {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_installed()) {
            for workload in WORKLOADS.into_iter().filter(|workload| settings.wants(kind, *workload)) {
                let figures = measure(&settings, kind, workload, round).await?;
                println!("{} of {}: {}", round + 1, settings.runs, table.line(kind, workload, &figures));
                table.add(kind, workload, figures);
            }
        }
    }
    table.print();
    Ok(())
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    connections: Connections,
    shown: Shown,
}

const WORKLOADS: [Workload; 4] = [
    Workload { connections: Connections::KeptAlive, shown: Shown::Token },
    Workload { connections: Connections::Fresh, shown: Shown::Token },
    Workload { connections: Connections::KeptAlive, shown: Shown::Certificate },
    Workload { connections: Connections::Fresh, shown: Shown::Certificate },
];

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match (self.shown, self.connections) {
            (Shown::Token, Connections::KeptAlive) => "enrol, kept-alive",
            (Shown::Token, Connections::Fresh) => "enrol, fresh",
            (Shown::Certificate, Connections::KeptAlive) => "renew, kept-alive",
            (Shown::Certificate, Connections::Fresh) => "renew, fresh",
        }
    }
}

/// One run on a server of its own.
async fn measure(settings: &Settings, kind: Kind, workload: Workload, round: usize) -> Result<Figures> {
    let server = Server::start(kind, &settings.ca, 4096)?;
    let lanes = prepare(settings, &server, workload, round).await?;
    let count: usize = lanes.iter().map(|lane| lane.requests.len()).sum();
    let outcome = load::run(server.address, workload.connections, lanes, || {
        let (authority, database) = server.processor_time()?;
        Ok((authority, database, processor_time(std::process::id())?))
    })
    .await
    .map_err(|error| format!("{error}\nthe server's last errors:\n{}", server.last_errors()))?;
    let resident = server.resident()?;
    check_record(&server, &outcome.replies, count).await?;
    let (before, after) = outcome.observed;
    let each = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / count_of(count);
    Ok(Figures {
        rate: count_of(count) / outcome.wall.as_secs_f64(),
        latencies: outcome.latencies,
        authority: each(before.0, after.0),
        database: each(before.1, after.1),
        clients: each(before.2, after.2),
        resident,
    })
}

async fn prepare(settings: &Settings, server: &Server, workload: Workload, round: usize) -> Result<Vec<Lane>> {
    let tls = work::anonymous(&server.root_pem)?;
    let prefix = format!("worker-{round}");
    if let Some(provisioner) = &server.provisioner {
        let requests = work::step_enrolments(provisioner, &work::workers(&prefix, settings.requests)?)?;
        return Ok(work::deal(&tls, requests, settings.connections));
    }
    let tokens = server.tokens().await?;
    let lanes = match workload.shown {
        Shown::Token => {
            let workers = work::workers(&prefix, settings.requests)?;
            work::deal(&tls, work::enrolments(&tokens, &workers).await?, settings.connections)
        }
        Shown::Certificate => renewing(settings, server, &prefix, settings.requests).await?,
    };
    tokens.close().await;
    Ok(lanes)
}

/// A worker to each connection, enrolled, with all renewals together as many as `requests`.
pub(crate) async fn renewing(settings: &Settings, server: &Server, prefix: &str, requests: usize) -> Result<Vec<Lane>> {
    let tokens = server.tokens().await?;
    let workers = work::workers(prefix, settings.connections)?;
    // In one lane, so that the answers come in the order of the workers.
    let first = work::deal(&work::anonymous(&server.root_pem)?, work::enrolments(&tokens, &workers).await?, 1);
    tokens.close().await;
    let enrolled = load::run(server.address, Connections::KeptAlive, first, || Ok(())).await?;
    let chains = enrolled.replies.iter().map(chain).collect::<Result<Vec<_>>>()?;
    work::renewals(&server.root_pem, &workers, &chains, requests / settings.connections)
}

/// Every certificate received is another one, and recorded.
async fn check_record(server: &Server, replies: &[Bytes], count: usize) -> Result<()> {
    let received = replies.iter().map(serial).collect::<Result<BTreeSet<_>>>()?;
    if received.len() != count {
        return Err(format!("{count} requests, but {} certificates", received.len()).into());
    }
    if server.provisioner.is_none() {
        let recorded = server.recorded_serials().await?;
        if let Some(missing) = received.difference(&recorded).next() {
            return Err(format!("certificate {missing} was received, but is not recorded").into());
        }
    }
    Ok(())
}

/// Of either authority.
fn chain(reply: &Bytes) -> Result<String> {
    let reply: Value = serde_json::from_slice(reply)?;
    let chain = reply.get("certificate").or_else(|| reply.get("crt")).and_then(Value::as_str);
    Ok(chain.ok_or("an answer without a certificate")?.to_owned())
}

fn serial(reply: &Bytes) -> Result<String> {
    let certificates = certificates_from_pem("answer", chain(reply)?.as_bytes(), 8)?;
    let (_, leaf) = X509Certificate::from_der(certificates.first().ok_or("no leaf")?)?;
    Ok(serial_text(leaf.tbs_certificate.raw_serial()))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn count_of(number: usize) -> f64 {
    number as f64
}

pub(crate) struct Settings {
    ca: PathBuf,
    runs: usize,
    requests: usize,
    connections: usize,
    only: String,
    memory: bool,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let number = |name: &str, default: usize| match std::env::var(name) {
            Ok(text) => text.parse().map_err(|_| format!("{name}: expected a number, found {text:?}")),
            Err(_) => Ok(default),
        };
        let connections = number("CRANK_BENCH_CONNECTIONS", 64)?.max(1);
        Ok(Self {
            ca: std::env::var_os("CRANK_BENCH_CA")
                .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_crank-ca")), PathBuf::from),
            runs: number("CRANK_BENCH_RUNS", 5)?.max(1),
            requests: number("CRANK_BENCH_REQUESTS", 10_000)?.max(connections),
            connections,
            only: std::env::var("CRANK_BENCH_ONLY").unwrap_or_default(),
            memory: std::env::var_os("CRANK_BENCH_MEMORY").is_some(),
        })
    }

    /// step-ca renews for the same key only, which is another thing.
    fn wants(&self, kind: Kind, workload: Workload) -> bool {
        let name = format!("{}, {}", kind.name(), workload.name());
        (kind != Kind::Step || workload.shown == Shown::Token) && name.contains(&self.only)
    }
}
