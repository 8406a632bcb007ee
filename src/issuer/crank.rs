//! Owns the HTTP interface of crank-ca and its predecessor, seen from the agent.

mod renewal;
mod trust;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, Error as RustlsError};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::roots::{KnownRoots, union};
use super::{
    CrlAnswer, FollowedRoots, IssueError, IssueErrorKind, Issued, Issuer, Order, RenewalAnswer, RenewalQuestion,
};
use crate::bounded::read_file;
use crate::clock::Clock;
use crate::config::CaConfig;
use crate::https;
use crate::identity::CertificateBundle;
use crate::identity::bundle::{CHAIN_LIMIT, certificates_from_pem};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::tls::client_config;
use crate::trace_context::TraceContext;
use crate::wire::{
    CORRELATION_HEADER, CSR_PATH, CsrReply, CsrRequest, ErrorReply, REPLY_LIMIT, REVOKED_KIND, ROOT_PATH, RootReply,
    TRACE_HEADER, sound_decision_id,
};

use renewal::Kept;

/// Speaks to crank-ca. Every request is a connection of its own with roots and token read afresh, so that a rotated
/// token or root needs no word to the agent. The one exception is a question that the CA may wait with answering: its
/// connection is kept for the next.
#[derive(Debug)]
pub struct CrankIssuer {
    config: CaConfig,
    clock: Arc<dyn Clock>,
    kept: Mutex<Option<Kept>>,
}

/// How a request proves who asks.
#[derive(Debug)]
enum Credential<'a> {
    Token(Zeroizing<String>),
    Certificate(&'a CertificateBundle),
}

