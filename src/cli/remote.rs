//! Owns the commands that speak to a running agent: `status`, `health`, `renew`.

use std::path::PathBuf;

use crank_agent::clock::{Clock, SystemClock};
use crank_agent::config::{Arguments, control_socket};
use crank_agent::control::client;
use crank_agent::exit::Exit;
use crank_agent::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};

use super::{HealthArguments, RenewArguments, SocketFlag, StatusArguments, output, table};

/// Prints the agent's state.
pub(crate) async fn status(arguments: &Arguments, command: &StatusArguments) -> Exit {
    let socket = match socket(arguments, &command.socket) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    match client::status(&socket).await {
        Ok(report) if command.json => match serde_json::to_string_pretty(&report) {
            Ok(text) => output::result(text + "\n", Exit::Success),
            Err(error) => output::failure(format_args!("cannot write the state as JSON: {error}"), Exit::Internal),
        },
        Ok(report) => output::result(table::status(&report, SystemClock.now().wall), Exit::Success),
        Err(error) => output::failure(error_chain(&error), error.exit()),
    }
}

/// Tells whether the agent is ready.
pub(crate) async fn health(arguments: &Arguments, command: &HealthArguments) -> Exit {
    let socket = match socket(arguments, &command.socket) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    match client::health(&socket).await {
        Ok(readiness) if readiness.ready => output::result("ready\n", Exit::Success),
        Ok(readiness) => {
            let reason = printable(&readiness.reason.unwrap_or_default(), FOREIGN_TEXT_LIMIT);
            output::result(format!("not ready: {reason}\n"), Exit::NotReady)
        }
        Err(error) => output::failure(error_chain(&error), error.exit()),
    }
}

/// Has the agent renew and tells the outcome.
pub(crate) async fn renew(arguments: &Arguments, command: &RenewArguments) -> Exit {
    let socket = match socket(arguments, &command.socket) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    match client::renew(&socket, command.timeout).await {
        Ok(certificate) => {
            let serial = printable(&certificate.serial, FOREIGN_TEXT_LIMIT);
            let until = table::moment(certificate.expires_at);
            output::result(format!("renewed: serial {serial}, valid until {until}\n"), Exit::Success)
        }
        Err(error) => output::failure(format_args!("not renewed: {}", error_chain(&error)), error.exit()),
    }
}

/// The socket of the running agent: the one named, or the configured one.
fn socket(arguments: &Arguments, flag: &SocketFlag) -> Result<PathBuf, Exit> {
    if let Some(socket) = &flag.socket {
        return Ok(socket.clone());
    }
    control_socket(arguments).map_err(|report| output::failure(report, Exit::Configuration))
}
