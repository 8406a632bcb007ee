//! Owns the figures of memory: at many recorded certificates, and at many open connections.

use std::time::{Duration, Instant};

use crate::load::{self, Connection, Connections};
use crate::server::{Kind, Server};
use crate::{Result, Settings, count_of, work};

/// How many certificates are recorded.
const CERTIFICATES: usize = 100_000;

/// How many connections are open at once.
const OPEN: usize = 5_000;

pub(crate) async fn measure(settings: &Settings) -> Result<()> {
    println!("\n| server | state | resident memory |\n| --- | --- | --- |");
    for kind in [Kind::Sqlite, Kind::Postgres].into_iter().filter(|kind| kind.is_installed()) {
        if kind.name().contains(&settings.only) {
            records(settings, kind).await?;
            connections(settings, kind).await?;
        }
    }
    Ok(())
}

/// Fills the record with real renewals over kept-alive connections, then enrols once more against the full record.
async fn records(settings: &Settings, kind: Kind) -> Result<()> {
    let server = Server::start(kind, &settings.ca, 4096)?;
    say(&server, "started, no certificate")?;
    let lanes = crate::renewing(settings, &server, "filling", CERTIFICATES).await?;
    let outcome = load::run(server.address, Connections::KeptAlive, lanes, || Ok(())).await?;
    let recorded = server.recorded_serials().await?.len();
    say(&server, &format!("{recorded} certificates recorded, connections closed"))?;
    let rate = count_of(outcome.replies.len()) / outcome.wall.as_secs_f64();
    drop(outcome);
    let tls = work::anonymous(&server.root_pem)?;
    let tokens = server.tokens().await?;
    let requests = work::enrolments(&tokens, &work::workers("late", settings.requests)?).await?;
    tokens.close().await;
    let late = work::deal(&tls, requests, settings.connections);
    let late = load::run(server.address, Connections::KeptAlive, late, || Ok(())).await?;
    let mut latencies = late.latencies;
    latencies.sort_unstable();
    let at = |part: usize| latencies[(latencies.len() * part / 100).min(latencies.len() - 1)];
    println!(
        "{}: filled at {rate:.0}/s; then enrolled {:.0}/s, p50 {:.1?}, p99 {:.1?}",
        kind.name(),
        count_of(latencies.len()) / late.wall.as_secs_f64(),
        at(50),
        at(99)
    );
    Ok(())
}

/// Opens connections with TLS done and nothing asked, and reads the memory before the server loses patience with them.
async fn connections(settings: &Settings, kind: Kind) -> Result<()> {
    let server = Server::start(kind, &settings.ca, OPEN + 10)?;
    let tls = work::anonymous(&server.root_pem)?;
    let begun = Instant::now();
    let mut open = Vec::with_capacity(OPEN);
    for _ in 0..OPEN {
        open.push(Connection::open(server.address, &tls).await.map_err(|error| error.to_string())?);
    }
    let alive = open.iter().filter(|connection| connection.is_open()).count();
    say(&server, &format!("{alive} connections open, TLS done, opened in {:.1?}", begun.elapsed()))?;
    drop(open);
    tokio::time::sleep(Duration::from_secs(12)).await;
    say(&server, "the same, all closed again")
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn say(server: &Server, state: &str) -> Result<()> {
    println!("| {} | {state} | {:.1} MiB |", server.kind.name(), server.resident()? as f64 / (1024.0 * 1024.0));
    Ok(())
}
