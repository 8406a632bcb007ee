//! Owns the HTTP interface: the table of routes, the limits of a request, and the form of every answer.

mod answers;
mod est;
mod problem;
mod revocation;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Deadlines;
use super::enrolment::{Context, Credentials, EnrolmentError, Form, IssuedCertificate};
use super::est::EstOperation;
use super::limits::{Limits, Source};
use super::manager::CertificateAuthorityManager;
use super::oidc::SignedToken;
use super::renewal_info::preferred_wait;
use super::token::TokenSecret;
use crate::events::new_correlation_id;
use crate::slots::Activity;
use crate::trace_context::TraceContext;
use crate::wire::{CORRELATION_HEADER, REQUEST_LIMIT, TRACE_HEADER};

use problem::Problem;
pub use problem::{PROBLEM_PREFIX, PROBLEM_TYPES, ProblemType};

/// One entry of the table that the router is made from.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method: `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// The path; `{serial}` stands for one segment.
    pub path: &'static str,
    action: Action,
}

/// Every route. There is none beside them.
pub const ROUTES: [Route; 16] = [
    Route { method: "GET", path: HEALTH_PATH, action: Action::Health },
    Route { method: "GET", path: crate::wire::ROOT_PATH, action: Action::Root },
    Route { method: "GET", path: "/ca/crl", action: Action::Crl },
    Route { method: "POST", path: crate::wire::CSR_PATH, action: Action::Enrol },
    Route { method: "DELETE", path: "/certificates/{serial}", action: Action::Revoke },
    Route { method: "GET", path: "/certificates/{serial}/renewal-info", action: Action::RenewalInfo },
    Route { method: "GET", path: "/provider/status", action: Action::Status },
    Route { method: "GET", path: "/provider/config", action: Action::Config },
    Route { method: "POST", path: "/certificates/platform", action: Action::Gone },
    Route { method: "POST", path: "/certificates/server", action: Action::Gone },
    Route { method: "POST", path: "/certificates/client", action: Action::Gone },
    Route { method: "GET", path: "/.well-known/est/cacerts", action: Action::EstRoots },
    Route { method: "GET", path: "/.well-known/est/csrattrs", action: Action::EstAttributes },
    Route { method: "POST", path: "/.well-known/est/simpleenroll", action: Action::Est(EstOperation::Enroll) },
    Route { method: "POST", path: "/.well-known/est/simplereenroll", action: Action::Est(EstOperation::Reenroll) },
    Route { method: "POST", path: "/.well-known/est/serverkeygen", action: Action::EstKeys },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Health,
    Root,
    Crl,
    Enrol,
    Revoke,
    RenewalInfo,
    Status,
    Config,
    Gone,
    EstRoots,
    EstAttributes,
    Est(EstOperation),
    EstKeys,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
    /// Its leaf.
    pub(super) certificate: PeerCertificate,
    /// Cancelled when the connection is to end: whoever waits for news is answered.
    pub(super) closing: CancellationToken,
    /// What its connection is doing. One that is waited for counts as idle, and may have to make room.
    pub(super) activity: Arc<Activity>,
}

