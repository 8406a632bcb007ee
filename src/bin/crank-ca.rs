//! crank-ca: the certificate authority of a Crank mesh. Arguments, tracing, exit codes; the work is in the library.

#[path = "crank-ca/arguments.rs"]
mod arguments;
#[path = "crank-ca/authority.rs"]
mod authority;
#[path = "crank-ca/authority_arguments.rs"]
mod authority_arguments;
#[path = "crank-ca/backup.rs"]
mod backup;
#[path = "crank-ca/failure.rs"]
mod failure;
#[path = "crank-ca/policy.rs"]
mod policy;
#[path = "crank-ca/record_arguments.rs"]
mod record_arguments;
#[path = "crank-ca/record_tables.rs"]
mod record_tables;
#[path = "crank-ca/records.rs"]
mod records;
#[path = "crank-ca/revocation.rs"]
mod revocation;
#[path = "crank-ca/revocation_arguments.rs"]
mod revocation_arguments;

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use crank_agent::ca::{Reloader, Server, Tokens, probe};
use crank_agent::clock::{Clock, SystemClock};
use crank_agent::service_manager::ServiceManager;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use arguments::{Cli, Command, LogFormat, Place, Serve, ServeSettings, Token};
use failure::{CANNOT_WRITE, CONFIGURATION, Failure, INTERNAL};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    forbid_core_dumps();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::new(INTERNAL, &error)),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Init(init) => authority::initialize(init),
            Command::Import(import) => authority::import(import),
            Command::Root(root) => authority::change_roots(root).await,
            Command::Serve(serve) => run(serve).await,
            Command::Health(settings) => ask(settings).await,
            Command::CheckConfig(settings) => settings.resolve().and_then(|config| say(&config.to_string())),
            Command::Token(token) => manage_tokens(token).await,
            Command::Revoke(revoke) => revocation::revoke(revoke).await,
            Command::Rotate(rotate) => revocation::rotate(rotate).await,
            Command::Policy(policy) => policy::run(policy),
            Command::List(list) => records::list(*list).await,
            Command::Show(show) => records::show(show).await,
            Command::Export(export) => records::export(export).await,
            Command::CheckRecord(place) => records::check(place).await,
            Command::Backup(backup) => backup::backup(backup).await,
            Command::Restore(restore) => backup::restore(restore).await,
            Command::ManPages { directory } => clap_mangen::generate_to(Cli::command(), &directory).map_err(|error| {
                Failure { code: CANNOT_WRITE, message: format!("cannot write to {}: {error}", directory.display()) }
            }),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "crank-ca", &mut script);
                say(&String::from_utf8_lossy(&script))
            }
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

async fn run(serve: Serve) -> Result<(), Failure> {
    start_logging(&serve.log, serve.log_format)?;
    let config = serve.settings.clone().resolve()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::new(INTERNAL, &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::new(INTERNAL, &error))?;
    let hang_up = signal(SignalKind::hangup()).map_err(|error| Failure::new(INTERNAL, &error))?;
    let cancel = CancellationToken::new();
    let running = Server::start(config, Arc::new(SystemClock), cancel.clone()).await?;
    let service_manager = ServiceManager::of_process();
    tracing::info!(
        address = %running.address(),
        root = %running.root_path().display(),
        fingerprint = running.root_fingerprint(),
        "serving"
    );
    service_manager.status(&format!("serving on {}", running.address()));
    service_manager.ready();
    let reloader = running.reloader();
    let heartbeat = running.heartbeat();
    let stopped = running.stopped();
    let mut stopped = std::pin::pin!(stopped);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = reload_at(hang_up, &reloader, &serve.settings, &service_manager) => {}
        () = give_signs_of_life(heartbeat, &service_manager) => {}
        result = stopped.as_mut() => {
            result?;
            return Err(Failure { code: INTERNAL, message: "the server stopped by itself".to_owned() });
        }
    }
    service_manager.stopping();
    tracing::info!("stopping");
    cancel.cancel();
    Ok(stopped.await?)
}

