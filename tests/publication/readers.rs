//! Readers in a loop while a thousand generations are published.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crank_agent::identity::CertificateBundle;
use crank_agent::store::{Store, read_bundle};
use rustix::fs::{Mode, OFlags, open, openat};

use crate::support::{TestCa, config, generations, now, record};

const PUBLICATIONS: usize = 1000;

#[test]
fn readers_meet_whole_generations_only_while_a_thousand_are_published() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut config = config(path);
    config.keep_generations = Duration::from_secs(2);
    let ca = TestCa::new();
    let bundles: Vec<CertificateBundle> = (0..8).map(|_| ca.bundle()).collect();
    let pairs: HashMap<String, String> =
        bundles.iter().map(|bundle| (bundle.chain_pem(), bundle.key_pem().unwrap().to_string())).collect();
    let store = Store::open(&config).unwrap();
    store.publish(&bundles[0], &record(), now()).unwrap();

    let done = AtomicBool::new(false);
    let (one_file, pair, library, probes) = std::thread::scope(|scope| {
        let one_file = scope.spawn(|| count_until(&done, || read_credential_bundle(path, &pairs)));
        let pair = scope.spawn(|| count_until(&done, || read_pair(path, &pairs)));
        let library = scope.spawn(|| count_until(&done, || drop(read_bundle(path).unwrap())));
        let probes = scope.spawn(|| count_until(&done, || assert!(store.usable(now().wall))));
        for number in 1..=PUBLICATIONS {
            let result = store.publish(&bundles[number % bundles.len()], &record(), now());
            if number.is_multiple_of(50) || result.is_err() {
                store.sweep(now()).unwrap();
            }
            done.store(result.is_err(), Ordering::Relaxed);
            result.unwrap();
        }
        done.store(true, Ordering::Relaxed);
        [one_file, pair, library, probes].map(|reader| reader.join().unwrap()).into()
    });
    println!("reads: {one_file} of one file, {pair} of a pair, {library} by the library, {probes} probes");
    assert!(one_file.min(pair).min(library).min(probes) > 100);
    assert_eq!(store.verify().unwrap(), []);
    assert!(generations(path).len() <= PUBLICATIONS);
}

fn count_until(done: &AtomicBool, mut read: impl FnMut()) -> usize {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        read();
        count += 1;
    }
    count
}

fn read_credential_bundle(directory: &Path, pairs: &HashMap<String, String>) {
    let text = fs::read_to_string(directory.join("credential-bundle.pem")).unwrap();
    let chain = text.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
    assert_eq!(pairs.get(&text[chain..]).map(String::as_str), Some(&text[..chain]));
}

/// As documented: `..data` once, then the files relative to it.
fn read_pair(directory: &Path, pairs: &HashMap<String, String>) {
    let data = open(directory.join("..data"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let read = |file: &str| {
        let mut text = String::new();
        let file = openat(&data, file, OFlags::CLOEXEC, Mode::empty()).unwrap();
        File::from(file).read_to_string(&mut text).unwrap();
        text
    };
    let key = read("client.key");
    assert_eq!(pairs.get(&read("client.crt")), Some(&key));
}

#[test]
fn no_file_is_missing_at_any_moment_while_plain_files_are_adopted() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let ca = TestCa::new();
        crate::support::write_plain_files(path, &ca.bundle());
        let store = Store::open(&config(path)).unwrap();
        let next = ca.bundle();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                count_until(&done, || {
                    for file in ["client.crt", "client.key", "ca.crt"] {
                        assert!(!fs::read(path.join(file)).unwrap().is_empty());
                    }
                    read_bundle(path).unwrap();
                })
            });
            let result = store.publish(&next, &record(), now());
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
            result.unwrap();
        });
    }
}
