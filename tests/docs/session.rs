//! Owns the running of a documented shell session: in a directory of its own, with the built programs on the PATH and
//! free ports in place of those written. Whatever it leaves running is ended.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::polling::until_within;

/// How long anything may take. Generous, as the machine may be busy; nothing waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// How a session ended.
pub(crate) struct Ended {
    pub(crate) success: bool,
    /// What it wrote, to either stream.
    pub(crate) output: String,
}

/// Runs `script` with the shell, to its end.
pub(crate) fn run(script: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let script = script.replace("9090", &free_port().to_string());
    let probes = free_port().to_string();
    let script = script.replace("9443", &probes);
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", &script]).env("CRANK_SERVER_LISTEN", format!("127.0.0.1:{probes}"));
    let mut group = Group::start(command, directory.path());
    let success = until("the session ends", || group.child.try_wait().unwrap()).success();
    Ended { success, output: group.output() }
}

/// A program with everything it has started; ended when this is dropped.
pub(crate) struct Group {
    pub(crate) child: Child,
    output: PathBuf,
}

impl Group {
    /// Starts `command` in `directory`, which is its home too, with no environment but the programs on the PATH.
    pub(crate) fn start(mut command: Command, directory: &Path) -> Self {
        let output = directory.join(".output");
        let config = directory.join(".config.toml");
        fs::write(&config, "").unwrap();
        let log = File::create(&output).unwrap();
        let set: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command.env_clear();
        command.envs(set.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let programs = Path::new(env!("CARGO_BIN_EXE_crank-agent")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("HOME", directory).env("CRANK_CONFIG", config).current_dir(directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Self { child: command.spawn().unwrap(), output }
    }

    /// Everything written so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Of processes that have ended there is nothing to tell.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Polls until `find` finds something.
pub(crate) fn until<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, find)
}

/// A port on loopback that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_session_that_fails_is_told_and_leaves_nothing_running() {
    let ended = run("sleep 600 & echo $! > pid; cat pid; crank-agent check-config");
    assert!(!ended.success, "a worker id is missing");
    assert!(ended.output.contains("worker_id is not set"), "{}", ended.output);
    let pid = ended.output.lines().next().unwrap().to_owned();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    until("what it left is gone", || (state().is_empty() || state().contains(") Z ")).then_some(()));
}