impl CrankIssuer {
    /// An issuer for the CA of `config`.
    #[must_use]
    pub fn new(config: CaConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock, kept: Mutex::default() }
    }

    /// Asks the CA whether it is up, over verified TLS and without a credential.
    ///
    /// # Errors
    /// When it is not reachable, not trusted, or does not answer 200.
    pub async fn health(&self) -> Result<(), IssueError> {
        let client = self.client(None, &KnownRoots::default())?;
        let response = client.get(self.config.url.join("/health")).send().await;
        let response = response.map_err(|error| self.transport_error(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(());
        }
        let status = response.status();
        Err(self.fail(IssueErrorKind::Unavailable, format!("answered {status} to GET /health")))
    }

    async fn attempt(&self, order: &Order<'_>, credential: &Credential<'_>) -> Result<Issued, IssueError> {
        let identity = match credential {
            Credential::Certificate(bundle) => Some(*bundle),
            Credential::Token(_) => None,
        };
        let client = self.client(identity, order.known)?;
        let body = CsrRequest { csr: order.csr_pem.to_owned(), service_name: order.identity.worker_id.to_string() };
        let mut request = client
            .post(self.config.url.join(CSR_PATH))
            .header(CORRELATION_HEADER, order.correlation_id)
            .header(TRACE_HEADER, TraceContext::of_request(order.correlation_id).to_string())
            .json(&body);
        if let Credential::Token(token) = credential {
            request = request.bearer_auth(token.as_str());
        }
        let sent = self.clock.now();
        let response = request.send().await.map_err(|error| self.transport_error(&error))?;
        let received = self.clock.now();
        let middle = sent.wall + (received.wall - sent.wall) / 2;
        let skew = clock_skew(response.headers(), middle);
        self.reply(response, order.known)
            .await
            .map(|issued| Issued { clock_skew_seconds: skew, ..issued })
            .map_err(|error| IssueError { clock_skew_seconds: skew, ..error })
    }

    async fn reply(&self, response: Response, known: &KnownRoots) -> Result<Issued, IssueError> {
        let reply: CsrReply = self.json(response).await?;
        let broken = |what: String| self.fail(IssueErrorKind::BrokenReply, what);
        if reply.status != "success" {
            return Err(broken(format!("expected the status `success`, got `{}`", printable(&reply.status, 40))));
        }
        let chain = certificates_from_pem("certificate chain", reply.certificate.as_bytes(), CHAIN_LIMIT)
            .map_err(|error| broken(error.to_string()))?;
        let handed_out = self.handed_out(&reply.ca_certificate)?;
        let publish = self.to_publish(&handed_out)?;
        // A root that comes with the first certificate of it is not trusted for that.
        let followed = known.followed_roots().filter(|_| self.config.follow_roots);
        let trusted = union(self.configured(&handed_out)?, followed);
        Ok(Issued {
            key: None,
            chain,
            trusted,
            publish,
            federated: BTreeMap::new(),
            decision_id: reply.decision_id(),
            clock_skew_seconds: None,
        })
    }

    /// The JSON of an answer with a status of success.
    async fn json<T: serde::de::DeserializeOwned>(&self, response: Response) -> Result<T, IssueError> {
        let status = response.status();
        let headers = response.headers().clone();
        if status.is_redirection() {
            let message = format!("answered {status}; redirects are not followed, set the CA's own URL");
            return Err(self.fail(IssueErrorKind::BrokenReply, message));
        }
        let body = self.read_body(response, REPLY_LIMIT).await?;
        if !status.is_success() {
            return Err(self.status_error(status, &headers, &body));
        }
        if !headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json")) {
            return Err(self.fail(IssueErrorKind::BrokenReply, "expected a reply of type application/json"));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let what = format!("the reply is not the JSON expected: {}", printable(&error.to_string(), 200));
            self.fail(IssueErrorKind::BrokenReply, what)
        })
    }

    fn read_token(&self) -> Result<Zeroizing<String>, IssueError> {
        let fail = |message: String| IssueError::new(IssueErrorKind::Credential, message);
        let Some(path) = &self.config.token_file else {
            return Err(fail("no credential to enrol with: set ca.token_file (CRANK_CA_TOKEN_FILE)".to_owned()));
        };
        let content = read_file(path, TOKEN_LIMIT).map_err(|error| fail(format!("token file: {error}")))?;
        let text = std::str::from_utf8(&content).unwrap_or_default().trim();
        // RFC 6750, section 2.1. The value is not repeated in the error.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fail(format!("token file {}: expected one token in printable ASCII", path.display())));
        }
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn client(&self, identity: Option<&CertificateBundle>, known: &KnownRoots) -> Result<Client, IssueError> {
        self.build(self.client_builder(identity, known)?.pool_max_idle_per_host(0))
    }

    fn build(&self, builder: ClientBuilder) -> Result<Client, IssueError> {
        builder.build().map_err(|error| self.fail(IssueErrorKind::Credential, error_chain(&error)))
    }

    fn client_builder(
        &self,
        identity: Option<&CertificateBundle>,
        known: &KnownRoots,
    ) -> Result<ClientBuilder, IssueError> {
        let trust = self.server_trust(known)?;
        let credential =
            |error: &dyn std::error::Error| IssueError::new(IssueErrorKind::Credential, error_chain(error));
        let tls = client_config(&trust, identity, Arc::clone(&self.clock)).map_err(|error| credential(&error))?;
        let timeout = self.config.timeout;
        Ok(https::client_builder(tls, https::AGENT).connect_timeout(timeout).timeout(timeout))
    }

    /// Reads the body up to `limit` bytes, whatever the headers promise.
    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, IssueError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport_error(&error))? {
            if body.len() + chunk.len() > limit {
                let message = format!("sent more than {limit} bytes");
                return Err(self.fail(IssueErrorKind::BrokenReply, message));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn status_error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> IssueError {
        let reply = serde_json::from_slice::<ErrorReply>(body).unwrap_or_default();
        let retry_after = retry_after(headers, self.clock.now().wall);
        let kind = match status.as_u16() {
            429 => IssueErrorKind::RateLimited(retry_after),
            503 if retry_after.is_some() => IssueErrorKind::RateLimited(retry_after),
            408 | 425 | 500..=599 => IssueErrorKind::Unavailable,
            401 if tells_of_revocation(body) => IssueErrorKind::Revoked,
            401 => IssueErrorKind::Unauthenticated,
            400..=499 => IssueErrorKind::Refused,
            _ => IssueErrorKind::BrokenReply,
        };
        let detail = printable(reply.detail.trim(), FOREIGN_TEXT_LIMIT);
        let reason = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        let decision_id = sound_decision_id(&reply.decision_id);
        IssueError { decision_id, ..self.fail(kind, format!("answered {status}{reason}")) }
    }

    fn transport_error(&self, error: &reqwest::Error) -> IssueError {
        if let Some(tls) = tls_cause(error) {
            let text = printable(&tls.to_string(), FOREIGN_TEXT_LIMIT);
            return match tls {
                RustlsError::InvalidCertificate(_) | RustlsError::NoCertificatesPresented => self
                    .fail(IssueErrorKind::Untrusted, format!("is not the CA expected, and nothing was sent: {text}")),
                RustlsError::AlertReceived(AlertDescription::CertificateRevoked) => {
                    self.fail(IssueErrorKind::Revoked, "says that our certificate is revoked")
                }
                RustlsError::AlertReceived(alert) if about_our_certificate(*alert) => {
                    self.fail(IssueErrorKind::Unauthenticated, format!("does not take our certificate: {text}"))
                }
                _ => self.fail(IssueErrorKind::Unavailable, format!("TLS failed: {text}")),
            };
        }
        if error.is_timeout() {
            let message = format!("gave no complete answer within {} s", self.config.timeout.as_secs_f64());
            return self.fail(IssueErrorKind::Unavailable, message);
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        self.fail(IssueErrorKind::Unavailable, format!("cannot be reached: {}", printable(&cause.to_string(), 200)))
    }

    fn fail(&self, kind: IssueErrorKind, what: impl AsRef<str>) -> IssueError {
        IssueError::new(kind, format!("CA {} {}", self.config.url.as_str(), what.as_ref()))
    }

    /// With the token, or where there is no good one with a certificate that has expired.
    async fn enrol(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        let enrolled = match self.read_token() {
            Ok(token) => self.attempt(order, &Credential::Token(token)).await,
            Err(error) => Err(error),
        };
        let (error, lapsed) = match (enrolled, order.lapsed) {
            (Err(error), Some(lapsed)) => (error, lapsed),
            (enrolled, _) => return enrolled,
        };
        if !matches!(error.kind, IssueErrorKind::Credential | IssueErrorKind::Unauthenticated) {
            return Err(error);
        }
        self.attempt(order, &Credential::Certificate(lapsed)).await.map_err(|refused| {
            tracing::debug!(error = %refused, "the CA does not take the expired certificate");
            // What can be mended is the token.
            error
        })
    }
}

impl Issuer for CrankIssuer {
    /// Renews by mTLS with the current certificate; enrols with the token when there is none, or when the CA does not
    /// take the certificate and there is a token to fall back on. Without a good token an expired certificate is tried,
    /// which a CA with a grace takes.
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        let Some(current) = order.current else {
            return self.enrol(order).await;
        };
        match self.attempt(order, &Credential::Certificate(current)).await {
            Err(error) if error.kind == IssueErrorKind::Unauthenticated && self.config.token_file.is_some() => {
                tracing::info!(error = %error, "renewal by certificate was not accepted, enrolling with the token");
                self.attempt(order, &Credential::Token(self.read_token()?)).await
            }
            outcome => outcome,
        }
    }

    async fn renewal_info(&self, question: &RenewalQuestion<'_>) -> Result<RenewalAnswer, IssueError> {
        self.ask_renewal(question).await
    }

    async fn crl(&self, tag: Option<&str>, known: &KnownRoots) -> Result<CrlAnswer, IssueError> {
        self.ask_crl(tag, known).await
    }

    fn roots(&self, known: &KnownRoots) -> Result<Option<Vec<CertificateDer<'static>>>, IssueError> {
        let configured = self.configured(&known.published)?;
        let roots = union(configured, known.followed_roots().filter(|_| self.config.follow_roots));
        Ok((!roots.is_empty()).then_some(roots))
    }

    async fn follow(&self, known: &KnownRoots) -> Result<Option<FollowedRoots>, IssueError> {
        if !self.config.follow_roots {
            return Ok(None);
        }
        let client = self.client(None, known)?;
        let response = client.get(self.config.url.join(ROOT_PATH)).send().await;
        let reply: RootReply = self.json(response.map_err(|error| self.transport_error(&error))?).await?;
        self.to_publish(&self.handed_out(&reply.ca_certificate)?).map(Some)
    }

    fn url(&self) -> &str {
        self.config.url.as_str()
    }
}

