//! Owns the framing of gRPC over HTTP/2. tonic reads the requests; answers are framed here, since its encoder copies each
//! message into memory that it does not wipe, once for each stream.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use prost::Message;
use tokio::time::timeout;
use tonic::codec::{DecodeBuf, Decoder, Streaming};
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// `message` with its head, in memory that is wiped once nobody sends it any more.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    // Sized in advance, so that no copy of a key is left behind by growing.
    let mut frame = Zeroizing::new(Vec::with_capacity(HEAD + length));
    frame.push(NOT_COMPRESSED);
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut *frame);
    Bytes::from_owner(frame)
}

/// The messages of a request.
pub(super) fn requests<M: Message + Default + 'static>(body: Incoming) -> Streaming<M> {
    Streaming::new_request(Decoding(PhantomData), body, None, Some(REQUEST_LIMIT))
}

/// The message of a request that has one.
pub(super) async fn only_request<M: Message + Default + 'static>(body: Incoming) -> Result<M, Status> {
    let mut requests = requests(body);
    let read = async {
        let message = requests.message().await?;
        requests.trailers().await?;
        message.ok_or_else(|| Status::invalid_argument("there is no message in the request"))
    };
    timeout(REQUEST_TIMEOUT, read).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("the request did not come")))
}

struct Decoding<M>(PhantomData<M>);

impl<M: Message + Default> Decoder for Decoding<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(buffer).map(Some).map_err(|_| Status::invalid_argument("the message of the request does not parse"))
    }
}

/// The next of an answer.
pub(super) enum Part {
    Message(Bytes),
    End(Status),
}

/// An answer of any number of messages.
pub(super) trait Parts: Send + 'static {
    /// Called when there is room for what comes: so the later it is called, the newer that is.
    fn next(&mut self) -> impl Future<Output = Part> + Send;
}

/// An answer of one message.
pub(super) struct Single(pub(super) Option<Bytes>);

impl Parts for Single {
    async fn next(&mut self) -> Part {
        self.0.take().map_or_else(|| Part::End(Status::ok("")), Part::Message)
    }
}

/// The body of a response.
#[derive(Default)]
pub(super) struct AnswerBody {
    state: State,
    held: Option<Box<dyn Any + Send>>,
}

#[derive(Default)]
enum State {
    #[default]
    Ended,
    Next(Next),
    Running(Step),
}

/// Begins the next step.
struct Next(Box<dyn FnOnce() -> Step + Send>);

type Step = Pin<Box<dyn Future<Output = (Part, Next)> + Send>>;

impl AnswerBody {
    /// `parts`, with what is to be held until they have ended.
    pub(super) fn of<H: Send + 'static>(parts: impl Parts, held: H) -> Self {
        Self { state: State::Next(Next(Box::new(|| step(parts)))), held: Some(Box::new(held)) }
    }
}

fn step(mut parts: impl Parts) -> Step {
    Box::pin(async move {
        let part = parts.next().await;
        (part, Next(Box::new(|| step(parts))))
    })
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { state, held } = self.get_mut();
        let mut running = match std::mem::take(state) {
            State::Ended => return Poll::Ready(None),
            State::Next(Next(begin)) => begin(),
            State::Running(running) => running,
        };
        let Poll::Ready((part, next)) = running.as_mut().poll(context) else {
            *state = State::Running(running);
            return Poll::Pending;
        };
        Poll::Ready(Some(Ok(match part {
            Part::Message(bytes) => {
                *state = State::Next(next);
                Frame::data(bytes)
            }
            Part::End(status) => {
                *held = None;
                Frame::trailers(trailers(&status))
            }
        })))
    }
}

/// A response with `body`, or one that only says `status`.
pub(super) fn response(answer: Result<AnswerBody, Status>) -> Response<AnswerBody> {
    match answer {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Err(status) => status.into_http(),
    }
}

/// A response for who does not speak gRPC.
pub(super) fn not_grpc() -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::default());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Whether `headers` are those of a gRPC request.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let rest = kind.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    }
    trailers
}

/// The flag for compression and four bytes of length.
const HEAD: usize = 5;

const NOT_COMPRESSED: u8 = 0;

/// The largest message of a request. Envoy names every one of its extensions in its first.
const REQUEST_LIMIT: usize = 512 * 1024;

/// How long a request of one message may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
