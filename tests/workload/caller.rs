//! Owns a caller that speaks gRPC by hand, to say what no library would, and to see every part of the answer.

use std::path::Path;

use crank_agent::identity::CertificateBundle;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::processes::PATIENCE;

pub(crate) const SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
pub(crate) const BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";

pub(crate) const INVALID_ARGUMENT: &str = "3";
pub(crate) const PERMISSION_DENIED: &str = "7";
pub(crate) const UNIMPLEMENTED: &str = "12";
pub(crate) const UNAVAILABLE: &str = "14";

/// The metadata without which there is no answer.
pub(crate) const METADATA: (&str, &str) = ("workload.spiffe.io", "true");

/// A message without fields.
const EMPTY: [u8; 5] = [0; 5];

/// A connection.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
}

impl Caller {
    pub(crate) async fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).await.unwrap(), 65_535).await
    }

    /// Of an answer that is not read, `window` bytes are on their way.
    pub(crate) async fn over(stream: UnixStream, window: u32) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(65_535);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Calls with an empty message.
    pub(crate) async fn call(&mut self, path: &str, headers: &[(&str, &str)]) -> hyper::Result<Answer> {
        let mut request = Request::post(format!("http://localhost{path}")).header("te", "trailers");
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(EMPTY.to_vec())).unwrap();
        self.sender.ready().await?;
        Ok(Answer { response: self.sender.send_request(request).await?, read: Vec::new() })
    }

    /// Calls, and gives the status that there is instead of an answer.
    pub(crate) async fn refusal(&mut self, path: &str, headers: &[(&str, &str)]) -> (String, String) {
        self.call(path, headers).await.unwrap().end().await
    }
}

/// An answer, as far as it has come.
pub(crate) struct Answer {
    response: Response<Incoming>,
    read: Vec<u8>,
}

impl Answer {
    pub(crate) fn http_status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head) = self.read.get(..5) {
                let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
                if self.read.len() >= 5 + length {
                    let rest = self.read.split_off(5 + length);
                    return Some(std::mem::replace(&mut self.read, rest).split_off(5));
                }
            }
            let frame = self.frame().await?;
            match frame.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => {
                    *self.response.headers_mut() = frame.into_trailers().unwrap();
                    return None;
                }
            }
        }
    }

    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        let frame = timeout(PATIENCE, self.response.body_mut().frame()).await.expect("something comes in time");
        frame.map(Result::unwrap)
    }

    /// Waits for the beginning of a message, and tells whether there is one.
    pub(crate) async fn peek(&mut self) -> bool {
        let data = self.frame().await.and_then(|frame| frame.into_data().ok());
        self.read.extend(data.iter().flatten());
        data.is_some()
    }

    /// Status and text at the end, before which there must be no message.
    pub(crate) async fn end(mut self) -> (String, String) {
        assert_eq!(self.message().await, None);
        self.end_after_all()
    }

    /// Status and text, where all messages have been read.
    pub(crate) fn end_after_all(self) -> (String, String) {
        let text = |headers: &HeaderMap, name: &str| {
            headers.get(name).map(|value| value.to_str().unwrap().replace("%20", " ")).unwrap_or_default()
        };
        let headers = self.response.headers();
        (text(headers, "grpc-status"), text(headers, "grpc-message"))
    }

    /// Waits for the message that has the leaf of `bundle`, and counts those before it.
    pub(crate) async fn message_with(&mut self, bundle: &CertificateBundle) -> usize {
        let leaf = bundle.chain()[0].as_ref();
        let mut before = 0;
        while let Some(message) = self.message().await {
            if message.windows(leaf.len()).any(|part| part == leaf) {
                return before;
            }
            before += 1;
        }
        panic!("the answer ended: {:?}", self.response.headers());
    }
}
