//! Owns the client of the API server: JSON over verified HTTPS, with roots and token as they are in their files now, every
//! answer limited in time and size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::settings::KubernetesSigner;
use crate::bounded::read_file;
use crate::clock::Clock;
use crate::config::HttpsUrl;
use crate::https;
use crate::identity::bundle::{ROOTS_LIMIT, certificates_from_pem};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::tls::{ServerTrust, client_config};

/// A call that gave no answer, or another than was hoped for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// Roots or token are not usable; nothing was sent.
    #[error("cannot use {path}: {reason}")]
    File { path: PathBuf, reason: String },
    /// No answer, or not all of it.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The API server says no.
    #[error("the API server answered {code}: {message}")]
    Refused { code: u16, message: String },
    /// An answer that is not what was asked for.
    #[error("the API server's answer cannot be used: {0}")]
    Answer(&'static str),
}

/// Speaks to one API server.
pub(super) struct Client {
    url: HttpsUrl,
    root_file: PathBuf,
    token_file: PathBuf,
    clock: Arc<dyn Clock>,
    /// With the content of the file that its roots are from.
    held: Mutex<Option<(Vec<u8>, reqwest::Client)>>,
}

/// Events as they come.
pub(super) struct Watch {
    response: Response,
    buffer: Vec<u8>,
}

impl Client {
    /// Nothing is read or sent before the first call.
    pub(super) fn new(signer: &KubernetesSigner, clock: Arc<dyn Clock>) -> Self {
        Self {
            url: signer.url.clone(),
            root_file: signer.root_file.clone(),
            token_file: signer.token_file.clone(),
            clock,
            held: Mutex::new(None),
        }
    }

    /// The object or list at `path`.
    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, ApiError> {
        whole(self.request(Method::GET, path, query).await?).await
    }

    /// Puts an object in the place of the one at `path`.
    pub(super) async fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        whole(self.request(Method::PUT, path, &[]).await?.json(object)).await
    }

    /// What changes at `path`. Ends by itself after the time that `query` asks for.
    pub(super) async fn watch(&self, path: &str, query: &[(&str, &str)]) -> Result<Watch, ApiError> {
        // Its end is bounded by whoever reads.
        let request = self.request(Method::GET, path, query).await?;
        let sent = tokio::time::timeout(DEADLINE, request.send()).await;
        let response = sent.map_err(|_| late())?.map_err(|error| unreachable(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(Watch { response, buffer: Vec::new() });
        }
        let code = response.status().as_u16();
        let body = tokio::time::timeout(DEADLINE, body(response)).await.map_err(|_| late())??;
        Err(refused(code, &body))
    }

    async fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, ApiError> {
        let roots = read(&self.root_file, ROOTS_SIZE).await?;
        let token = read(&self.token_file, TOKEN_SIZE).await?;
        let token = std::str::from_utf8(&token).unwrap_or_default().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable(&self.token_file, "expected one token in printable ASCII"));
        }
        let client = self.client(&roots).await?;
        Ok(client.request(method, with_query(self.url.join(path), query)).bearer_auth(token))
    }

    /// Connections are kept as long as the roots are the same.
    async fn client(&self, content: &[u8]) -> Result<reqwest::Client, ApiError> {
        let mut held = self.held.lock().await;
        if let Some((_, client)) = held.as_ref().filter(|(of, _)| of == content) {
            return Ok(client.clone());
        }
        let fail = |error: &dyn std::error::Error| unusable(&self.root_file, error_chain(error));
        let roots = certificates_from_pem("roots", content, ROOTS_LIMIT).map_err(|error| fail(&error))?;
        let trust = ServerTrust::Peers { roots, crls: Vec::new() };
        let tls = client_config(&trust, None, Arc::clone(&self.clock)).map_err(|error| fail(&error))?;
        let builder = https::client_builder(tls, https::CA).connect_timeout(DEADLINE);
        // So that a server that is gone without a word is noticed.
        let client = builder.tcp_keepalive(KEEP_ALIVE).build().map_err(|error| fail(&error))?;
        *held = Some((content.to_vec(), client.clone()));
        Ok(client)
    }
}

impl Watch {
    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|_| ApiError::Answer("an event that is no JSON"));
            }
            match self.response.chunk().await.map_err(|error| unreachable(&error))? {
                None => return Ok(None),
                Some(chunk) if self.buffer.len() + chunk.len() > BODY_SIZE => {
                    return Err(ApiError::Answer("an event of more than 32 MiB"));
                }
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
            }
        }
    }
}

impl ApiError {
    /// The status code, where there was an answer.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Sends a request, and reads all of the answer.
async fn whole(request: RequestBuilder) -> Result<Value, ApiError> {
    let answered = async {
        let response = request.send().await.map_err(|error| unreachable(&error))?;
        let code = response.status().as_u16();
        Ok::<_, ApiError>((code, body(response).await?))
    };
    let (code, body) = tokio::time::timeout(DEADLINE, answered).await.map_err(|_| late())??;
    if (200..300).contains(&code) {
        return serde_json::from_slice(&body).map_err(|_| ApiError::Answer("a body that is no JSON"));
    }
    Err(refused(code, &body))
}

async fn body(mut response: Response) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > BODY_SIZE {
            return Err(ApiError::Answer("a body of more than 32 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The API server tells why in an object `Status`.
fn refused(code: u16, body: &[u8]) -> ApiError {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = status["message"].as_str().unwrap_or("no reason");
    ApiError::Refused { code, message: printable(message, FOREIGN_TEXT_LIMIT) }
}

fn unreachable(error: &reqwest::Error) -> ApiError {
    // Without the URL, which is long and known.
    ApiError::Unreachable(std::error::Error::source(error).map_or_else(|| error.to_string(), error_chain))
}

fn late() -> ApiError {
    ApiError::Unreachable("no answer within 15 s".to_owned())
}

fn unusable(path: &Path, reason: impl Into<String>) -> ApiError {
    ApiError::File { path: path.to_owned(), reason: reason.into() }
}

/// Off the async threads.
async fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_file(&owned, limit)).await;
    let read = read.map_err(|_| unusable(path, "it was not read"))?;
    read.map_err(|error| unusable(path, error_chain(&error)))
}

/// `url` with parameters, whatever their values hold.
fn with_query(mut url: Url, query: &[(&str, &str)]) -> Url {
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

/// For a call, and for the begin of a watch.
const DEADLINE: Duration = Duration::from_secs(15);

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// In bytes: a page of a list, or an object, which the API server itself limits to some MiB.
const BODY_SIZE: usize = 32 * 1024 * 1024;

const ROOTS_SIZE: u64 = 256 * 1024;

const TOKEN_SIZE: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_hold_whatever_they_say() {
        let url = HttpsUrl::new("https://api.example/base/").unwrap();
        let url = with_query(url.join("/apis"), &[("fieldSelector", "spec.signerName=a.b/c"), ("continue", "a&b=c d")]);
        let text = url.as_str();
        assert_eq!(text, "https://api.example/base/apis?fieldSelector=spec.signerName%3Da.b%2Fc&continue=a%26b%3Dc+d");
    }

    #[test]
    fn a_refusal_tells_its_reason_printably() {
        let error = refused(409, b"{\"kind\":\"Status\",\"message\":\"changed\\n meanwhile\"}");
        assert_eq!(error.to_string(), "the API server answered 409: changed\\n meanwhile");
        assert_eq!(refused(502, b"<html>").to_string(), "the API server answered 502: no reason");
    }
}
