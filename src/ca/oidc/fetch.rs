//! Owns the reading of an issuer's keys: from a file, or over HTTPS with roots of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use zeroize::Zeroizing;

use super::jwk::KeySet;
use super::settings::KeyUrl;
use crate::bounded::{ReadError, read_file};
use crate::clock::Clock;
use crate::https;
use crate::identity::bundle::{ROOTS_LIMIT, certificates_from_pem};
use crate::printable::error_chain;
use crate::tls::{ServerTrust, client_config};

/// Keys that could not be read. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FetchError(String);

/// The keys in a file.
pub(super) async fn from_file(path: &Path) -> Result<KeySet, FetchError> {
    let content = read(path, KEYS_LIMIT).await.map_err(|error| FetchError(error.to_string()))?;
    let keys = KeySet::parse(&content);
    keys.map_err(|expected| FetchError(format!("cannot use {}: {expected}", path.display())))
}

/// The keys at a URL: no redirects, no proxy, at most [`KEYS_LIMIT`] bytes within [`DEADLINE`].
pub(super) async fn from_url(source: &KeyUrl, clock: Arc<dyn Clock>) -> Result<KeySet, FetchError> {
    let fetched = tokio::time::timeout(DEADLINE, body(source, clock)).await;
    let fetched = fetched.unwrap_or_else(|_| Err("no complete answer within 5 s".to_owned()));
    let keys = fetched.and_then(|body| KeySet::parse(&body).map_err(str::to_owned));
    keys.map_err(|reason| FetchError(format!("cannot use {}: {reason}", source.url.as_str())))
}

async fn body(source: &KeyUrl, clock: Arc<dyn Clock>) -> Result<Vec<u8>, String> {
    let roots = read(&source.root_file, KEYS_LIMIT).await.map_err(|error| error.to_string())?;
    let roots = certificates_from_pem("roots", &roots, ROOTS_LIMIT).map_err(|error| error_chain(&error))?;
    let tls = client_config(&ServerTrust::Peers { roots, crls: Vec::new() }, None, clock)
        .map_err(|error| error_chain(&error))?;
    let client = https::client_builder(tls, https::CA).timeout(DEADLINE).pool_max_idle_per_host(0).build();
    let client = client.map_err(|error| error_chain(&error))?;
    let mut request = client.get(source.url.as_str());
    if let Some(path) = &source.token_file {
        let token = read(path, TOKEN_LIMIT).await.map_err(|error| error.to_string())?;
        let token = std::str::from_utf8(&token).unwrap_or_default().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{}: expected one token in printable ASCII", path.display()));
        }
        request = request.bearer_auth(token);
    }
    let mut response = request.send().await.map_err(|error| error_chain(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error_chain(&error))? {
        if body.len() + chunk.len() > usize::try_from(KEYS_LIMIT).unwrap_or(usize::MAX) {
            return Err("sent more than 256 KiB".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Off the async threads.
async fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_file(&owned, limit)).await;
    read.unwrap_or_else(|_| Err(ReadError::NotAFile(path.to_owned())))
}

/// The largest set of keys, and the largest file of roots, in bytes.
const KEYS_LIMIT: u64 = 256 * 1024;

const TOKEN_LIMIT: u64 = 16 * 1024;

const DEADLINE: Duration = Duration::from_secs(5);
