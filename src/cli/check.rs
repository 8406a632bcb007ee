//! Owns `check-config`.

use crank_agent::config::{Arguments, resolve, settings_markdown};
use crank_agent::exit::Exit;

use super::{CheckConfigArguments, output};

/// Prints the resolved configuration, or all problems.
pub(crate) fn run(arguments: &Arguments, command: &CheckConfigArguments) -> Exit {
    if command.settings_table {
        return output::result(settings_markdown(), Exit::Success);
    }
    match (resolve(arguments), command.json) {
        (Ok(resolution), true) => output::result(format!("{:#}\n", resolution.to_json()), Exit::Success),
        (Ok(resolution), false) => {
            for warning in &resolution.warnings {
                output::failure(format_args!("warning: {warning}"), Exit::Success);
            }
            output::result(resolution.to_toml(), Exit::Success)
        }
        (Err(report), true) => output::result(format!("{:#}\n", report.to_json()), Exit::Configuration),
        (Err(report), false) => output::failure(report, Exit::Configuration),
    }
}
