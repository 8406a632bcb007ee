//! Owns the tracing of the programs at their work: which system calls they make.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Ca, Worker, until};

/// The names of the system calls of each program.
pub(crate) struct Calls {
    pub(crate) agent: BTreeSet<String>,
    pub(crate) ca: BTreeSet<String>,
}

/// Has an agent enrol, renew and give its files to a group, at a CA that is traced too.
pub(crate) fn calls() -> Calls {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::stopped("1h");
    let mut serve = ca.command(&["serve"]);
    serve.args(["--listen", &ca.address.to_string(), "--dns", "localhost", "--lifetime", "1h"]);
    let (ca_trace, agent_trace) = (directory.path().join("ca"), directory.path().join("agent"));
    let mut serving = traced(&serve, &ca_trace);
    until("the CA listens", || std::net::TcpStream::connect(ca.address).ok());
    let group = rustix::process::getgid().as_raw().to_string();
    let worker = Worker::of(&ca, "streaming").with("CRANK_FILES_GROUP", &group);
    let mut agent = traced(&worker.command(&["run"]), &agent_trace);
    until("a certificate", || worker.serial());
    until("it is ready", || worker.run_once(&["health"]).status.success().then_some(()));
    assert!(worker.run_once(&["renew"]).status.success());
    for (process, trace) in [(&mut agent, &agent_trace), (&mut serving, &ca_trace)] {
        end(process, trace);
    }
    Calls { agent: names(&agent_trace), ca: names(&ca_trace) }
}

fn traced(command: &Command, trace: &Path) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "--quiet=all", "--output"]).arg(trace).arg("--").arg(command.get_program());
    strace.args(command.get_args()).env_clear();
    strace.env("PATH", std::env::var_os("PATH").unwrap());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Ends the traced program, which ends its tracer.
fn end(tracer: &mut Child, trace: &Path) {
    let first = fs::read_to_string(trace).unwrap();
    let id: i32 = first.split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
    until("the traced program ends", || tracer.try_wait().unwrap());
}

/// `1234  name(…) = 0`, or `1234  <... name resumed>…`.
fn names(trace: &Path) -> BTreeSet<String> {
    let text = fs::read(trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    let calls = text.lines().filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('));
    let is_name =
        |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    calls.map(|(name, _)| name).filter(is_name).map(str::to_owned).collect()
}
