//! Owns the processes that are measured: starting them, reading them in `/proc`, ending them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Result;

/// A process in a group of its own, which ends with this value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// What an idle process takes.
pub(crate) struct Idle {
    /// `VmRSS`, in bytes.
    pub(crate) resident: u64,
    /// `RssAnon`, in bytes.
    pub(crate) anonymous: u64,
    /// User and system time, to the clock tick.
    pub(crate) processor_time: Duration,
    wake_ups: u64,
    watched: Duration,
}

impl Process {
    /// Starts `command` with its output in the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `condition` holds, while the process lives.
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if condition() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let state = ended.map_or_else(|| format!("not after {DEADLINE:?}"), |status| status.to_string());
                return Err(format!("waiting for {what}: {state}; its output:\n{}", self.output()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has written.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Idle {
    /// Lets the process `id` settle, then watches it for the time given.
    pub(crate) fn watch(id: u32, watched: Duration) -> Result<Self> {
        // Threads that wait for blocking work end after some seconds without any.
        thread::sleep(SETTLE);
        let (wake_ups_before, time_before) = (wake_ups(id)?, processor_time(id)?);
        thread::sleep(watched);
        let wake_ups_after = wake_ups(id)?;
        Ok(Self {
            resident: status_bytes(id, "VmRSS")?,
            anonymous: status_bytes(id, "RssAnon")?,
            processor_time: processor_time(id)?.saturating_sub(time_before),
            wake_ups: wake_ups_after
                .iter()
                .map(|(thread, count)| count - wake_ups_before.get(thread).unwrap_or(&0).min(count))
                .sum(),
            watched,
        })
    }

    /// Times a minute that any of its threads woke from waiting.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn wake_ups_per_minute(&self) -> f64 {
        self.wake_ups as f64 * 60.0 / self.watched.as_secs_f64()
    }
}

/// Voluntary context switches of each thread: a thread that wakes has waited before, and waits again.
fn wake_ups(id: u32) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        let task = task?;
        let status = fs::read_to_string(task.path().join("status"))?;
        counts.insert(task.file_name().to_string_lossy().into_owned(), field(&status, "voluntary_ctxt_switches")?);
    }
    Ok(counts)
}

/// A size in `/proc/PID/status`, in bytes.
pub(crate) fn status_bytes(id: u32, key: &str) -> Result<u64> {
    Ok(field(&fs::read_to_string(format!("/proc/{id}/status"))?, key)? * 1024)
}

/// The number after `key:`.
fn field(status: &str, key: &str) -> Result<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("no {key} in /proc"))?.parse()?)
}

/// `utime` and `stime` of `/proc/PID/stat`, in ticks of 10 ms (`USER_HZ` is 100 on every Linux that Rust runs on).
pub(crate) fn processor_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold anything; the fields after it are numbers, utime and stime the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err("cannot read the times in /proc/PID/stat".into()),
    }
}

const DEADLINE: Duration = Duration::from_mins(1);
const SETTLE: Duration = Duration::from_secs(15);
