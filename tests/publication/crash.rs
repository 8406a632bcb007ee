//! Processes killed while they publish, at random instants and at every system call; system calls that fail.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crank_agent::identity::CertificateBundle;
use crank_agent::store::{Store, read_bundle};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::support::{
    TestCa, bundle, child, child_directory, config, current, generations, mode, names, now, record, wait_until,
    write_plain_files,
};

const KILLS: usize = 100;

#[test]
fn a_process_killed_at_any_instant_leaves_a_whole_generation_and_the_next_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for _ in 0..KILLS {
        let before = current(path);
        let mut child = child("crash::child_publishes_until_killed", path).spawn().unwrap();
        wait_until("the child publishes", || current(path) != before);
        // Some instant of the next publications.
        std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_whole(path);
        assert_recovers(path);
    }
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_publishes_until_killed() {
    let Some(path) = child_directory() else { return };
    let ca = TestCa::new();
    let bundles = [ca.bundle(), ca.bundle()];
    let store = Store::open(&config(&path)).unwrap();
    for number in 0_usize.. {
        store.publish(&bundles[number % 2], &record(), now()).unwrap();
    }
}

#[test]
#[ignore = "needs strace"]
fn a_process_killed_at_any_system_call_leaves_a_whole_pair() {
    at_every_system_call("signal=SIGKILL");
}

#[test]
#[ignore = "needs strace"]
fn a_system_call_that_fails_leaves_a_whole_pair() {
    at_every_system_call("error=EIO");
}

#[test]
#[ignore = "needs strace"]
fn a_volume_that_keeps_no_modes_or_owners_gets_no_key() {
    for call in ["fchmod", "fchown"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let ignored = format!("inject={call}:retval=0");
        let status = strace(&["-e", &ignored], "crash::child_finds_the_volume_unprotected", path).status().unwrap();
        assert!(status.success(), "{call}");
        assert_eq!(names(path), [".crank-agent.lock"], "{call}");
    }
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_finds_the_volume_unprotected() {
    let Some(path) = child_directory() else { return };
    let mut config = config(&path);
    config.key_mode = 0o640;
    config.group = Some(12_345);
    let store = Store::open(&config).unwrap();
    assert_eq!(store.publish(&bundle(), &record(), now()).unwrap_err().kind(), "unprotected");
}

/// Lets each system call in turn end in `fault`, while one certificate takes the place of another in a generation or in
/// plain files.
fn at_every_system_call(fault: &str) {
    let root = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    for plain in [false, true] {
        let prepared = |number: usize| {
            let path = root.path().join(format!("{plain}{number}"));
            fs::create_dir(&path).unwrap();
            prepare(&path, &ca.bundle(), plain);
            path
        };
        let log = root.path().join("log");
        let counted = ["-o", log.to_str().unwrap(), "-e", &format!("trace={CALLS}")];
        assert!(strace(&counted, CHILD, &prepared(0)).status().unwrap().success());
        let calls = fs::read_to_string(&log).unwrap().lines().count();
        assert!(calls > 40);
        for number in 1..=calls {
            let path = prepared(number);
            let before = read_bundle(&path).unwrap();
            let injected = format!("inject={CALLS}:{fault}:when={number}");
            let status = strace(&["-o", "/dev/null", "-e", &injected], CHILD, &path).status().unwrap();
            assert_whole(&path);
            let after = read_bundle(&path).unwrap();
            // Whoever is told of success has the new certificate.
            assert!(!status.success() || after.leaf_digest() != before.leaf_digest(), "{fault} at {number}");
            assert_recovers(&path);
            fs::remove_dir_all(path).unwrap();
        }
    }
}

fn prepare(path: &Path, bundle: &CertificateBundle, plain: bool) {
    if plain {
        write_plain_files(path, bundle);
    } else {
        Store::open(&config(path)).unwrap().publish(bundle, &record(), now()).unwrap();
    }
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_publishes_once() {
    let Some(path) = child_directory() else { return };
    let bundle = bundle();
    let store = Store::open(&config(&path)).unwrap();
    store.publish(&bundle, &record(), now()).unwrap();
}

const CHILD: &str = "crash::child_publishes_once";

const CALLS: &str = "mkdir,mkdirat,openat,openat2,fchmod,fchown,write,fsync,rename,renameat,renameat2,symlinkat,unlinkat,utimensat,\
     newfstatat,readlinkat,flock,ftruncate,getdents64";

/// A child process under strace.
fn strace(arguments: &[&str], test: &str, directory: &Path) -> Command {
    let child = child(test, directory);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(arguments).arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// One certificate and its key, by the stable paths and as documented.
fn assert_whole(path: &Path) {
    let read = |file: &str| fs::read(path.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    CertificateBundle::from_pem(&read("client.crt"), &read("client.key"), &read("ca.crt")).unwrap();
    read_bundle(path).unwrap();
}

/// The next process finds a certificate, and after it nothing else is left.
fn assert_recovers(path: &Path) {
    let mut config = config(path);
    config.keep_generations = Duration::ZERO;
    let store = Store::open(&config).unwrap();
    assert!(generations(path).iter().all(|name| mode(&path.join(name)) == 0o755), "an orphan is left");
    let left: Vec<String> = names(path).into_iter().filter(|name| name.contains("tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    let found = store.load().unwrap().expect("a certificate");
    assert_eq!(store.verify().unwrap(), []);
    store.publish(&found.bundle, &record(), now()).unwrap();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.sweep(now()).unwrap(), None);
    assert_eq!(generations(path).len(), 1);
}
