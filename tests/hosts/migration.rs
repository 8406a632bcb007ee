//! From the Python tools to these: the old client at the new CA, the new agent at the old CA, and the step between.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::processes::{Ca, Worker, free_address, until};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/old").join(name)
}

/// The authority of the Python tools.
pub(crate) struct OldCa {
    directory: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl OldCa {
    pub(crate) fn start(days: u32) -> Self {
        let (directory, address) = (tempfile::tempdir().unwrap(), free_address());
        let process = Command::new("python3")
            .arg(script("authority.py"))
            .arg(directory.path())
            .args([address.port().to_string(), days.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let ca = Self { directory, address, process };
        until("the old CA listens", || TcpStream::connect(ca.address).ok());
        ca
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.crt")
    }
}

impl Drop for OldCa {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn old_client(url: &str, worker: &str, directory: &Path) -> Output {
    Command::new("python3").arg(script("initialize.py")).args([url, worker]).arg(directory).output().unwrap()
}

#[test]
#[ignore = "needs python3 and openssl"]
fn an_old_client_enrols_at_crank_ca_by_a_rule_and_an_agent_beside_it_by_a_token() {
    let mut ca = Ca::stopped("1h");
    let rule = "[[anonymous]]\nsources = [\"127.0.0.0/8\"]\nworkers = [\"legacy-*\"]\n";
    fs::write(ca.config_file(), rule).unwrap();
    ca.restart();
    let worker = Worker::of(&ca, "legacy-streaming");
    let enrolled = old_client(&ca.url(), "legacy-streaming", &worker.certificates());
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    let serial = worker.serial().expect("files that the library reads");
    // The rule is for no other name, and refusals tell what to do.
    let refused = old_client(&ca.url(), "streaming", &worker.certificates().join("other"));
    let detail = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && detail.starts_with("401: ") && detail.contains("crank-ca token create"),
        "{detail}"
    );

    // The agent has a directory of its own, so that the files of the old client serve until the worker reads the others.
    let other = worker.certificates().join("agent").display().to_string();
    let worker = worker.with("CERT_DIR", &other);
    let agent = worker.start();
    let issued = agent.event("CERT_ISSUED", 1);
    assert_ne!(issued["cert_metadata"]["serial"], serial.as_str());
    assert!(issued["cert_metadata"]["names"].to_string().contains("URI:spiffe://crank.local/worker/legacy-streaming"));
}

#[test]
#[ignore = "needs python3 and openssl"]
fn an_agent_lives_on_the_old_ca_and_moves_to_crank_ca_without_a_gap() {
    let old = OldCa::start(365);
    let mut ca = Ca::stopped("1h");
    let both = old.directory.path().join("both.crt");
    let roots = [old.root_file(), ca.root_file()].map(|path| fs::read_to_string(path).unwrap()).concat();
    fs::write(&both, &roots).unwrap();
    let both = both.to_str().unwrap();
    // First of all everybody trusts both.
    let worker = Worker::at("streaming", &old.url(), &old.root_file()).with("CRANK_CA_ISSUED_ROOTS_FILE", both);
    // The agent sends a token to whoever is its CA; the old one looks at none.
    worker.write_token("none");
    let mut agent = worker.start();
    let issued = agent.event("CERT_ISSUED", 1);
    assert_eq!(issued["cert_metadata"]["issuer"], "CN=Crank Platform CA");
    let names = issued["cert_metadata"]["names"].to_string();
    assert!(names.contains("URI:spiffe://crank.local/worker/streaming"), "{names}");
    assert!(worker.run_once(&["renew"]).status.success(), "{}", agent.log());
    let old_serial = worker.serial().unwrap();
    agent.kill();

    // Another CA and a token: the certificate of the old one serves until there is one of the new.
    let published = || crank_agent::store::read_bundle(&worker.certificates()).unwrap().roots().len();
    assert_eq!(published(), 2);
    let certificates = worker.certificates().display().to_string();
    let mut moved =
        Worker::of(&ca, "streaming").with("CERT_DIR", &certificates).with("CRANK_CA_ISSUED_ROOTS_FILE", both);
    let mut agent = moved.start();
    agent.event("CERT_ADOPTED", 1);
    assert_eq!(moved.run_once(&["renew"]).status.code(), Some(69), "the new CA is not up yet: {}", agent.log());
    assert_eq!(worker.serial().unwrap(), old_serial);
    assert_eq!(moved.run_once(&["health"]).status.code(), Some(0), "{}", agent.log());
    ca.restart();
    // Of itself it goes on trying what it was asked for.
    let renewed = agent.event("CERT_RENEWED", 1);
    assert_eq!(worker.serial().unwrap(), renewed["cert_metadata"]["serial"]);
    assert_eq!(renewed["cert_metadata"]["issuer"], "CN=Crank Issuing CA, O=Crank Platform");
    assert_eq!(published(), 2, "peers may still have certificates of the old one");
    agent.kill();

    // When all have moved, the old root goes.
    moved.unset("CRANK_CA_ISSUED_ROOTS_FILE");
    let agent = moved.start();
    agent.event("CERT_ADOPTED", 1);
    until("the old root is gone", || (published() == 1).then_some(()));
}
