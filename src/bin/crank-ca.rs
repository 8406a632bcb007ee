//! crank-ca: the certificate authority of a Crank mesh. Arguments, tracing, exit codes; the work is in the library.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crank_agent::ca::{
    AuthorityError, CaConfig, CaError, CertificateAuthorityManager, DEFAULT_TRUST_DOMAIN, InitOptions, Server,
    StateError, TokenError, Tokens,
};
use crank_agent::clock::{Clock, SystemClock};
use crank_agent::config::Environment;
use crank_agent::duration::parse_duration;
use crank_agent::identity::{KeyType, SubjectAltName, TrustDomain, WorkerId};
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "crank-ca", version, about = "The certificate authority of a Crank mesh", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a root and an issuing intermediate; overwrites nothing
    Init(Init),
    /// Serve the CA over HTTPS
    Serve(Serve),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(Token),
    /// Print shell completions
    Completions {
        /// The shell to print for
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct DataDir {
    /// Where the CA's keys, certificates and database are
    #[arg(long, env = "CRANK_CA_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    data: DataDir,
    /// The kind of the CA's keys: ecdsa-p256 or ecdsa-p384
    #[arg(long, env = "CRANK_CA_KEY_TYPE", default_value = "ecdsa-p256")]
    key_type: KeyType,
    /// The trust domain of the SPIFFE ids the CA will issue
    #[arg(long, env = "CRANK_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    trust_domain: TrustDomain,
    /// Begins the names of root and intermediate
    #[arg(long, env = "CRANK_CA_NAME", default_value = "Crank")]
    name: String,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    data: DataDir,
    /// Where to listen
    #[arg(long, env = "CRANK_CA_LISTEN", default_value = "0.0.0.0:9090", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A DNS name or IP address of this server; may be repeated
    #[arg(long, env = "CRANK_CA_DNS", default_value = "cert-authority", value_delimiter = ',', value_name = "NAME")]
    dns: Vec<SubjectAltName>,
    /// The life of a worker's certificate: 60s to 365d
    #[arg(long, env = "CRANK_CA_LIFETIME", default_value = "365d", value_parser = parse_duration)]
    lifetime: Duration,
    /// The most connections at a time
    #[arg(long, env = "CRANK_CA_MAX_CONNECTIONS", default_value_t = 1024)]
    max_connections: usize,
    /// Told to policies; security is the same in both
    #[arg(long, env = "CRANK_ENVIRONMENT", default_value = "production")]
    environment: EnvironmentName,
    /// What is logged, as `info` or `crank_agent=debug`; the audit trail always is
    #[arg(long, env = "CRANK_CA_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// The form of log lines
    #[arg(long, env = "CRANK_CA_LOG_FORMAT", default_value = "auto")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make a token for one certificate of one worker; the token is shown this once
    Create {
        #[command(flatten)]
        data: DataDir,
        /// Whom it is for
        #[arg(long, value_name = "ID")]
        worker: WorkerId,
        /// How long it is good for: 1s to 30d
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        ttl: Duration,
        /// A DNS name or IP address permitted beside the worker's own names; may be repeated
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<SubjectAltName>,
        /// Write the token to this file (mode 0600) and not to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the newest 1,000 tokens
    List {
        #[command(flatten)]
        data: DataDir,
    },
    /// Make an unused token useless
    Revoke {
        #[command(flatten)]
        data: DataDir,
        /// The token's id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EnvironmentName {
    Development,
    Production,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Auto,
    Json,
    Pretty,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    forbid_core_dumps();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::new(INTERNAL, &error)),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Init(init) => initialize(init),
            Command::Serve(serve) => run(serve).await,
            Command::Token(token) => manage_tokens(token).await,
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

fn initialize(init: Init) -> Result<(), Failure> {
    let Init { data, key_type, trust_domain, name } = init;
    let options = InitOptions { key_type, trust_domain, name };
    let made = CertificateAuthorityManager::generate_ca_certificate(&data.data_dir, &options, &SystemClock)?;
    let directory = data.data_dir.display();
    say(&format!(
        "root certificate  {}\n\
         fingerprint       {}\n\
         trust domain      {}\n\
         \n\
         next:\n  \
         give agents the root file or its fingerprint: either lets them verify this CA\n  \
         move {directory}/authority/root.key to a safe place: serving does not need it\n  \
         crank-ca serve --data-dir {directory} --dns cert-authority\n  \
         crank-ca token create --data-dir {directory} --worker WORKER --ttl 10m\n",
        made.root_path.display(),
        made.root_fingerprint,
        options.trust_domain,
    ))
}

async fn run(serve: Serve) -> Result<(), Failure> {
    start_logging(&serve.log, serve.log_format)?;
    let config = CaConfig {
        lifetime: serve.lifetime,
        max_connections: serve.max_connections,
        environment: match serve.environment {
            EnvironmentName::Development => Environment::Development,
            EnvironmentName::Production => Environment::Production,
        },
        ..CaConfig::new(serve.data.data_dir, serve.listen, serve.dns)
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::new(INTERNAL, &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::new(INTERNAL, &error))?;
    let cancel = CancellationToken::new();
    let running = Server::start(config, Arc::new(SystemClock), cancel.clone()).await?;
    tracing::info!(
        address = %running.address(),
        root = %running.root_path().display(),
        fingerprint = running.root_fingerprint(),
        "serving"
    );
    let stopped = running.stopped();
    let mut stopped = std::pin::pin!(stopped);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = stopped.as_mut() => {
            result?;
            return Err(Failure { code: INTERNAL, message: "the server stopped by itself".to_owned() });
        }
    }
    tracing::info!("stopping");
    cancel.cancel();
    Ok(stopped.await?)
}

async fn manage_tokens(token: Token) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match token {
        Token::Create { data, worker, ttl, names, out } => {
            let tokens = Tokens::open(&data.data_dir, clock).await?;
            let created = tokens.create(worker, ttl, names).await?;
            let written = match &out {
                None => say(&format!("{}\n", created.secret.expose())),
                Some(path) => write_private(path, created.secret.expose())
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
        Token::List { data } => {
            let tokens = Tokens::open(&data.data_dir, Arc::clone(&clock)).await?;
            let now = clock.now().wall;
            let mut table = format!("{:<22}{:<10}{:<24}{}\n", "ID", "STATE", "EXPIRES", "WORKER");
            for token in tokens.list().await? {
                let state = match &token {
                    token if token.used_at.is_some() => "used",
                    token if token.revoked_at.is_some() => "revoked",
                    token if token.expires_at <= now => "expired",
                    _ => "good",
                };
                let expires = token.expires_at.format(&Rfc3339).unwrap_or_default();
                table.push_str(&format!("{:<22}{state:<10}{expires:<24}{}\n", token.id, token.worker_id));
            }
            tokens.close().await;
            say(&table)
        }
        Token::Revoke { data, id } => {
            let tokens = Tokens::open(&data.data_dir, clock).await?;
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

/// Writes beside the target and renames, so that a reader sees the old token or the new one, whole.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{}.new", std::process::id()));
    let staging = PathBuf::from(staging);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&staging)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
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
    if pretty { builder.init() } else { builder.json().flatten_event(true).init() }
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

/// What ends the program, with the code it ends with.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The error with its causes.
    fn new(code: u8, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { code, message }
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        let code = match &error {
            CaError::Authority(error) => authority_code(error),
            CaError::State(error) => state_code(error),
            CaError::Setting { .. } => CONFIGURATION,
            CaError::Listen { .. } => UNAVAILABLE,
            CaError::ServerCertificate(_) | CaError::Tls(_) | CaError::Task(_) => INTERNAL,
        };
        Self::new(code, &error)
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::TimeToLive | TokenError::TooManyNames => CONFIGURATION,
            TokenError::Random => INTERNAL,
            TokenError::Authority(error) => authority_code(error),
            TokenError::State(error) => state_code(error),
        };
        Self::new(code, &error)
    }
}

fn authority_code(error: &AuthorityError) -> u8 {
    match error {
        AuthorityError::Exists(_) => CANNOT_WRITE,
        AuthorityError::File { action, .. } if *action != "read" => CANNOT_WRITE,
        AuthorityError::Busy(_) => UNAVAILABLE,
        AuthorityError::Generation { .. } => INTERNAL,
        _ => CONFIGURATION,
    }
}

fn state_code(error: &StateError) -> u8 {
    match error {
        StateError::File(error) => authority_code(error),
        StateError::Migration(_) | StateError::Corrupt { .. } => CONFIGURATION,
        StateError::Database { .. } => CANNOT_WRITE,
    }
}

const UNAVAILABLE: u8 = 69;
const INTERNAL: u8 = 70;
const CANNOT_WRITE: u8 = 73;
const CONFIGURATION: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  crank-ca init --data-dir /var/lib/crank-ca
  crank-ca serve --data-dir /var/lib/crank-ca --dns cert-authority --lifetime 24h
  crank-ca token create --data-dir /var/lib/crank-ca --worker streaming --ttl 10m --out streaming.token
  crank-ca completions bash > /etc/bash_completion.d/crank-ca

Exit codes:
  0 done; 2 usage; 69 unavailable (the port is in use); 70 internal; 73 cannot write; 78 configuration";
