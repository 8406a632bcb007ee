//! Owns the peer that is measured side by side: certmonger, the certificate daemon of many Linux distributions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::Result;
use crate::process::{Idle, Process};

/// Another program that keeps certificates, doing nothing.
pub(crate) struct Peer {
    /// Its name and version.
    pub(crate) name: String,
    /// The size of its program file, in bytes.
    pub(crate) size: u64,
    /// What it takes.
    pub(crate) idle: Idle,
}

/// certmonger on a message bus of its own, without any request; `None` where it is not installed.
pub(crate) fn certmonger(watched: Duration) -> Result<Option<Peer>> {
    let (Some(program), Some(_)) = (find("certmonger"), find("dbus-run-session")) else { return Ok(None) };
    let version = Command::new(&program).arg("-v").output()?;
    let directory = TempDir::new()?;
    let id_file = directory.path().join("id");
    let mut session = Process::start(
        Command::new("dbus-run-session").arg("--").arg(&program).args(["-s", "-n", "-B", "-p"]).arg(&id_file),
        &directory.path().join("log"),
    )?;
    let read_id = |file: &Path| fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    session.wait_for("certmonger to start", || read_id(&id_file).is_some())?;
    let id = read_id(&id_file).ok_or("certmonger wrote no process id")?;
    Ok(Some(Peer {
        name: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
        size: fs::metadata(&program)?.len(),
        idle: Idle::watch(id, watched)?,
    }))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
