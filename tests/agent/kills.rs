//! kill -9 of the agent at random instants: a whole generation is left, or none before the first, and the next agent goes
//! on from there without asking the CA for anything it need not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crank_agent::identity::CertificateBundle;
use crank_agent::store::{StoreError, read_bundle};
use crank_agent::verify_certificate_chain;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::processes::{Agent, Ca, Worker, assert_healthy, renew_until, until};

/// Kills while one certificate takes the place of another.
const KILLS: usize = 500;

/// Kills before the first certificate, and as many while plain files are adopted.
const EARLY_KILLS: usize = 52;

/// Workers at a time.
const LANES: usize = 4;

#[test]
fn an_agent_killed_while_it_rotates_leaves_a_whole_generation_and_the_next_goes_on() {
    let ca = Ca::start("1h");
    let certificates: usize = in_lanes(|lane, random| {
        let worker = Worker::of(&ca, &format!("worker-{lane}")).with("CRANK_FILES_KEEP_GENERATIONS", "1s");
        assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
        let start = time_until(&worker, "CERT_ADOPTED");
        let mut rotation = start;
        let mut known = vec![worker.serial().unwrap()];
        for kill in 0..KILLS / LANES {
            let mut agent = worker.start();
            // Most are killed while they rotate, some while they start.
            let rotates = kill % 4 != 0;
            if rotates {
                assert_adopted(&worker, &agent);
                assert_in_order(&worker);
            }
            thread::scope(|scope| {
                let driver = rotates.then(|| scope.spawn(|| serials_until_killed(&worker)));
                // About half of them live to see the end of a rotation, however fast the machine is at this moment.
                pause(if rotates { rotation * 2 } else { start }, random);
                agent.kill();
                if let Some(driver) = driver {
                    let (serials, last) = driver.join().unwrap();
                    rotation = last.unwrap_or(rotation * 2);
                    known.extend(serials);
                }
            });
            let left = whole_certificate(&worker, &ca).expect("a certificate");
            assert_stable_paths(&worker);
            // What the caller was told of is there, or its successor, which nobody was told of.
            match known.iter().position(|serial| serial == left.serial()) {
                Some(position) => assert_eq!(position, known.len() - 1, "an earlier certificate is back"),
                None => known.push(left.serial().to_owned()),
            }
        }
        let agent = worker.start();
        assert_adopted(&worker, &agent);
        let one_is_left = || (generations(&worker.certificates()).len() == 1).then_some(());
        until("generations that killed agents left are removed, though nothing is renewed", one_is_left);
        assert_eq!(agent.count("CSR_SUBMITTED"), 0);
        known.len()
    })
    .into_iter()
    .sum();
    println!("{KILLS} kills, {certificates} certificates");
    assert!(certificates > KILLS / 4, "the agents were killed before they rotated");
}

#[test]
fn an_agent_killed_before_its_first_certificate_leaves_one_or_none() {
    let ca = Ca::start("1h");
    let lanes = in_lanes(|lane, random| {
        let life = time_until(&Worker::of(&ca, "measured"), "CERT_ISSUED");
        let mut outcomes = [0; 3];
        for kill in 0..EARLY_KILLS / LANES {
            let name = format!("worker-{lane}-{kill}");
            let worker = Worker::of(&ca, &name);
            kill_within(life, &worker, random);
            let left = whole_certificate(&worker, &ca);
            let mut agent = worker.start();
            let outcome = match (outcome(&mut agent), &left) {
                // Without a link to it, a finished generation is found and linked by the next agent.
                (Outcome::Adopted, _) => {
                    assert_adopted(&worker, &agent);
                    0
                }
                (Outcome::Issued, None) => 1,
                // The answer and the token with it died with the first agent; the user gives another.
                (Outcome::Ended(code), None) => {
                    assert_eq!(code, Some(77), "{}", agent.log());
                    until("the reason", || agent.log().contains("give a fresh token").then_some(()));
                    worker.write_token(&ca.token(&name));
                    agent = worker.start();
                    agent.event("CERT_ISSUED", 1);
                    2
                }
                (outcome, left) => panic!("{outcome:?} after {left:?}"),
            };
            outcomes[outcome] += 1;
            assert_in_order(&worker);
        }
        outcomes
    });
    println!("[adopted, issued, issued with another token] in each lane: {lanes:?}");
}

#[test]
fn an_agent_killed_while_it_adopts_plain_files_leaves_them_or_the_same_as_a_generation() {
    let ca = Ca::start("1h");
    let model = Worker::of(&ca, "streaming");
    assert_eq!(model.run_once(&["init"]).status.code(), Some(0));
    let serial = model.serial().unwrap();
    let lanes = in_lanes(|_, random| {
        // Without a token: nothing but adoption will do.
        let plain = || {
            let worker = Worker::at("streaming", &ca.url(), &ca.root_file());
            fs::create_dir(worker.certificates()).unwrap();
            for file in ["client.crt", "client.key", "ca.crt"] {
                fs::copy(model.certificates().join(file), worker.certificates().join(file)).unwrap();
            }
            worker
        };
        let life = time_until(&plain(), "CERT_ADOPTED");
        let mut outcomes = [0; 2];
        for _ in 0..EARLY_KILLS / LANES {
            let worker = plain();
            kill_within(life, &worker, random);
            assert_eq!(whole_certificate(&worker, &ca).unwrap().serial(), serial);
            for file in ["client.crt", "client.key", "ca.crt"] {
                let (before, after) = (model.certificates().join(file), worker.certificates().join(file));
                assert_eq!(fs::read(before).unwrap(), fs::read(after).unwrap(), "{file}");
            }
            outcomes[usize::from(worker.certificates().join("..data").exists())] += 1;
            let agent = worker.start();
            assert_adopted(&worker, &agent);
            assert_in_order(&worker);
            assert_eq!(worker.serial().unwrap(), serial);
        }
        outcomes
    });
    println!("[plain files, a generation] in each lane: {lanes:?}");
}

