//! What is in the directory after each step, and for how long.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crank_agent::identity::CertificateBundle;
use crank_agent::store::{Origin, Store, StoreError, read_bundle};

use crate::support::{
    HOUR, REVOCATION, after, bundle, bundle_and_crls, child, child_directory, config, current, generations, mode,
    names, now, record, wait_until, write_plain_files,
};

#[test]
fn a_generation_has_the_files_of_the_contract_with_their_modes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    assert!(store.load().unwrap().is_none());
    let bundle = bundle();
    let generation = store.publish(&bundle, &record(), now()).unwrap();

    let files = ["ca.crt", "client.crt", "client.key", "credential-bundle.pem"];
    assert_eq!(names(path), [&[generation.as_str(), "..data", ".crank-agent.lock"], &files[..]].concat());
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), Path::new(&generation));
    for file in files {
        assert_eq!(fs::read_link(path.join(file)).unwrap(), Path::new("..data").join(file));
    }
    let inside = path.join(&generation);
    let modes = ["client.crt", "client.key", "ca.crt", "credential-bundle.pem", ".renewal.json"]
        .map(|file| mode(&inside.join(file)));
    assert_eq!(modes, [0o644, 0o600, 0o644, 0o600, 0o600]);
    assert_eq!(mode(&inside), 0o755);
    assert_eq!(fs::read_to_string(path.join("client.crt")).unwrap(), bundle.chain_pem());
    assert_eq!(fs::read_to_string(path.join("ca.crt")).unwrap(), bundle.roots_pem());
    let pair = fs::read_to_string(path.join("credential-bundle.pem")).unwrap();
    assert_eq!(pair, format!("{}{}", *bundle.key_pem().unwrap(), bundle.chain_pem()));
}

#[test]
fn a_crl_is_published_with_the_certificate_and_gone_with_a_generation_without() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    let (bundle, crls) = bundle_and_crls();
    let with = bundle.try_clone().unwrap().with_crls(crls);
    store.publish(&with, &record(), now()).unwrap();
    assert_eq!(fs::read_link(path.join("ca.crl")).unwrap(), Path::new("..data/ca.crl"));
    assert_eq!(mode(&path.join("..data/ca.crl")), 0o644);
    assert_eq!(fs::read_to_string(path.join("ca.crl")).unwrap(), with.crls_pem());
    assert_eq!(read_bundle(path).unwrap().crls(), with.crls());
    assert_eq!((store.verify().unwrap(), store.usable(now().wall)), (vec![], true));
    drop(store);

    let store = Store::open(&config(path)).unwrap();
    assert_eq!(store.load().unwrap().unwrap().bundle.crls(), with.crls());
    // Its loss is noticed, and takes no certificate away.
    fs::remove_file(path.join("ca.crl")).unwrap();
    assert_eq!(store.verify().unwrap().len(), 1);
    assert!(store.usable(now().wall));
    store.publish(&bundle, &record(), now()).unwrap();
    assert!(!path.join("ca.crl").exists() && read_bundle(path).unwrap().crls().is_empty());
    // One that somebody else puts there stays theirs.
    fs::write(path.join("ca.crl"), "theirs").unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn another_record_is_no_other_generation() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&config(directory.path())).unwrap();
    store.publish(&bundle(), &record(), now()).unwrap();
    let generation = current(directory.path());
    let mut other = record();
    other.renewal.revoked = Some(REVOCATION);
    store.keep_record(&other).unwrap();
    assert_eq!((current(directory.path()), store.verify().unwrap()), (generation, vec![]));
    drop(store);
    let store = Store::open(&config(directory.path())).unwrap();
    assert_eq!(store.load().unwrap().unwrap().record, Some(other));
}

#[test]
fn a_withdrawal_takes_key_and_certificate_in_one_step_and_leaves_the_roots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    let (bundle, crls) = bundle_and_crls();
    let bundle = bundle.with_crls(crls);
    let first = now();
    let generation = store.publish(&bundle, &record(), first).unwrap();
    let mut revoked = record();
    revoked.renewal.revoked = Some(REVOCATION);
    store.withdraw(&bundle, &revoked, first).unwrap();
    for gone in ["client.crt", "client.key", "credential-bundle.pem"] {
        assert!(!path.join(gone).exists(), "{gone}");
    }
    assert!(path.join("ca.crt").exists() && path.join("ca.crl").exists());
    assert_eq!((store.verify().unwrap(), store.usable(now().wall)), (vec![], false));
    // The key of the generation before goes as that does.
    store.sweep(after(first, 3_600)).unwrap();
    assert!(!path.join(&generation).exists());
    drop(store);
    let store = Store::open(&config(path)).unwrap();
    assert!(store.load().unwrap().is_none());
    store.publish(&bundle, &record(), now()).unwrap();
    assert!(path.join("client.key").exists() && store.usable(now().wall));
}

