//! The TLS listener, met by real clients.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crank_agent::clock::SystemClock;
use crank_agent::identity::{CertificateBundle, DnsName, SpiffeId};
use crank_agent::metrics::Metrics;
use crank_agent::serve::{AllowedClient, MAX_CONNECTIONS, Readiness, Server, Sources};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use support::{TestCa, client_config, eventually, expired, valid_now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const AGENT: [&str; 3] = ["streaming", "localhost", "spiffe://crank.local/worker/streaming"];
const PROMETHEUS: &str = "spiffe://crank.local/worker/prometheus";
const DRAIN: Duration = Duration::from_secs(5);

/// A readiness that the test sets, and can hold up.
#[derive(Debug, Default)]
struct Switches {
    ready: AtomicBool,
    started: AtomicBool,
    hold: AtomicBool,
    asked: AtomicBool,
}

impl Readiness for Switches {
    fn ready(&self) -> Result<(), String> {
        self.asked.store(true, Ordering::SeqCst);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while self.hold.load(Ordering::SeqCst) && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        if self.ready.load(Ordering::SeqCst) { Ok(()) } else { Err("no certificate yet".to_owned()) }
    }

    fn started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }
}

struct Running {
    ca: TestCa,
    address: SocketAddr,
    bundle: watch::Sender<Option<Arc<CertificateBundle>>>,
    metrics_allow: watch::Sender<Vec<AllowedClient>>,
    switches: Arc<Switches>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// A listener with no certificate yet.
    async fn empty() -> Self {
        Self::empty_with(DRAIN).await
    }

    async fn empty_with(drain: Duration) -> Self {
        let (bundle, bundle_receiver) = watch::channel(None);
        let (metrics_allow, allow_receiver) = watch::channel(Vec::new());
        let switches = Arc::new(Switches::default());
        let sources = Sources {
            bundle: bundle_receiver,
            metrics_allow: allow_receiver,
            readiness: Arc::<Switches>::clone(&switches),
            metrics: Metrics::new().unwrap(),
            clock: Arc::new(SystemClock),
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), sources).await.unwrap();
        let address = server.address();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.run(cancel.clone(), drain));
        Self { ca: TestCa::new("first"), address, bundle, metrics_allow, switches, cancel, task }
    }

    /// A listener with a certificate, and ready.
    async fn ready() -> Self {
        Self::ready_with(DRAIN).await
    }

    async fn ready_with(drain: Duration) -> Self {
        let running = Self::empty_with(drain).await;
        running.publish(running.ca.issue(&AGENT, valid_now()));
        running.switches.ready.store(true, Ordering::SeqCst);
        running.switches.started.store(true, Ordering::SeqCst);
        running
    }

    fn publish(&self, bundle: CertificateBundle) -> Arc<CertificateBundle> {
        let bundle = Arc::new(bundle);
        self.bundle.send_replace(Some(Arc::clone(&bundle)));
        bundle
    }

    async fn connect(&self, identity: Option<&CertificateBundle>) -> io::Result<Raw> {
        self.connect_with(client_config(&self.ca, identity)).await
    }

    async fn connect_with(&self, config: rustls::ClientConfig) -> io::Result<Raw> {
        let stream = TcpStream::connect(self.address).await?;
        handshake(stream, Arc::new(config)).await
    }

    /// One request on a connection of its own, by reqwest.
    async fn get(&self, path: &str, identity: Option<&CertificateBundle>) -> Result<(u16, String), reqwest::Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&self.ca, identity))
            .no_proxy()
            .https_only(true)
            .timeout(Duration::from_secs(8))
            .resolve("localhost", self.address)
            .build()?;
        let response = client.get(format!("https://localhost:{}{path}", self.address.port())).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A client that writes and reads HTTP by hand, so that a test sees the connection.
struct Raw(TlsStream<TcpStream>);

impl Raw {
    async fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> io::Result<(u16, String)> {
        let mut text = String::new();
        let head_end = loop {
            if let Some(end) = text.find("\r\n\r\n") {
                break end + 4;
            }
            self.read_into(&mut text).await?;
        };
        let head = text[..head_end].to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.expect("content-length").parse().unwrap();
        while text.len() < head_end + length {
            self.read_into(&mut text).await?;
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, text))
    }

    async fn read_into(&mut self, text: &mut String) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.0.read(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                Ok(())
            }
        }
    }

    /// Reads until the other side closes, in whatever way.
    async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while !matches!(self.0.read(&mut buffer).await, Ok(0) | Err(_)) {}
    }

    fn leaf(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

async fn handshake(stream: TcpStream, config: Arc<rustls::ClientConfig>) -> io::Result<Raw> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await.map(Raw)
}

