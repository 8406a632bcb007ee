//! Clients of other makers against the TLS listener of a running agent.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::processes::{Agent, Ca, Worker, free_address, until};

const PROMETHEUS: &str = "spiffe://crank.local/worker/prometheus";

/// A worker whose agent serves, and only to Prometheus its metrics.
struct Served {
    worker: Worker,
    address: SocketAddr,
}

impl Served {
    fn by(ca: &Ca) -> Self {
        let address = free_address();
        let worker = Worker::of(ca, "streaming")
            .with("CRANK_SERVER_LISTEN", &address.to_string())
            .with("CRANK_SERVER_METRICS_ALLOW", PROMETHEUS);
        Self { worker, address }
    }

    /// Starts the agent and waits until it serves its first certificate.
    fn start(&self, ca: &Ca) -> Agent {
        let agent = self.worker.start();
        agent.event("CERT_ISSUED", 1);
        until("it is served", || (self.curl(&trust(ca), "/livez").0 == Some(0)).then_some(()));
        agent
    }

    /// curl's exit code, and the body with the status after it.
    fn curl(&self, arguments: &[String], path: &str) -> (Option<i32>, String) {
        let fixed = ["--silent", "--noproxy", "*", "--max-time", "20", "--write-out", " %{http_code}"];
        let url = format!("https://localhost:{}{path}", self.address.port());
        let output = run(Command::new("curl").args(fixed).args(arguments).arg(url));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `openssl s_client` says of a verified connection, and its exit code.
    fn s_client(&self, ca: &Ca, arguments: &[&str]) -> (Option<i32>, String) {
        let output = run(Command::new("openssl")
            .args(["s_client", "-connect", &self.address.to_string(), "-servername", "localhost"])
            .args(["-verify_hostname", "streaming", "-verify_return_error", "-showcerts", "-CAfile"])
            .arg(ca.root_file())
            .args(arguments));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn trust(ca: &Ca) -> [String; 2] {
    ["--cacert".to_owned(), ca.root_file().display().to_string()]
}

fn identity(certificates: &Path) -> [String; 4] {
    let file = |name: &str| certificates.join(name).display().to_string();
    ["--cert".to_owned(), file("client.crt"), "--key".to_owned(), file("client.key")]
}

#[test]
#[ignore = "needs curl"]
fn curl_reads_probes_with_the_root_and_metrics_with_a_listed_certificate() {
    let ca = Ca::start("1h");
    let served = Served::by(&ca);
    let agent = served.start(&ca);
    let trust = trust(&ca);
    for probe in ["/livez", "/readyz", "/startupz", "/health", "/health/live", "/health/ready"] {
        for version in [["--tlsv1.2", "--tls-max", "1.2"].as_slice(), &["--tlsv1.3"]] {
            let version = version.iter().map(ToString::to_string);
            let (code, text) = served.curl(&trust.iter().cloned().chain(version).collect::<Vec<_>>(), probe);
            assert!(code == Some(0) && text.ends_with(" 200"), "{probe}: {code:?} {text}");
        }
    }
    // curl exits with 60 when the peer's certificate does not verify.
    assert_eq!(served.curl(&[], "/readyz").0, Some(60));

    let prometheus = Worker::of(&ca, "prometheus");
    assert_eq!(prometheus.run_once(&["init"]).status.code(), Some(0));
    let with = |worker: &Worker| trust.iter().cloned().chain(identity(&worker.certificates())).collect::<Vec<_>>();
    assert!(served.curl(&trust, "/metrics").1.ends_with(" 401"));
    assert!(served.curl(&with(&served.worker), "/metrics").1.ends_with(" 403"));
    let (code, text) = served.curl(&with(&prometheus), "/metrics");
    assert!(code == Some(0) && text.ends_with(" 200"), "{text}");
    for metric in ["crank_agent_ready 1", "crank_cert_issuance_total 1", "crank_cert_renewal_total 0"] {
        assert!(text.contains(metric), "no {metric} in {text}");
    }
    // A certificate of another CA does not even get so far as to be refused by name.
    let other = Ca::start("1h");
    let stranger = Worker::of(&other, "prometheus");
    assert_eq!(stranger.run_once(&["init"]).status.code(), Some(0));
    let (code, text) = served.curl(&with(&stranger), "/metrics");
    assert!(code != Some(0) && text.ends_with(" 000"), "{code:?} {text}");
    drop(agent);
}

#[test]
#[ignore = "needs curl"]
fn curl_gets_no_handshake_before_the_first_certificate() {
    let mut ca = Ca::stopped("1h");
    let served = Served::by(&ca);
    let agent = served.worker.start();
    until("the agent listens", || TcpStream::connect(served.address).ok());
    // 35: the TLS handshake failed.
    assert_eq!(served.curl(&trust(&ca), "/livez"), (Some(35), " 000".to_owned()));
    ca.restart();
    agent.event("CERT_ISSUED", 1);
    until("the first certificate is served", || (served.curl(&trust(&ca), "/readyz").0 == Some(0)).then_some(()));
}

#[test]
#[ignore = "needs openssl"]
fn openssl_sees_the_chain_and_after_a_rotation_the_new_one() {
    let ca = Ca::start("1h");
    let served = Served::by(&ca);
    let _agent = served.start(&ca);
    for version in ["-tls1_3", "-tls1_2"] {
        let (code, text) = served.s_client(&ca, &[version]);
        assert!(code == Some(0) && text.contains("Verify return code: 0 (ok)"), "{version}: {text}");
        assert_eq!(serials(&text).len(), 2, "leaf and intermediate: {text}");
        assert_eq!(serials(&text)[0], served.worker.serial().unwrap());
    }
    assert_ne!(served.s_client(&ca, &["-tls1_1"]).0, Some(0));

    let before = served.worker.serial().unwrap();
    assert_eq!(served.worker.run_once(&["renew"]).status.code(), Some(0));
    let renewed = served.worker.serial().unwrap();
    assert_ne!(renewed, before);
    until("the new certificate is served", || {
        let (code, text) = served.s_client(&ca, &[]);
        assert_eq!(code, Some(0), "{text}");
        let serial = serials(&text).remove(0);
        assert!(serial == renewed || serial == before, "{serial}");
        (serial == renewed).then_some(())
    });
}

/// The serials of all certificates in a text, in order.
fn serials(text: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| X509Certificate::from_der(&der.unwrap()).unwrap().1.raw_serial_as_string())
        .collect()
}
