//! Someone else can write to the certificate directory. Nothing outside it is written, changed or removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crank_agent::store::{Store, read_bundle};
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::support::{
    bundle, config, current, generations, inode, mode, names, now, record, set_mode, write_plain_files,
};

const GENERATION_NAME: &str = "..2026_08_20_12_34_56.9f3c2a1b00d4e5f6";

/// Name, inode, mode and content of each file.
type Snapshot = Vec<(String, u64, u32, Vec<u8>)>;

/// What is planted in the place of the lock, and how.
type Plant = (&'static str, fn(&Scene, &Path));

/// A certificate directory, and beside it a place that must stay as it is.
struct Scene {
    _root: tempfile::TempDir,
    certs: PathBuf,
    outside: PathBuf,
    before: Snapshot,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (certs, outside) = (root.path().join("certs"), root.path().join("outside"));
        fs::create_dir(&certs).unwrap();
        fs::create_dir(&outside).unwrap();
        write_plain_files(&outside, &bundle());
        set_mode(&outside.join("client.key"), 0o666);
        let before = snapshot(&outside);
        Self { _root: root, certs, outside, before }
    }

    /// A whole life: open, publish twice, heal, remove what is old, open again.
    fn live(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut config = config(&self.certs);
        config.keep_generations = Duration::ZERO;
        let (first, second) = (bundle(), bundle());
        let store = Store::open(&config)?;
        let _ = store.load();
        store.publish(&first, &record(), now())?;
        store.publish(&second, &record(), now())?;
        store.sweep(now())?;
        store.heal(&second, &record(), now())?;
        drop(store);
        let store = Store::open(&config)?;
        store.sweep(now())?;
        assert_eq!(store.load()?.unwrap().bundle.leaf_digest(), second.leaf_digest());
        Ok(())
    }

    fn assert_outside_untouched(&self) {
        assert_eq!(snapshot(&self.outside), self.before);
    }
}

fn snapshot(directory: &Path) -> Snapshot {
    let entry = |name: String| {
        let path = directory.join(&name);
        (name, inode(&path), mode(&path), fs::read(&path).unwrap())
    };
    names(directory).into_iter().map(entry).collect()
}

#[test]
fn links_planted_under_the_names_of_the_store_are_replaced_and_not_followed() {
    let names = [
        "..data",
        "..data_tmp",
        "..client.key_tmp",
        "..client.crt_tmp",
        "client.key",
        "client.crt",
        "ca.crt",
        "credential-bundle.pem",
    ];
    for name in names {
        for target in ["../outside", "../outside/client.key", "/nowhere"] {
            let scene = Scene::new();
            symlink(target, scene.certs.join(name)).unwrap();
            scene.live().unwrap_or_else(|error| panic!("{name} -> {target}: {error:?}"));
            scene.assert_outside_untouched();
        }
    }
}

#[test]
fn a_certificate_behind_a_planted_data_link_is_not_read() {
    let scene = Scene::new();
    symlink("../outside", scene.certs.join("..data")).unwrap();
    assert_eq!(read_bundle(&scene.certs).unwrap_err().kind(), "obstructed");
    let store = Store::open(&config(&scene.certs)).unwrap();
    assert_eq!(store.load().unwrap_err().kind(), "obstructed");
}

#[test]
fn a_generation_that_is_a_link_is_neither_entered_nor_removed() {
    let scene = Scene::new();
    symlink("../outside", scene.certs.join(GENERATION_NAME)).unwrap();
    scene.live().unwrap();
    scene.assert_outside_untouched();
    symlink(GENERATION_NAME, scene.certs.join("new")).unwrap();
    fs::rename(scene.certs.join("new"), scene.certs.join("..data")).unwrap();
    assert_eq!(read_bundle(&scene.certs).unwrap_err().kind(), "obstructed");
}

#[test]
fn links_inside_an_old_generation_are_removed_and_not_their_targets() {
    let scene = Scene::new();
    let store = Store::open(&config(&scene.certs)).unwrap();
    let first = store.publish(&bundle(), &record(), now()).unwrap();
    for file in ["client.key", "client.crt"] {
        fs::remove_file(scene.certs.join(&first).join(file)).unwrap();
        symlink(scene.outside.join(file), scene.certs.join(&first).join(file)).unwrap();
    }
    assert!(read_bundle(&scene.certs).is_err());
    drop(store);
    scene.live().unwrap();
    assert!(!scene.certs.join(first).exists());
    scene.assert_outside_untouched();
}