/// How a start without a certificate ends.
#[derive(Debug)]
enum Outcome {
    Adopted,
    Issued,
    Ended(Option<i32>),
}

fn outcome(agent: &mut Agent) -> Outcome {
    until("a certificate, or the end", || {
        let ended = !agent.is_running();
        match (agent.count("CERT_ADOPTED"), agent.count("CERT_ISSUED")) {
            (0, 0) if ended => Some(Outcome::Ended(agent.wait().code())),
            (0, 0) => None,
            (_, 0) => Some(Outcome::Adopted),
            _ => Some(Outcome::Issued),
        }
    })
}

/// Has the agent renew as fast as it can. Returns the serials that it told of, and how long the last took.
fn serials_until_killed(worker: &Worker) -> (Vec<String>, Option<Duration>) {
    let (mut serials, mut last, mut since) = (Vec::new(), None, Instant::now());
    let _killed = renew_until(worker, |serial| {
        serials.push(serial);
        last = Some(since.elapsed());
        since = Instant::now();
        false
    });
    (serials, last)
}

/// From the start of an agent to the event.
fn time_until(worker: &Worker, event: &str) -> Duration {
    let started = Instant::now();
    worker.start().event(event, 1);
    started.elapsed()
}

fn kill_within(life: Duration, worker: &Worker, random: &mut TestRng) {
    let mut agent = worker.start();
    pause(life, random);
    agent.kill();
}

/// Waits for some part of `life`: whatever happens then is what is tested.
fn pause(life: Duration, random: &mut TestRng) {
    let micros = u32::try_from(life.as_micros()).unwrap().max(1);
    thread::sleep(Duration::from_micros(u64::from(random.next_u32() % micros)));
}

/// Runs `work` in each lane with random numbers of its own.
fn in_lanes<T: Send>(work: impl Fn(usize, &mut TestRng) -> T + Sync) -> Vec<T> {
    let seed = match std::env::var("CRANK_TEST_SEED") {
        Ok(seed) => seed.parse().expect("CRANK_TEST_SEED: a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs(),
    };
    println!("the instants of the kills can be had again with CRANK_TEST_SEED={seed}");
    thread::scope(|scope| {
        let run = |lane| {
            let work = &work;
            scope.spawn(move || {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
                bytes[8] = u8::try_from(lane).unwrap();
                work(lane, &mut TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
            })
        };
        let lanes: Vec<_> = (0..LANES).map(run).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    })
}

/// The agent took over what is on disk and asked nobody.
fn assert_adopted(worker: &Worker, agent: &Agent) {
    let adopted = agent.event("CERT_ADOPTED", 1);
    assert_eq!(adopted["cert_metadata"]["serial"], worker.serial().unwrap().as_str());
    assert_eq!(agent.count("CSR_SUBMITTED"), 0);
}

/// A running agent answers on its socket, all paths lead to one certificate, and nothing half done is left.
fn assert_in_order(worker: &Worker) {
    assert_healthy(worker);
    assert_stable_paths(worker);
    let directory = worker.certificates();
    // The agent may be publishing the CRL at this moment: what is being made becomes whole, what was left never does.
    until("nothing half done is left", || {
        let mut generations = generations(&directory).into_iter();
        // One that was superseded may be swept meanwhile.
        let whole =
            |generation| fs::metadata(generation).is_ok_and(|found| found.permissions().mode() & 0o777 == 0o755);
        let remains = names(&directory).into_iter().any(|name| name.ends_with("_tmp"));
        (generations.all(whole) && !remains).then_some(())
    });
}

fn assert_stable_paths(worker: &Worker) {
    let directory = worker.certificates();
    for file in ["client.crt", "client.key", "ca.crt", "credential-bundle.pem"] {
        assert_eq!(fs::read_link(directory.join(file)).unwrap(), Path::new("..data").join(file));
        assert!(!fs::read(directory.join(file)).unwrap().is_empty());
    }
}

/// What is on disk, which is all of a certificate or nothing.
fn whole_certificate(worker: &Worker, ca: &Ca) -> Option<CertificateBundle> {
    let directory = worker.certificates();
    let data = directory.join("..data");
    let bundle = match read_bundle(&directory) {
        Ok(bundle) => bundle,
        Err(StoreError::Missing { .. } | StoreError::NoDirectory { .. }) => {
            assert!(fs::symlink_metadata(data).is_err());
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let root = CertificateDer::from_pem_file(ca.root_file()).unwrap();
    verify_certificate_chain(bundle.chain(), &[root], time::OffsetDateTime::now_utc()).unwrap();
    if data.exists() {
        let read = |(file, mode): (&str, u32)| {
            let path = data.join(file);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{file}");
            fs::read_to_string(path).unwrap()
        };
        assert_eq!(read(("ca.crt", 0o644)), fs::read_to_string(ca.root_file()).unwrap());
        assert_eq!(
            read(("credential-bundle.pem", 0o600)),
            read(("client.key", 0o600)) + &read(("client.crt", 0o644)),
            "the bundle is of another certificate"
        );
    }
    Some(bundle)
}

fn generations(directory: &Path) -> Vec<PathBuf> {
    let generations = names(directory).into_iter().map(|name| directory.join(name));
    generations.filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir())).collect()
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
