//! Owns one connection, and the limits on it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::grpc::AnswerBody;
use super::methods::{Methods, Verdict};
use crate::slots::{Activity, Slot};

/// An accepted connection.
pub(super) struct Connection {
    pub(super) methods: Methods,
    pub(super) verdict: Verdict,
    /// That of a caller who may have answers.
    pub(super) slot: Option<Slot>,
}

impl Connection {
    /// Serves until the caller, the limits or the server end it.
    pub(super) async fn serve(self, stream: UnixStream) {
        let Self { methods, verdict, slot } = self;
        let stop = methods.stop.clone();
        let calls =
            Calls(slot.as_ref().map(|slot| Arc::new(Open { number: Mutex::new(0), activity: slot.activity() })));
        let handler = Handler { methods, verdict, calls };
        let service = service_fn(move |request| handler.clone().handle(request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAM_LIMIT)
            .max_header_list_size(HEADER_LIMIT)
            .max_send_buf_size(SEND_BUFFER_LIMIT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let leaves = async {
            let Some(slot) = &slot else { return stop.cancelled().await };
            tokio::select! {
                () = stop.cancelled() => {}
                () = slot.evicted() => {}
                () = slot.idle_for(IDLE_LIMIT) => {}
            }
        };
        tokio::select! {
            result = connection.as_mut() => return note(result),
            () = leaves => {}
        }
        // Calls have ended or are ending; whoever is about to make one is told to come again.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            result = connection => note(result),
            () = sleep(LAST_WORDS) => {}
        }
    }
}

fn note(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the Workload API failed");
    }
}

#[derive(Clone)]
struct Handler {
    methods: Methods,
    verdict: Verdict,
    calls: Calls,
}

impl Handler {
    async fn handle(self, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
        let call = self.calls.begin();
        Ok(self.methods.answer(request, self.verdict, call).await)
    }
}

/// The calls that are open on a connection: while there is one, it is not idle.
#[derive(Clone)]
struct Calls(Option<Arc<Open>>);

struct Open {
    number: Mutex<usize>,
    activity: Arc<Activity>,
}

/// One call, until it is dropped.
struct Call(Option<Arc<Open>>);

impl Calls {
    fn begin(&self) -> Call {
        if let Some(open) = &self.0 {
            let mut number = open.number.lock().unwrap_or_else(PoisonError::into_inner);
            *number += 1;
            open.activity.begin();
        }
        Call(self.0.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(open) = &self.0 else { return };
        let mut number = open.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number -= 1;
        if *number == 0 {
            open.activity.end();
        }
    }
}

/// The most calls at a time on one connection.
const STREAM_LIMIT: u32 = 32;

/// The largest header of a call, in bytes as HTTP/2 counts them.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How much of an answer is taken before the caller has read what came before.
const SEND_BUFFER_LIMIT: usize = 64 * 1024;

/// How much of requests may be on its way, in bytes.
const WINDOW: u32 = 64 * 1024;

/// How often a caller is asked for a sign of life, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_mins(2);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection may be open without a call.
const IDLE_LIMIT: Duration = Duration::from_mins(2);

/// How long the end of a connection may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a connection of a caller who is refused may last.
pub(super) const REFUSED_LIFE: Duration = Duration::from_secs(5);
