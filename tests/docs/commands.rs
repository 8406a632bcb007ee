//! Owns the test of every documented command: they are run, in the order they stand.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::built::example;
use crate::markdown::{Document, root};
use crate::session::{Ended, Group, free_port, run, until};

/// A page's shell blocks as one session, without those for cargo.
pub(crate) fn session_of(page: &str) -> String {
    let blocks = Document::read(page).blocks_in("sh");
    blocks.into_iter().filter(|block| !block.starts_with("cargo ")).collect::<Vec<_>>().join("\n")
}

fn assert_success(what: &str, ended: &Ended) {
    assert!(ended.success, "{what}:\n{}", ended.output);
}

#[test]
fn the_commands_of_the_readme_end_with_a_worker_that_is_ready() {
    let ended = run(&session_of("README.md"));
    assert_success("README.md", &ended);
    assert!(ended.output.contains("\nready         yes\n"), "{}", ended.output);
}

#[test]
fn the_commands_of_operations_speak_to_a_running_agent() {
    let ended = run(&[session_of("README.md"), session_of("docs/operations.md")].join("\n"));
    assert_success("docs/operations.md", &ended);
    for part in ["\nrenewed: serial ", "\"readiness\": {", "\nworker_id = \"streaming\" # environment variable"] {
        assert!(ended.output.contains(part), "no {part:?} in:\n{}", ended.output);
    }
}

#[test]
fn the_status_in_operations_has_the_lines_of_a_real_one() {
    let page = Document::read("docs/operations.md");
    let sample = page.blocks_in("text").remove(0);
    // Without its CA, so that there is a failure to show.
    let ending = "kill $ca\nwait $ca || true\ncrank-agent renew >&2 || true\necho ---\ncrank-agent status";
    let session = session_of("README.md").replace("--dns localhost &", "--dns localhost & ca=$!");
    let ended = run(&format!("{session}\n{ending}"));
    assert_success("status", &ended);
    let (_, real) = ended.output.split_once("\n---\n").unwrap();
    // The agent's log goes on beside it.
    let real = real.lines().filter(|line| !line.starts_with('{'));
    assert_eq!(labels(sample.lines()), labels(real), "{}", ended.output);
}

#[test]
#[ignore = "needs curl and openssl"]
fn the_commands_of_the_ca_issue_a_certificate() {
    // curl tries again until the CA, which has just been started, listens.
    let session = session_of("docs/crank-ca.md").replace("curl --fail", "curl --fail --retry 50 --retry-connrefused");
    let ended = run(&session);
    assert_success("docs/crank-ca.md", &ended);
    for part in ["root certificate  ca/authority/root.crt", "\"status\":\"healthy\"", "\"status\":\"success\"", "good"]
    {
        assert!(ended.output.contains(part), "no {part:?} in:\n{}", ended.output);
    }
}

#[test]
fn the_commands_of_the_ca_that_need_no_other_program_work() {
    let blocks = Document::read("docs/crank-ca.md").blocks_in("sh");
    let plain: Vec<String> = blocks.into_iter().filter(|block| !block.contains("curl")).collect();
    let ended = run(&plain.join("\n"));
    assert_success("docs/crank-ca.md", &ended);
    for worker in ["api", "streaming"] {
        assert!(
            ended.output.lines().any(|line| line.starts_with("tok_") && line.ends_with(worker)),
            "{}",
            ended.output
        );
    }
}

#[test]
fn the_commands_of_policy_try_the_shipped_rules() {
    let shipped = root().join("deploy/policy");
    let ended = run(&session_of("docs/policy.md").replace("deploy/policy", shipped.to_str().unwrap()));
    assert_success("docs/policy.md", &ended);
    for part in [" passed; rules sha256:", "\"allow\": true"] {
        assert!(ended.output.contains(part), "no {part:?} in:\n{}", ended.output);
    }
}

#[test]
fn the_commands_on_the_record_read_save_and_restore_it() {
    let ended = run(&session_of("docs/records.md"));
    assert_success("docs/records.md", &ended);
    for part in
        ["\nbackup written to backup-monday: 1 certificates, 0 workers, 1 tokens", "\nrestored to restored", "\ngood: "]
    {
        assert!(ended.output.contains(part), "no {part:?} in:\n{}", ended.output);
    }
}

