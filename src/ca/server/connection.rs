//! Owns one connection: handshake, requests and end, each with its deadline.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ca::http::{Peer, PeerCertificate, Site};
use crate::ca::limits::Source;
use crate::slots::Slot;

/// Serves one connection to its end, which comes at once when its slot is needed for another.
pub(super) async fn serve(
    acceptor: TlsAcceptor,
    site: Arc<Site>,
    stream: TcpStream,
    address: SocketAddr,
    slot: Slot,
    cancel: CancellationToken,
) {
    let deadlines = site.deadlines;
    // Without it an answer of two small writes would wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(deadlines.handshake, acceptor.accept(stream));
    let stream = tokio::select! {
        () = cancel.cancelled() => return,
        () = slot.evicted() => return,
        handshake = handshake => match handshake {
            Ok(Ok(stream)) => stream,
            failed => {
                site.limits().source_failed(Source::of(address.ip()));
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%address, %error, "TLS handshake failed");
                } else {
                    tracing::debug!(%address, "TLS handshake not complete in time");
                }
                return;
            }
        },
    };
    let closing = cancel.child_token();
    let certificate = peer_certificate(&stream, site.now());
    let peer = Peer { address, certificate, closing: closing.clone(), activity: slot.activity() };
    let service = service_fn(|request| Arc::clone(&site).answer(peer.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.header)
        .max_headers(HEADERS_LIMIT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // No request is begun or answered for longer than one may take: a client that reads no answers is in no other
    // deadline but the connection's.
    let mut must_end = pin!(async {
        tokio::select! {
            () = slot.evicted() => {}
            () = slot.idle_for(deadlines.header + deadlines.request) => {}
        }
    });
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = must_end.as_mut() => return,
        () = cancel.cancelled() => None,
        () = tokio::time::sleep(deadlines.connection) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        closing.cancel();
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended,
            () = must_end => return,
            () = tokio::time::sleep(deadlines.request) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// The client's leaf, as the handshake has verified it; and whether it has expired by now.
fn peer_certificate(stream: &TlsStream<TcpStream>, now: OffsetDateTime) -> PeerCertificate {
    let (_, connection) = stream.get_ref();
    let Some(leaf) = connection.peer_certificates().and_then(<[CertificateDer<'_>]>::first) else {
        return PeerCertificate::None;
    };
    let leaf = leaf.clone().into_owned();
    let ends = X509Certificate::from_der(&leaf).map(|(_, parsed)| parsed.validity().not_after.timestamp());
    match ends {
        Ok(ends) if ends > now.unix_timestamp() => PeerCertificate::Valid(leaf),
        _ => PeerCertificate::Lapsed(leaf),
    }
}

const HEADERS_LIMIT: usize = 64;

/// The largest request head, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;
