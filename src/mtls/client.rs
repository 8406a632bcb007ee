//! Owns [`MtlsClient`]: requests to peers, with the certificate that is published by then and within fixed limits.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Frame, SizeHint};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, Method, RequestBuilder, Response, ResponseBuilderExt};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::connections::{Connections, InUse, MAX_CONNECTIONS, Route};
use super::live::Live;
use super::{MtlsError, PeerUrl, client_config, live_client};
use crate::clock::{Clock, SystemClock};
use crate::tls::PeerServers;

/// An HTTP client for peers, made by [`create_mtls_client`](super::create_mtls_client). A clone is the same client:
/// certificate, connections and limits are shared.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = crank_agent::create_mtls_client("/etc/certs".as_ref())?;
/// let answer = client.get("https://streaming:8443/orders".parse()?).send().await?.error_for_status()?;
/// println!("{}", answer.text().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MtlsClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    live: Arc<Live<PeerServers>>,
    connections: Arc<Connections>,
    /// Makes requests, and sends none.
    maker: Client,
}

/// A request to a peer that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is sent before `send`"]
pub struct MtlsRequest {
    client: MtlsClient,
    request: RequestBuilder,
    timeout: Duration,
}

/// A request that had no answer.
#[derive(Debug, thiserror::Error)]
pub enum MtlsRequestError {
    /// No request is sent with a certificate that has expired.
    #[error(
        "the certificate in {directory} has expired at {not_after}, and nothing was sent; `crank-agent status` tells why \
         there is no other"
    )]
    Expired {
        /// The certificate directory.
        directory: String,
        /// When it expired.
        not_after: OffsetDateTime,
    },
    /// As many requests as may be were under way all the time.
    #[error("nothing was sent: {MAX_CONNECTIONS} requests were under way for as long as this one could wait")]
    Busy,
    /// It could not be made or sent, or was not answered in time.
    #[error("the request failed")]
    Http(#[from] reqwest::Error),
}

impl MtlsRequestError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::Busy => "busy",
            Self::Http(error) if error.is_timeout() => "timeout",
            Self::Http(error) if error.is_connect() => "connect",
            Self::Http(_) => "http",
        }
    }
}

impl MtlsClient {
    pub(super) fn open(directory: &Path) -> Result<Self, MtlsError> {
        let live = live_client(directory)?;
        let connections = Connections::new(client_config(&live)?);
        let maker = connections.build()?;
        Ok(Self { shared: Arc::new(Shared { live, connections: Arc::new(connections), maker }) })
    }

    /// A `GET` request.
    pub fn get(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::GET, url)
    }

    /// A `POST` request.
    pub fn post(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::POST, url)
    }

    /// A `PUT` request.
    pub fn put(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::PUT, url)
    }

    /// A `PATCH` request.
    pub fn patch(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::PATCH, url)
    }

    /// A `DELETE` request.
    pub fn delete(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::DELETE, url)
    }

    /// A `HEAD` request.
    pub fn head(&self, url: PeerUrl) -> MtlsRequest {
        self.request(Method::HEAD, url)
    }

    /// A request by any method.
    pub fn request(&self, method: Method, url: PeerUrl) -> MtlsRequest {
        let request = self.shared.maker.request(method, reqwest::Url::from(url));
        MtlsRequest { client: self.clone(), request, timeout: REQUEST_TIMEOUT }
    }

    /// The state of the directory by which to connect now.
    fn epoch(&self) -> Result<u64, MtlsRequestError> {
        let live = &self.shared.live;
        let in_force = live.in_force();
        if SystemClock.now().wall < in_force.not_after {
            return Ok(in_force.epoch);
        }
        Err(MtlsRequestError::Expired { directory: live.directory(), not_after: in_force.not_after })
    }
}

impl MtlsRequest {
    /// The same with one more header.
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        HeaderName: TryFrom<N>,
        HeaderValue: TryFrom<V>,
        <HeaderName as TryFrom<N>>::Error: Into<hyper::http::Error>,
        <HeaderValue as TryFrom<V>>::Error: Into<hyper::http::Error>,
    {
        Self { request: self.request.header(name, value), ..self }
    }

    /// The same with these headers in place of others of their names.
    pub fn headers(self, headers: HeaderMap) -> Self {
        Self { request: self.request.headers(headers), ..self }
    }

    /// The same with this body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        Self { request: self.request.body(body), ..self }
    }

    /// The same with `value` as JSON for its body.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        Self { request: self.request.json(value), ..self }
    }

    /// The same with another time than 30 s until the last byte of the answer, waiting for its turn included.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends it. An answer of whatever status is an answer, redirects among them: see [`Response::error_for_status`].
    /// The request is under way until the answer's body is read to its end, or dropped.
    ///
    /// # Errors
    /// See [`MtlsRequestError`].
    pub async fn send(self) -> Result<Response, MtlsRequestError> {
        let mut request = self.request.build()?;
        let deadline = Instant::now() + self.timeout;
        let connections = &self.client.shared.connections;
        let Some(turn) = connections.turn(deadline).await else { return Err(MtlsRequestError::Busy) };
        // After the wait, so that it goes out with what is published by now.
        let route = Route { origin: request.url().origin().ascii_serialization(), epoch: self.client.epoch()? };
        let connection = connections.take(turn, route).await?;
        *request.timeout_mut() = Some(deadline.saturating_duration_since(Instant::now()));
        let response = connection.execute(request).await?;
        Ok(holding(connection, response))
    }
}

/// The same response; `connection` is for others when its body is at its end.
fn holding(connection: InUse, response: Response) -> Response {
    let url = response.url().clone();
    let (mut head, body) = hyper::Response::<Body>::from(response).into_parts();
    if let Ok(with_url) = hyper::Response::builder().url(url).body(()) {
        head.extensions.extend(with_url.into_parts().0.extensions);
    }
    Response::from(hyper::Response::from_parts(head, Body::wrap(Held { body, connection: Some(connection) })))
}

struct Held {
    body: Body,
    connection: Option<InUse>,
}

impl Drop for Held {
    /// What was not read to its end leaves a connection that is of no use to others.
    fn drop(&mut self) {
        if self.body.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            connection.give_back();
        }
    }
}

impl hyper::body::Body for Held {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, reqwest::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled
            && let Some(connection) = self.connection.take()
        {
            connection.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