#[test]
#[ignore = "needs openssl"]
fn the_commands_on_roots_work() {
    let ended = run(&session_of("docs/roots.md"));
    assert_success("docs/roots.md", &ended);
    for part in [
        "\nrequest  issuing.csr\n",
        "(issuing)\nroot certificate  below/",
        "cross-certified  by the old",
        "\nretired issuer ",
    ] {
        assert!(format!("\n{}", ended.output).contains(part), "no {part:?} in:\n{}", ended.output);
    }
}

/// Where each is run: the first three below, as debug builds; the others by the gate.
const CARGO: [&str; 5] = [
    "cargo run --release -- dev --lifetime 2m",
    "cargo run --example mtls-server -- \"$CERT_DIR\" 127.0.0.1:8443",
    "cargo run --example mtls-client -- \"$CERT_DIR\" https://localhost:8443/",
    "cargo test",
    "cargo build --release --no-default-features --target x86_64-unknown-linux-musl",
];

#[test]
fn the_commands_for_cargo_are_those_that_are_run_elsewhere() {
    let pages = Document::all();
    let blocks = pages.iter().flat_map(|page| page.blocks_in("sh"));
    let mut found: Vec<String> = blocks.filter(|block| block.starts_with("cargo ")).collect();
    found.sort();
    let mut known = CARGO.map(|line| format!("{line}\n"));
    known.sort();
    assert_eq!(found, known);
    let gate = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(gate.contains("\n  cargo test --locked 2>&1"));
    assert!(gate.contains("cargo build --locked --release --no-default-features --target \"$static_target\""));
}

#[test]
fn the_commands_of_the_library_have_a_client_greeted_by_a_server() {
    let commands = CARGO[1..3].iter().map(|line| {
        let (name, arguments) = line.strip_prefix("cargo run --example ").unwrap().split_once(" -- ").unwrap();
        format!("{} {arguments} &", example(name).display())
    });
    let commands = commands.collect::<Vec<_>>().join("\n").replace("8443", &free_port().to_string());
    // The client tries again until the server listens.
    let greeted = "until grep -q '^hello, spiffe://crank.local/worker/streaming$' answers; do sleep 0.1; done";
    let ended = run(&format!("{}\n(\n{commands}\nwait\n) > answers &\n{greeted}", session_of("README.md")));
    assert_success("docs/rust-library.md", &ended);
}

#[test]
fn the_first_command_of_the_readme_shows_what_the_readme_shows() {
    let page = Document::read("README.md");
    let sample = page.blocks_in("text").remove(0);
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_crank-agent");
    let (_, arguments) = CARGO[0].split_once(" -- ").unwrap();
    let mut command = Command::new("sh");
    // The log goes elsewhere, as it stands between the lines.
    command.args(["-c", &format!("exec '{program}' {arguments} 2>log")]);
    let mut dev = Group::start(command, directory.path());
    let all = until("what to look at next", || Some(dev.output()).filter(|text| text.contains("/metrics\n")));
    dev.signal(Signal::INT);
    let status = until("Ctrl-C ends it", || dev.child.try_wait().unwrap());
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    let here = directory.path().to_str().unwrap();
    let real = all.replace(program, "crank-agent").replace(here, "/home/you");
    assert_eq!(shape(&real), shape(&sample), "real:\n{real}\nREADME:\n{sample}");
}

/// The labels of a table for people: what stands in the first column.
fn labels<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines.map(|line| line.split("  ").next().unwrap_or_default().to_owned()).collect()
}

/// Text in which numbers, serials, digests and times are all the same.
fn shape(text: &str) -> String {
    let digits = text.trim().chars().map(|c| if c.is_ascii_hexdigit() && !c.is_uppercase() { '0' } else { c });
    let mut shape: Vec<char> = digits.collect();
    shape.dedup_by(|one, other| *one == '0' && *other == '0');
    shape.into_iter().collect()
}
