//! Measures the agent as it is released, against a real CA on loopback: size, time to first files, idle memory, wake-ups.
//!
//! `cargo bench` builds the static agent (the musl target, without the feature `ca`) and prints a table of figures with
//! the limits the project holds itself to; it fails when one is exceeded. certmonger is measured beside it where it is
//! installed. Settings, all optional: `CRANK_BENCH_AGENT` and `CRANK_BENCH_CA`, programs to measure in place of those it
//! builds; `CRANK_BENCH_RUNS`, 20 by default; `CRANK_BENCH_SECONDS`, the idle time watched, 120 by default.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

mod figures;
mod lab;
#[path = "../support/machine.rs"]
mod machine;
mod peer;
#[path = "../support/process.rs"]
mod process;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use figures::Figure;
use lab::Lab;
use machine::machine;
use process::Idle;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many certificates the agent has had before its memory is read.
const ROTATIONS: usize = 10;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every figure is within its limit.
fn run() -> Result<bool> {
    let settings = Settings::from_environment()?;
    let lab = Lab::start(settings.agent()?, settings.ca.clone())?;
    println!("machine: {}", machine());
    println!("agent: {} ({})", lab.agent().display(), figures::linking(lab.agent())?);
    println!("files: {}", lab.filesystem());

    let size = fs::metadata(lab.agent())?.len();
    let starts = (0..settings.runs).map(|_| lab.time_init()).collect::<Result<Vec<_>>>()?;
    println!("{} runs of `crank-agent init` done; watching it idle for {:?}", settings.runs, settings.idle);
    let idle = lab.watch_idle_agent(ROTATIONS, settings.idle)?;

    let figures = [
        Figure::bytes("binary", size).at_most(8 * MIB),
        Figure::milliseconds("exec to files on disk", &starts).at_most(60.0),
        Figure::bytes("idle resident memory", idle.resident).at_most(6 * MIB),
        Figure::bytes("of which anonymous", idle.anonymous),
        Figure::per_minute("wake-ups while idle", idle.wake_ups_per_minute()).at_most(3.0),
        Figure::milliseconds("processor time while idle", &[idle.processor_time]),
    ];
    println!("\n| figure | measured | at most |\n| --- | --- | --- |");
    for figure in &figures {
        println!("{figure}");
    }
    compare(&idle, size, settings.idle)?;
    Ok(figures.iter().all(Figure::is_within_limit))
}

/// Prints a peer's figures as multiples of the agent's.
fn compare(agent: &Idle, size: u64, watched: Duration) -> Result<()> {
    let Some(peer) = peer::certmonger(watched)? else {
        println!("\nno peer measured: certmonger and dbus-run-session are not both installed");
        return Ok(());
    };
    println!("\n| {}, idle, without a certificate to look after | measured | times the agent's |", peer.name);
    println!("| --- | --- | --- |");
    for (figure, times) in [
        (Figure::bytes("binary, without its libraries", peer.size), ratio(peer.size, size)),
        (Figure::bytes("resident memory", peer.idle.resident), ratio(peer.idle.resident, agent.resident)),
        (Figure::bytes("of which anonymous", peer.idle.anonymous), ratio(peer.idle.anonymous, agent.anonymous)),
        (
            Figure::per_minute("wake-ups", peer.idle.wake_ups_per_minute()),
            peer.idle.wake_ups_per_minute() / agent.wake_ups_per_minute(),
        ),
    ] {
        println!("{} {times:.1} |", figure.row());
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

const MIB: u64 = 1024 * 1024;

struct Settings {
    agent: Option<PathBuf>,
    ca: PathBuf,
    runs: usize,
    idle: Duration,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().map_err(|_| format!("{name}: expected a number, found {text:?}")),
            Err(_) => Ok(default),
        };
        Ok(Self {
            agent: std::env::var_os("CRANK_BENCH_AGENT").map(PathBuf::from),
            ca: std::env::var_os("CRANK_BENCH_CA")
                .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_crank-ca")), PathBuf::from),
            runs: usize::try_from(number("CRANK_BENCH_RUNS", 20)?.max(1))?,
            idle: Duration::from_secs(number("CRANK_BENCH_SECONDS", 120)?.max(1)),
        })
    }

    /// The agent to measure, built if none is given.
    fn agent(&self) -> Result<PathBuf> {
        match &self.agent {
            Some(path) => Ok(path.clone()),
            None => lab::build_static_agent(),
        }
    }
}
