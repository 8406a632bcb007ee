//! Requests over real connections to a server that counts them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::super::connections::IDLE_TIMEOUT;
use super::super::create_mtls_client;
use super::super::tests::{Peer, crl};
use super::*;
use crate::testing::TestCa;

/// A server of a peer, and what it saw.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    counts: Mutex<Counts>,
    /// Lets requests for `/held` go on, one for each permit.
    gate: Gate,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Debug, Default, Clone)]
struct Counts {
    /// Connections open now, and requests in service now.
    open: usize,
    most_open: usize,
    made: usize,
    serving: usize,
    most_serving: usize,
    requests: usize,
    /// The leaf of whoever sent the last request.
    client: Option<CertificateDer<'static>>,
}

impl Server {
    async fn of(peer: &Peer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let (acceptor, shared) = (TlsAcceptor::from(peer.server()), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, acceptor.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, seen, task }
    }

    fn url(&self, path: &str) -> PeerUrl {
        format!("https://localhost:{}{path}", self.address.port()).parse().unwrap()
    }

    fn counts(&self) -> Counts {
        self.seen.counts.lock().unwrap().clone()
    }

    /// Waits until what was counted is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&Counts) -> bool) -> Counts {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let counts = self.counts();
            if is(&counts) {
                return counts;
            }
            assert!(Instant::now() < deadline, "{what}: {counts:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let client = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    {
        let mut counts = seen.counts.lock().unwrap();
        counts.open += 1;
        counts.made += 1;
        counts.most_open = counts.most_open.max(counts.open);
    }
    let service = service_fn(|request| answer(request, client.clone(), Arc::clone(&seen)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    seen.counts.lock().unwrap().open -= 1;
}

async fn answer(
    request: hyper::Request<Incoming>,
    client: CertificateDer<'static>,
    seen: Arc<Seen>,
) -> Result<hyper::Response<String>, Infallible> {
    {
        let mut counts = seen.counts.lock().unwrap();
        counts.requests += 1;
        counts.serving += 1;
        counts.most_serving = counts.most_serving.max(counts.serving);
        counts.client = Some(client);
    }
    if request.uri().path() == "/held" {
        seen.gate.0.acquire().await.unwrap().forget();
    }
    seen.counts.lock().unwrap().serving -= 1;
    let mut response = hyper::Response::new("answered".to_owned());
    if request.uri().path() == "/moved" {
        *response.status_mut() = reqwest::StatusCode::FOUND;
        let elsewhere = HeaderValue::from_str("https://localhost:1/").unwrap();
        response.headers_mut().insert(reqwest::header::LOCATION, elsewhere);
    }
    Ok(response)
}

/// A client and a server of the same CA.
async fn both() -> (TestCa, Peer, Server, MtlsClient) {
    let ca = TestCa::new();
    let (peer, server) = (Peer::new(&ca, "client", &[]), Peer::new(&ca, "server", &[]));
    let client = create_mtls_client(&peer.files()).unwrap();
    (ca, peer, Server::of(&server).await, client)
}

async fn ask(client: &MtlsClient, url: PeerUrl) -> Result<String, MtlsRequestError> {
    Ok(client.get(url).send().await?.error_for_status()?.text().await?)
}

/// Sends `count` requests that the server holds.
fn hold(client: &MtlsClient, server: &Server, count: usize) -> JoinSet<Result<String, MtlsRequestError>> {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let (client, url) = (client.clone(), server.url("/held"));
        requests.spawn(async move { ask(&client, url).await });
    }
    requests
}

#[tokio::test]
async fn twenty_requests_are_under_way_and_no_more_and_ten_connections_stay() {
    let (_ca, _peer, server, client) = both().await;
    let requests = hold(&client, &server, 50);
    server.until("as many as may be are in service", |counts| counts.serving == 20).await;
    // Whoever could overtake has done so while another had its answer.
    let (_ca, _peer, elsewhere, other) = both().await;
    ask(&other, elsewhere.url("/")).await.unwrap();
    assert_eq!(server.counts().requests, 20);
    server.seen.gate.0.add_permits(50);
    for answer in requests.join_all().await {
        assert_eq!(answer.unwrap(), "answered");
    }
    let answered = Instant::now();
    let counts = server.until("what is idle beyond ten closes", |counts| counts.open <= 10).await;
    assert!(answered.elapsed() < IDLE_TIMEOUT, "not for its age");
    assert_eq!((counts.requests, counts.most_serving), (50, 20));
    ask(&client, server.url("/")).await.unwrap();
    assert!((1..=10).contains(&server.counts().open), "an idle connection is used again");
}

#[tokio::test]
async fn a_request_that_does_not_get_its_turn_says_so() {
    let (_ca, _peer, server, client) = both().await;
    let requests = hold(&client, &server, 20);
    server.until("all are in service", |counts| counts.serving == 20).await;
    let error = client.get(server.url("/")).timeout(Duration::from_millis(50)).send().await.unwrap_err();
    assert_eq!((error.kind(), server.counts().requests), ("busy", 20));
    server.seen.gate.0.add_permits(20);
    assert_eq!(requests.join_all().await.len(), 20);
}

#[tokio::test]
async fn a_request_is_under_way_until_its_answer_is_read_or_dropped() {
    let (_ca, _peer, server, client) = both().await;
    let mut answers = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let answer = client.get(server.url("/x")).send().await.unwrap();
        assert_eq!((answer.url().path(), answer.content_length()), ("/x", Some(8)));
        answers.push(answer);
    }
    let short = || client.get(server.url("/")).timeout(Duration::from_millis(50)).send();
    assert_eq!(short().await.unwrap_err().kind(), "busy");
    drop(answers.pop());
    ask(&client, server.url("/")).await.unwrap();
    let held = answers.pop().unwrap();
    assert_eq!(held.text().await.unwrap(), "answered");
    ask(&client, server.url("/")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_after_thirty_seconds() {
    let (_ca, peer, _server, client) = both().await;
    // It takes the connection, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", silent.local_addr().unwrap().port());
    let begun = Instant::now();
    let error = client.get(url.parse().unwrap()).send().await.unwrap_err();
    assert_eq!(error.kind(), "timeout", "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 30);
    drop(peer);
}

#[tokio::test]
async fn after_a_renewal_no_connection_of_the_certificate_before_is_used_or_kept() {
    let (ca, mut peer, server, client) = both().await;
    let leaf = |peer: &Peer| Some(peer.bundle.chain()[0].clone());
    for _ in 0..2 {
        ask(&client, server.url("/")).await.unwrap();
        let counts = server.counts();
        assert_eq!((counts.open, counts.client), (1, leaf(&peer)));
    }
    peer.renew(&ca, "client");
    ask(&client, server.url("/")).await.unwrap();
    let counts = server.until("the connection before has closed", |counts| counts.open == 1).await;
    assert_eq!((counts.requests, counts.client), (3, leaf(&peer)));
}

#[tokio::test]
async fn a_request_under_way_survives_a_renewal() {
    let (ca, mut peer, server, client) = both().await;
    let mut request = hold(&client, &server, 1);
    server.until("it is in service", |counts| counts.serving == 1).await;
    peer.renew(&ca, "client");
    ask(&client, server.url("/")).await.unwrap();
    server.seen.gate.0.add_permits(1);
    assert_eq!(request.join_next().await.unwrap().unwrap().unwrap(), "answered");
    server.until("its connection has closed", |counts| counts.open == 1).await;
}

#[tokio::test]
async fn a_revoked_server_is_refused_though_there_was_a_connection_to_it() {
    let ca = TestCa::new();
    let (peer, other) = (Peer::new(&ca, "client", &[]), Peer::new(&ca, "server", &[]));
    let (server, client) = (Server::of(&other).await, create_mtls_client(&peer.files()).unwrap());
    ask(&client, server.url("/")).await.unwrap();
    peer.publish(&[crl(&ca, 1, &[&other.bundle])]);
    let error = ask(&client, server.url("/")).await.unwrap_err();
    assert_eq!(error.kind(), "connect");
    let text = crate::printable::error_chain(&error);
    assert!(text.contains("Revoked"), "{text}");
    server.until("the connection before has closed", |counts| counts.open == 0).await;
    assert_eq!(server.counts().requests, 1);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (_ca, _peer, server, client) = both().await;
    let answer = client.post(server.url("/moved")).json(&["order"]).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(server.counts().requests, 1);
}

#[tokio::test]
async fn nothing_is_sent_with_a_certificate_that_has_expired_meanwhile() {
    let ca = TestCa::new();
    let server = Server::of(&Peer::new(&ca, "server", &[])).await;
    // The longer ones for a machine on which it has expired already.
    let (peer, client) = [2, 8, 32]
        .into_iter()
        .find_map(|seconds| {
            let peer = Peer::living(&ca, "client", Duration::from_secs(seconds));
            let client = create_mtls_client(&peer.files()).ok()?;
            Some((peer, client))
        })
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    let error = loop {
        match ask(&client, server.url("/")).await {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < deadline, "it is used though it has expired"),
        }
    };
    assert_eq!(error.kind(), "expired", "{error:?}");
    assert!(error.to_string().contains(&peer.files().display().to_string()), "{error}");
    let requests = server.counts().requests;
    ask(&client, server.url("/")).await.unwrap_err();
    assert_eq!(server.counts().requests, requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_requests_come_no_more_than_twenty_connections_are_open() {
    let (_ca, _peer, server, client) = both().await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (client, url) = (client.clone(), server.url("/"));
        tasks.spawn(async move {
            for _ in 0..20 {
                ask(&client, url.clone()).await.unwrap();
            }
        });
    }
    assert_eq!(tasks.join_all().await.len(), 100);
    let counts = server.counts();
    assert_eq!((counts.requests, counts.most_open), (2000, 20));
    assert!(counts.made < 200, "{} connections for 2000 requests", counts.made);
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let ca = TestCa::new();
    let peer = Peer::new(&ca, "client", &[]);
    let client = create_mtls_client(&peer.files()).unwrap();
    let [one, other] = [Server::of(&Peer::new(&ca, "one", &[])).await, Server::of(&Peer::new(&ca, "other", &[])).await];
    let requests = hold(&client, &one, 12);
    one.until("they are in service", |counts| counts.serving == 12).await;
    one.seen.gate.0.add_permits(12);
    assert_eq!(requests.join_all().await.len(), 12);
    one.until("ten are idle", |counts| counts.open == 10).await;
    let requests = hold(&client, &other, 15);
    other.until("they are in service", |counts| counts.serving == 15).await;
    one.until("there are twenty", |counts| counts.open == 5).await;
    other.seen.gate.0.add_permits(15);
    assert_eq!(requests.join_all().await.len(), 15);
    other.until("ten are idle, to all hosts", |counts| counts.open + one.counts().open == 10).await;
}
