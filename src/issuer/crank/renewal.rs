//! Owns the questions about a certificate that was issued: renewal information, also by a connection that is kept while
//! the CA waits with its answer, and CRLs.

use std::time::Duration;

use reqwest::header::{ACCEPT, ETAG, HeaderMap, IF_NONE_MATCH};
use reqwest::{Client, Response, StatusCode};

use super::{CrankIssuer, retry_after};
use crate::issuer::roots::KnownRoots;
use crate::issuer::{CrlAnswer, IssueError, IssueErrorKind, RenewalAnswer, RenewalInfo, RenewalNews, RenewalQuestion};
use crate::printable::printable;
use crate::trace_context::TraceContext;
use crate::wire::{CORRELATION_HEADER, CRL_PATH, REPLY_LIMIT, RenewalInfoReply, TRACE_HEADER, renewal_info_path};

/// A client whose connection is kept from one question to the next.
#[derive(Debug)]
pub(super) struct Kept {
    /// Whose certificate it presents.
    leaf: [u8; 32],
    client: Client,
}

impl CrankIssuer {
    pub(super) async fn ask_renewal(&self, question: &RenewalQuestion<'_>) -> Result<RenewalAnswer, IssueError> {
        let answer = self.try_ask_renewal(question).await;
        if answer.is_err() {
            // The next one begins with the roots and the address of then.
            self.kept.lock().await.take();
        }
        answer
    }

    async fn try_ask_renewal(&self, question: &RenewalQuestion<'_>) -> Result<RenewalAnswer, IssueError> {
        let client = match question.wait {
            Some(_) => self.kept_client(question).await?,
            None => self.client(Some(question.current), question.known)?,
        };
        let path = renewal_info_path(question.current.serial());
        let mut request = client
            .get(self.config.url.join(&path))
            .header(CORRELATION_HEADER, question.correlation_id)
            .header(TRACE_HEADER, TraceContext::of_request(question.correlation_id).to_string());
        if let Some(tag) = question.tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        // Without a known answer there is nothing to wait for.
        let wait = question.wait.filter(|_| question.tag.is_some());
        if let Some(wait) = wait {
            let patience = wait.saturating_add(self.config.timeout);
            request = request.header(PREFER, format!("wait={}", wait.as_secs())).timeout(patience);
        }
        let response = request.send().await.map_err(|error| self.transport_error(&error))?;
        let headers = response.headers().clone();
        let news = self.renewal_news(response).await?;
        let waited = headers.get(PREFERENCE_APPLIED).is_some_and(|value| value.as_bytes().starts_with(b"wait"));
        Ok(RenewalAnswer { news, retry_after: retry_after(&headers, self.clock.now().wall), waited })
    }

    async fn renewal_news(&self, response: Response) -> Result<RenewalNews, IssueError> {
        let status = response.status();
        let headers = response.headers().clone();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(RenewalNews::Same);
        }
        let body = self.read_body(response, REPLY_LIMIT).await?;
        if is_not_offered(status) {
            return Ok(RenewalNews::NotOffered);
        }
        if status != StatusCode::OK {
            return Err(self.status_error(status, &headers, &body));
        }
        let reply: RenewalInfoReply = serde_json::from_slice(&body).map_err(|error| {
            let reason = printable(&error.to_string(), 200);
            self.fail(IssueErrorKind::BrokenReply, format!("sent renewal information that is not expected: {reason}"))
        })?;
        let info = RenewalInfo::of_reply(reply, etag(&headers), self.clock.now().wall);
        Ok(RenewalNews::Info(Box::new(info)))
    }

    pub(super) async fn ask_crl(&self, tag: Option<&str>, known: &KnownRoots) -> Result<CrlAnswer, IssueError> {
        let Some(limit) = self.config.crl_limit else { return Ok(CrlAnswer::NotOffered) };
        let mut request = self.client(None, known)?.get(self.config.url.join(CRL_PATH)).header(ACCEPT, PEM);
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let response = request.send().await.map_err(|error| self.transport_error(&error))?;
        let status = response.status();
        let headers = response.headers().clone();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(CrlAnswer::Same);
        }
        let limit = if status == StatusCode::OK { limit } else { REPLY_LIMIT };
        let pem = self.read_body(response, limit).await?;
        match status {
            StatusCode::OK => Ok(CrlAnswer::Crls { pem, etag: etag(&headers) }),
            status if is_not_offered(status) => Ok(CrlAnswer::NotOffered),
            status => Err(self.status_error(status, &headers, &pem)),
        }
    }

    /// The client of the last question, if it has the same certificate.
    async fn kept_client(&self, question: &RenewalQuestion<'_>) -> Result<Client, IssueError> {
        let leaf = question.current.leaf_digest();
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.leaf == leaf) {
            return Ok(kept.client.clone());
        }
        let builder = self.client_builder(Some(question.current), question.known)?;
        // Who looks after idle connections by the clock would wake up an idle agent.
        let builder = builder.pool_max_idle_per_host(1).pool_idle_timeout(None).tcp_keepalive(KEEP_ALIVE);
        let client = self.build(builder)?;
        *kept = Some(Kept { leaf, client: client.clone() });
        Ok(client)
    }
}

/// A CA that does not know the resource: an older one, or another kind.
fn is_not_offered(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE | StatusCode::NOT_IMPLEMENTED
    )
}

/// A tag that can be sent back.
fn etag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.len() <= ETAG_LIMIT).then(|| tag.to_owned())
}

const PREFER: &str = "prefer";

const PREFERENCE_APPLIED: &str = "preference-applied";

const PEM: &str = "application/x-pem-file";

/// Longer ones are not kept.
const ETAG_LIMIT: usize = 256;

/// Probes of the system, which wake up nobody: a connection that is dead is noticed within some minutes.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
