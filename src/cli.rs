//! Owns the command line: what can be written, and in the modules below what the commands print.

pub(crate) mod check;
pub(crate) mod output;
pub(crate) mod remote;
pub(crate) mod table;

#[cfg(feature = "ca")]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use crank_agent::config::Arguments;
use crank_agent::duration::parse_duration;
use crank_agent::exit::Exit;

/// Keeps a worker in possession of a valid mTLS certificate.
#[derive(Debug, Parser)]
#[command(
    name = "crank-agent",
    version,
    about,
    long_about = LONG_ABOUT,
    after_help = after_help(),
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run beside the worker: obtain a certificate, renew it in time, answer probes
    #[command(after_help = RUN_EXAMPLES)]
    Run(SettingFlags),
    /// Obtain a certificate once and exit, for init containers
    #[command(after_help = INIT_EXAMPLES)]
    Init(SettingFlags),
    /// Show the state of the running agent
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArguments),
    /// Tell by the exit code whether the running agent has a usable certificate on disk
    #[command(after_help = HEALTH_EXAMPLES)]
    Health(HealthArguments),
    /// Have the running agent renew now, and wait for the outcome
    #[command(after_help = RENEW_EXAMPLES)]
    Renew(RenewArguments),
    /// Print the resolved configuration, or every problem of it
    #[command(after_help = CHECK_CONFIG_EXAMPLES)]
    CheckConfig(CheckConfigArguments),
    /// Try everything on this machine: an own CA, an agent, a worker's certificate
    #[cfg(feature = "ca")]
    #[command(after_help = DEV_EXAMPLES)]
    Dev(DevArguments),
    /// Write manual pages into a directory
    #[cfg(feature = "ca")]
    #[command(hide = true)]
    ManPages {
        /// The directory, which must exist
        directory: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What every command takes, before its name or after it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingFlags {
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file [environment: CRANK_CONFIG] [default: /etc/crank-agent/config.toml, if there is one]"
    )]
    config: Option<PathBuf>,
    #[arg(long, value_name = "ID", help = "The worker's name [environment: SERVICE_NAME]")]
    worker_id: Option<String>,
    #[arg(long, value_name = "URL", help = "The certificate authority [environment: CA_SERVICE_URL]")]
    ca_url: Option<String>,
    #[arg(long, value_name = "DIRECTORY", help = "The certificate directory [environment: CERT_DIR]")]
    cert_dir: Option<String>,
    /// Any setting, as `schedule.check_interval=10m`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: SocketFlag,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    #[command(flatten)]
    pub(crate) socket: SocketFlag,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArguments {
    /// How long to wait for the outcome
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = renewal_timeout)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) socket: SocketFlag,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct SocketFlag {
    /// The agent's control socket, if not the configured one
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfigArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the table of settings for the documentation
    #[arg(long, hide = true)]
    pub(crate) settings_table: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

#[cfg(feature = "ca")]
#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// The lifetime of certificates; short ones let one watch a renewal
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = dev_lifetime)]
    pub(crate) lifetime: Duration,
    /// Where the CA and the certificates are kept for the next time
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Cli {
    /// What the configuration is made from: the environment, and the flags before and after the command's name.
    pub(crate) fn arguments(&self) -> Arguments {
        let mut arguments = match &self.command {
            // What a shell has set for other purposes must not lead it elsewhere.
            #[cfg(feature = "ca")]
            Command::Dev(_) => Arguments::without_environment(),
            _ => Arguments::of_process(),
        };
        let own = match &self.command {
            Command::Run(settings) | Command::Init(settings) => Some(settings),
            Command::Status(command) => Some(&command.settings),
            Command::Health(command) => Some(&command.settings),
            Command::Renew(command) => Some(&command.settings),
            Command::CheckConfig(command) => Some(&command.settings),
            #[cfg(feature = "ca")]
            Command::Dev(command) => Some(&command.settings),
            #[cfg(feature = "ca")]
            Command::ManPages { .. } => None,
            Command::Completions { .. } => None,
        };
        for settings in [Some(&self.settings), own].into_iter().flatten() {
            arguments = settings.add_to(arguments);
        }
        arguments
    }
}

#[cfg(feature = "ca")]
impl DevArguments {
    /// The data directory that was asked for, or `~/.crank/dev`.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, &'static str> {
        let chosen = self.data_dir.clone().or_else(|| Some(std::env::home_dir()?.join(".crank/dev")));
        let chosen = chosen.ok_or("there is no home directory: choose one with --data-dir")?;
        std::path::absolute(chosen).map_err(|_| "--data-dir: expected a directory")
    }
}

