//! Owns the answers: which path tells what to whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Response, StatusCode};
use tokio::sync::{Semaphore, watch};

use super::access::{Access, ClientNames, DenialLog, decide};
use super::{AllowedClient, Readiness};
use crate::metrics::{self, Metrics};
use crate::printable::printable;

/// Everything that requests are answered from.
#[derive(Debug)]
pub(super) struct Site {
    metrics_allow: watch::Receiver<Vec<AllowedClient>>,
    readiness: Arc<dyn Readiness>,
    metrics: Metrics,
    denials: DenialLog,
    checks: Arc<Semaphore>,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Client {
    /// Where the connection comes from.
    pub(super) peer: SocketAddr,
    /// The names of its verified certificate, if it showed one.
    pub(super) names: Option<ClientNames>,
}

pub(super) type Answer = Response<Full<Bytes>>;

impl Site {
    pub(super) fn new(
        metrics_allow: watch::Receiver<Vec<AllowedClient>>,
        readiness: Arc<dyn Readiness>,
        metrics: Metrics,
    ) -> Self {
        let checks = Arc::new(Semaphore::new(MAX_CHECKS));
        Self { metrics_allow, readiness, metrics, denials: DenialLog::default(), checks }
    }

    /// The answer to one request. Takes no longer than [`REQUEST_TIMEOUT`].
    pub(super) async fn answer(&self, method: &Method, path: &str, client: &Client) -> Answer {
        let Some(route) = Route::of(path) else { return text(StatusCode::NOT_FOUND, "not found") };
        if method != Method::GET && method != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.answer_route(route, client));
        answer.await.unwrap_or_else(|_| text(StatusCode::SERVICE_UNAVAILABLE, "took too long"))
    }

    async fn answer_route(&self, route: Route, client: &Client) -> Answer {
        match route {
            Route::Live => text(StatusCode::OK, "ok"),
            Route::Ready => match self.ready().await {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}")),
            },
            Route::Started if self.readiness.started() => text(StatusCode::OK, "ok"),
            Route::Started => text(StatusCode::SERVICE_UNAVAILABLE, "no certificate since the start"),
            Route::Health => match self.ready().await {
                Ok(()) => typed(StatusCode::OK, JSON, r#"{"status":"healthy"}"#),
                Err(_) => typed(StatusCode::SERVICE_UNAVAILABLE, JSON, r#"{"status":"unhealthy"}"#),
            },
            Route::Metrics => self.answer_metrics(client).await,
        }
    }

    async fn answer_metrics(&self, client: &Client) -> Answer {
        let access = decide(&self.metrics_allow.borrow(), client.names.as_ref());
        if access != Access::Granted {
            self.denials.note(client.peer, client.names.as_ref());
        }
        match access {
            Access::NoCertificate => text(StatusCode::UNAUTHORIZED, "needs a client certificate"),
            Access::NotListed => text(StatusCode::FORBIDDEN, "this client certificate is not on the list for metrics"),
            Access::Granted => match self.metrics.render(self.ready().await.is_ok()) {
                Ok(body) => typed(StatusCode::OK, metrics::CONTENT_TYPE, body),
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be shown");
                    text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be shown")
                }
            },
        }
    }

