//! Owns `crank-agent dev`: a CA and an agent in one process on loopback, for a person to watch. The agent takes the very
//! way it takes in production: token, verified TLS, CSR.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, AgentError, Surroundings};
use crate::ca::{CaConfig, CaError, CertificateAuthorityManager, InitOptions, RunningCa, Server, TokenError, Tokens};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Arguments, Config, ConfigReport};
use crate::control::client;
use crate::duration::format_duration;
use crate::events::log::LogControl;
use crate::events::{CertificateEvent, EventBus, EventRecord};
use crate::exit::Exit;
use crate::identity::{SpiffeId, SubjectAltName, TrustDomain};
use crate::printable::error_chain;
use crate::status::AgentStatus;

/// What `dev` is asked for.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Where CA and certificates are kept; made on the first run.
    pub data_dir: PathBuf,
    /// The lifetime of certificates.
    pub lifetime: Duration,
    /// The agent's settings that are not the defaults of `dev`.
    pub arguments: Arguments,
}

/// A CA that runs and an agent that is about to.
#[derive(Debug)]
pub struct Dev {
    options: DevOptions,
    arguments: Arguments,
    config: Config,
    ca: RunningCa,
    stop: CancellationToken,
}

/// Why `dev` ended.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Something in the data directory cannot be made.
    #[error("cannot write {path}")]
    Write {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The settings.
    #[error(transparent)]
    Configuration(#[from] ConfigReport),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl DevError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Write { .. } => Exit::CannotWrite,
            Self::Ca(_) | Self::Token(_) => Exit::Unavailable,
            Self::Configuration(_) => Exit::Configuration,
            Self::Agent(error) => error.exit(),
        }
    }
}

impl Dev {
    /// Makes what is missing in the data directory and starts the CA.
    ///
    /// # Errors
    /// When the data directory cannot be written, the CA cannot start, or a setting is wrong.
    pub async fn prepare(options: DevOptions) -> Result<Self, DevError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let stop = CancellationToken::new();
        make_directory(&options.data_dir)?;
        let ca_directory = options.data_dir.join("ca");
        if !CertificateAuthorityManager::is_initialized(&ca_directory) {
            let domain = TrustDomain::new(TRUST_DOMAIN).unwrap_or_else(|_| unreachable!("a valid constant"));
            let init = InitOptions { name: "Crank development".to_owned(), ..InitOptions::new(domain) };
            CertificateAuthorityManager::generate_ca_certificate(&ca_directory, &init, &*clock)?;
        }
        let names = ["localhost", "127.0.0.1"].iter().filter_map(|name| name.parse::<SubjectAltName>().ok()).collect();
        let settings = CaConfig {
            lifetime: options.lifetime,
            environment: config::Environment::Development,
            ..CaConfig::new(ca_directory, loopback_address(CA_PORT), names)
        };
        let ca = Server::start(settings, Arc::clone(&clock), stop.clone()).await?;
        let config_file = options.data_dir.join("config.toml");
        if !config_file.exists() {
            fs::write(&config_file, "# Settings of the agent; a change is applied while it runs.\n")
                .map_err(|source| DevError::Write { path: config_file.clone(), source })?;
        }
        let text = |path: PathBuf| path.display().to_string();
        let arguments = options
            .arguments
            .clone()
            .with_default_file(config_file)
            .with_default("worker_id", "dev")
            .with_default("log.format", "pretty")
            .with_default("environment", "development")
            .with_default("identity.trust_domain", ca.trust_domain().as_str())
            .with_default("ca.url", &format!("https://localhost:{}", ca.address().port()))
            .with_default("ca.root_file", &text(ca.root_path()))
            .with_default("ca.token_file", &text(options.data_dir.join("token")))
            .with_default("files.directory", &text(options.data_dir.join("certs")))
            .with_default("server.listen", &loopback_address(AGENT_PORT).to_string());
        let config = config::load(&arguments)?;
        // The worker may read its own agent's metrics.
        let arguments = arguments.with_default("server.metrics_allow", spiffe_id(&config));
        let config = config::load(&arguments)?;
        write_token(&ca.tokens(), &config).await?;
        Ok(Self { options, arguments, config, ca, stop })
    }

    /// The agent's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs both until SIGINT or SIGTERM, and tells on standard output what happens. `log` is the log of the process.
    ///
    /// # Errors
    /// When the agent cannot go on.
    pub async fn run(self, log: LogControl) -> Result<(), DevError> {
        say(&self.introduction());
        let events = EventBus::default();
        self.narrate(&events);
        let surroundings = Surroundings { log: Some(log), stop: self.stop.clone(), ..Surroundings::telling(events) };
        let result = agent::run(self.arguments, self.config, surroundings).await;
        self.stop.cancel();
        self.ca.stopped().await?;
        Ok(result?)
    }

    /// Prints each certificate, renews one that is left from an earlier run, and replaces a token that has lapsed.
    fn narrate(&self, events: &EventBus) {
        let look = self.commands();
        let first = Arc::new(Once::new());
        let socket = self.config.control_socket.clone();
        events.subscribe(move |record| {
            let (socket, look, first) = (socket.clone(), look.clone(), Arc::clone(&first));
            match record.event {
                CertificateEvent::CertIssued | CertificateEvent::CertRenewed => {
                    let event = record.event;
                    tokio::spawn(async move {
                        if let Ok(report) = client::status(&socket).await {
                            say(&certificate_text(event, &report.status));
                        }
                        first.call_once(|| say(&look));
                    });
                }
                CertificateEvent::CertAdopted => {
                    // The lifetime asked for may be another; and a renewal is what one wants to see.
                    tokio::spawn(async move {
                        if let Err(error) = client::renew(&socket, RENEWAL_PATIENCE).await {
                            tracing::warn!(error = %error_chain(&error), "the certificate of the last run stays");
                        }
                    });
                }
                _ => {}
            }
        });
        let (tokens, config) = (self.ca.tokens(), self.config.clone());
        events.subscribe(move |record| {
            if lacks_credential(record) {
                let (tokens, config) = (tokens.clone(), config.clone());
                tokio::spawn(async move {
                    if let Err(error) = write_token(&tokens, &config).await {
                        tracing::warn!(error = %error_chain(&error), "cannot make a fresh token");
                    }
                });
            }
        });
    }

    fn introduction(&self) -> String {
        let Self { options, config, ca, .. } = self;
        let listen = config.server.as_ref().map_or("off".to_owned(), |server| format!("https://{}", server.listen));
        format!(
            "crank-agent dev\n\
             \x20 CA       https://{ca_address}, its data in {data}/ca\n\
             \x20 root     {fingerprint}\n\
             \x20 worker   {worker} ({spiffe})\n\
             \x20 files    {directory}\n\
             \x20 probes   {listen}\n\
             \x20 settings {data}/config.toml\n\
             Certificates live {lifetime}. Ctrl-C ends CA and agent.\n",
            ca_address = ca.address(),
            data = options.data_dir.display(),
            fingerprint = ca.root_fingerprint(),
            worker = config.identity.worker_id,
            spiffe = spiffe_id(config),
            directory = config.files.directory.display(),
            lifetime = format_duration(options.lifetime),
        )
    }

    fn commands(&self) -> String {
        let program = std::env::current_exe().map_or("crank-agent".to_owned(), |path| path.display().to_string());
        let directory = self.config.files.directory.display();
        let probes = self.config.server.as_ref().map_or(String::new(), |server| {
            let port = server.listen.port();
            format!(
                "\x20 curl --cacert {directory}/ca.crt https://localhost:{port}/readyz\n\
                 \x20 curl --cacert {directory}/ca.crt --cert {directory}/client.crt --key {directory}/client.key \
                 https://localhost:{port}/metrics\n"
            )
        });
        format!(
            "To look further:\n\
             \x20 {program} status --cert-dir {directory}\n\
             \x20 {program} renew --cert-dir {directory}\n\
             \x20 openssl x509 -in {directory}/client.crt -noout -text\n\
             {probes}"
        )
    }
}

