//! Owns finding the processes that a signal is for, and sending it to those and no others: what has taken over the number
//! of a process that ended is never signalled.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process, held by a descriptor: a signal reaches it or nobody.
#[derive(Debug)]
pub(super) struct Process {
    descriptor: OwnedFd,
    facts: Facts,
}

/// What `/proc/PID/stat` tells (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) pid: i32,
    pub(super) name: String,
    parent: i32,
    /// Since boot, in clock ticks.
    started: u64,
}

impl Process {
    /// The process with this number; `None`: there is none.
    pub(super) fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Ok(None) };
        let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after it was opened: if this tells of another process, the descriptor leads to one that has ended.
        Ok(Facts::of(pid)?.map(|facts| Self { descriptor, facts }))
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// `false`: it has ended.
    pub(super) fn send(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Facts {
    fn of(pid: i32) -> io::Result<Option<Self>> {
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name stands in parentheses and may hold anything, these too. A dead process that nobody has waited for counts
    /// as none.
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // Field 22, of which 4 are behind.
        let started = fields.nth(17)?.parse().ok()?;
        let alive = !matches!(state, "Z" | "X");
        alive.then_some(Self { pid: pid.parse().ok()?, name: name.to_owned(), parent, started })
    }

    /// When it started, since boot.
    pub(super) fn started(&self) -> Duration {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_millis(self.started.saturating_mul(1_000) / ticks)
    }
}

/// The numbers of all processes that can be seen, but not our own.
pub(super) fn all() -> io::Result<BTreeSet<i32>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        found.extend(pid.filter(|pid| *pid != own));
    }
    Ok(found)
}

/// The numbers of the processes in a control group and in those below it.
pub(super) fn in_cgroup(directory: &Path) -> io::Result<BTreeSet<i32>> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs"))?;
    let mut found: BTreeSet<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(in_cgroup(&entry.path())?);
        }
    }
    Ok(found)
}

/// Of these processes, those whose parent is not among them: the master of a server, not its workers.
pub(super) fn topmost(processes: Vec<Process>) -> Vec<Process> {
    let all: BTreeSet<i32> = processes.iter().map(|process| process.facts.pid).collect();
    processes.into_iter().filter(|process| !all.contains(&process.facts.parent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_are_read_whatever_a_process_is_called() {
        let line = |name: &str, state: &str| {
            format!(
                "77 ({name}) {state} 5 77 77 0 -1 4194560 1 0 0 0 2 1 0 0 20 0 1 0 123456 2000 300 18446744073709551615"
            )
        };
        for name in ["nginx", "a b", "x) R 1 (y", ""] {
            let facts = Facts::parse(&line(name, "S")).unwrap();
            assert_eq!(facts, Facts { pid: 77, name: name.to_owned(), parent: 5, started: 123_456 });
        }
        assert_eq!(Facts::parse(&line("gone", "Z")), None);
        for bad in ["", "77", "77 (x", "77 (x) S", "77 (x) S 5 77", "x (x) S 5"] {
            assert_eq!(Facts::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn of_a_tree_the_topmost_is_found_and_what_has_ended_is_none() {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]).stdout(std::process::Stdio::piped());
        let mut parent = command.spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut line).unwrap();
        let child: i32 = line.trim().parse().unwrap();
        let number = i32::try_from(parent.id()).unwrap();
        let open = |pid| Process::open(pid).unwrap().unwrap();
        let top = topmost(vec![open(child), open(number)]);
        assert_eq!(top.iter().map(|process| process.facts.pid).collect::<Vec<_>>(), [number]);
        assert!(all().unwrap().contains(&child));
        let (held, held_child) = (open(number), open(child));
        assert!(held_child.send(Signal::TERM).unwrap());
        parent.wait().unwrap();
        assert!(!held.send(Signal::TERM).unwrap(), "nobody is there");
        assert!(Process::open(number).unwrap().is_none());
    }
}
