//! Owns the call to a Workload API: gRPC over HTTP/2 on a Unix socket, within limits.

use std::sync::{Arc, Mutex, PoisonError};

use h2::RecvStream;
use h2::client::SendRequest;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Method, Request, StatusCode, Version};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::printable::printable;
use crate::workload::messages::X509SvidResponse;

/// What the API told last, until somebody takes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest(Arc<Told>);

#[derive(Default)]
struct Told {
    response: Mutex<Option<X509SvidResponse>>,
    /// There is another, or there will be none by this call.
    occasions: watch::Sender<()>,
}

/// How a call fails; the text goes on after the name of the API.
#[derive(Debug)]
pub(super) enum Broken {
    /// The API does not know this process.
    Denied(String),
    Busy(String),
    Unavailable(String),
    Protocol(String),
}

impl Newest {
    pub(super) fn told(&self) -> watch::Receiver<()> {
        self.0.occasions.subscribe()
    }

    pub(super) fn take(&self) -> Option<X509SvidResponse> {
        self.0.response.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether it is this certificate.
    #[cfg(test)]
    pub(super) fn is(&self, bundle: &crate::identity::CertificateBundle) -> bool {
        let response = self.0.response.lock().unwrap();
        response.as_ref().is_some_and(|response| response.svids[0].chain == bundle.chain()[0].as_ref())
    }

    fn put(&self, response: Option<X509SvidResponse>) {
        *self.0.response.lock().unwrap_or_else(PoisonError::into_inner) = response;
        self.0.occasions.send_replace(());
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told(redacted)")
    }
}

/// Calls `FetchX509SVID` on `stream`. The first answer, or why there is none, goes to `first`, others to `newest`; when the call
/// ends after that, `newest` tells it by an occasion without an answer.
pub(super) async fn follow(
    stream: UnixStream,
    first: oneshot::Sender<Result<X509SvidResponse, Broken>>,
    newest: Newest,
) {
    let mut first = Some(first);
    let told = |response| match first.take() {
        // Whoever waited may have gone.
        Some(first) => drop(first.send(Ok(response))),
        None => newest.put(Some(response)),
    };
    let broken = call(stream, told).await;
    if let Some(first) = first {
        drop(first.send(Err(broken)));
    } else {
        tracing::debug!(?broken, "the call of the Workload API ended");
        newest.put(None);
    }
}

/// Runs the call until it ends.
async fn call(stream: UnixStream, told: impl FnMut(X509SvidResponse)) -> Broken {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEADER_LIMIT).initial_window_size(WINDOW);
    let (client, connection) = match builder.handshake::<_, Bytes>(stream).await {
        Ok(connected) => connected,
        Err(error) => return Broken::of(&error),
    };
    let answers = answers(client, told);
    tokio::pin!(answers);
    let ended = tokio::select! {
        ended = answers.as_mut() => ended,
        // What came before its end counts.
        _ = connection => answers.await,
    };
    ended.unwrap_or_else(|error| Broken::of(&error))
}

async fn answers(client: SendRequest<Bytes>, mut told: impl FnMut(X509SvidResponse)) -> Result<Broken, h2::Error> {
    let mut client = client.ready().await?;
    let (response, mut request) = client.send_request(request(), false)?;
    request.send_data(Bytes::from_static(&NO_PARAMETERS), true)?;
    let (head, body) = response.await?.into_parts();
    if head.status != StatusCode::OK {
        return Ok(Broken::Protocol(format!("answered {}, not gRPC", head.status)));
    }
    if let Some(broken) = Broken::of_status(&head.headers) {
        return Ok(broken);
    }
    let mut messages = Messages { body, at_hand: Bytes::new() };
    loop {
        let message = match messages.next().await? {
            Next::Message(message) => message,
            Next::TooLarge => {
                return Ok(Broken::Protocol(format!("sent more than {MESSAGE_LIMIT} bytes, or compressed")));
            }
            Next::End => break,
        };
        match X509SvidResponse::decode(message.as_slice()) {
            Ok(response) => told(response),
            Err(_) => return Ok(Broken::Protocol("sent a message that does not parse".to_owned())),
        }
    }
    let trailers = messages.body.trailers().await?.unwrap_or_default();
    let ended = || Broken::Unavailable("ended the call".to_owned());
    Ok(Broken::of_status(&trailers).unwrap_or_else(ended))
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = hyper::Uri::from_static("http://localhost/SpiffeWorkloadAPI/FetchX509SVID");
    let mut header = |name, value| request.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    header(CONTENT_TYPE, "application/grpc");
    header(TE, "trailers");
    header(USER_AGENT, concat!("crank-agent/", env!("CARGO_PKG_VERSION")));
    // Says that no one was tricked into this request (SPIFFE Workload Endpoint, section 3).
    request.headers_mut().insert("workload.spiffe.io", hyper::header::HeaderValue::from_static("true"));
    request
}

/// The messages of an answer.
struct Messages {
    body: RecvStream,
    at_hand: Bytes,
}

enum Next {
    Message(Zeroizing<Vec<u8>>),
    TooLarge,
    End,
}

impl Messages {
    async fn next(&mut self) -> Result<Next, h2::Error> {
        let mut head = [0; HEAD];
        if !self.fill(&mut head).await? {
            return Ok(Next::End);
        }
        let [compressed, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 || length > MESSAGE_LIMIT {
            return Ok(Next::TooLarge);
        }
        let mut message = Zeroizing::new(vec![0; length]);
        Ok(if self.fill(&mut message).await? { Next::Message(message) } else { Next::End })
    }

    /// Fills `buffer`. `false`: the answer ended before that.
    async fn fill(&mut self, mut buffer: &mut [u8]) -> Result<bool, h2::Error> {
        while !buffer.is_empty() {
            if self.at_hand.is_empty() {
                let Some(data) = self.body.data().await else { return Ok(false) };
                self.at_hand = data?;
                self.body.flow_control().release_capacity(self.at_hand.len())?;
                continue;
            }
            let length = buffer.len().min(self.at_hand.len());
            let (now, later) = buffer.split_at_mut(length);
            now.copy_from_slice(&self.at_hand.split_to(length));
            buffer = later;
        }
        Ok(true)
    }
}

impl Broken {
    fn of(error: &h2::Error) -> Self {
        Self::Unavailable(format!("broke off: {}", printable(&error.to_string(), MESSAGE_SHOWN)))
    }

    /// The status in `headers`, if there is one that is no success.
    fn of_status(headers: &HeaderMap) -> Option<Self> {
        let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
        let message = headers.get(Status::GRPC_MESSAGE).map(|message| String::from_utf8_lossy(message.as_bytes()));
        let message = printable(&message.unwrap_or_default(), MESSAGE_SHOWN);
        Some(match code {
            Code::Ok => return None,
            Code::PermissionDenied => Self::Denied(message),
            Code::ResourceExhausted => Self::Busy(format!("is busy: {message}")),
            Code::InvalidArgument | Code::Unimplemented => {
                Self::Protocol(format!("does not take the call as the Workload API that it should be: {message}"))
            }
            code => Self::Unavailable(format!("answered {code:?}: {message}")),
        })
    }
}

/// The flag for compression and four bytes of length.
const HEAD: usize = 5;

/// A message without fields, with its head.
const NO_PARAMETERS: [u8; HEAD] = [0; HEAD];

/// The largest message: as much as gRPC's clients take.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The largest header, in bytes as HTTP/2 counts them.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How much of an answer may be on its way, in bytes.
const WINDOW: u32 = 64 * 1024;

/// How much of what the API says is told on.
const MESSAGE_SHOWN: usize = 200;
