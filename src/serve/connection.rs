//! Owns one connection from handshake to close, and the limits on it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::access::ClientNames;
use super::http::{Answer, Client, Site};
use crate::slots::{Activity, Slot, Slots};

/// An accepted connection, before its handshake.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) slot: Slot,
    pub(super) slots: Slots,
    pub(super) site: Arc<Site>,
    /// Cancelled when the listener drains: what has been asked is answered, and nothing more.
    pub(super) drain: CancellationToken,
}

impl Connection {
    /// Serves until the client, the limits or the listener end it. Failures are the client's affair: they are logged
    /// for debugging only.
    pub(super) async fn run(self) {
        let Self { stream, peer, tls, slot, slots, site, drain } = self;
        let handshake = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream));
        let stream = tokio::select! {
            () = slot.evicted() => return,
            () = drain.cancelled() => return,
            shaken = handshake => match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%peer, %error, "handshake failed"),
                Err(_) => return tracing::debug!(%peer, "handshake took too long"),
            },
        };
        let client = Client { peer, names: client_names(&stream) };
        let handler = Handler { site, client, activity: slot.activity(), slots };
        serve(stream, &handler, &slot, &drain).await;
    }
}

async fn serve(stream: TlsStream<TcpStream>, handler: &Handler, slot: &Slot, drain: &CancellationToken) {
    let service = service_fn(|request| handler.handle(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also limits how long a connection may wait for its next request.
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let last_request = async {
        tokio::select! {
            () = drain.cancelled() => {}
            () = tokio::time::sleep(MAX_AGE) => {}
        }
    };
    let must_end = async {
        tokio::select! {
            () = slot.evicted() => {}
            // A client that reads no answers is in no other deadline.
            () = slot.idle_for(STALLED_TIMEOUT) => {}
        }
    };
    tokio::pin!(last_request, must_end);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(peer = %handler.client.peer, %error, "connection failed");
                }
                return;
            }
            () = must_end.as_mut() => return,
            () = last_request.as_mut(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers the requests of one connection.
#[derive(Debug)]
struct Handler {
    site: Arc<Site>,
    client: Client,
    activity: Arc<Activity>,
    slots: Slots,
}

impl Handler {
    /// The body of the request is never read: hyper closes the connection when there is more of it than fits its
    /// buffer.
    async fn handle(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        self.activity.begin();
        let mut answer = self.site.answer(request.method(), request.uri().path(), &self.client).await;
        if self.slots.full() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.activity.end();
        Ok(answer)
    }
}

fn client_names(stream: &TlsStream<TcpStream>) -> Option<ClientNames> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().and_then(|chain| chain.first()).map(ClientNames::of)
}

/// The longest time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time for the header of a request, from the end of the one before.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time without a whole request, whatever the bytes do.
const STALLED_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest life of a connection, so that a client's certificate is verified anew from time to time.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The most bytes buffered of one connection in either direction; also the limit on a request's header.
const BUFFER_LIMIT: usize = 16 * 1024;
