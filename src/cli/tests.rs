//! Owns the tests of the command line.

use clap::error::ErrorKind;
use crank_agent::config::{SETTINGS, Setting};

use super::*;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example() {
    // Those that are hidden are for whoever makes packages.
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:\n  "), "{}", command.get_name());
    }
}

#[test]
fn settings_before_and_after_the_command_are_all_kept() {
    let line = ["crank-agent", "--set", "a=1", "--worker-id", "x", "run", "--set", "b=2=3", "--worker-id", "y"];
    let cli = Cli::try_parse_from(line).unwrap();
    let report = crank_agent::config::load(&cli.arguments()).unwrap_err().to_string();
    assert!(report.contains("--set a\n") && report.contains("--set b\n"), "{report}");
}

#[test]
fn every_example_is_taken() {
    let mut root = Cli::command();
    root.build();
    let mut seen = 0;
    for command in std::iter::once(&root).chain(root.get_subcommands()) {
        for line in examples(command) {
            let words = words(&line);
            let (variables, words): (Vec<_>, Vec<_>) = words.iter().partition(|word| is_assignment(word));
            for variable in variables {
                let name = variable.split('=').next().unwrap_or_default();
                let own = |setting: &Setting| setting.aliases.contains(&name) || setting.environment_name() == name;
                assert!(SETTINGS.iter().any(own), "{line}: there is no variable {name}");
            }
            match Cli::try_parse_from(words) {
                Err(error) if error.kind() != ErrorKind::DisplayHelp => panic!("{line}: {error}"),
                _ => seen += 1,
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().skip(1).map_while(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
}

/// The words of an example, without what the shell or a Dockerfile makes of them.
fn words(line: &str) -> Vec<String> {
    if let Some(words) = line.strip_prefix("HEALTHCHECK CMD ") {
        return serde_json::from_str(words).unwrap();
    }
    let command = line.split(" > ").next().unwrap_or_default();
    command.split_whitespace().map(|word| if word == "COMMAND" { "run" } else { word }.to_owned()).collect()
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
}
