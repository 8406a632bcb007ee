//! Certificate directories on volumes that take nothing. Root mounts them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::processes::{Ca, Worker};
use rustix::process::Signal;

/// A mount that goes with the value.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path) -> Self {
        std::fs::create_dir(path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs"], path);
        Self(path)
    }

    fn remount(&self, mode: &str) {
        run("mount", &["-o", &format!("remount,{mode}")], self.0);
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    assert!(Command::new(program).args(arguments).arg(path).status().unwrap().success());
}

#[test]
#[ignore = "needs root"]
fn a_volume_that_takes_nothing_ends_init_with_73_and_costs_no_token() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let certificates = worker.certificates();
    let volume = Mount::new(&certificates);
    volume.remount("ro");
    let begun = Instant::now();
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(73), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("the CA was not asked") && text.contains("Read-only file system"), "{text}");
    volume.remount("rw");
    let filler = certificates.join("filler");
    let _ = std::fs::write(&filler, vec![0; 2 << 20]);
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(73), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space left"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    std::fs::remove_file(filler).unwrap();
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0), "the token still serves");
}

#[test]
#[ignore = "needs root"]
fn an_agent_serves_on_from_a_volume_that_has_become_read_only() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let certificates = worker.certificates();
    let volume = Mount::new(&certificates);
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
    let serial = worker.serial().unwrap();
    volume.remount("ro");
    let mut agent = worker.start();
    agent.event("CERT_ADOPTED", 1);
    agent.signal(Signal::USR1);
    let failed = agent.event("CERT_PUBLISH_FAILED", 2);
    assert_eq!(failed["error"]["kind"], "read_only", "{failed}");
    assert!(agent.is_running());
    assert_eq!((worker.serial().unwrap(), agent.count("CSR_SUBMITTED")), (serial.clone(), 0));
    volume.remount("rw");
    agent.event("CERT_RENEWED", 1);
    assert_ne!(worker.serial().unwrap(), serial);
}
