//! The server: its own certificate, its deadlines, its limits, its end.

use std::sync::Arc;
use std::time::Duration;

use crank_agent::ca::{CaError, Deadlines, Server};
use crank_agent::clock::SystemClock;
use reqwest::Method;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::harness::{TestCa, client_config, client_with_config, eventually, identity, key_and_csr};

async fn tls(ca: &TestCa) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(ca.running.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(&ca.running.root_pem(), None)));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

fn presented(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// Reads to the end; an end without farewell is one too.
async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server ends the connection");
    bytes
}

#[tokio::test]
async fn the_chain_it_presents_ends_in_the_root_whose_fingerprint_it_tells() {
    let ca = TestCa::start().await;
    let chain = presented(&tls(&ca).await);
    assert_eq!(chain.len(), 3);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &chain[2]);
    let text = digest.as_ref().iter().fold(String::from("sha256:"), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(text, ca.running.root_fingerprint());
    assert_eq!(std::fs::read_to_string(ca.running.root_path()).unwrap(), ca.running.root_pem());
}

#[tokio::test]
async fn the_open_resources_tell_what_the_contract_says() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let get = async |path: &str| ca.send(&client, Method::GET, path, None, "").await.unwrap();
    let health = get("/health").await;
    assert_eq!((&health.body["status"], &health.body["service"]), (&"healthy".into(), &"certificate-authority".into()));
    assert_eq!(get("/ca/certificate").await.body["ca_certificate"], ca.running.root_pem());
    assert_eq!(get("/provider/status").await.body["status"], "available");
    let config = get("/provider/config").await;
    assert_eq!(config.body["config"]["root_fingerprint"], ca.running.root_fingerprint());
    assert!(!config.body.to_string().contains(&ca.data_dir().display().to_string()));
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let ca = TestCa::start().await;
    let client = ca.client();
    for path in ["/certificates/platform", "/certificates/server", "/certificates/client"] {
        let reply = ca.send(&client, Method::POST, path, None, "{}").await.unwrap();
        assert_eq!(reply.status, 410);
        assert!(reply.detail().contains("POST /certificates/csr"));
    }
    for path in ["/", "/nope", "/certificates", "/certificates/a/b", "/health/", "//health"] {
        let reply = ca.send(&client, Method::GET, path, None, "").await.unwrap();
        assert!(reply.status == 404 && !reply.detail().is_empty(), "{path}: {}", reply.body);
    }
}

