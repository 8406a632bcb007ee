//! A thousand rotations of a running agent while others read: no torn pair, no missing file, no step back.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crank_agent::identity::PrivateKey;
use rustix::fs::{Mode, OFlags, open, openat};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::processes::{Ca, Worker, renew_until, until};

const ROTATIONS: usize = 1000;

#[test]
fn readers_meet_whole_pairs_in_order_while_an_agent_renews_a_thousand_times() {
    let (ca, worker) = start();
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let directory = worker.certificates();
    let done = AtomicBool::new(false);
    let (issued, readers) = thread::scope(|scope| {
        let bundle = scope.spawn(|| Reader::run(&done, || read_bundle_file(&directory)));
        let pair = scope.spawn(|| Reader::run(&done, || read_pair(&directory)));
        let issued = rotate(&worker, ROTATIONS, &done);
        (issued, [bundle, pair].map(|reader| reader.join().unwrap()))
    });
    for reader in readers {
        println!("{} reads met {} certificates", reader.reads, reader.serials.len());
        assert!(reader.reads >= ROTATIONS && reader.serials.len() > ROTATIONS / 10);
        assert_in_order(&issued, &reader.serials);
    }
    assert_eq!(agent.count("CERT_RENEWED"), ROTATIONS);
    assert_eq!(agent.count("CERT_FILES_CHANGED"), 0, "{}", agent.log());
    drop(ca);
}

#[test]
#[ignore = "needs python3, openssl"]
fn python_and_openssl_read_whole_pairs_by_the_documented_recipes() {
    let (ca, worker) = start();
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let mut python = Python::start(&worker.certificates());
    let done = AtomicBool::new(false);
    let readers = thread::scope(|scope| {
        let openssl = scope.spawn(|| Reader::run(&done, || read_with_openssl(&worker.certificates())));
        let issued = rotate(&worker, ROTATIONS / 5, &done);
        let openssl = openssl.join().unwrap();
        assert_in_order(&issued, &openssl.serials);
        [("openssl", openssl.reads), ("python", python.stop())]
    });
    for (reader, reads) in readers {
        println!("{reads} reads by {reader}");
        assert!(reads > 10, "{reader}");
    }
    drop(ca);
}

fn start() -> (Ca, Worker) {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming").with("CRANK_FILES_KEEP_GENERATIONS", "5s");
    (ca, worker)
}

/// Has the agent renew `count` times. Returns the serials from the first on disk to the last, and ends the readers.
fn rotate(worker: &Worker, count: usize, done: &AtomicBool) -> Vec<String> {
    let _end = SetOnDrop(done);
    let mut issued = vec![worker.serial().unwrap()];
    renew_until(worker, |serial| {
        issued.push(serial);
        issued.len() > count
    })
    .unwrap();
    issued
}

/// Readers end also when the writer panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a reader has seen.
#[derive(Default)]
struct Reader {
    reads: usize,
    /// Each serial as it came to replace the one before.
    serials: Vec<String>,
}

/// What was read at once.
#[derive(PartialEq, Eq)]
struct Pair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Reader {
    fn run(done: &AtomicBool, mut read: impl FnMut() -> Pair) -> Self {
        let mut seen = Self::default();
        let mut last = None;
        while !done.load(Ordering::Relaxed) {
            let pair = read();
            seen.reads += 1;
            if last.as_ref() != Some(&pair) {
                seen.serials.push(fitting_serial(&pair));
                last = Some(pair);
            }
            // Some thousand reads a second; more would only take the processor from the agent.
            thread::park_timeout(Duration::from_micros(200));
        }
        seen
    }
}

/// The leaf's serial, if the key is the leaf's.
fn fitting_serial(pair: &Pair) -> String {
    let leaf = CertificateDer::from_pem_slice(&pair.chain).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let key = PrivateKey::from_pem(&pair.key).unwrap();
    assert_eq!(leaf.public_key().raw, key.public_key_der(), "a torn pair");
    leaf.raw_serial_as_string()
}

fn assert_in_order(issued: &[String], seen: &[String]) {
    let position = |serial: &String| issued.iter().position(|issued| issued == serial).expect("an issued serial");
    let positions: Vec<usize> = seen.iter().map(position).collect();
    assert!(positions.is_sorted(), "a reader was led back: {positions:?}");
}

/// One open of one file.
fn read_bundle_file(directory: &Path) -> Pair {
    let bundle = fs::read(directory.join("credential-bundle.pem")).unwrap();
    Pair { chain: bundle.clone(), key: bundle }
}

/// As documented: `..data` once, then the files relative to it.
fn read_pair(directory: &Path) -> Pair {
    let data = open(directory.join("..data"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let read = |file: &str| {
        let mut bytes = Vec::new();
        let file = openat(&data, file, OFlags::CLOEXEC, Mode::empty()).unwrap();
        File::from(file).read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (chain, key) = (read("client.crt"), read("client.key"));
    assert!(read("ca.crt").starts_with(b"-----BEGIN CERTIFICATE-----"));
    Pair { chain, key }
}

/// By `cd -P` into `..data`, and two processes there.
fn read_with_openssl(directory: &Path) -> Pair {
    let script = "cd -P \"$0/..data\" && openssl x509 -in client.crt && openssl pkey -in client.key";
    let output = Command::new("sh").args(["-c", script]).arg(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Pair { chain: output.stdout.clone(), key: output.stdout }
}

/// A Python that reads by both documented recipes in turn until its standard input closes.
struct Python {
    process: Child,
    reads: PathBuf,
    directory: tempfile::TempDir,
}

impl Python {
    fn start(certificates: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (script, reads) = (directory.path().join("reader.py"), directory.path().join("reads"));
        fs::write(&script, documented_python() + PYTHON_LOOP).unwrap();
        let process = Command::new("python3")
            .args([&script, certificates, &reads])
            .stdin(Stdio::piped())
            .stderr(File::create(directory.path().join("error")).unwrap())
            .spawn()
            .unwrap();
        let mut python = Self { process, reads, directory };
        until("Python has begun to read", || python.reads.exists().then_some(()).or_else(|| python.assert_running()));
        python
    }

    fn assert_running(&mut self) -> Option<()> {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", self.error());
        None
    }

    fn error(&self) -> String {
        fs::read_to_string(self.directory.path().join("error")).unwrap_or_default()
    }

    /// Ends it and returns how often it has read.
    fn stop(&mut self) -> usize {
        drop(self.process.stdin.take());
        let status = until("Python ends", || self.process.try_wait().unwrap());
        assert!(status.success(), "{}", self.error());
        fs::read_to_string(&self.reads).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn documented_python() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reading-the-files.md")).unwrap();
    let (_, code) = text.split_once("```python\n").expect("Python code");
    code.split_once("```").unwrap().0.to_owned()
}

/// `load_cert_chain` raises when the key is not the certificate's.
const PYTHON_LOOP: &str = "
import select, sys
reads = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    from_bundle(sys.argv[1])
    from_pair(sys.argv[1])
    reads += 2
    if reads == 2:
        open(sys.argv[2], 'w').close()
with open(sys.argv[2], 'w') as output:
    output.write(str(reads))
";
