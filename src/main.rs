//! The agent binary: arguments, configuration, logging, one command, its exit code.

mod cli;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use crank_agent::agent::{self, Surroundings};
use crank_agent::clock::SystemClock;
use crank_agent::config::{Arguments, Config, LogConfig, resolve};
use crank_agent::events::EventBus;
use crank_agent::events::log::{self, LogGuard};
use crank_agent::exit::Exit;
use crank_agent::printable::error_chain;
use crank_agent::service_manager::ServiceManager;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::cli::{Cli, Command, output};

fn main() -> ExitCode {
    // Usage errors end here, with code 2; so do --help and --version, with code 0.
    let cli = Cli::parse();
    if let Err(error) = forbid_dumps() {
        return output::failure(format_args!("cannot turn off core dumps: {error}"), Exit::Internal).into();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::failure(format_args!("cannot start: {error}"), Exit::Internal).into(),
    };
    let exit = runtime.block_on(dispatch(&cli));
    // A read of a disk that hangs must not keep the process.
    runtime.shutdown_background();
    exit.into()
}

/// A core dump or a debugger of the same user would show the private key.
fn forbid_dumps() -> rustix::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

async fn dispatch(cli: &Cli) -> Exit {
    let arguments = cli.arguments();
    match &cli.command {
        Command::Run(_) => success_or(run(arguments).await),
        Command::Init(_) => success_or(init(arguments).await),
        Command::Status(command) => cli::remote::status(&arguments, command).await,
        Command::Health(command) => cli::remote::health(&arguments, command).await,
        Command::Renew(command) => cli::remote::renew(&arguments, command).await,
        Command::CheckConfig(command) => cli::check::run(&arguments, command),
        #[cfg(feature = "ca")]
        Command::Dev(command) => success_or(Box::pin(dev(arguments, command)).await),
        #[cfg(feature = "ca")]
        Command::ManPages { directory } => success_or(cli::man_pages(directory)),
        Command::Completions { shell } => output::result(cli::completions(*shell), Exit::Success),
    }
}

fn success_or(result: Result<(), Exit>) -> Exit {
    result.err().unwrap_or(Exit::Success)
}

async fn run(arguments: Arguments) -> Result<(), Exit> {
    let (config, log) = prepare(&arguments)?;
    let surroundings = Surroundings {
        log: Some(log.control()),
        service_manager: ServiceManager::of_process(),
        ..Surroundings::telling(EventBus::default())
    };
    let result = agent::run(arguments, config, surroundings).await;
    ended(result.map_err(|error| (error.exit(), error)), log)
}

async fn init(arguments: Arguments) -> Result<(), Exit> {
    let (config, log) = prepare(&arguments)?;
    let result = agent::init(&config).await;
    ended(result.map_err(|error| (error.exit(), error)), log)
}

#[cfg(feature = "ca")]
async fn dev(arguments: Arguments, command: &cli::DevArguments) -> Result<(), Exit> {
    use crank_agent::dev::{Dev, DevOptions};
    let data_dir = command.data_dir().map_err(|reason| output::failure(reason, Exit::Usage))?;
    let options = DevOptions { data_dir, lifetime: command.lifetime, arguments };
    let dev = Dev::prepare(options).await.map_err(|error| output::failure(error_chain(&error), error.exit()))?;
    let log = start_log(&dev.config().log)?;
    ended(dev.run(log.control()).await.map_err(|error| (error.exit(), error)), log)
}

/// Loads the configuration and starts logging.
fn prepare(arguments: &Arguments) -> Result<(Config, LogGuard), Exit> {
    let resolution = resolve(arguments).map_err(|report| output::failure(report, Exit::Configuration))?;
    let log = start_log(&resolution.config.log)?;
    for warning in &resolution.warnings {
        tracing::warn!("{warning}");
    }
    Ok((resolution.config, log))
}

fn start_log(config: &LogConfig) -> Result<LogGuard, Exit> {
    log::init(config, Arc::new(SystemClock)).map_err(|error| output::failure(error_chain(&error), Exit::Configuration))
}

/// The last word goes to standard error, after everything in the log.
fn ended<E: std::error::Error>(result: Result<(), (Exit, E)>, log: LogGuard) -> Result<(), Exit> {
    drop(log);
    result.map_err(|(exit, error)| output::failure(error_chain(&error), exit))
}