#[test]
fn what_was_published_is_loaded_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = bundle();
    let store = Store::open(&config(directory.path())).unwrap();
    let generation = store.publish(&bundle, &record(), now()).unwrap();
    drop(store);

    let store = Store::open(&config(directory.path())).unwrap();
    let published = store.load().unwrap().unwrap();
    assert_eq!(published.bundle.leaf_digest(), bundle.leaf_digest());
    assert_eq!(published.record, Some(record()));
    assert_eq!(published.origin, Origin::Generation(generation));
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_record_that_cannot_be_read_is_as_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&config(directory.path())).unwrap();
    store.publish(&bundle(), &record(), now()).unwrap();
    for text in ["", "{", r#"{"jitter":7.0,"installed_at":"1970-01-01T00:00:00Z"}"#] {
        fs::write(directory.path().join("..data/.renewal.json"), text).unwrap();
        assert_eq!(store.load().unwrap().unwrap().record, None, "{text}");
    }
}

#[test]
fn the_latest_is_in_force_when_the_clock_stands_still_or_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&config(directory.path())).unwrap();
    let start = now();
    let mut earlier = start;
    earlier.wall -= HOUR;
    for moment in [start, start, start, earlier] {
        let bundle = bundle();
        store.publish(&bundle, &record(), moment).unwrap();
        assert_eq!(read_bundle(directory.path()).unwrap().leaf_digest(), bundle.leaf_digest());
    }
    assert_eq!(generations(directory.path()).len(), 4);
}

#[test]
fn a_superseded_generation_stays_as_long_as_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    let start = now();
    let first = store.publish(&bundle(), &record(), start).unwrap();
    let second = store.publish(&bundle(), &record(), after(start, 1000)).unwrap();
    assert_eq!(store.sweep(after(start, 1000)).unwrap(), Some(Duration::from_mins(1)));
    assert_eq!(store.sweep(after(start, 1059)).unwrap(), Some(Duration::from_secs(1)));
    let mut stepped = after(start, 1059);
    stepped.wall += HOUR * 10_000;
    assert_eq!(store.sweep(stepped).unwrap(), Some(Duration::from_secs(1)));
    assert!(path.join(&first).exists());
    assert_eq!(store.sweep(after(start, 1060)).unwrap(), None);
    assert_eq!(generations(path), [second]);
}

#[test]
fn a_restart_neither_forgets_a_superseded_generation_nor_keeps_it_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let start = now();
    let store = Store::open(&config(path)).unwrap();
    store.publish(&bundle(), &record(), start).unwrap();
    let second = store.publish(&bundle(), &record(), after(start, 1000)).unwrap();
    drop(store);

    let store = Store::open(&config(path)).unwrap();
    let remaining = store.sweep(after(start, 1050)).unwrap().unwrap();
    // The file system may keep whole seconds only.
    assert!((9..=10).contains(&remaining.as_secs()), "{remaining:?}");
    assert_eq!(store.sweep(after(start, 1060)).unwrap(), None);
    assert_eq!(generations(path), [second]);
}

#[test]
fn plain_files_of_older_tools_are_read_and_become_a_generation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let plain = bundle();
    write_plain_files(path, &plain);
    assert_eq!(read_bundle(path).unwrap().leaf_digest(), plain.leaf_digest());

    let store = Store::open(&config(path)).unwrap();
    let found = store.load().unwrap().unwrap();
    assert_eq!((found.origin, found.record), (Origin::PlainFiles, None));
    store.publish(&found.bundle, &record(), now()).unwrap();
    assert_eq!(fs::read_link(path.join("client.key")).unwrap(), Path::new("..data/client.key"));
    assert_eq!(generations(path).len(), 1);
    assert_eq!(read_bundle(path).unwrap().leaf_digest(), plain.leaf_digest());
}

#[test]
fn plain_files_become_a_generation_before_another_certificate_takes_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (plain, next) = (bundle(), bundle());
    write_plain_files(path, &plain);
    let store = Store::open(&config(path)).unwrap();
    let generation = store.publish(&next, &record(), now()).unwrap();

    let earlier = generations(path).into_iter().find(|name| *name != generation).unwrap();
    assert_eq!(fs::read_to_string(path.join(earlier).join("client.crt")).unwrap(), plain.chain_pem());
    assert_eq!(read_bundle(path).unwrap().leaf_digest(), next.leaf_digest());
}

#[test]
fn plain_files_that_do_not_fit_each_other_are_of_no_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_plain_files(path, &bundle());
    fs::write(path.join("client.key"), bundle().key_pem().unwrap().as_bytes()).unwrap();
    let store = Store::open(&config(path)).unwrap();
    let error = store.load().unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("client.crt")), ("corrupt", true));
    let next = bundle();
    store.publish(&next, &record(), now()).unwrap();
    assert_eq!(store.load().unwrap().unwrap().bundle.leaf_digest(), next.leaf_digest());
}

