//! Owns a host that systemd has booted, in namespaces of its own. Needs root.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::polling::until_within;

/// How long anything may take. Generous, as the machine may be busy; nothing waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A running host. It ends, with all that it wrote, when this is dropped.
pub(crate) struct Host {
    process: Child,
    cgroup: String,
    /// The first process, as this machine numbers it.
    first: u32,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    /// Boots one whose `/mnt` is `directory`, and waits until everything is started.
    pub(crate) fn boot(directory: &Path) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cgroup = format!("crank-lab-systemd-{}", std::process::id());
        let process = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/systemd"))
            .args(["boot", &cgroup])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut host = Self { process, cgroup, first: 0, _turn: turn };
        until_within(PATIENCE, "systemd is started", || {
            let ended = host.process.try_wait().unwrap();
            assert!(ended.is_none(), "tests/lab/systemd: {ended:?}");
            host.first = first_process(host.process.id())?;
            let (_, said) = host.attempt("systemctl is-system-running");
            // Something of Debian's may not start in a container; what is tested is looked at by itself.
            ["running\n", "degraded\n"].contains(&said.as_str()).then_some(())
        });
        host
    }

    /// Runs a script of the shell on the host, and returns what it wrote. It must succeed.
    pub(crate) fn run(&self, script: &str) -> String {
        let (success, said) = self.attempt(script);
        assert!(success, "{script}\n{said}\n{}", self.journal());
        said
    }

    /// The same, whether it succeeds or not.
    pub(crate) fn attempt(&self, script: &str) -> (bool, String) {
        let output = Command::new("nsenter")
            .args(["--target", &self.first.to_string(), "--all"])
            .args(["/usr/bin/env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["sh", "-ec", &format!("exec 2>&1\ncd\n{script}")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    /// What systemd says of a property of `unit`.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --property {property} --value {unit}")).trim_end().to_owned()
    }

    /// Polls until a property is `value`.
    pub(crate) fn until(&self, unit: &str, property: &str, value: &str) {
        let mut last = String::new();
        until_within(PATIENCE, &format!("{property} of {unit} is {value}"), || {
            last = self.property(unit, property);
            (last == value).then_some(())
        });
    }

    /// The number that this machine has for a process of the host.
    pub(crate) fn process_here(&self, process: &str) -> String {
        let same = |path: &str| fs::read_link(path).ok();
        let namespace = same(&format!("/proc/{}/ns/pid", self.first)).unwrap();
        let found = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let mut found = found.filter(|id| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            inner.split_whitespace().last() == Some(process)
                && same(&format!("/proc/{id}/ns/pid")).as_ref() == Some(&namespace)
        });
        found.next().unwrap_or_else(|| panic!("no process {process} on the host"))
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        assert!(!text.contains("END-OF-FILE"));
        self.run(&format!("mkdir -p \"$(dirname '{path}')\"\ncat > '{path}' << 'END-OF-FILE'\n{text}\nEND-OF-FILE"));
    }

    /// The end of the journal, for a test that fails.
    fn journal(&self) -> String {
        self.attempt("systemctl --no-pager --failed; journalctl --no-pager --output cat --lines 40").1
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.first != 0 {
            println!("{}", self.journal());
        }
        // The child of unshare is the first process of its namespace, and is killed with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("find")
            .args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path"])
            .arg(format!("*/{}*", self.cgroup))
            .args(["-exec", "rmdir", "{}", ";"])
            .stderr(Stdio::null())
            .status();
    }
}

/// Only once it is systemd, in the host's own file system.
fn first_process(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    if name.trim_end() == "systemd" { child.parse().ok() } else { None }
}
