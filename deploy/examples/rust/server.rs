//! A worker that greets other workers, by whatever certificate, roots and CRL are published when they connect:
//!
//! `mtls-server /etc/certs 0.0.0.0:8443`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crank_agent::create_mtls_server_config;
use crank_agent::mtls::PeerIdentity;
use crank_agent::printable::error_chain;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mtls-server CERTIFICATE_DIRECTORY ADDRESS".into());
    };
    // Made once: each handshake takes what is published by then. Without a valid certificate there is no server.
    let tls = create_mtls_server_config(Path::new(&directory))?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(acceptor.clone(), stream))),
            // Too many open files, or a client that has gone again: no reason to end.
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return eprintln!("refused: {error}"),
        Err(_) => return,
    };
    let Some(peer) = PeerIdentity::of(stream.get_ref().1) else { return };
    println!("{} has {}", peer.certificate.subject, peer.certificate.serial);
    let begun = Instant::now();
    let service = service_fn(|_request| {
        // Every worker of the mesh gets this far. What it may do is ours to say.
        let mut response = Response::new(String::new());
        match &peer.spiffe_id {
            Some(id) => *response.body_mut() = format!("hello, {id}"),
            None => *response.status_mut() = StatusCode::FORBIDDEN,
        }
        // A connection goes on with the certificates that it began with, so it has an end, of which the client is told.
        if begun.elapsed() > CONNECTION_AGE {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Longer than clients keep idle connections, so that none is closed just when it is used again.
        .header_read_timeout(2 * PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        eprintln!("connection failed: {error}");
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

const CONNECTION_AGE: Duration = Duration::from_mins(10);
