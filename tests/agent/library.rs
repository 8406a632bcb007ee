//! The example programs of the library as processes: one asks the other all the time, while both have everything
//! replaced that an agent can replace.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use crank_agent::identity::{CertificateBundle, Crl};
use crank_agent::mtls::create_mtls_client_config;
use crank_agent::store::read_bundle;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::built::example;
use crate::processes::{Agent, Ca, Worker, free_address, renew_until, until};

const ROTATIONS: usize = 20;

#[test]
fn the_examples_talk_over_all_rotations_without_one_failed_request() {
    let ca = Ca::start("1h");
    let (streaming, client) = (Side::start(&ca, "streaming"), Side::start(&ca, "client"));
    let address = free_address();
    let server = Program::start("mtls-server", &[&streaming.directory(), Path::new(&address.to_string())]);
    server.until("the server listens", |lines| lines.len() == 1);
    let url = format!("https://localhost:{}/", address.port());
    let asking = Program::start("mtls-client", &[&client.directory(), Path::new(&url), Path::new("2")]);
    asking.flows();

    // Certificate and key, of either side in turn.
    let mut shown = vec![client.bundle().serial().to_owned()];
    for _ in 0..ROTATIONS {
        streaming.renew();
        assert_eq!(presented(&streaming, address), leaf(&streaming), "from the next handshake on");
        asking.flows();
        client.renew();
        shown.push(client.bundle().serial().to_owned());
        asking.flows();
    }
    assert_eq!(serials(&server), shown, "one connection for each certificate of the client");

    // The CRL: a third worker is on it.
    let outcast = Side::start(&ca, "outcast");
    ca.run(&["revoke", "--worker", "outcast"]);
    let revoked = CertificateDer::from(leaf(&outcast));
    for side in [&streaming, &client] {
        let listed = |crl: &Crl| crl.entry_of(&revoked).is_some();
        until("the CRL has it", || side.bundle().crls().iter().any(listed).then_some(()));
    }
    asking.flows();

    // The roots, and with them the issuer and its CRL.
    ca.run(&["root", "rotate"]);
    for side in [&streaming, &client] {
        side.renew_until(|side| side.bundle().roots().len() == 2);
        until("the CRL of the next issuer is there", || (side.bundle().crls().len() == 2).then_some(()));
        asking.flows();
    }
    ca.run(&["root", "activate"]);
    for side in [&streaming, &client] {
        side.renew_until(|side| side.issuer() == "Crank Issuing CA G2");
        asking.flows();
    }
    assert_eq!(presented(&streaming, address), leaf(&streaming));

    let summary = asking.end();
    let answered = summary.strip_suffix(" answered, 0 failed").expect(&summary);
    println!("{answered} requests over {} certificates", serials(&server).len());
    assert!(answered.parse::<usize>().unwrap() > ROTATIONS * FLOW);

    // It was no open door: whoever is revoked is refused.
    let refused = Program::start("mtls-client", &[&outcast.directory(), Path::new(&url), Path::new("2")]);
    until("the server refuses it", || server.errors().contains("Revoked").then_some(()));
    assert!(refused.lines().is_empty(), "{:?}", refused.lines());
}

#[test]
fn without_a_valid_certificate_the_examples_do_not_begin() {
    let directory = tempfile::tempdir().unwrap();
    for (name, other) in [("mtls-client", "https://localhost:1/"), ("mtls-server", "127.0.0.1:0")] {
        let mut program = Program::start(name, &[directory.path(), Path::new(other)]);
        let ended = until("it ends", || program.process.try_wait().unwrap());
        assert_eq!(ended.code(), Some(1));
        assert!(program.errors().contains("there is no usable certificate in"), "{}", program.errors());
    }
}

/// A worker and its agent.
struct Side {
    worker: Worker,
    _agent: Agent,
}

impl Side {
    fn start(ca: &Ca, name: &str) -> Self {
        let worker = Worker::of(ca, name);
        let agent = worker.start();
        agent.event("CERT_ISSUED", 1);
        Self { worker, _agent: agent }
    }

    fn directory(&self) -> PathBuf {
        self.worker.certificates()
    }

    fn bundle(&self) -> CertificateBundle {
        read_bundle(&self.directory()).unwrap()
    }

    fn renew(&self) {
        self.renew_until(|_| true);
    }

    fn renew_until(&self, enough: impl Fn(&Self) -> bool) {
        renew_until(&self.worker, |_| enough(self)).unwrap();
    }

    /// The common name of whoever signed the certificate in force.
    fn issuer(&self) -> String {
        let leaf = leaf(self);
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        leaf.issuer().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    }
}

fn leaf(side: &Side) -> Vec<u8> {
    side.bundle().chain()[0].to_vec()
}

/// The leaf that the server at `address` presents to `caller`, in a handshake for this.
fn presented(caller: &Side, address: SocketAddr) -> Vec<u8> {
    let config = Arc::new(create_mtls_client_config(&caller.directory()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    })
}

/// The certificates with which the client has connected, each as it came to replace the one before.
fn serials(server: &Program) -> Vec<String> {
    let lines = server.lines();
    let of_client = lines.iter().filter(|line| line.starts_with("CN=client,"));
    let serials = of_client.filter_map(|line| line.rsplit_once(" has ")).map(|(_, serial)| serial.to_owned());
    let mut serials: Vec<String> = serials.collect();
    serials.dedup();
    serials
}

/// A running example program, and what it has written.
struct Program {
    process: Child,
    directory: tempfile::TempDir,
}

impl Program {
    fn start(name: &str, arguments: &[&Path]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(directory.path().join(name)).unwrap();
        let process = Command::new(example(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file("output"))
            .stderr(file("errors"))
            .spawn()
            .unwrap();
        Self { process, directory }
    }

    /// The whole lines on its standard output.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("output")).unwrap();
        text.split_inclusive('\n').filter_map(|line| Some(line.strip_suffix('\n')?.to_owned())).collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join("errors")).unwrap()
    }

    fn until(&self, what: &str, enough: impl Fn(&[String]) -> bool) {
        until(what, || {
            assert_eq!(self.errors(), "", "{what}");
            enough(&self.lines()).then_some(())
        });
    }

    /// Waits for answers to requests of now.
    fn flows(&self) {
        let goal = self.lines().len() + FLOW;
        self.until("requests are answered", |lines| lines.len() >= goal);
    }

    /// Ends it as Ctrl-C does, and returns its last line.
    fn end(&self) -> String {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        let last = || self.lines().pop().filter(|line| line.contains(" answered, "));
        until("it tells how it went", last)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            println!("{}", self.errors());
        }
    }
}

/// Requests that are waited for in every state.
const FLOW: usize = 20;
