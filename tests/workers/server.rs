//! Owns the server under test: an example's text with paths of the test's own, and the process.

use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::processes::until;

/// A file of `deploy/examples`.
#[derive(Clone)]
pub(crate) struct Example(String);

pub(crate) fn example(path: &str) -> Example {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples").join(path);
    Example(fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

impl Example {
    /// The same with `to` wherever `from` is, which it must be.
    pub(crate) fn with(self, from: &str, to: impl Display) -> Self {
        assert!(self.0.contains(from), "no {from} in:\n{}", self.0);
        Self(self.0.replace(from, &to.to_string()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// A program of the lab or of the system.
pub(crate) fn on_the_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("needs {name} on the PATH; tests/lab/install puts it there"))
}

/// A server and the directory of its files. It ends with this.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    pub(crate) command: Command,
    /// Where its number is to be written.
    pub(crate) pid_file: Option<String>,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn new(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.current_dir(directory.path());
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        // A group of its own, to be ended as a whole.
        command.process_group(0);
        Self { directory, command, pid_file: None, process: None }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Has it, and `other`, run as another user.
    pub(crate) fn become_user(&mut self, id: u32, other: &mut Command) {
        self.command.uid(id).gid(id);
        other.uid(id).gid(id);
    }

    pub(crate) fn start(&mut self) {
        let log = File::create(self.file("server.log")).unwrap();
        self.command.stdout(log.try_clone().unwrap()).stderr(log);
        let process = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        if let Some(path) = &self.pid_file {
            fs::write(path, process.id().to_string()).unwrap();
        }
        self.process = Some(process);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("server.log")).unwrap_or_default()
    }

    pub(crate) fn assert_running(&mut self) {
        let ended = self.process.as_mut().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "it has ended with {ended:?}:\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the log of the server:\n{}", self.log());
        }
        let Some(mut process) = self.process.take() else { return };
        let id = Pid::from_child(&process);
        // At once, and orderly enough to end its children: all servers here know QUIT or INT so.
        for signal in [Signal::INT, Signal::TERM] {
            let _ = kill_process(id, signal);
        }
        if !thread::panicking() {
            until("the server ends", || process.try_wait().unwrap());
        }
        let _ = kill_process_group(id, Signal::KILL);
        let _ = process.wait();
    }
}