#[test]
fn a_strange_file_in_an_old_generation_stays_while_the_key_goes() {
    let scene = Scene::new();
    let store = Store::open(&config(&scene.certs)).unwrap();
    let first = store.publish(&bundle(), &record(), now()).unwrap();
    drop(store);
    fs::create_dir_all(scene.certs.join(&first).join("strange/deep")).unwrap();
    scene.live().unwrap();
    assert_eq!(names(&scene.certs.join(first)), ["strange"]);
}

#[test]
fn directories_of_others_are_left_alone() {
    let scene = Scene::new();
    let foreign = ["..2026_08_20_12_34_56.123456789", "..backup", "..2026_08_20_12_34_56.9f3c2a1b00d4e5f6x"];
    for name in foreign {
        fs::create_dir(scene.certs.join(name)).unwrap();
        set_mode(&scene.certs.join(name), 0o700);
        fs::write(scene.certs.join(name).join("client.key"), "theirs").unwrap();
    }
    scene.live().unwrap();
    for name in foreign {
        assert_eq!(fs::read_to_string(scene.certs.join(name).join("client.key")).unwrap(), "theirs");
    }
}

#[test]
fn a_directory_in_the_place_of_a_link_is_reported_and_nothing_is_left_behind() {
    for name in ["..data", "client.key", "ca.crt"] {
        let scene = Scene::new();
        let store = Store::open(&config(&scene.certs)).unwrap();
        fs::create_dir(scene.certs.join(name)).unwrap();
        fs::write(scene.certs.join(name).join("x"), "").unwrap();
        let error = store.publish(&bundle(), &record(), now()).unwrap_err();
        assert_eq!(error.kind(), "obstructed", "{name}");
        assert_eq!(store.check_writable(now()).unwrap_err().kind(), "obstructed", "{name}");
        assert!(generations(&scene.certs).iter().all(|generation| generation == name));
        fs::remove_dir_all(scene.certs.join(name)).unwrap();
        store.publish(&bundle(), &record(), now()).unwrap();
    }
}

#[test]
fn a_planted_lock_is_refused_and_not_written() {
    let lock = ".crank-agent.lock";
    let plants: [Plant; 3] = [
        ("symbolic link", |scene, lock| symlink(scene.outside.join("client.key"), lock).unwrap()),
        ("hard link", |scene, lock| fs::hard_link(scene.outside.join("client.key"), lock).unwrap()),
        ("other content", |_, lock| fs::write(lock, "root:x:0:0\n").unwrap()),
    ];
    for (what, plant) in plants {
        let scene = Scene::new();
        plant(&scene, &scene.certs.join(lock));
        assert_eq!(Store::open(&config(&scene.certs)).unwrap_err().kind(), "obstructed", "{what}");
        scene.assert_outside_untouched();
    }
}

#[test]
fn a_fifo_makes_nobody_wait() {
    for name in [".crank-agent.lock", "client.crt", "client.key", "..data"] {
        let scene = Scene::new();
        write_plain_files(&scene.certs, &bundle());
        let _ = fs::remove_file(scene.certs.join(name));
        mkfifoat(CWD, scene.certs.join(name), Mode::from_raw_mode(0o666)).unwrap();
        let read = read_bundle(&scene.certs).map(drop).map_err(|error| error.kind());
        let opened = Store::open(&config(&scene.certs)).map(drop).map_err(|error| error.kind());
        let expected = if name.ends_with("lock") { (Ok(()), Err("obstructed")) } else { (Err("obstructed"), Ok(())) };
        assert_eq!((read, opened), expected, "{name}");
    }
}

#[test]
fn a_lost_data_link_is_put_back_at_the_next_start() {
    let scene = Scene::new();
    let bundle = bundle();
    let store = Store::open(&config(&scene.certs)).unwrap();
    let generation = store.publish(&bundle, &record(), now()).unwrap();
    drop(store);
    fs::remove_file(scene.certs.join("..data")).unwrap();
    fs::remove_file(scene.certs.join("client.key")).unwrap();
    let store = Store::open(&config(&scene.certs)).unwrap();
    assert_eq!(store.load().unwrap().unwrap().bundle.leaf_digest(), bundle.leaf_digest());
    assert_eq!(current(&scene.certs), Some(PathBuf::from(generation)));
    assert_eq!(store.verify().unwrap(), []);
}