/// The rustls error below a reqwest error, if TLS is what failed.
fn tls_cause(error: &reqwest::Error) -> Option<&RustlsError> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<RustlsError>() {
            return Some(tls);
        }
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            // io::Error hides the error that it carries from source().
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

/// Whether a problem (RFC 9457) is of the kind `certificate_revoked`, by its `kind` or the end of its `type`.
fn tells_of_revocation(body: &[u8]) -> bool {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let is = |member: &str| problem[member].as_str().is_some_and(|kind| kind.ends_with(REVOKED_KIND));
    is("kind") || is("type")
}

fn about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// The CA's clock less ours in seconds, from `Date`, which has whole seconds.
fn clock_skew(headers: &HeaderMap, ours: OffsetDateTime) -> Option<f64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let theirs: OffsetDateTime = httpdate::parse_http_date(date).ok()?.into();
    // The header is cut to the second: on average half a second behind.
    Some((theirs - ours).as_seconds_f64() + 0.5)
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds or a date.
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::from(now)).unwrap_or(Duration::ZERO))
}

/// The largest token file in bytes. A Kubernetes token has about one thousand.
const TOKEN_LIMIT: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: reqwest::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = time::macros::datetime!(2015-10-21 07:28:00 UTC);
        assert_eq!(retry_after(&headers(RETRY_AFTER, "120"), now), Some(Duration::from_mins(2)));
        let date = headers(RETRY_AFTER, "Wed, 21 Oct 2015 07:29:00 GMT");
        assert_eq!(retry_after(&date, now), Some(Duration::from_mins(1)));
        assert_eq!(retry_after(&headers(RETRY_AFTER, "-1"), now), None);
        assert_eq!(retry_after(&headers(RETRY_AFTER, "99999999999999"), now), None);
    }

    #[test]
    fn skew_is_theirs_less_ours() {
        let now = time::macros::datetime!(2015-10-21 07:28:00.5 UTC);
        let skew = clock_skew(&headers(DATE, "Wed, 21 Oct 2015 08:28:00 GMT"), now).unwrap();
        assert!((skew - 3600.0).abs() < 1e-6);
        assert_eq!(clock_skew(&headers(DATE, "yesterday"), now), None);
    }
}
