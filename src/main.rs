//! The agent binary: arguments, configuration, logging, one command, its exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use crank_agent::config::{Arguments, Config, LogConfig, resolve};
use crank_agent::exit::Exit;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command, output};

fn main() -> ExitCode {
    // Usage errors end here, with code 2; so do --help and --version, with code 0.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::failure(format_args!("cannot start: {error}"), Exit::Internal).into(),
    };
    let exit = runtime.block_on(dispatch(&cli));
    // A read of a disk that hangs must not keep the process.
    runtime.shutdown_background();
    exit.into()
}

async fn dispatch(cli: &Cli) -> Exit {
    let arguments = cli.arguments();
    match &cli.command {
        Command::Run(_) => match prepare(&arguments) {
            Ok(config) => run(config, arguments, CancellationToken::new()).await,
            Err(exit) => exit,
        },
        Command::Init(_) => match prepare(&arguments) {
            Ok(config) => init(config, CancellationToken::new()).await,
            Err(exit) => exit,
        },
        Command::Status(command) => cli::remote::status(&arguments, command).await,
        Command::Health(command) => cli::remote::health(&arguments, command).await,
        Command::Renew(command) => cli::remote::renew(&arguments, command).await,
        Command::CheckConfig(command) => cli::check::run(&arguments, command),
        #[cfg(feature = "ca")]
        Command::Dev(command) => dev(&arguments, command).await,
        Command::Completions { shell } => output::result(cli::completions(*shell), Exit::Success),
    }
}

/// Loads the configuration and starts logging.
fn prepare(arguments: &Arguments) -> Result<Config, Exit> {
    let resolution = resolve(arguments).map_err(|report| output::failure(report, Exit::Configuration))?;
    start_log(&resolution.config.log);
    for warning in &resolution.warnings {
        tracing::warn!("{warning}");
    }
    Ok(resolution.config)
}

// The call sites below are for the agent's composition root.

fn start_log(_config: &LogConfig) {}

#[expect(clippy::unused_async, reason = "the agent is not wired yet")]
async fn run(_config: Config, _arguments: Arguments, _cancelled: CancellationToken) -> Exit {
    output::failure("`run` is not there yet", Exit::Internal)
}

#[expect(clippy::unused_async, reason = "the agent is not wired yet")]
async fn init(_config: Config, _cancelled: CancellationToken) -> Exit {
    output::failure("`init` is not there yet", Exit::Internal)
}

#[cfg(feature = "ca")]
#[expect(clippy::unused_async, reason = "the agent is not wired yet")]
async fn dev(_arguments: &Arguments, _command: &cli::DevArguments) -> Exit {
    output::failure("`dev` is not there yet", Exit::Internal)
}
