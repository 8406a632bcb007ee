//! The authority changes its root while two workers talk to each other all the time.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crank_agent::mtls::PeerUrl;
use crank_agent::store::read_bundle;
use rustix::process::Signal;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::processes::{Agent, Ca, Worker, free_address, renew_until, until};

/// A worker whose agent serves over mTLS, and is asked over mTLS.
struct Peer {
    worker: Worker,
    agent: Agent,
    address: SocketAddr,
}

impl Peer {
    fn start(worker: Worker, other: &str) -> Self {
        let address = free_address();
        let worker = worker
            .with("CRANK_SERVER_LISTEN", &address.to_string())
            .with("CRANK_SERVER_METRICS_ALLOW", &format!("spiffe://crank.local/worker/{other}"));
        let agent = worker.start();
        agent.event("CERT_ISSUED", 1);
        Self { worker, agent, address }
    }

    fn roots(&self) -> usize {
        read_bundle(&self.worker.certificates()).unwrap().roots().len()
    }

    fn crls(&self) -> usize {
        read_bundle(&self.worker.certificates()).unwrap().crls().len()
    }

    /// The common name of whoever signed the certificate in force.
    fn issuer(&self) -> String {
        let bundle = read_bundle(&self.worker.certificates()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&bundle.chain()[0]).unwrap();
        leaf.issuer().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    }

    fn renew_until(&self, mut enough: impl FnMut() -> bool) {
        renew_until(&self.worker, |_| enough()).unwrap();
    }
}

/// Requests from one worker to the other, each over a new connection with the certificate that is published then.
struct Traffic {
    done: Arc<AtomicBool>,
    handshakes: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    thread: thread::JoinHandle<()>,
}

impl Traffic {
    fn between(client: &Peer, server: &Peer) -> Self {
        let (done, handshakes) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (stop, count, failed) = (Arc::clone(&done), Arc::clone(&handshakes), Arc::clone(&failures));
        let (directory, url) = (client.worker.certificates(), format!("https://{}/metrics", server.address));
        let url: PeerUrl = url.replace("127.0.0.1", "localhost").parse().unwrap();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while !stop.load(Ordering::Relaxed) {
                let outcome = runtime.block_on(async {
                    let client = crank_agent::create_mtls_client(&directory).map_err(|error| format!("{error:?}"))?;
                    client.get(url.clone()).send().await.map_err(|error| format!("{error:?}"))
                });
                count.fetch_add(1, Ordering::Relaxed);
                // Without a verified certificate there are no metrics.
                match outcome {
                    Ok(response) if response.status() == 200 => {}
                    Ok(response) => failed.lock().unwrap().push(response.status().to_string()),
                    Err(error) => failed.lock().unwrap().push(error),
                }
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        Self { done, handshakes, failures, thread }
    }

    /// Waits for `more` requests, so that there is traffic in every state.
    fn flow(&self, more: usize) {
        let goal = self.handshakes.load(Ordering::Relaxed) + more;
        until("traffic flows", || (self.handshakes.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    fn end(self) -> (usize, Vec<String>) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        (self.handshakes.load(Ordering::Relaxed), self.failures.lock().unwrap().clone())
    }
}

fn root_command(ca: &Ca, command: &str, further: &[&str]) -> Output {
    ca.command(&["root", command]).args(further).output().unwrap()
}

fn succeeds(ca: &Ca, command: &str, further: &[&str]) -> String {
    let output = root_command(ca, command, further);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a line that begins with `name`.
fn told(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// A worker that knows the CA by a fingerprint alone.
fn pinned(ca: &Ca, name: &str, fingerprint: &str) -> Worker {
    let mut worker = Worker::of(ca, name).with("CRANK_CA_ROOT_FINGERPRINT", fingerprint);
    worker.unset("CRANK_CA_ROOT_FILE");
    worker
}

fn enrols(worker: &Worker) {
    let output = worker.run_once(&["init"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_root_is_replaced_under_live_mtls_traffic_without_one_failed_handshake() {
    let ca = Ca::start("1h");
    let directory = tempfile::tempdir().unwrap();
    // Both ever know the CA by its old root alone: one by a file, one by a fingerprint.
    let old_root = directory.path().join("old.crt");
    std::fs::copy(ca.root_file(), &old_root).unwrap();
    let mut by_file = Worker::of(&ca, "alpha");
    by_file.set("CRANK_CA_ROOT_FILE", &old_root.display().to_string());
    let list = succeeds(&ca, "list", &[]);
    let old_fingerprint = list.lines().nth(1).unwrap().rsplit(' ').next().unwrap().to_owned();
    let alpha = Peer::start(by_file, "beta");
    let beta = Peer::start(pinned(&ca, "beta", &old_fingerprint), "alpha");
    let traffic = [Traffic::between(&alpha, &beta), Traffic::between(&beta, &alpha)];
    let flow = || traffic.iter().for_each(|traffic| traffic.flow(20));
    flow();

    let rotated = succeeds(&ca, "rotate", &[]);
    let new_fingerprint = told(&rotated, "fingerprint");
    assert!(rotated.contains("by the old root"), "{rotated}");
    // The CA notices by itself.
    for peer in [&alpha, &beta] {
        peer.renew_until(|| peer.roots() == 2);
        assert_eq!(peer.issuer(), "Crank Issuing CA");
        // Without it, it would refuse whoever comes with a certificate of the next issuer.
        until("the CRL of the next issuer is there", || (peer.crls() == 2).then_some(()));
        flow();
    }
    // Who knows only the new root gets along with a CA that still signs by the old one.
    enrols(&pinned(&ca, "gamma", &new_fingerprint));

    succeeds(&ca, "activate", &[]);
    alpha.renew_until(|| alpha.issuer() == "Crank Issuing CA G2");
    // One below the new root, the other below the old one.
    assert_eq!(beta.issuer(), "Crank Issuing CA");
    flow();
    let serial = beta.worker.serial();
    beta.agent.signal(Signal::USR1);
    until("a signal renews", || (beta.worker.serial() != serial).then_some(()));
    beta.renew_until(|| beta.issuer() == "Crank Issuing CA G2");
    flow();
    // Who knows only the old root gets along with a CA that signs by the new one.
    enrols(&pinned(&ca, "delta", &old_fingerprint));
    let mut late = Worker::of(&ca, "epsilon");
    late.set("CRANK_CA_ROOT_FILE", &old_root.display().to_string());
    enrols(&late);

    // The certificates of before have not expired, though nobody shows them any longer.
    let refused = root_command(&ca, "retire", &[]);
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("certificates that have not expired"));
    succeeds(&ca, "retire", &["--force"]);
    beta.renew_until(|| beta.roots() == 1);
    // The file still names the old root.
    alpha.renew_until(|| true);
    assert_eq!(alpha.roots(), 2);
    flow();

    for traffic in traffic {
        let (handshakes, failures) = traffic.end();
        println!("{handshakes} handshakes");
        assert!(
            handshakes > 100 && failures.is_empty(),
            "{} of {handshakes} failed: {:?}",
            failures.len(),
            failures.first()
        );
    }
    for peer in [&alpha, &beta] {
        assert_eq!(peer.agent.count("CA_UNAVAILABLE") + peer.agent.count("CERT_VALIDATION_FAILED"), 0);
    }
}