fn spiffe_id(config: &Config) -> &str {
    config.identity.spiffe_id.as_ref().map_or("", SpiffeId::as_str)
}

fn certificate_text(event: CertificateEvent, status: &AgentStatus) -> String {
    let Some(certificate) = &status.certificate else { return String::new() };
    let time = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default();
    format!(
        "{what} certificate {serial}\n\
         \x20 subject     {subject}\n\
         \x20 names       {names}\n\
         \x20 not after   {not_after}\n\
         \x20 renewal at  {renewal}\n",
        what = if event == CertificateEvent::CertRenewed { "Renewed" } else { "Issued" },
        serial = certificate.serial,
        subject = certificate.subject,
        names = certificate.names.join(", "),
        not_after = time(certificate.expires_at),
        renewal = status.next_renewal.map(time).unwrap_or_default(),
    )
}

/// The agent's certificate has expired and its token is used up: after a long suspend, say.
fn lacks_credential(record: &EventRecord) -> bool {
    let kind = record.error.as_ref().map_or("", |error| error.kind.as_str());
    record.event == CertificateEvent::CsrFailed && matches!(kind, "unauthenticated" | "credential")
}

/// Puts a fresh token where the agent looks for it.
async fn write_token(tokens: &Tokens, config: &Config) -> Result<(), DevError> {
    let Some(path) = &config.ca.token_file else { return Ok(()) };
    let token = tokens.create(config.identity.worker_id.clone(), TOKEN_LIFE, config.identity.names.clone()).await?;
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(token.secret.expose().as_bytes())?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| DevError::Write { path: path.clone(), source })
}

fn make_directory(path: &Path) -> Result<(), DevError> {
    use std::os::unix::fs::DirBuilderExt;
    let fail = |source| DevError::Write { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)
}

/// `port` on loopback, or a free one when it is taken.
fn loopback_address(port: u16) -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = TcpListener::bind(address).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    bound.and_then(|listener| listener.local_addr()).unwrap_or(address)
}

/// For the person at the terminal; whoever closed it does not want to know.
fn say(text: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}

/// The port of the product's contract.
const CA_PORT: u16 = 9090;

const AGENT_PORT: u16 = 9443;

const TRUST_DOMAIN: &str = "crank.local";

const TOKEN_LIFE: Duration = Duration::from_mins(10);

const RENEWAL_PATIENCE: Duration = Duration::from_mins(1);
