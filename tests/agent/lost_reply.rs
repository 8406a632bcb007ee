//! A reply that is lost on its way: the agent asks again with the same key and gets the same certificate.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crank_agent::ca::{CertificateAuthorityManager, Database, TokenRecord};
use crank_agent::clock::SystemClock;
use crank_agent::config::Environment;
use crank_agent::policy::DefaultPolicy;

use crate::processes::{Ca, Worker};

#[test]
fn a_lost_reply_costs_no_second_token_and_no_second_certificate() {
    let ca = Ca::start("1h");
    let proxy = LossyProxy::start(ca.address, 1);
    let worker = Worker::at("streaming", &proxy.url(), &ca.root_file());
    worker.write_token(&ca.token("streaming"));
    let agent = worker.start();
    let issued = agent.event("CERT_ISSUED", 1);
    assert_eq!(proxy.lost(), 1);
    assert_eq!(agent.count("CA_UNAVAILABLE"), 1);
    assert_eq!((agent.count("CSR_GENERATED"), agent.count("CSR_SUBMITTED")), (1, 2));
    let serial = worker.serial().unwrap();
    assert_eq!(issued["cert_metadata"]["serial"], serial.as_str());
    let (count, tokens) = record(&ca);
    assert_eq!((count, tokens.len()), (1, 1));
    assert_eq!(tokens[0].used_serial.as_deref(), Some(serial.as_str()));
}

#[test]
fn a_lost_reply_to_a_renewal_costs_no_second_certificate() {
    let ca = Ca::start("60s");
    let proxy = LossyProxy::start(ca.address, 3);
    let worker =
        Worker::at("streaming", &proxy.url(), &ca.root_file()).with("CRANK_SCHEDULE_RENEW_FRACTION", "0.1,0.15");
    // The proxy counts connections: one to enrol, one to ask when to renew, one to renew.
    let worker = ["CRANK_CA_PUSH", "CRANK_CRL_ENABLED", "CRANK_CA_FOLLOW_ROOTS"]
        .into_iter()
        .fold(worker, |worker, setting| worker.with(setting, "false"));
    worker.write_token(&ca.token("streaming"));
    let mut agent = worker.start();
    let renewed = agent.event("CERT_RENEWED", 1);
    agent.kill();
    assert_eq!(proxy.lost(), 1);
    assert_eq!(agent.count("CA_UNAVAILABLE"), 1);
    assert_eq!(agent.count("CSR_SUBMITTED"), 3);
    assert_eq!(worker.serial().unwrap(), renewed["cert_metadata"]["serial"]);
    assert_eq!(record(&ca).0, 2);
}

/// How many certificates the CA has issued to workers, and what it knows of tokens.
fn record(ca: &Ca) -> (u64, Vec<TokenRecord>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let data_directory = ca.data_directory();
        let manager = CertificateAuthorityManager::open(
            &data_directory,
            &Database::Sqlite,
            Box::new(DefaultPolicy::default()),
            Environment::Production,
            Arc::new(SystemClock),
        );
        let manager = manager.await.unwrap();
        (manager.issued_count().await.unwrap(), manager.tokens().list().await.unwrap())
    })
}

/// Passes bytes between agent and CA, but on one connection: there it passes the request on, waits until the reply
/// comes, and cuts.
struct LossyProxy {
    address: SocketAddr,
    lost: Arc<AtomicUsize>,
}

impl LossyProxy {
    /// In front of the CA at `upstream`; the `losing`th connection loses its reply.
    fn start(upstream: SocketAddr, losing: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lost = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&lost);
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (client, server) = (client.unwrap(), TcpStream::connect(upstream).unwrap());
                let counter = (number + 1 == losing).then(|| Arc::clone(&counter));
                thread::spawn(move || pass(&client, &server, counter.as_deref()));
            }
        });
        Self { address, lost }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

/// To the end of the connection. With `lost`, to the first bytes from the CA after the handshake, which are counted
/// there: the CA sends none but the reply then, no session ticket either.
fn pass(client: &TcpStream, server: &TcpStream, lost: Option<&AtomicUsize>) {
    let shaken = AtomicBool::new(false);
    thread::scope(|scope| {
        // However one direction ends, so does the other.
        let _upward = scope.spawn(|| {
            let _ = pass_records(client, server, &shaken);
            let _ = server.shutdown(Shutdown::Write);
        });
        let mut buffer = [0; 16 * 1024];
        let (mut from, mut to) = (server, client);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if let Some(lost) = lost
                && shaken.load(Ordering::SeqCst)
            {
                lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
}

/// Passes TLS records (RFC 8446, section 5.1) on, and notes the first that is encrypted: the client has all of the
/// server's handshake by then.
fn pass_records(mut from: &TcpStream, mut to: &TcpStream, shaken: &AtomicBool) -> io::Result<()> {
    const APPLICATION_DATA: u8 = 23;
    loop {
        let mut header = [0; 5];
        from.read_exact(&mut header)?;
        let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        from.read_exact(&mut record)?;
        if header[0] == APPLICATION_DATA {
            shaken.store(true, Ordering::SeqCst);
        }
        to.write_all(&header)?;
        to.write_all(&record)?;
    }
}
