//! Owns the load: clients that send prepared requests over TLS 1.3, one after the other on each connection, and the clock.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::Result;

/// What one client at a time does.
pub(crate) struct Lane {
    /// Whom it trusts and what it shows.
    pub(crate) tls: Arc<ClientConfig>,
    /// What it sends, each when the one before has been answered.
    pub(crate) requests: Vec<Prepared>,
}

/// A request that only needs to be sent.
pub(crate) struct Prepared {
    pub(crate) path: &'static str,
    pub(crate) bearer: Option<String>,
    pub(crate) body: Bytes,
}

/// Which connections requests go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One to a lane, open before the clock starts.
    KeptAlive,
    /// A new one for each request: TCP, a full TLS 1.3 handshake, request, answer.
    Fresh,
}

/// What a run came to.
pub(crate) struct Outcome<T> {
    /// From the first request to the last answer.
    pub(crate) wall: Duration,
    /// Of each request; over a fresh connection, from connecting on.
    pub(crate) latencies: Vec<Duration>,
    /// Body of each answer.
    pub(crate) replies: Vec<Bytes>,
    /// What `observe` said before the first request, and after the last.
    pub(crate) observed: (T, T),
}

/// Sends everything. An answer other than success ends the run.
pub(crate) async fn run<T>(
    address: SocketAddr,
    connections: Connections,
    lanes: Vec<Lane>,
    observe: impl Fn() -> Result<T>,
) -> Result<Outcome<T>> {
    let ready = Arc::new(Barrier::new(lanes.len() + 1));
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(work(address, connections, lane, Arc::clone(&ready)));
    }
    within(ready.wait(), "connections").await?;
    let (before, started) = (observe()?, Instant::now());
    within(ready.wait(), "the start").await?;
    let (mut latencies, mut replies) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        for (latency, reply) in done?.map_err(|error| format!("a client failed: {error}"))? {
            latencies.push(latency);
            replies.push(reply);
        }
    }
    Ok(Outcome { wall: started.elapsed(), latencies, replies, observed: (before, observe()?) })
}

/// An open connection; closed when dropped.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// A TCP connection and a TLS handshake on it.
    pub(crate) async fn open(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(|_| "no server name")?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Whether the server still keeps it.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    async fn send(&mut self, prepared: Prepared) -> Result<Bytes, Error> {
        self.0.ready().await?;
        let mut request = Request::post(prepared.path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &prepared.bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = self.0.send_request(request.body(Full::new(prepared.body))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
    }
}

async fn work(
    address: SocketAddr,
    connections: Connections,
    lane: Lane,
    ready: Arc<Barrier>,
) -> Result<Vec<(Duration, Bytes)>, Error> {
    let mut kept = match connections {
        Connections::KeptAlive => Some(Connection::open(address, &lane.tls).await),
        Connections::Fresh => None,
    };
    // Whoever failed comes to the barrier all the same, or nobody would hear of it.
    ready.wait().await;
    ready.wait().await;
    let mut answers = Vec::with_capacity(lane.requests.len());
    for request in lane.requests {
        let begun = Instant::now();
        let answered = async {
            match &mut kept {
                Some(Ok(connection)) => connection.send(request).await,
                Some(Err(error)) => Err(error.to_string().into()),
                None => Connection::open(address, &lane.tls).await?.send(request).await,
            }
        };
        let reply = tokio::time::timeout(DEADLINE, answered).await.map_err(|_| "no answer in time")??;
        answers.push((begun.elapsed(), reply));
    }
    Ok(answers)
}

async fn within<T>(work: impl Future<Output = T>, what: &str) -> Result<T> {
    tokio::time::timeout(DEADLINE, work).await.map_err(|_| format!("waited in vain for {what}").into())
}

type Error = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE: Duration = Duration::from_mins(1);