fn allow(id: &str) -> AllowedClient {
    AllowedClient::Spiffe(SpiffeId::new(id).unwrap())
}

#[tokio::test]
async fn probes_answer_anyone_over_tls() {
    let running = Running::ready().await;
    for path in ["/livez", "/readyz", "/startupz", "/health/live", "/health/ready"] {
        assert_eq!(running.get(path, None).await.unwrap(), (200, "ok".to_owned()), "{path}");
    }
    assert_eq!(running.get("/health", None).await.unwrap(), (200, r#"{"status":"healthy"}"#.to_owned()));
    running.switches.ready.store(false, Ordering::SeqCst);
    assert_eq!(running.get("/readyz", None).await.unwrap(), (503, "not ready: no certificate yet".to_owned()));
    assert_eq!(running.get("/livez", None).await.unwrap().0, 200);
}

#[tokio::test]
async fn handshakes_are_refused_until_the_first_certificate() {
    let running = Running::empty().await;
    let error = running.connect(None).await.err().expect("refused");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    running.publish(running.ca.issue(&AGENT, valid_now()));
    assert_eq!(running.get("/livez", None).await.unwrap().0, 200);
}

#[tokio::test]
async fn plain_http_gets_no_answer() {
    let running = Running::ready().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DRAIN, stream.read_to_end(&mut answer)).await.expect("closed");
    // At most a TLS alert record.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn a_new_certificate_is_seen_on_the_next_connection_and_an_open_one_goes_on() {
    let running = Running::ready().await;
    let mut open = running.connect(None).await.unwrap();
    let old_leaf = open.leaf();
    assert_eq!(open.get("/livez").await.unwrap().0, 200);

    let new = running.publish(running.ca.issue(&AGENT, valid_now()));
    let next = running.connect(None).await.unwrap();
    assert_eq!(next.leaf(), new.chain()[0].to_vec());
    assert_ne!(next.leaf(), old_leaf);
    assert_eq!(open.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn new_roots_verify_the_next_client() {
    let running = Running::ready().await;
    let other = TestCa::new("second");
    let client = other.issue(&[PROMETHEUS], valid_now());
    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    assert!(running.get("/metrics", Some(&client)).await.is_err());
    let old = running.ca.issue(&AGENT, valid_now());
    let key = crank_agent::identity::PrivateKey::from_pem(old.key_pem().unwrap().as_bytes()).unwrap();
    let roots = vec![running.ca.root().clone(), other.root().clone()];
    running.publish(CertificateBundle::new(old.chain().to_vec(), key, roots).unwrap());
    assert_eq!(running.get("/metrics", Some(&client)).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_bundle_that_cannot_be_served_leaves_the_old_certificate() {
    let running = Running::ready().await;
    let before = running.connect(None).await.unwrap().leaf();
    running.publish(running.ca.issue_with(&AGENT, valid_now(), |params| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
    }));
    assert_eq!(running.connect(None).await.unwrap().leaf(), before);
}

#[tokio::test]
async fn metrics_are_for_clients_on_the_list_only() {
    let running = Running::ready().await;
    let listed = running.ca.issue(&[PROMETHEUS, "scraper.example"], valid_now());
    let other = running.ca.issue(&["spiffe://crank.local/worker/other", "prometheus"], valid_now());
    let status = async |identity| running.get("/metrics", identity).await.map(|answer| answer.0);

    // Nobody by default.
    assert_eq!(status(None).await.unwrap(), 401);
    assert_eq!(status(Some(&listed)).await.unwrap(), 403);

    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    assert_eq!(status(None).await.unwrap(), 401);
    assert_eq!(status(Some(&other)).await.unwrap(), 403);
    let (code, text) = running.get("/metrics", Some(&listed)).await.unwrap();
    assert_eq!(code, 200);
    assert!(text.contains("\ncrank_agent_ready 1\n") && text.contains("crank_cert_issuance_total 0"), "{text}");

    running.metrics_allow.send_replace(vec![AllowedClient::Dns(DnsName::new("scraper.example").unwrap())]);
    assert_eq!(status(Some(&listed)).await.unwrap(), 200);
    running.metrics_allow.send_replace(Vec::new());
    assert_eq!(status(Some(&listed)).await.unwrap(), 403);
}

#[tokio::test]
async fn a_client_certificate_that_does_not_verify_ends_the_handshake() {
    let running = Running::ready().await;
    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    let server_only = running.ca.issue_with(&[PROMETHEUS], valid_now(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (what, identity) in [
        ("another authority", TestCa::new("first").issue(&[PROMETHEUS], valid_now())),
        ("expired", running.ca.issue(&[PROMETHEUS], expired())),
        ("not for clients", server_only),
    ] {
        for path in ["/metrics", "/livez"] {
            assert!(running.get(path, Some(&identity)).await.is_err(), "{what}: {path}");
        }
    }
}

#[tokio::test]
async fn every_connection_verifies_the_client_anew() {
    let running = Running::ready().await;
    let config = Arc::new(client_config(&running.ca, Some(&running.ca.issue(&[PROMETHEUS], valid_now()))));
    for _ in 0..2 {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let mut raw = handshake(stream, Arc::clone(&config)).await.unwrap();
        assert_eq!(raw.get("/livez").await.unwrap().0, 200);
        let kind = raw.0.get_ref().1.handshake_kind().unwrap();
        assert!(matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest), "{kind:?}");
    }
}

#[tokio::test]
async fn head_has_no_body_and_post_is_refused() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    raw.0.write_all(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        raw.read_into(&mut text).await.unwrap();
    }
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"), "{text}");
    raw.0.write_all(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    let (status, text) = raw.answer().await.unwrap();
    assert_eq!(status, 405);
    assert!(text.to_ascii_lowercase().contains("allow: get, head"), "{text}");
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    let head = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.0.write_all(head).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let mut sent = 0;
    while raw.0.write_all(chunk.as_bytes()).await.is_ok() && raw.0.flush().await.is_ok() {
        sent += chunk.len();
        assert!(sent < 64 << 20, "read without end");
    }
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    raw.0.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap();
    let _ = raw.0.write_all("x".repeat(1 << 20).as_bytes()).await;
    timeout(DRAIN, raw.closed()).await.expect("closed");
}

#[tokio::test]
async fn idle_and_slow_clients_do_not_lock_out_a_probe() {
    let running = Running::ready().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut raw = running.connect(None).await.unwrap();
        raw.0.write_all(b"GET /readyz HTTP/1.1\r\nHost: loc").await.unwrap();
        slow.push(raw);
    }
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    // Sooner than any of the listener's time limits could have helped.
    for _ in 0..5 {
        let answer = timeout(Duration::from_secs(3), running.get("/readyz", None)).await.expect("in time");
        assert_eq!(answer.unwrap(), (200, "ok".to_owned()));
    }
    let cut_off = |stream: &TcpStream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    eventually("connections over the limit are closed", Duration::from_secs(3), || {
        let open = idle.iter().filter(|stream| !cut_off(stream)).count();
        open <= MAX_CONNECTIONS && open > 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_cut_off_after_the_handshake_limit() {
    let running = Running::ready().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let start = Instant::now();
    let _ = stream.read(&mut [0]).await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn a_client_that_drips_its_request_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    assert_eq!(raw.get("/livez").await.unwrap().0, 200);
    tokio::time::pause();
    let start = Instant::now();
    raw.0.write_all(b"GET /readyz HTTP/1.1\r\nX: ").await.unwrap();
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(1));
        tokio::select! {
            () = raw.closed() => break,
            () = pause => {}
        }
        if raw.0.write_all(b"x").await.is_err() {
            break;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "still open");
    }
    assert!((9..=12).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut_off() {
    let running = Running::ready().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(running.address).await.unwrap();
    let mut raw = handshake(stream, Arc::new(client_config(&running.ca, None))).await.unwrap();
    tokio::time::pause();
    let requests = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let cut_off = timeout(Duration::from_mins(5), async {
        while raw.0.write_all(requests.as_bytes()).await.is_ok() && raw.0.flush().await.is_ok() {}
    });
    cut_off.await.expect("cut off");
}

#[tokio::test]
async fn the_drain_answers_what_was_asked_and_closes_the_rest() {
    let mut running = Running::ready().await;
    let mut idle = running.connect(None).await.unwrap();
    assert_eq!(idle.get("/livez").await.unwrap().0, 200);
    running.switches.hold.store(true, Ordering::SeqCst);
    let mut busy = running.connect(None).await.unwrap();
    busy.0.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let switches = Arc::clone(&running.switches);
    eventually("the request is being answered", DRAIN, || switches.asked.load(Ordering::SeqCst)).await;

    running.cancel.cancel();
    timeout(DRAIN, idle.closed()).await.expect("the idle connection is closed");
    let address = running.address;
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    assert!(!running.task.is_finished());
    running.switches.hold.store(false, Ordering::SeqCst);
    assert_eq!(busy.answer().await.unwrap().0, 200);
    timeout(DRAIN, &mut running.task).await.expect("ended").unwrap();
}

#[tokio::test]
async fn the_drain_takes_no_longer_than_it_may() {
    let mut running = Running::ready_with(Duration::from_millis(100)).await;
    running.switches.hold.store(true, Ordering::SeqCst);
    let mut busy = running.connect(None).await.unwrap();
    busy.0.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let switches = Arc::clone(&running.switches);
    eventually("the request is being answered", DRAIN, || switches.asked.load(Ordering::SeqCst)).await;
    running.cancel.cancel();
    // The check of readiness itself is given up on after three seconds.
    timeout(Duration::from_secs(2), &mut running.task).await.expect("ended").unwrap();
    running.switches.hold.store(false, Ordering::SeqCst);
    assert!(busy.answer().await.is_err());
}

/// Clients of other makers.
mod foreign {
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    fn write(directory: &Path, name: &str, text: &str) -> String {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    struct Files {
        _directory: tempfile::TempDir,
        root: String,
        chain: String,
        key: String,
    }

    fn files(running: &Running, identity: &CertificateBundle) -> Files {
        let directory = tempfile::tempdir().unwrap();
        Files {
            root: write(directory.path(), "ca.crt", running.ca.root_pem()),
            chain: write(directory.path(), "client.crt", &identity.chain_pem()),
            key: write(directory.path(), "client.key", &identity.key_pem().unwrap()),
            _directory: directory,
        }
    }

    async fn output(program: &'static str, arguments: Vec<String>) -> Output {
        let run = move || Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output();
        tokio::task::spawn_blocking(run).await.unwrap().expect(program)
    }

    async fn curl(running: &Running, arguments: &[&str], path: &str) -> (Option<i32>, String) {
        let mut all =
            vec!["--silent", "--show-error", "--noproxy", "*", "--max-time", "8", "--write-out", " %{http_code}"];
        all.extend(arguments);
        let mut all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        all.push(format!("https://localhost:{}{path}", running.address.port()));
        let output = output("curl", all).await;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[tokio::test]
    #[ignore = "needs curl"]
    async fn curl_reads_probes_and_with_a_listed_certificate_metrics() {
        let running = Running::ready().await;
        let files = files(&running, &running.ca.issue(&[PROMETHEUS], valid_now()));
        let trust = ["--cacert", files.root.as_str()];
        let identity = [trust.as_slice(), &["--cert", &files.chain, "--key", &files.key]].concat();
        assert_eq!(curl(&running, &trust, "/readyz").await, (Some(0), "ok 200".to_owned()));
        assert!(curl(&running, &trust, "/metrics").await.1.ends_with(" 401"));
        assert!(curl(&running, &identity, "/metrics").await.1.ends_with(" 403"));
        running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
        let (code, text) = curl(&running, &identity, "/metrics").await;
        assert!(code == Some(0) && text.contains("crank_agent_ready 1") && text.ends_with(" 200"), "{text}");
        // curl exits with 60 when the peer's certificate does not verify.
        assert_eq!(curl(&running, &[], "/readyz").await.0, Some(60));
    }

    #[tokio::test]
    #[ignore = "needs openssl"]
    async fn openssl_verifies_the_chain_with_tls_1_3_and_1_2_and_with_nothing_older() {
        let running = Running::ready().await;
        let files = files(&running, &running.ca.issue(&[PROMETHEUS], valid_now()));
        // Without -cert_chain, s_client sends the leaf alone, and the client does not verify.
        let trust = ["-CAfile", &files.root, "-verify_hostname", "localhost", "-verify_return_error"];
        let identity = ["-cert", &files.chain, "-cert_chain", &files.chain, "-key", &files.key];
        let connect = async |version: &str| {
            let address = running.address.to_string();
            let target = ["s_client", "-connect", &address, "-servername", "localhost", version];
            let arguments = target.iter().chain(&trust).chain(&identity).map(ToString::to_string).collect();
            let output = output("openssl", arguments).await;
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        for version in ["-tls1_3", "-tls1_2"] {
            let (success, text) = connect(version).await;
            assert!(success && text.contains("Verify return code: 0 (ok)"), "{version}: {text}");
        }
        assert!(!connect("-tls1_1").await.0);
        running.bundle.send_replace(None);
        assert!(!connect("-tls1_3").await.0);
    }
}