    /// Whether the worker can use its certificate now; the reason if not.
    async fn ready(&self) -> Result<(), String> {
        let check = async {
            // The permit goes along with the check: when the disk hangs, so do these threads and no more.
            let permit = Arc::clone(&self.checks).acquire_owned().await;
            let readiness = Arc::clone(&self.readiness);
            tokio::task::spawn_blocking(move || {
                let result = readiness.ready();
                drop(permit);
                result
            })
            .await
        };
        match tokio::time::timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok(result)) => result.map_err(|reason| printable(&reason, REASON_LIMIT)),
            Ok(Err(error)) => {
                tracing::error!(%error, "readiness check panicked");
                Err("the check failed".to_owned())
            }
            Err(_) => Err("the check takes too long".to_owned()),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Live,
    Ready,
    Started,
    Health,
    Metrics,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/livez" | "/health/live" => Some(Self::Live),
            "/readyz" | "/health/ready" => Some(Self::Ready),
            "/startupz" => Some(Self::Started),
            "/health" => Some(Self::Health),
            "/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

const JSON: &str = "application/json";

/// The longest time from a request's headers to its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for a check of readiness.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The most checks of readiness at once.
const MAX_CHECKS: usize = 2;

/// The longest reason told, in characters.
const REASON_LIMIT: usize = 200;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Mutex, PoisonError};

    use http_body_util::BodyExt;

    use super::*;

    /// Ready or not, or stuck on a disk that does not answer until the sender goes away.
    #[derive(Debug)]
    enum State {
        Ready(Result<(), String>),
        Stuck(Mutex<mpsc::Receiver<()>>),
        Panics,
    }

    impl Readiness for State {
        fn ready(&self) -> Result<(), String> {
            match self {
                Self::Ready(result) => result.clone(),
                Self::Stuck(disk) => {
                    let _ = disk.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    Ok(())
                }
                Self::Panics => panic!("secret"),
            }
        }

        fn started(&self) -> bool {
            matches!(self, Self::Ready(Ok(())))
        }
    }

    fn site(state: State) -> Site {
        Site::new(watch::channel(Vec::new()).1, Arc::new(state), Metrics::new().unwrap())
    }

    fn not_ready(reason: &str) -> State {
        State::Ready(Err(reason.to_owned()))
    }

    async fn ask(site: &Site, method: &Method, path: &str) -> (u16, String) {
        let client = Client { peer: "127.0.0.1:1".parse().unwrap(), names: None };
        let answer = site.answer(method, path, &client).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn probes_and_their_old_aliases_tell_the_state() {
        let (up, down) = (site(State::Ready(Ok(()))), site(not_ready("the certificate has expired")));
        let reason = "not ready: the certificate has expired";
        let unhealthy = r#"{"status":"unhealthy"}"#;
        for (path, good, status, bad) in [
            ("/livez", "ok", 200, "ok"),
            ("/health/live", "ok", 200, "ok"),
            ("/readyz", "ok", 503, reason),
            ("/health/ready", "ok", 503, reason),
            ("/startupz", "ok", 503, "no certificate since the start"),
            ("/health", r#"{"status":"healthy"}"#, 503, unhealthy),
        ] {
            assert_eq!(ask(&up, &Method::GET, path).await, (200, good.to_owned()), "{path}");
            assert_eq!(ask(&down, &Method::GET, path).await, (status, bad.to_owned()), "{path}");
        }
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let site = site(State::Ready(Ok(())));
        for path in ["/", "", "/livez/", "/LIVEZ", "/health/x", "/metrics/..", "//livez"] {
            assert_eq!(ask(&site, &Method::GET, path).await.0, 404, "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert_eq!(ask(&site, &method, "/metrics").await.0, 405, "{method}");
        }
        assert_eq!(ask(&site, &Method::GET, "/metrics").await.0, 401);
    }

    #[tokio::test]
    async fn a_reason_is_one_short_printable_line() {
        let (_, body) = ask(&site(not_ready(&"\r\n\u{1b}x".repeat(100))), &Method::GET, "/readyz").await;
        assert!(body.starts_with("not ready: \\r\\n\\u{1b}x") && !body.contains(char::is_control), "{body}");
        assert!(body.chars().count() < 2_000);
    }

    #[tokio::test]
    async fn a_check_that_panics_is_not_ready_and_says_no_more() {
        let answer = ask(&site(State::Panics), &Method::GET, "/readyz").await;
        assert_eq!(answer, (503, "not ready: the check failed".to_owned()));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_blocks_two_threads_and_no_other_probe() {
        let (unblock, disk) = mpsc::channel();
        let site = Arc::new(site(State::Stuck(Mutex::new(disk))));
        tokio::time::pause();
        let mut stuck = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let site = Arc::clone(&site);
            stuck.spawn(async move { ask(&site, &Method::GET, "/readyz").await });
        }
        tokio::task::yield_now().await;
        assert_eq!(ask(&site, &Method::GET, "/livez").await.0, 200);
        tokio::time::advance(CHECK_TIMEOUT).await;
        // Time does not go on by itself while a blocking thread is busy.
        tokio::time::resume();
        while let Some(answer) = tokio::time::timeout(CHECK_TIMEOUT, stuck.join_next()).await.expect("given up on") {
            assert_eq!(answer.unwrap(), (503, "not ready: the check takes too long".to_owned()));
        }
        assert_eq!(site.checks.available_permits(), 0);
        drop(unblock);
    }
}
