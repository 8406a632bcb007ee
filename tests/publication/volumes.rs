//! Volumes that are full, read-only or someone else's. Root mounts and owns them.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crank_agent::store::{ChangeKind, Store, StoreError, read_bundle};

use crate::support::{
    bundle, child_directory, child_of, config, generations, mode, names, now, record, set_mode, wait_until,
};

/// A mount that goes with the value.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path, arguments: &[&str]) -> Self {
        let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
        assert!(status.success(), "mount {arguments:?}");
        Self(path)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
#[ignore = "needs root"]
fn a_full_volume_keeps_the_last_good_generation_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let _mount = Mount::new(path, &["-t", "tmpfs", "-o", "size=96k,mode=0755", "tmpfs"]);
    let mut config = config(path);
    config.keep_generations = std::time::Duration::ZERO;
    let store = Store::open(&config).unwrap();
    let (good, next) = (bundle(), bundle());
    store.publish(&good, &record(), now()).unwrap();
    store.check_writable(now()).unwrap();

    // One page more free each time, so that the volume is full at each file in turn.
    let filler = path.join("filler");
    let size = fill(&filler);
    let mut failed_at = BTreeSet::new();
    for free in 0..24 {
        File::options().write(true).open(&filler).unwrap().set_len(size - free * PAGE).unwrap();
        let before = names(path);
        let Err(error) = store.publish(&next, &record(), now()) else { break };
        assert_eq!(error.kind(), "no_space");
        let text = chain(&error);
        assert!(text.starts_with("cannot publish generation ..") && text.contains("No space left"), "{text}");
        failed_at.insert(text.rsplit_once(": ").unwrap().0.rsplit_once('/').unwrap().1.to_owned());
        assert_eq!(names(path), before);
        assert_eq!(read_bundle(path).unwrap().leaf_digest(), good.leaf_digest());
        assert_eq!(store.verify().unwrap(), []);
        assert!(store.usable(now().wall));
    }
    let files = [".renewal.json", "ca.crt", "client.crt", "client.key", "credential-bundle.pem"];
    assert_eq!(failed_at, files.map(str::to_owned).into());
    assert_eq!(read_bundle(path).unwrap().leaf_digest(), next.leaf_digest());
}

const PAGE: u64 = 4096;

/// Fills the volume with `path`, to the last page, and returns its length.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    // The kernel may refuse a few pages too early, while processors disagree about what is free.
    wait_until("the volume is full", || {
        while file.write_all(&[1; 4096]).is_ok() {}
        rustix::fs::statvfs(path).unwrap().f_bfree == 0
    });
    file.metadata().unwrap().len()
}

#[test]
#[ignore = "needs root"]
fn a_full_volume_is_told_before_the_ca_is_asked_and_the_store_opens_on_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let _mount = Mount::new(path, &["-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs"]);
    let good = bundle();
    let store = Store::open(&config(path)).unwrap();
    store.publish(&good, &record(), now()).unwrap();
    drop(store);
    fill(&path.join("filler"));
    let store = Store::open(&config(path)).unwrap();
    assert_eq!(store.load().unwrap().unwrap().bundle.leaf_digest(), good.leaf_digest());
    assert_eq!(store.check_writable(now()).unwrap_err().kind(), "no_space");
    assert_eq!(generations(path).len(), 1);
}

#[test]
#[ignore = "needs root"]
fn a_read_only_volume_is_read_and_its_state_told() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let _mount = Mount::new(path, &["-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs"]);
    let (good, next) = (bundle(), bundle());
    let store = Store::open(&config(path)).unwrap();
    store.publish(&good, &record(), now()).unwrap();

    let remount = |options: &str| {
        let status = Command::new("mount").args(["-o", options]).arg(path).status().unwrap();
        assert!(status.success(), "{options}");
    };
    // The running agent, and one that starts.
    drop(store);
    remount("remount,ro");
    let store = Store::open(&config(path)).unwrap();
    assert_eq!(store.load().unwrap().unwrap().bundle.leaf_digest(), good.leaf_digest());
    assert!(store.usable(now().wall));
    assert_eq!(store.check_writable(now()).unwrap_err().kind(), "read_only");
    assert_eq!(store.publish(&next, &record(), now()).unwrap_err().kind(), "read_only");
    assert_eq!(store.sweep(now()).unwrap_err().kind(), "read_only");
    remount("remount,rw");
    store.publish(&next, &record(), now()).unwrap();
    assert_eq!(read_bundle(path).unwrap().leaf_digest(), next.leaf_digest());
}

#[test]
#[ignore = "needs root"]
fn files_belong_to_the_configured_owner_and_group() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let mut config = config(path);
    config.owner = Some(12_345);
    config.group = Some(54_321);
    config.key_mode = 0o640;
    let bundle = bundle();
    let store = Store::open(&config).unwrap();
    store.publish(&bundle, &record(), now()).unwrap();
    for file in ["client.crt", "client.key", "ca.crt", "credential-bundle.pem"] {
        let metadata = fs::metadata(path.join(file)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 54_321), "{file}");
    }
    assert_eq!(mode(&path.join("..data/client.key")), 0o640);
    assert_eq!(store.verify().unwrap(), []);

    chown(path.join("client.key"), Some(7), None).unwrap();
    let changes = store.verify().unwrap();
    assert_eq!(changes[0].kind, ChangeKind::Owner { user: 7, group: 54_321 });
    store.heal(&bundle, &record(), now()).unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn a_group_comes_from_a_set_group_id_directory() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    chown(path, None, Some(54_321)).unwrap();
    set_mode(path, 0o2755);
    let store = Store::open(&config(path)).unwrap();
    store.publish(&bundle(), &record(), now()).unwrap();
    assert_eq!(fs::metadata(path.join("client.key")).unwrap().gid(), 54_321);
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn an_agent_without_the_right_to_write_or_to_give_away_says_so() {
    let root = tempfile::tempdir().unwrap();
    set_mode(root.path(), 0o755);
    let (closed, open) = (root.path().join("closed"), root.path().join("open"));
    for (path, mode) in [(&closed, 0o755), (&open, 0o777)] {
        fs::create_dir(path).unwrap();
        set_mode(path, mode);
    }
    let program = root.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (test, path) in
        [("volumes::child_has_no_right_to_write", &closed), ("volumes::child_has_no_right_to_give_away", &open)]
    {
        let status = child_of(&program, test, path).uid(65_534).gid(65_534).status().unwrap();
        assert!(status.success(), "{test}");
    }
    assert!(names(&closed).is_empty());
    assert_eq!(names(&open), [".crank-agent.lock"]);
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_has_no_right_to_write() {
    let Some(path) = child_directory() else { return };
    let store = Store::open(&config(&path)).unwrap();
    assert!(store.load().unwrap().is_none());
    assert_eq!(store.check_writable(now()).unwrap_err().kind(), "permission");
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_has_no_right_to_give_away() {
    let Some(path) = child_directory() else { return };
    let mut config = config(&path);
    config.owner = Some(0);
    let store = Store::open(&config).unwrap();
    let error = store.publish(&bundle(), &record(), now()).unwrap_err();
    assert_eq!(error.kind(), "permission");
    assert!(chain(&error).contains("cannot set the owner and group of"), "{}", chain(&error));
}
