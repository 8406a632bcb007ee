//! The units as systemd reads them, and how much they are shut in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 3] = ["crank-agent.service", "crank-agent@.service", "crank-ca.service"];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd").join(name)
}

/// A directory with the units, their programs where this build has them.
fn units() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let text = fs::read_to_string(shipped(name)).unwrap();
        let text = text
            .replace("/usr/bin/crank-agent ", &format!("{} ", env!("CARGO_BIN_EXE_crank-agent")))
            .replace("/usr/bin/crank-ca ", &format!("{} ", env!("CARGO_BIN_EXE_crank-ca")));
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap()
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].concat().iter().map(|byte| char::from(*byte)).collect()
}

/// What is said about the unit itself; others of the host may be wrong in their own ways.
fn complaints(output: &Output) -> Vec<String> {
    text(output).lines().filter(|line| line.contains("crank")).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_finds_nothing_wrong_with_the_units_and_the_examples() {
    let directory = units();
    for name in UNITS {
        let name = name.replace("@.", "@streaming.");
        if name.contains("streaming") {
            fs::copy(directory.path().join("crank-agent@.service"), directory.path().join(&name)).unwrap();
        }
        let verified = analyze(&["verify", "--man=no"], &directory.path().join(&name));
        assert_eq!(complaints(&verified), [""; 0], "{name}");
    }
    // It does find what is wrong.
    let broken =
        fs::read_to_string(directory.path().join("crank-ca.service")).unwrap().replace("UMask=0077", "Umask=no");
    fs::write(directory.path().join("crank-ca.service"), broken).unwrap();
    let verified = analyze(&["verify", "--man=no"], &directory.path().join("crank-ca.service"));
    assert!(text(&verified).contains("Umask"), "{}", text(&verified));
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_units_are_shut_in_as_the_page_says() {
    let directory = units();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd.md")).unwrap();
    for (name, program) in [
        ("crank-agent.service", "crank-agent"),
        ("crank-agent@.service", "crank-agent"),
        ("crank-ca.service", "crank-ca"),
    ] {
        let output = analyze(&["security", "--offline=true"], &directory.path().join(name));
        let text = text(&output);
        let score =
            text.lines().last().and_then(|line| line.split(": ").nth(1)).and_then(|rest| rest.split(' ').next());
        let score: f64 = score.and_then(|score| score.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        let row = page.lines().find(|line| line.starts_with(&format!("| `{program}` |"))).expect("a row in the page");
        let stated: f64 = row.split('|').nth(2).unwrap().trim().parse().unwrap();
        assert!(score <= stated, "{name}: {score}, and the page says {stated}\n{text}");
        assert!(score >= stated - 0.3, "{name}: {score} is better than the page says: {stated}");
    }
}

#[test]
fn the_unit_for_one_worker_and_the_template_are_shut_in_alike() {
    let lines = |name: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(shipped(name)).unwrap().replace("%i", "worker");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (one, template) = (lines("crank-agent.service"), lines("crank-agent@.service"));
    let more: Vec<&String> = template.difference(&one).collect();
    assert_eq!(one.difference(&template).count(), 1, "its description");
    assert_eq!(
        more,
        [
            "Description=Certificate of the worker worker",
            "Environment=CRANK_SERVER_LISTEN=off",
            "Environment=SERVICE_NAME=worker"
        ]
    );
}

/// An agent sleeps for 30 s at most, and gives a sign of life with each awakening. Below a minute it would have to wake
/// up for the watchdog.
#[test]
fn the_watchdog_is_content_with_what_an_idle_agent_wakes_up_for_anyway() {
    for name in UNITS {
        let text = fs::read_to_string(shipped(name)).unwrap();
        assert!(text.contains("\nType=notify\n") && text.contains("\nWatchdogSec=3min\n"), "{name}");
    }
}

/// The system calls that the units forbid, by name, as systemd groups them.
#[test]
#[ignore = "needs systemd-analyze and strace"]
fn the_programs_make_no_system_call_that_the_units_forbid() {
    let allowed = |more: &[&str]| -> BTreeSet<String> {
        let set = |name: &str, seen: &mut BTreeSet<String>| flatten(name, seen);
        let mut calls = BTreeSet::new();
        set("@system-service", &mut calls);
        let mut forbidden = BTreeSet::new();
        set("@privileged", &mut forbidden);
        set("@resources", &mut forbidden);
        calls.retain(|call| !forbidden.contains(call));
        for name in more {
            set(name, &mut calls);
        }
        calls
    };
    let made = crate::traced::calls();
    assert!(made.agent.contains("fchown") && made.agent.contains("timerfd_create"), "{:?}", made.agent);
    let beyond = |made: &BTreeSet<String>, allowed: &BTreeSet<String>| -> Vec<String> {
        // systemd always allows what starts the program.
        made.difference(allowed).filter(|call| *call != "execve" && *call != "exit_group").cloned().collect()
    };
    assert_eq!(beyond(&made.agent, &allowed(&["@chown"])), [""; 0]);
    // SQLite gives its files to the owner of the database when it runs as root, which the tests may do and the unit does not.
    let mut beyond_ca = beyond(&made.ca, &allowed(&[]));
    beyond_ca.retain(|call| call != "fchown");
    assert_eq!(beyond_ca, [""; 0]);
}

/// The calls in a set, and in those that it names.
fn flatten(name: &str, seen: &mut BTreeSet<String>) {
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output().unwrap();
    assert!(output.status.success(), "{name}");
    for line in String::from_utf8(output.stdout).unwrap().lines().skip(1).map(str::trim) {
        if line.starts_with('@') {
            flatten(line, seen);
        } else if !line.is_empty() && !line.starts_with('#') {
            seen.insert(line.to_owned());
        }
    }
}
