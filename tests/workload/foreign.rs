//! Programs that others wrote, each as it comes: go-spiffe, spiffe-helper and Envoy, by the examples of the page.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use crank_agent::identity::CertificateBundle;
use crank_agent::store::read_bundle;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::processes::{Ca, PATIENCE, Worker, free_address, until};
use crate::{client, eventually, mutual_tls, renew, running, socket};

const PAGE: &str = "docs/workload-api.md";

/// The block of the page in `language` that has `text`.
fn example(language: &str, text: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let start = format!("\n```{language}\n");
    let mut blocks = page.split(&start).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let block = blocks.find(|block| block.contains(text));
    format!("{}\n", block.unwrap_or_else(|| panic!("no example with {text}")))
}

/// A program that is ended with the test.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits for this line.
    pub(crate) fn says(&self, expected: &str) {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|line| line != expected) {
            seen.push(self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {expected:?} in {seen:?}")));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // nginx leaves its worker behind where it is not asked to end, and the worker holds our output open.
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let ended = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !matches!(self.child.try_wait(), Ok(None))
        });
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs workload-client"]
fn a_go_program_has_its_certificate_follows_rotations_and_speaks_mutual_tls() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workload/go/main.go");
    assert!(fs::read_to_string(source).unwrap().contains(&example("go", "func mutualTLS")), "it is not the example");
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let endpoint = format!("unix://{}", socket(&worker).display());
    let program = Program::start(Command::new("workload-client").env("SPIFFE_ENDPOINT_SOCKET", endpoint));
    for _ in 0..3 {
        let serial = worker.serial().unwrap();
        let serial = serial.trim_start_matches("00:").replace(':', "");
        program.says(&format!("certificate {serial} of spiffe://crank.local/worker/streaming"));
        program.says(&format!("mutual TLS {serial}"));
        renew(&worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs spiffe-helper"]
async fn spiffe_helper_writes_files_and_follows_rotations() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("certs");
    fs::create_dir(&files).unwrap();
    let config = example("hcl", "agent_address")
        .replace("/run/crank/workload.sock", socket(&worker).to_str().unwrap())
        .replace("/var/lib/streaming/certs", files.to_str().unwrap());
    let path = directory.path().join("helper.conf");
    fs::write(&path, config).unwrap();
    let _program = Program::start(Command::new("spiffe-helper").arg("-config").arg(&path));
    for _ in 0..2 {
        let published = read_bundle(&worker.certificates()).unwrap();
        let written = until("the helper has written the certificate", || {
            let read = |name: &str| fs::read(files.join(name)).ok();
            let (chain, key) = (read("svid.pem")?, read("svid_key.pem")?);
            // Not whole while it is being written.
            let bundle = CertificateBundle::from_pem(&chain, &key, &read("svid_bundle.pem")?).ok()?;
            (bundle.serial() == published.serial()).then_some(bundle)
        });
        assert_eq!((written.chain(), written.roots()), (published.chain(), published.roots()));
        let leaf = mutual_tls(written.chain().to_vec(), &written.key().to_rustls(), written.roots().to_vec()).await;
        assert_eq!(leaf, published.chain()[0].to_vec());
        renew(&worker);
    }
}

/// What Envoy answers to whoever shows `identity`, and the leaf that it shows itself; `None` where it refuses, or is not there.
async fn ask_envoy(address: SocketAddr, identity: &CertificateBundle) -> Option<(Vec<u8>, String)> {
    let mut roots = RootCertStore::empty();
    identity.roots().iter().for_each(|root| roots.add(root.clone()).unwrap());
    let config = client(identity.chain().to_vec(), &identity.key().to_rustls(), roots);
    let tcp = TcpStream::connect(address).await.ok()?;
    let name = ServerName::try_from("streaming").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    let leaf = stream.get_ref().1.peer_certificates()?[0].to_vec();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: streaming\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    // Envoy may close without saying so in TLS.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ").then_some((leaf, answer))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs envoy"]
async fn envoy_serves_by_its_secrets_follows_rotations_and_refuses_who_is_revoked() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let outcast = Worker::of(&ca, "outcast");
    let other = outcast.start();
    other.event("CERT_ISSUED", 1);
    let address = free_address();
    let config = example("yaml", "DownstreamTlsContext")
        .replace("/run/crank/workload.sock", socket(&worker).to_str().unwrap())
        .replace("address: 0.0.0.0, port_value: 8443", &format!("address: 127.0.0.1, port_value: {}", address.port()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("envoy.yaml");
    fs::write(&path, config).unwrap();
    let mut envoy = Command::new("envoy");
    envoy.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"]).arg(&path);
    let _program = Program::start(&mut envoy);

    for _ in 0..3 {
        let published = read_bundle(&worker.certificates()).unwrap();
        let (_, answer) = eventually("Envoy serves by the certificate", async || {
            let answer = ask_envoy(address, &published).await?;
            (answer.0 == published.chain()[0].as_ref()).then_some(answer)
        })
        .await;
        assert!(answer.ends_with("by Envoy\n"), "{answer}");
        renew(&worker);
    }

    until("there is a CRL", || worker.certificates().join("ca.crl").exists().then_some(()));
    let revoked = read_bundle(&outcast.certificates()).unwrap();
    assert!(ask_envoy(address, &revoked).await.is_some());
    ca.run(&["revoke", "--worker", "outcast", "--reason", "keyCompromise"]);
    eventually("Envoy refuses the certificate that is revoked", async || {
        ask_envoy(address, &revoked).await.is_none().then_some(())
    })
    .await;
    let published = read_bundle(&worker.certificates()).unwrap();
    assert!(ask_envoy(address, &published).await.is_some(), "others are served");
}