#[tokio::test]
async fn tls_1_2_is_served_and_plain_http_is_not() {
    let ca = TestCa::start().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(presented(&tls(&ca).await).remove(2)).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let reply = ca.send(&client_with_config(config), Method::GET, "/health", None, "").await.unwrap();
    assert_eq!(reply.status, 200);

    let mut plain = TcpStream::connect(ca.running.address()).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let answer = read_all(&mut plain).await;
    assert!(!answer.windows(4).any(|window| window == b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn its_certificate_is_renewed_before_it_ends() {
    // A third of it is left when it is renewed, in which a busy machine has to get it done.
    let ca = TestCa::start_with(|config| config.server_lifetime = Duration::from_secs(9)).await;
    let first = presented(&tls(&ca).await);
    eventually("another certificate is served", || async { presented(&tls(&ca).await)[0] != first[0] }).await;
    let reply = ca.send(&ca.client(), Method::GET, "/health", None, "").await.unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_others_are_served_meanwhile() {
    // Those who are not slow have to be done within that on a busy machine.
    let short = Duration::from_secs(3);
    let deadlines = Deadlines { handshake: short, header: short, request: short, ..Deadlines::default() };
    let ca = TestCa::start_with(|config| config.deadlines = deadlines).await;
    // One that never begins, one that stops in the handshake, one in the head, one in the body, one idle.
    let mut silent = TcpStream::connect(ca.running.address()).await.unwrap();
    let mut half = TcpStream::connect(ca.running.address()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    let mut head = tls(&ca).await;
    head.write_all(b"GET /health HTTP/1.1\r\nHost: local").await.unwrap();
    let mut body = tls(&ca).await;
    let text = b"POST /certificates/csr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{";
    body.write_all(text).await.unwrap();
    let mut idle = tls(&ca).await;
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();

    let reply = ca.send(&ca.client(), Method::GET, "/health", None, "").await.unwrap();
    assert_eq!(reply.status, 200);

    assert_eq!(read_all(&mut silent).await, b"");
    read_all(&mut half).await;
    read_all(&mut head).await;
    let answer = String::from_utf8(read_all(&mut body).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let answer = String::from_utf8(read_all(&mut idle).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let ca = TestCa::start().await;
    let mut stream = tls(&ca).await;
    stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    let line = format!("x-filler: {}\r\n", "x".repeat(1000));
    // Ends with an error once the server has seen enough.
    for _ in 0..1000 {
        if stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&read_all(&mut stream).await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// Room for four connections, and no other limit that four clients would meet.
async fn small_ca() -> TestCa {
    TestCa::start_with(|config| {
        config.max_connections = 4;
        config.limits.connections_per_source = Some(100);
    })
    .await
}

#[tokio::test]
async fn whoever_holds_connections_without_asking_makes_room_for_those_who_ask() {
    let ca = small_ca().await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let text = b"POST /certificates/csr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{";
        let (mut body, mut request_line) = (tls(&ca).await, tls(&ca).await);
        body.write_all(text).await.unwrap();
        request_line.write_all(b"GET /health HTTP/1.1\r\nHost: local").await.unwrap();
        let mut half = TcpStream::connect(ca.running.address()).await.unwrap();
        half.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        let silent = TcpStream::connect(ca.running.address()).await.unwrap();
        held.push((body, request_line, half, silent, tls(&ca).await));
        // Well below the deadline of any of them.
        let client = ca.client();
        let asked = ca.send(&client, Method::GET, "/health", None, "");
        let reply = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("there is room");
        assert_eq!(reply.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_request_that_is_being_answered_is_not_cut_off_for_others() {
    let ca = small_ca().await;
    let client = ca.client();
    let asking = async {
        for number in 0..10 {
            let worker = format!("worker-{number}");
            let (token, (_, csr)) = (ca.token(&worker, &[]).await, key_and_csr(&identity(&worker, &[])));
            assert_eq!(ca.enrol(&client, Some(&token), &worker, &csr).await.status, 200);
        }
    };
    let mut asking = std::pin::pin!(asking);
    loop {
        tokio::select! {
            () = asking.as_mut() => break,
            crowd = TcpStream::connect(ca.running.address()) => drop(crowd),
        }
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_age_however_busy_it_is() {
    let ca = TestCa::start_with(|config| config.deadlines.connection = Duration::from_secs(1)).await;
    // Its age counts from before the handshake.
    let begun = tokio::time::Instant::now();
    let mut stream = tls(&ca).await;
    let mut answers = 0;
    loop {
        if stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
            break;
        }
        let mut buffer = [0; 4096];
        match tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await.unwrap() {
            Ok(length) if length > 0 => answers += 1,
            _ => break,
        }
    }
    assert!(answers > 1 && begun.elapsed() >= Duration::from_millis(900), "{answers} in {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut_off() {
    let short = Duration::from_secs(1);
    let deadlines = Deadlines { header: short, request: short, ..Deadlines::default() };
    let ca = TestCa::start_with(|config| config.deadlines = deadlines).await;
    let mut stream = tls(&ca).await;
    let many = b"GET /ca/certificate HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    // Answers pile up until neither side can write; only the end of the connection ends this.
    let flooded = async { while stream.write_all(&many).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), flooded).await.expect("the server ends the connection");
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let ca = TestCa::start().await;
    for (count, status) in [(60, "HTTP/1.1 200 "), (70, "HTTP/1.1 431 ")] {
        let mut stream = tls(&ca).await;
        let headers = "x-filler: 1\r\n".repeat(count);
        let text = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
        assert!(answer.starts_with(status), "{count}: {answer}");
    }
}

#[tokio::test]
async fn it_stops_within_five_seconds_whatever_its_clients_do() {
    let ca = TestCa::start().await;
    let _silent = TcpStream::connect(ca.running.address()).await.unwrap();
    let _idle = tls(&ca).await;
    let mut busy = tls(&ca).await;
    let text = b"POST /certificates/csr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\
                 Expect: 100-continue\r\n\r\n";
    busy.write_all(text).await.unwrap();
    // Now the request is in flight, and the server waits for a body that will not come.
    let mut answer = [0; 12];
    busy.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    let address = ca.running.address();
    ca.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), ca.running.stopped()).await.expect("stops in time").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_and_settings_that_do_not_fit_are_told() {
    let ca = TestCa::start().await;
    let config = |change: fn(&mut crank_agent::ca::CaConfig)| {
        let names = vec!["localhost".parse().unwrap()];
        let mut config = crank_agent::ca::CaConfig::new(ca.data_dir(), "127.0.0.1:0".parse().unwrap(), names);
        change(&mut config);
        config
    };
    let start = async |config| Server::start(config, Arc::new(SystemClock), CancellationToken::default()).await.err();
    let mut taken = config(|_| {});
    taken.listen = ca.running.address();
    assert!(matches!(start(taken).await, Some(CaError::Listen { .. })));
    for change in [
        (|config| config.lifetime = Duration::from_secs(59)) as fn(&mut crank_agent::ca::CaConfig),
        |config| config.names.clear(),
        |config| config.max_connections = 0,
    ] {
        assert!(matches!(start(config(change)).await, Some(CaError::Setting { .. })));
    }
}