#[test]
fn roots_alone_are_no_certificate_and_half_a_pair_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    fs::write(path.join("ca.crt"), bundle().roots_pem()).unwrap();
    assert!(store.load().unwrap().is_none());
    fs::write(path.join("client.crt"), bundle().chain_pem()).unwrap();
    let error = store.load().unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("client.key is missing")), ("missing", true));
}

#[test]
fn each_file_of_no_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    for file in ["client.crt", "client.key", "ca.crt"] {
        for bad in [&b""[..], b"-----BEGIN CERTIFICATE-----\n\x1b[31m", &[0xff; 100], &vec![b'x'; 2 * 1024 * 1024]] {
            store.publish(&bundle(), &record(), now()).unwrap();
            fs::write(path.join(file), bad).unwrap();
            let error = store.load().unwrap_err();
            assert_eq!(error.kind(), "corrupt");
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}

#[test]
fn a_directory_is_made_where_only_its_last_part_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("a/b");
    let error = Store::open(&config(&missing)).unwrap_err();
    assert!(matches!(error, StoreError::NoDirectory { .. }), "{error}");
    assert!(error.to_string().contains("mount a volume"), "{error}");
    assert!(names(directory.path()).is_empty());

    for made in ["certs", ".crank/certs"].map(|path| directory.path().join(path)) {
        Store::open(&config(&made)).unwrap();
        assert_eq!(mode(&made), 0o755);
    }
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(Store::open(&config(&file)).unwrap_err().kind(), "obstructed");
}

#[test]
fn a_second_agent_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&config(directory.path())).unwrap();
    let error = Store::open(&config(directory.path())).unwrap_err();
    assert_eq!(error.kind(), "locked");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(store);
    Store::open(&config(directory.path())).unwrap();
}

#[test]
fn asking_whether_a_certificate_could_be_published_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&config(directory.path())).unwrap();
    store.check_writable(now()).unwrap();
    assert_eq!(names(directory.path()), [".crank-agent.lock"]);
}

#[test]
fn usable_means_on_disk_and_in_its_dates() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Store::open(&config(path)).unwrap();
    let wall = now().wall;
    assert!(!store.usable(wall));
    let bundle = bundle();
    store.publish(&bundle, &record(), now()).unwrap();
    assert!(store.usable(wall));
    assert!(store.usable(bundle.not_before()));
    assert!(!store.usable(bundle.not_before() - time::Duration::SECOND));
    assert!(!store.usable(bundle.not_after()));
    fs::remove_file(path.join("client.crt")).unwrap();
    assert!(!store.usable(wall));
}

#[test]
fn modes_are_exact_under_any_umask_and_the_key_is_never_wider_while_it_is_written() {
    for umask in ["0", "63", "18"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("certs");
        let mut child = child("layout::child_publishes_under_a_umask", &path).env("UMASK", umask).spawn().unwrap();
        let mut seen = 0;
        let mut status = None;
        wait_until("the child has published", || {
            status = child.try_wait().unwrap();
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                for file in ["client.key", "credential-bundle.pem", ".renewal.json"] {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir())
                        && let Ok(metadata) = fs::symlink_metadata(entry.path().join(file))
                    {
                        use std::os::unix::fs::PermissionsExt;
                        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{file} under umask {umask}");
                        seen += 1;
                    }
                }
            }
            status.is_some()
        });
        assert!(status.unwrap().success());
        assert!(seen > 0);
        assert_eq!(mode(&path), 0o755);
        let inside = path.join(current(&path).unwrap());
        assert_eq!(["client.crt", "client.key"].map(|file| mode(&inside.join(file))), [0o644, 0o600]);
        assert_eq!(mode(&inside), 0o755);
    }
}

#[test]
#[ignore = "run by another test as a child process"]
fn child_publishes_under_a_umask() {
    let Some(path) = child_directory() else { return };
    let umask: u32 = std::env::var("UMASK").unwrap().parse().unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    let store = Store::open(&config(&path)).unwrap();
    let bundles: [CertificateBundle; 2] = [bundle(), bundle()];
    for number in 0..50 {
        store.publish(&bundles[number % 2], &record(), now()).unwrap();
    }
}

#[test]
fn a_group_that_reads_the_key_gets_the_mode_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.key_mode = 0o640;
    let store = Store::open(&config).unwrap();
    store.publish(&bundle(), &record(), now()).unwrap();
    let inside = directory.path().join("..data");
    assert_eq!(["client.key", "credential-bundle.pem"].map(|file| mode(&inside.join(file))), [0o640, 0o640]);
    assert_eq!(store.verify().unwrap(), []);
}