/// The leaf that a client showed, verified to our root in the handshake.
#[derive(Debug, Clone)]
pub(super) enum PeerCertificate {
    /// It showed none.
    None,
    /// A good one.
    Valid(CertificateDer<'static>),
    /// One that has expired within the grace. It serves to renew itself, and for nothing else.
    Lapsed(CertificateDer<'static>),
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Site {
    router: Router,
    manager: Arc<CertificateAuthorityManager>,
    pub(super) deadlines: Deadlines,
}

impl Site {
    pub(super) fn new(manager: &Arc<CertificateAuthorityManager>, deadlines: Deadlines) -> Self {
        Self { router: router(manager), manager: Arc::clone(manager), deadlines }
    }

    /// How often anybody may ask.
    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.manager.in_force().admission.limits)
    }

    /// Wall time.
    pub(super) fn now(&self) -> OffsetDateTime {
        self.manager.clock.now().wall
    }

    /// Answers one request in time, and counts it for its source.
    pub(super) async fn answer<B>(self: Arc<Self>, peer: Peer, request: Request<B>) -> Result<Response, Infallible>
    where
        B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
    {
        let (source, activity) = (Source::of(peer.address.ip()), Arc::clone(&peer.activity));
        // The source of a probe may be that of the whole fleet, and a CA that is taken out of service helps nobody.
        let may_be_refused = request.uri().path() != HEALTH_PATH;
        if request.body().is_end_stream() {
            activity.begin();
        }
        let asked = self.limits().source_asks(source);
        let response = match asked {
            Err(wait) if may_be_refused => {
                let text = format!("too many requests from {source}: come back in {} s", wait.seconds);
                tracing::debug!(%source, "too many requests of this source");
                let correlation_id = correlation_id_of(request.headers());
                finished(Problem::too_many(wait.seconds, text).answer(&correlation_id), &correlation_id)
            }
            _ => answer(self.router.clone(), peer, self.deadlines.request, request).await,
        };
        if response.status().is_client_error() && response.status() != StatusCode::TOO_MANY_REQUESTS {
            self.limits().source_failed(source);
        }
        activity.end();
        Ok(response)
    }
}

/// The router over [`ROUTES`]. Requests must carry a [`Context`] and a [`Peer`], as [`answer`] gives them.
fn router(manager: &Arc<CertificateAuthorityManager>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let manager = Arc::clone(manager);
        let filter = match route.method {
            "POST" => MethodFilter::POST,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let handler = move |request: Request| dispatch(route.action, Arc::clone(&manager), request);
        router = router.route(route.path, on(filter, handler));
    }
    router
        .fallback(|request: Request| async move {
            Problem::new(StatusCode::NOT_FOUND, "there is no such resource").answer(&correlation_id(&request))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this resource takes another method");
            problem.answer(&correlation_id(&request))
        })
}

/// Answers one request within `deadline`.
async fn answer<B>(router: Router, peer: Peer, deadline: Duration, request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    let correlation_id = correlation_id_of(&parts.headers);
    let trace = trace_of(&parts.headers).unwrap_or_else(|| TraceContext::of_request(&correlation_id));
    let context = Context { correlation_id: correlation_id.clone(), source: Some(peer.address), trace };
    // Who waits for news holds nothing that others need.
    let may_wait = parts.method == Method::GET && parts.uri.path().ends_with("/renewal-info");
    let waiting = preferred_wait(&parts.headers).filter(|_| may_wait);
    let deadline = deadline + waiting.unwrap_or_default();
    parts.extensions.insert(context);
    parts.extensions.insert(peer);
    let service = hyper_util::service::TowerToHyperService::new(router);
    let work = hyper::service::Service::call(&service, Request::from_parts(parts, Body::new(body)));
    let response = match tokio::time::timeout(deadline, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "the request was not complete in time");
            let mut response = problem.answer(&correlation_id);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    finished(response, &correlation_id)
}

/// What every answer carries.
fn finished(mut response: Response, correlation_id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(correlation_id) {
        response.headers_mut().insert(CORRELATION_HEADER, value);
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn dispatch(action: Action, manager: Arc<CertificateAuthorityManager>, request: Request) -> Response {
    let correlation_id = correlation_id(&request);
    let answered = match action {
        Action::Health => answers::health(&manager).await,
        Action::Root => answers::root(&manager),
        Action::Enrol => enrol(&manager, request).await,
        Action::Status => answers::status(&manager).await,
        Action::Config => answers::config(&manager),
        Action::Crl => revocation::crl(&manager, &request),
        Action::Revoke => revocation::revoke(&manager, request).await,
        Action::RenewalInfo => revocation::renewal_info(&manager, request).await,
        Action::EstRoots => Ok(est::roots(&manager)),
        Action::EstAttributes => Ok(est::attributes()),
        Action::Est(operation) => est::enrol(&manager, operation, request).await,
        Action::EstKeys => Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "the CA makes no private keys: make a key and a CSR where the worker runs, and send the CSR to \
             POST /.well-known/est/simpleenroll",
        )),
        Action::Gone => Err(Problem::new(
            StatusCode::GONE,
            "the CA makes no private keys: make a key and a CSR where the worker runs, and send the CSR to \
             POST /certificates/csr",
        )),
    };
    answered.unwrap_or_else(|problem| problem.answer(&correlation_id))
}

async fn enrol(manager: &CertificateAuthorityManager, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (context, peer) = parts_of(&parts)?;
    let body = read_limited(&parts, body).await?;
    let credentials = credentials(&parts.headers, &peer.certificate);
    let issued = manager.enrol(credentials, Form::Json(&body), context).await;
    answers::issued(manager, certificate_issued(issued, context)?)
}

/// What [`answer`] gave the request.
fn parts_of(parts: &Parts) -> Result<(&Context, &Peer), Problem> {
    let both = (parts.extensions.get::<Context>(), parts.extensions.get::<Peer>());
    let (Some(context), Some(peer)) = both else {
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request lost its context"));
    };
    Ok((context, peer))
}

/// A failure of ours goes to the log with its causes, before the client is told less.
fn certificate_issued(
    issued: Result<IssuedCertificate, EnrolmentError>,
    context: &Context,
) -> Result<IssuedCertificate, Problem> {
    issued.map_err(|error| {
        if error.is_internal() {
            let causes: &dyn std::error::Error = &error;
            tracing::error!(error = causes, correlation_id = context.correlation_id, "cannot issue a certificate");
        }
        Problem::from(&error)
    })
}

/// Reads the body, however long it says it is, no further than [`REQUEST_LIMIT`].
/// Until it is there the connection is idle, and from then on it is not.
async fn read_limited(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "expected a body of at most 64 KiB");
    let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > REQUEST_LIMIT as u64) {
        return Err(too_large());
    }
    match Limited::new(body, REQUEST_LIMIT).collect().await {
        Ok(collected) => {
            if let Some(peer) = parts.extensions.get::<Peer>() {
                peer.activity.begin();
            }
            Ok(collected.to_bytes())
        }
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body did not arrive whole")),
    }
}

