//! The real binary: help, exit codes, and what goes to standard output and what to standard error.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the binary with no environment but these variables.
fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    command(variables, arguments).output().unwrap()
}

fn command(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crank-agent"));
    command.env_clear().env("HOME", "/home/someone").envs(variables.iter().copied()).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An empty configuration file, so that none of the machine's is read.
fn empty_file() -> tempfile::NamedTempFile {
    tempfile::NamedTempFile::new().unwrap()
}

const COMMANDS: [&str; 7] = ["run", "init", "status", "health", "renew", "check-config", "completions"];

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["run", "--no-such-flag"],
        &["run", "--set", "no-equals-sign"],
        &["renew", "--timeout", "soon"],
        &["renew", "--timeout", "1d"],
        &["status", "extra"],
        &["completions", "no-such-shell"],
        &["--insecure", "run"],
    ] {
        let output = run(&[], arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_shows_every_command_examples_and_exit_codes() {
    let output = run(&[], &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for part in COMMANDS.iter().copied().chain(["Examples:", "Exit codes:", "  69  CA unavailable", "  78  wrong conf"])
    {
        assert!(help.contains(part), "{part} is not in:\n{help}");
    }
    for name in COMMANDS {
        let output = run(&[], &[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(text(&output.stdout).contains("Examples:\n"), "{name}");
    }
    assert_eq!(text(&run(&[], &["--version"]).stdout), format!("crank-agent {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&[], &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("check-config"), "{shell}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_all_problems_for_every_command_that_needs_it() {
    let file = empty_file();
    let file = file.path().to_str().unwrap();
    for name in ["run", "init", "check-config"] {
        let output = run(&[("HTTPS_ONLY", "false"), ("CRANK_CA_URL", "http://ca")], &[name, "--config", file]);
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert!(output.stdout.is_empty(), "{name}");
        let problems = text(&output.stderr);
        for part in ["has 3 problems", "worker_id is not set", "SERVICE_NAME", "https_only = \"false\"", "ca.url"] {
            assert!(problems.contains(part), "{part} is not in:\n{problems}");
        }
    }
}

#[test]
fn check_config_prints_what_can_serve_as_a_file() {
    let file = empty_file();
    let arguments = ["check-config", "--config", file.path().to_str().unwrap(), "--cert-dir", "certs"];
    let first = run(&[("SERVICE_NAME", "streaming"), ("CRANK_NOTHING", "x")], &arguments);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let warning = "crank-agent: warning: environment variable CRANK_NOTHING is no setting and is ignored\n";
    assert_eq!(text(&first.stderr), warning);
    let view = text(&first.stdout);
    assert!(view.contains("worker_id = \"streaming\" # environment variable SERVICE_NAME\n"), "{view}");
    let here = std::env::current_dir().unwrap().join("certs");
    assert!(view.contains(&format!("directory = {:?} # --cert-dir\n", here.display().to_string())), "{view}");

    std::fs::write(file.path(), &view).unwrap();
    let second = run(&[], &["check-config", "--config", file.path().to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    let values = |view: &str| -> Vec<String> {
        view.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&text(&second.stdout)), values(&view));
}

#[test]
fn check_config_prints_json_in_both_cases() {
    let file = empty_file();
    let arguments = ["check-config", "--json", "--config", file.path().to_str().unwrap()];
    let good = run(&[("SERVICE_NAME", "streaming")], &arguments);
    let value: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((good.status.code(), &value["valid"]), (Some(0), &true.into()));
    assert_eq!(value["settings"]["worker_id"]["value"], "streaming");
    let bad = run(&[], &arguments);
    let value: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((bad.status.code(), &value["valid"]), (Some(78), &false.into()));
    assert_eq!(value["problems"][0]["key"], "worker_id");
}

#[test]
fn the_settings_table_needs_no_configuration() {
    let output = run(&[], &["check-config", "--settings-table"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), crank_agent::config::settings_markdown());
}

#[test]
fn commands_for_a_running_agent_end_with_69_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    for name in ["status", "health", "renew"] {
        // Without a worker id: where the socket is does not depend on it.
        let output = run(&[("CERT_DIR", directory), ("CRANK_CONFIG", "/dev/null/none")], &[name]);
        assert_eq!(output.status.code(), Some(78), "{name}: a file that was named must exist");
        let file = empty_file();
        let output = run(&[("CERT_DIR", directory)], &[name, "--config", file.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(69), "{name}");
        let expected = format!("no agent answers on {directory}/.crank-agent.sock: No such file");
        assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child =
        command(&[], &["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn a_full_disk_at_standard_output_is_a_failure() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&[], &["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(70));
    assert!(text(&output.stderr).contains("No space left"));
}