impl SettingFlags {
    fn add_to(&self, mut arguments: Arguments) -> Arguments {
        if let Some(path) = &self.config {
            // A reload must find it after the working directory changed.
            arguments = arguments.with_file(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        }
        for (key, value) in &self.set {
            arguments = arguments.with_flag("--set", key, value);
        }
        if let Some(worker_id) = &self.worker_id {
            arguments = arguments.with_flag("--worker-id", "worker_id", worker_id);
        }
        if let Some(url) = &self.ca_url {
            arguments = arguments.with_flag("--ca-url", "ca.url", url);
        }
        if let Some(directory) = &self.cert_dir {
            let absolute = std::path::absolute(directory).ok().and_then(|path| path.to_str().map(str::to_owned));
            let directory = absolute.as_ref().unwrap_or(directory);
            arguments = arguments.with_flag("--cert-dir", "files.directory", directory);
        }
        arguments
    }
}

/// The completion script for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "crank-agent", &mut script);
    script
}

/// Writes a manual page for each command of the released agent, which has no `dev`.
#[cfg(feature = "ca")]
pub(crate) fn man_pages(directory: &Path) -> Result<(), Exit> {
    let released = Cli::command().mut_subcommand("dev", |command| command.hide(true));
    let written = clap_mangen::generate_to(released, directory);
    written.map_err(|error| {
        output::failure(format_args!("cannot write to {}: {error}", directory.display()), Exit::CannotWrite)
    })
}

fn key_and_value(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as schedule.check_interval=10m")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn renewal_timeout(text: &str) -> Result<Duration, &'static str> {
    let timeout = parse_duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_mins(10);
    if range.contains(&timeout) { Ok(timeout) } else { Err("expected 1s to 10m") }
}

#[cfg(feature = "ca")]
fn dev_lifetime(text: &str) -> Result<Duration, &'static str> {
    let lifetime = parse_duration(text)?;
    let range = Duration::from_mins(1)..=Duration::from_hours(365 * 24);
    if range.contains(&lifetime) { Ok(lifetime) } else { Err("expected 1m to 365d") }
}

/// Examples and the table of exit codes.
fn after_help() -> String {
    let codes = Exit::ALL.map(|exit| format!("  {:>2}  {}", exit.code(), exit.meaning()));
    format!("{EXAMPLES}\n\nExit codes:\n{}", codes.join("\n"))
}

const LONG_ABOUT: &str = "Keeps a worker in possession of a valid mTLS certificate: makes the key where the worker \
runs, has a certificate authority sign it, writes key, certificate and roots to a directory in one step, and renews in \
time.\n\nSettings come from a TOML file, the environment and flags; later wins. `crank-agent check-config` shows what \
is in force and where it comes from.";

const EXAMPLES: &str = "Examples:
  SERVICE_NAME=streaming crank-agent run
  crank-agent --config /etc/crank-agent/config.toml run
  crank-agent status
  crank-agent COMMAND --help";

const RUN_EXAMPLES: &str = "Examples:
  SERVICE_NAME=streaming CA_SERVICE_URL=https://ca.example.org:9090 crank-agent run
  crank-agent run --worker-id streaming --cert-dir ./certs --set ca.root_file=/etc/ca.pem
  crank-agent run --set server.listen=off

Signals: SIGTERM and SIGINT stop, SIGHUP reads the configuration anew, SIGUSR1 renews.";

const INIT_EXAMPLES: &str = "Examples:
  SERVICE_NAME=streaming crank-agent init
  crank-agent init --worker-id streaming --set ca.startup_wait=5m

Exits with 0 once a valid certificate is on disk, with 69 when the CA stays unavailable for ca.startup_wait, with 77 \
when it refuses, with 73 when the files cannot be written.";

const STATUS_EXAMPLES: &str = "Examples:
  crank-agent status
  crank-agent status --json
  crank-agent status --socket /etc/certs/.crank-agent.sock

Exits with 69 when no agent answers.";

const HEALTH_EXAMPLES: &str = "Examples:
  crank-agent health
  HEALTHCHECK CMD [\"crank-agent\", \"health\"]

Exits with 0 when a usable certificate is on disk, with 1 when there is none, with 69 when no agent answers.";

const RENEW_EXAMPLES: &str = "Examples:
  crank-agent renew
  crank-agent renew --timeout 2m

Exits with 0 once the new certificate is on disk, with 69 when the CA is unavailable or there is no outcome in time (the \
agent goes on trying), with 77 when it was refused, with 73 when the files could not be written.";

const CHECK_CONFIG_EXAMPLES: &str = "Examples:
  crank-agent check-config
  crank-agent check-config --config ./config.toml --json
  SERVICE_NAME=streaming crank-agent check-config --set schedule.renew_before=10d

Prints TOML that can serve as a configuration file. Exits with 78 when there are problems.";

#[cfg(feature = "ca")]
const DEV_EXAMPLES: &str = "Examples:
  crank-agent dev
  crank-agent dev --lifetime 2m
  crank-agent dev --worker-id streaming --data-dir ./dev

Ctrl-C ends everything.";

const COMPLETIONS_EXAMPLES: &str = "Examples:
  crank-agent completions bash > /etc/bash_completion.d/crank-agent
  crank-agent completions zsh > ~/.zfunc/_crank-agent
  crank-agent completions fish > ~/.config/fish/completions/crank-agent.fish";

#[cfg(test)]
mod tests;