/// At each signal, reads the settings and all that they lead to. Ends with the signals only.
async fn reload_at(
    mut hang_up: Signal,
    reloader: &Reloader,
    settings: &ServeSettings,
    service_manager: &ServiceManager,
) {
    while hang_up.recv().await.is_some() {
        service_manager.reloading();
        let outcome = match settings.clone().resolve() {
            Ok(config) => reloader.reload(config).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => tracing::info!("settings, policies and keys have been read again"),
            Err(failure) => tracing::error!(error = failure.message, "the settings are refused, those before stay"),
        }
        service_manager.reloaded();
    }
}

/// As long as `heartbeat` answers. Never ends.
async fn give_signs_of_life(heartbeat: impl AsyncFn() -> bool, service_manager: &ServiceManager) {
    let Some(pause) = service_manager.heartbeat() else { return std::future::pending().await };
    loop {
        if heartbeat().await {
            service_manager.alive();
        }
        tokio::time::sleep(pause).await;
    }
}

async fn ask(settings: ServeSettings) -> Result<(), Failure> {
    probe(&settings.resolve()?, Arc::new(SystemClock), PROBE_DEADLINE).await?;
    say("healthy\n")
}

async fn manage_tokens(token: Token) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match token {
        Token::Create { place, worker, ttl, names, out } => {
            let tokens = open_tokens(place, clock).await?;
            let created = tokens.create(worker, ttl, names).await?;
            let written = match &out {
                None => say(&format!("{}\n", created.secret.expose())),
                Some(path) => write_whole(path, &format!("{}\n", created.secret.expose()), PRIVATE)
                    .map_err(|error| Failure {
                        code: CANNOT_WRITE,
                        message: format!("cannot write the token to {}: {error}", path.display()),
                    })
                    .and_then(|()| say(&format!("token {} written to {}\n", created.id, path.display()))),
            };
            if written.is_err() {
                // Nobody has it; nobody shall.
                tokens.revoke(&created.id).await?;
            }
            tokens.close().await;
            written
        }
        Token::List { place } => {
            let tokens = open_tokens(place, Arc::clone(&clock)).await?;
            let now = clock.now().wall;
            let mut lines = vec![format!("{:<22}{:<10}{:<24}{}\n", "ID", "STATE", "EXPIRES", "WORKER")];
            for token in tokens.list().await? {
                let state = match &token {
                    token if token.used_at.is_some() => "used",
                    token if token.revoked_at.is_some() => "revoked",
                    token if token.expires_at <= now => "expired",
                    _ => "good",
                };
                let expires = token.expires_at.format(&Rfc3339).unwrap_or_default();
                lines.push(format!("{:<22}{state:<10}{expires:<24}{}\n", token.id, token.worker_id));
            }
            tokens.close().await;
            say(&lines.concat())
        }
        Token::Revoke { place, id } => {
            let tokens = open_tokens(place, clock).await?;
            let revoked = tokens.revoke(&id).await?;
            tokens.close().await;
            if revoked {
                return say("revoked\n");
            }
            let message = "there is no unused token with this id: see `crank-ca token list`".to_owned();
            Err(Failure { code: CONFIGURATION, message })
        }
    }
}

async fn open_tokens(place: Place, clock: Arc<dyn Clock>) -> Result<Tokens, Failure> {
    let (data_dir, database) = place.resolve()?;
    Ok(Tokens::open(&data_dir, &database, clock).await?)
}

/// Writes beside the target and renames, so that a reader sees the old text or the new one, whole.
fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{}.new", std::process::id()));
    let staging = PathBuf::from(staging);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&staging)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&staging, path));
    if written.is_err() {
        let _ = fs::remove_file(&staging);
    }
    written
}

fn start_logging(filter: &str, format: LogFormat) -> Result<(), Failure> {
    // Last, so that no filter turns the audit trail off.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{filter},crank::audit=info"))
        .map_err(|error| Failure { code: CONFIGURATION, message: format!("log filter `{filter}`: {error}") })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let pretty = match format {
        LogFormat::Auto => io::stdout().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    if pretty {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
    Ok(())
}

/// The CA's keys are in memory: neither a crash nor a debugger of the same user may read them.
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure { code: CANNOT_WRITE, message: format!("cannot write to standard output: {error}") })
}

fn report(failure: &Failure) -> ExitCode {
    let _ = writeln!(io::stderr(), "crank-ca: {}", failure.message);
    ExitCode::from(failure.code)
}

/// Modes of files that are written for others.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Less than a container engine gives a probe.
const PROBE_DEADLINE: Duration = Duration::from_secs(4);