/// A token, where there is an `Authorization` header, by its form; else the client certificate.
fn credentials(headers: &HeaderMap, certificate: &PeerCertificate) -> Credentials {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return match certificate {
            PeerCertificate::None => Credentials::None,
            PeerCertificate::Valid(leaf) | PeerCertificate::Lapsed(leaf) => Credentials::Certificate(leaf.clone()),
        };
    };
    let pair = value.to_str().ok().and_then(|text| text.split_once(' '));
    match pair {
        Some((scheme, token)) if values.next().is_none() && scheme.eq_ignore_ascii_case("bearer") => bearer(token),
        _ => Credentials::Malformed,
    }
}

/// A token, whatever the scheme it came by.
fn bearer(token: &str) -> Credentials {
    let token = token.trim();
    let join_token = TokenSecret::from_client(token).map(Credentials::Token);
    let signed = || SignedToken::from_client(token).map(Credentials::Signed);
    join_token.or_else(signed).unwrap_or(Credentials::ForeignToken)
}

fn correlation_id(request: &Request) -> String {
    request.extensions().get::<Context>().map(|context| context.correlation_id.clone()).unwrap_or_default()
}

/// The client's correlation id where it is harmless, else one of ours.
fn correlation_id_of(headers: &HeaderMap) -> String {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    match headers.get(CORRELATION_HEADER).map(HeaderValue::as_bytes) {
        Some(id) if (1..=64).contains(&id.len()) && id.iter().copied().all(allowed) => {
            String::from_utf8_lossy(id).into_owned()
        }
        _ => new_correlation_id(),
    }
}

/// The client's trace; one that is malformed, or comes twice, is as none.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACE_HEADER).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    TraceContext::parse(value.to_str().ok()?)
}

const HEALTH_PATH: &str = "/health";
