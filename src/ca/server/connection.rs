//! Owns one connection: handshake, requests and end, each with its deadline.

use std::net::SocketAddr;
use std::pin::pin;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::ca::Deadlines;
use crate::ca::http::{Peer, answer};

/// Serves one connection to its end.
pub(super) async fn serve(
    acceptor: TlsAcceptor,
    router: Router,
    stream: TcpStream,
    address: SocketAddr,
    deadlines: Deadlines,
    cancel: CancellationToken,
) {
    // Without it an answer of two small writes would wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(deadlines.handshake, acceptor.accept(stream));
    let stream = tokio::select! {
        () = cancel.cancelled() => return,
        handshake = handshake => match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%address, "TLS handshake not complete in time");
                return;
            }
        },
    };
    let closing = cancel.child_token();
    let peer = Peer { address, certificate: peer_certificate(&stream), closing: closing.clone() };
    let service = service_fn(move |request| answer(router.clone(), peer.clone(), deadlines.request, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.header)
        .max_headers(HEADERS_LIMIT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = cancel.cancelled() => None,
        () = tokio::time::sleep(deadlines.connection) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        closing.cancel();
        connection.as_mut().graceful_shutdown();
        let Ok(ended) = tokio::time::timeout(deadlines.request, connection).await else { return };
        ended
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

fn peer_certificate(stream: &TlsStream<TcpStream>) -> Option<rustls::pki_types::CertificateDer<'static>> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates()?.first().map(|leaf| leaf.clone().into_owned())
}

const HEADERS_LIMIT: usize = 64;

/// The largest request head, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;
