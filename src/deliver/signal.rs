//! Owns the delivery by signal: who is meant, and whether it is still the one that was meant.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::action::Failure;
use super::process::{self, Process};
use super::settings::{ReloadSignal, Target};
use crate::bounded::read_file;

/// Signals everybody that is meant.
///
/// # Errors
/// [`Failure::Nobody`] where there is no such process; else what could not be done.
pub(super) fn send(signal: ReloadSignal, target: &Target) -> Result<(), Failure> {
    let mut reached = 0;
    for process in find(target)? {
        let (pid, name) = (process.facts().pid, &process.facts().name);
        match process.send(signal.0) {
            Ok(true) => reached += 1,
            Ok(false) => {}
            Err(error) => {
                let signal = signal.name();
                return Err(Failure::Failed(format!(
                    "cannot send {signal} to process {pid} ({name}): {error}; the agent needs the same user as the \
                     worker, or CAP_KILL"
                )));
            }
        }
    }
    if reached == 0 { Err(Failure::Nobody(format!("there is no process {target}"))) } else { Ok(()) }
}

fn find(target: &Target) -> Result<Vec<Process>, Failure> {
    let of_name = |process: &Process| target.process.as_ref().is_none_or(|name| process.facts().name == *name);
    if let Some(path) = &target.pid_file {
        let process = by_pid_file(path, target.process.is_some())?;
        return match process {
            Some(process) if !of_name(&process) => Err(Failure::Nobody(format!(
                "the process that {} names is called {}; expected {}",
                path.display(),
                process.facts().name,
                target.process.as_deref().unwrap_or_default()
            ))),
            process => Ok(process.into_iter().collect()),
        };
    }
    let candidates = match &target.cgroup {
        Some(directory) => match process::in_cgroup(directory) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::Nobody(format!("there is no control group {}", directory.display())));
            }
            Err(error) => return Err(cannot("read the control group", directory, &error)),
        },
        None => process::all().map_err(|error| cannot("list", Path::new("/proc"), &error))?,
    };
    let mut found = Vec::new();
    for pid in candidates {
        match Process::open(pid) {
            Ok(process) => found.extend(process.filter(of_name)),
            Err(error) => return Err(Failure::Failed(format!("cannot look at process {pid}: {error}"))),
        }
    }
    Ok(process::topmost(found))
}

/// The process that wrote the file, or for which it was written: one that is no younger than the file. Where its name is
/// checked, that says as much, and does not depend on the wall clock.
fn by_pid_file(path: &Path, name_is_known: bool) -> Result<Option<Process>, Failure> {
    let (pid, written) = match read(path) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::Nobody(format!("there is no pid file {}", path.display())));
        }
        Err(error) => return Err(cannot("read the pid file", path, &error)),
    };
    let opened = Process::open(pid).map_err(|error| cannot("look at the process of", path, &error))?;
    let Some(process) = opened else { return Ok(None) };
    let boot = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    let written = boot.saturating_sub(age);
    if !name_is_known && process.facts().started() > written + SLACK {
        return Err(Failure::Nobody(format!(
            "process {pid} ({}) is younger than {}: the number has gone to another, or the wall clock was set; with \
             `process` the name is checked instead",
            process.facts().name,
            path.display()
        )));
    }
    Ok(Some(process))
}

/// The number in a pid file, and when it was written.
fn read(path: &Path) -> io::Result<(i32, SystemTime)> {
    let written = std::fs::metadata(path)?.modified()?;
    let content = read_file(path, FILE_LIMIT).map_err(io::Error::other)?;
    let text = String::from_utf8_lossy(&content);
    // PostgreSQL's has further lines.
    let number = text.lines().next().and_then(|line| line.trim().parse().ok()).filter(|pid| *pid > 1);
    let number = number.ok_or_else(|| io::Error::other("expected the number of a process on its first line"))?;
    Ok((number, written))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot {what} {}: {error}", path.display()))
}

/// The most of a pid file that is read.
const FILE_LIMIT: u64 = 4 * 1024;

/// By how much clocks and file systems may round.
const SLACK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("/bin/sleep").arg("60").spawn().unwrap()
    }

    fn target(pid_file: &Path) -> Target {
        Target { pid_file: Some(pid_file.to_owned()), process: None, cgroup: None }
    }

    fn term() -> ReloadSignal {
        "TERM".parse().unwrap()
    }

    #[test]
    fn the_process_of_a_pid_file_is_signalled_once_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        assert!(matches!(send(term(), &target(&file)), Err(Failure::Nobody(_))));
        let mut child = sleeper();
        std::fs::write(&file, format!("{}\n/further\n", child.id())).unwrap();
        send(term(), &target(&file)).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(matches!(send(term(), &target(&file)), Err(Failure::Nobody(_))));
    }

    #[test]
    fn a_process_that_is_younger_than_the_file_is_another_and_is_spared() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let mut child = sleeper();
        std::fs::write(&file, child.id().to_string()).unwrap();
        let written = std::fs::File::options().append(true).open(&file).unwrap();
        written.set_modified(SystemTime::now() - Duration::from_mins(1)).unwrap();
        let Err(Failure::Nobody(reason)) = send(term(), &target(&file)) else { panic!("it was signalled") };
        assert!(reason.contains("younger"), "{reason}");
        assert!(child.try_wait().unwrap().is_none());
        // By its name it is known all the same, and by another it is not.
        let named = |name: &str| Target { process: Some(name.to_owned()), ..target(&file) };
        assert!(matches!(send(term(), &named("nginx")), Err(Failure::Nobody(_))));
        assert!(child.try_wait().unwrap().is_none());
        send(term(), &named("sleep")).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_file_that_names_no_process_of_anybody_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        for text in ["", "nginx", "-1", "0", "1", "99999999999999999999", "\u{0}"] {
            std::fs::write(&file, text).unwrap();
            let Err(Failure::Failed(reason)) = send(term(), &target(&file)) else { panic!("{text:?} was taken") };
            assert!(reason.contains(&file.display().to_string()), "{reason}");
        }
        assert!(matches!(send(term(), &target(directory.path())), Err(Failure::Failed(_))));
    }
}
