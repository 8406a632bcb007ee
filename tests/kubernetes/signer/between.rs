//! Owns a place between the CA and the API server, which passes everything on, notes it, and can make the one wait for the
//! other.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

pub(super) struct Between {
    state: Arc<State>,
    address: SocketAddr,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct State {
    upstream: SocketAddr,
    client: reqwest::Client,
    /// Path and query, and the code of the answer, which in a watch may be that of an error event.
    calls: Mutex<Vec<(String, u16)>>,
    /// Calls that hold this wait.
    holding: watch::Sender<Option<&'static str>>,
    held: watch::Sender<usize>,
    /// A word that no answer to a call of this path has as it is.
    hidden: Mutex<Option<(&'static str, &'static str)>>,
    /// Counts up to end all watches that have begun.
    ends: watch::Sender<usize>,
}

/// A body as it comes.
struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

impl Between {
    /// In front of the API server of `cluster`, with its certificate.
    pub(super) fn start(cluster: &Cluster) -> Self {
        let read = |name: &str| fs::read(cluster.path(name)).unwrap();
        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(&read("server.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
        let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.crt")).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let state = Arc::new(State {
            upstream: cluster.address,
            client: reqwest::Client::builder().tls_backend_preconfigured(client).https_only(true).build().unwrap(),
            calls: Mutex::default(),
            holding: watch::Sender::new(None),
            held: watch::Sender::new(0),
            hidden: Mutex::default(),
            ends: watch::Sender::new(0),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let (acceptor, shared, cancelled) = (TlsAcceptor::from(Arc::new(server)), Arc::clone(&state), cancel.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                cancelled.run_until_cancelled(accept(listener, acceptor, shared)).await;
            });
        });
        Self { state, address, cancel, thread: Some(thread) }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Calls that hold `text` wait until [`release`](Self::release).
    pub(super) fn hold(&self, text: &'static str) {
        self.state.holding.send_replace(Some(text));
    }

    /// How many have had to wait.
    pub(super) fn held(&self) -> usize {
        *self.state.held.borrow()
    }

    pub(super) fn release(&self) {
        self.state.holding.send_replace(None);
    }

    /// Makes another word of `word` in answers to calls of `path`.
    pub(super) fn hide(&self, path: &'static str, word: &'static str) {
        *self.state.hidden.lock().unwrap() = Some((path, word));
    }

    /// Ends the watches that there are, as the API server does when their time is over.
    pub(super) fn end_watches(&self) {
        self.state.ends.send_modify(|ends| *ends += 1);
    }

    /// The calls so far that hold all of `texts`.
    pub(super) fn calls(&self, texts: &[&str]) -> Vec<(String, u16)> {
        let calls = self.state.calls.lock().unwrap();
        calls.iter().filter(|(call, _)| texts.iter().all(|text| call.contains(text))).cloned().collect()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.cancel.cancel();
        let _ = self.thread.take().unwrap().join();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| pass(Arc::clone(&state), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Chunks>, Infallible> {
    let (head, body) = request.into_parts();
    let call = head.uri.path_and_query().unwrap().as_str().to_owned();
    let must_wait = |text: Option<&str>| text.is_some_and(|text| call.contains(text));
    let mut holding = state.holding.subscribe();
    if must_wait(*holding.borrow()) {
        state.held.send_modify(|held| *held += 1);
    }
    holding.wait_for(|text| !must_wait(*text)).await.unwrap();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let url = format!("https://{}{call}", state.upstream);
    let mut headers = head.headers;
    headers.remove(hyper::header::HOST);
    let asked = state.client.request(head.method, url).headers(headers).body(body).send().await;
    let (sender, receiver) = mpsc::channel(16);
    let Ok(mut answer) = asked else {
        let answer = Response::builder().status(502).body(Chunks(receiver));
        return Ok(answer.unwrap());
    };
    let code = answer.status();
    state.calls.lock().unwrap().push((call.clone(), code.as_u16()));
    let mut passed = Response::builder().status(code);
    passed.headers_mut().unwrap().extend(answer.headers().clone());
    let is_watch = call.contains("watch=true");
    let mut ends = state.ends.subscribe();
    tokio::spawn(async move {
        loop {
            let chunk = tokio::select! {
                chunk = answer.chunk() => chunk,
                _ = ends.changed(), if is_watch => return,
            };
            match chunk {
                Ok(Some(mut chunk)) => {
                    let hidden = *state.hidden.lock().unwrap();
                    if let Some((_, word)) = hidden.filter(|(path, _)| *path == call) {
                        let text = String::from_utf8(chunk.to_vec()).unwrap();
                        // As long as it was.
                        chunk = text.replace(word, &"-".repeat(word.len())).into();
                    }
                    if is_watch && chunk.windows(10).any(|part| part == b"\"code\":410") {
                        state.calls.lock().unwrap().push((call.clone(), 410));
                    }
                    if sender.send(chunk).await.is_err() {
                        return;
                    }
                }
                // The API server is away: nobody learns it before the watch is ended.
                Err(_) if is_watch => {
                    let _ = ends.changed().await;
                    return;
                }
                _ => return,
            }
        }
    });
    Ok(passed.body(Chunks(receiver)).unwrap())
}
