//! Someone else changes published files: it is noticed, named and put right.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crank_agent::store::{ChangeKind, Healed, Store, read_bundle};

use crate::support::{bundle, config, mode, names, now, record, set_mode};

/// What someone does in the directory, whether the certificate is unusable then, and what is found changed.
type Tampering = (fn(&Path), bool, &'static [(&'static str, ChangeKind)]);

const LINKS_ONLY: [Tampering; 4] = [
    (|path| fs::remove_file(path.join("client.crt")).unwrap(), true, &[("client.crt", ChangeKind::Missing)]),
    (|path| replace_with_file(path, "client.key"), true, &[("client.key", ChangeKind::Redirected)]),
    (|path| replace_with_link(path, "ca.crt", "/etc/passwd"), true, &[("ca.crt", ChangeKind::Redirected)]),
    (
        |path| fs::remove_file(path.join("credential-bundle.pem")).unwrap(),
        true,
        &[("credential-bundle.pem", ChangeKind::Missing)],
    ),
];

const DEEPER: [Tampering; 9] = [
    (|path| fs::remove_file(path.join("..data")).unwrap(), true, &[("..data", ChangeKind::Missing)]),
    (|path| replace_with_link(path, "..data", "/etc"), true, &[("..data", ChangeKind::Redirected)]),
    (|path| replace_with_link(path, "..data", "..other"), true, &[("..data", ChangeKind::Redirected)]),
    (
        |path| fs::remove_dir_all(fs::canonicalize(path.join("..data")).unwrap()).unwrap(),
        true,
        &[("..data", ChangeKind::Missing)],
    ),
    (|path| fs::write(path.join("client.crt"), "other").unwrap(), true, &[("..data/client.crt", ChangeKind::Content)]),
    (
        |path| fs::remove_file(path.join("..data/client.key")).unwrap(),
        true,
        &[("..data/client.key", ChangeKind::Missing)],
    ),
    (
        |path| fs::write(path.join("..data/.renewal.json"), "{}").unwrap(),
        false,
        &[("..data/.renewal.json", ChangeKind::Content)],
    ),
    (
        |path| set_mode(&path.join("..data/client.key").canonicalize().unwrap(), 0o644),
        false,
        &[("..data/client.key", ChangeKind::Mode { found: 0o644, expected: 0o600 })],
    ),
    (|path| fs::remove_dir_all(path).unwrap(), true, &[(".", ChangeKind::Missing)]),
];

fn replace_with_file(path: &Path, name: &str) {
    fs::write(path.join("new"), "other").unwrap();
    fs::rename(path.join("new"), path.join(name)).unwrap();
}

fn replace_with_link(path: &Path, name: &str, target: &str) {
    symlink(target, path.join("new")).unwrap();
    fs::rename(path.join("new"), path.join(name)).unwrap();
}

fn tamper_and_heal((tamper, hides, expected): Tampering) -> Healed {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("certs");
    let bundle = bundle();
    let store = Store::open(&config(&path)).unwrap();
    store.publish(&bundle, &record(), now()).unwrap();
    assert_eq!(store.heal(&bundle, &record(), now()).unwrap(), Healed::Nothing);

    tamper(&path);
    let changes = store.verify().unwrap();
    let found: Vec<(&str, ChangeKind)> = changes.iter().map(|change| (change.path.as_str(), change.kind)).collect();
    assert_eq!(found, expected);
    assert_eq!(store.usable(now().wall), !hides, "{changes:?}");

    let healed = store.heal(&bundle, &record(), now()).unwrap();
    assert_eq!(store.verify().unwrap(), [], "{changes:?}");
    assert!(store.usable(now().wall));
    assert_eq!(read_bundle(&path).unwrap().leaf_digest(), bundle.leaf_digest());
    assert_eq!(mode(&path.join("..data/client.key")), 0o600);
    assert!(!names(&path).iter().any(|name| name.ends_with("_tmp")));
    healed
}

#[test]
fn stable_links_are_put_back_without_a_new_generation() {
    for tampering in LINKS_ONLY {
        assert_eq!(tamper_and_heal(tampering), Healed::Links, "{:?}", tampering.2);
    }
}

#[test]
fn whatever_else_was_changed_is_published_anew() {
    for tampering in DEEPER {
        assert!(matches!(tamper_and_heal(tampering), Healed::Published(_)), "{:?}", tampering.2);
    }
}

#[test]
fn changes_are_named_for_people() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&config(root.path())).unwrap();
    store.publish(&bundle(), &record(), now()).unwrap();
    set_mode(&root.path().join("..data/client.key").canonicalize().unwrap(), 0o666);
    let changes: Vec<String> = store.verify().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["..data/client.key has mode 0666 instead of 0600"]);
}

#[test]
fn a_directory_made_anew_is_locked_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("certs");
    let store = Store::open(&config(&path)).unwrap();
    let bundle = bundle();
    store.publish(&bundle, &record(), now()).unwrap();
    fs::remove_dir_all(&path).unwrap();
    fs::create_dir(&path).unwrap();
    store.heal(&bundle, &record(), now()).unwrap();
    assert_eq!(Store::open(&config(&path)).unwrap_err().kind(), "locked");
}
