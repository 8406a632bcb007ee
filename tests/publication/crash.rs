//! Processes killed while they publish.

use std::time::Duration;

use crank_agent::store::{Store, read_bundle};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::support::{TestCa, child, child_directory, config, current, generations, names, now, record, wait_until};

const KILLS: usize = 100;

#[test]
fn a_process_killed_at_any_instant_leaves_a_whole_generation_and_the_next_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut config = config(path);
    config.keep_generations = Duration::ZERO;
    for kill in 0..KILLS {
        let before = current(path);
        let mut child = child("crash::child_publishes_until_killed", path).spawn().unwrap();
        wait_until("the child publishes", || current(path) != before);
        // Some instant of the next publications.
        std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 20_000)));
        child.kill().unwrap();
        child.wait().unwrap();

        read_bundle(path).unwrap_or_else(|error| panic!("kill {kill}: {error:?}"));
        let store = Store::open(&config).unwrap();
        let published = store.load().unwrap().expect("a certificate");
        assert!(published.record.is_some());
        assert_eq!(store.verify().unwrap(), [], "kill {kill}");
        assert_eq!(store.sweep(now()).unwrap(), None);
        assert_eq!(generations(path).len(), 1, "kill {kill}");
        let others: Vec<String> = names(path).into_iter().filter(|name| name.contains("tmp")).collect();
        assert!(others.is_empty(), "kill {kill}: {others:?}");
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
