//! Owns the following of one kind of request: list, then watch, then list again, in whatever state the API server is.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::client::{ApiError, Client, Watch};
use super::settings::{KubernetesSigner, RequestKind};
use super::work::Desk;
use crate::ca::manager::CertificateAuthorityManager;
use crate::clock::Clock;
use crate::schedule::Jitter;
use crate::schedule::backoff::BackOff;

/// Follows the requests of one kind for our signer.
pub(super) struct Follower {
    kind: RequestKind,
    signer: Arc<KubernetesSigner>,
    client: Arc<Client>,
    clock: Arc<dyn Clock>,
    desk: Arc<Desk>,
}

/// Why following has stopped for now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the cluster has no {0}")]
    NotServed(&'static str),
    #[error("the API server ends every watch at once")]
    EndedAtOnce,
    /// What was seen last is too old to go on from.
    #[error("the API server no longer knows what was seen last")]
    Expired,
}

impl Follower {
    pub(super) fn new(
        kind: RequestKind,
        (manager, signer, client): (Arc<CertificateAuthorityManager>, Arc<KubernetesSigner>, Arc<Client>),
    ) -> Self {
        let clock = Arc::clone(&manager.clock);
        let desk = Arc::new(Desk::new(kind, manager, Arc::clone(&signer), Arc::clone(&client)));
        Self { kind, signer, client, clock, desk }
    }

    /// Follows until cancelled. Whatever fails is tried again, later each time.
    pub(super) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut back_off = BackOff::new(LONGEST_WAIT);
        let mut told = None;
        loop {
            let begun = self.clock.now().running;
            let stopped = tokio::select! {
                () = cancel.cancelled() => return,
                stopped = self.follow(&mut told, &cancel) => stopped,
            };
            if self.clock.now().running.saturating_sub(begun) >= STEADY {
                back_off.reset();
            }
            match stopped {
                Ok(()) | Err(Stopped::Expired) => {}
                Err(stopped) if told.as_ref() == Some(&stopped) => {}
                // Told once, as long as it stays the same.
                Err(stopped) => {
                    tracing::warn!(error = %stopped, requests = self.kind.resource(), "cannot follow the requests of the cluster for now");
                    told = Some(stopped);
                }
            }
            // After whatever end, so that nothing makes this loop hot.
            let wait = self.clock.sleep(back_off.next_wait(Jitter::draw()));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = wait => {}
            }
        }
    }

    /// Lists, and watches from there until it is time to list again.
    async fn follow(&self, told: &mut Option<Stopped>, cancel: &CancellationToken) -> Result<(), Stopped> {
        let path = self.path().await?;
        let mut version = self.list(&path, cancel).await?;
        tracing::debug!(requests = self.kind.resource(), "follows the requests of the cluster");
        if told.take().is_some() {
            tracing::info!(requests = self.kind.resource(), "follows the requests of the cluster again");
        }
        let until = self.clock.now().running + RELIST.mul_f64(1.0 + f64::from(Jitter::draw()) / 4.0);
        let mut short = 0;
        loop {
            let begun = self.clock.now().running;
            version = self.watch(&path, version, cancel).await?;
            let now = self.clock.now().running;
            if now >= until {
                return Ok(());
            }
            // A server that shuts down does that; one that always does is not asked in a loop.
            short = if now.saturating_sub(begun) < SHORT_WATCH { short + 1 } else { 0 };
            if short > 1 {
                return Err(Stopped::EndedAtOnce);
            }
        }
    }

    /// Where the requests are, in the newest version that the cluster has.
    async fn path(&self) -> Result<String, Stopped> {
        for version in ["v1", "v1beta1"] {
            let group = format!("/apis/certificates.k8s.io/{version}");
            let listed = match self.client.get(&group, &[]).await {
                Err(error) if error.code() == Some(404) => continue,
                listed => listed?,
            };
            let resources = listed["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
            if resources.iter().any(|resource| resource["name"] == self.kind.resource()) {
                self.desk.found(&group);
                return Ok(format!("{group}/{}", self.kind.resource()));
            }
        }
        Err(Stopped::NotServed(self.kind.resource()))
    }

    /// Takes up all that wait, and returns the version of the list.
    async fn list(&self, path: &str, cancel: &CancellationToken) -> Result<String, Stopped> {
        let selector = self.selector();
        let mut next = String::new();
        loop {
            let mut query = vec![("fieldSelector", selector.as_str()), ("limit", PAGE)];
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let list = self.client.get(path, &query).await.map_err(expired)?;
            for object in list["items"].as_array().into_iter().flatten() {
                self.desk.take_up(object, cancel).await;
            }
            let text = |key: &str| list["metadata"][key].as_str().unwrap_or_default().to_owned();
            next = text("continue");
            if next.is_empty() {
                return Ok(text("resourceVersion"));
            }
        }
    }

    /// Takes up what comes, until the API server ends it. Returns the version to go on from.
    async fn watch(&self, path: &str, version: String, cancel: &CancellationToken) -> Result<String, Stopped> {
        let (selector, seconds) = (self.selector(), WATCH.as_secs().to_string());
        let query = [
            ("fieldSelector", selector.as_str()),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
            ("resourceVersion", &version),
        ];
        let watch = self.client.watch(path, &query).await.map_err(expired)?;
        // The server ends it by itself; one that is gone without a word does not.
        let read = tokio::time::timeout(WATCH + Duration::from_secs(30), self.read(watch, version, cancel));
        read.await.unwrap_or_else(|_| Err(ApiError::Unreachable("a watch that never ends".to_owned()).into()))
    }

    async fn read(&self, mut watch: Watch, mut version: String, cancel: &CancellationToken) -> Result<String, Stopped> {
        while let Some(event) = watch.next().await? {
            let object = &event["object"];
            match event["type"].as_str() {
                Some("ERROR") => return Err(failed(object)),
                Some("ADDED" | "MODIFIED") => self.desk.take_up(object, cancel).await,
                _ => {}
            }
            if let Some(newer) = object["metadata"]["resourceVersion"].as_str() {
                newer.clone_into(&mut version);
            }
        }
        Ok(version)
    }

    fn selector(&self) -> String {
        format!("spec.signerName={}", self.signer.signer_name)
    }
}

/// An event of type `ERROR` holds a `Status`.
fn failed(status: &Value) -> Stopped {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let message = crate::printable::printable(status["message"].as_str().unwrap_or_default(), 200);
    expired(ApiError::Refused { code, message })
}

fn expired(error: ApiError) -> Stopped {
    if error.code() == Some(410) { Stopped::Expired } else { error.into() }
}

/// The most requests of one page of a list.
const PAGE: &str = "100";

/// How long one watch lasts.
const WATCH: Duration = Duration::from_mins(2);

/// A watch that is over sooner was not one.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// How long after a list the next one is due, whatever was watched.
const RELIST: Duration = Duration::from_mins(10);

/// Whoever followed this long has not just failed.
const STEADY: Duration = Duration::from_secs(30);

/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_is_gone_is_no_failure_but_a_reason_to_list() {
        assert_eq!(failed(&json!({"kind": "Status", "code": 410, "message": "too old"})), Stopped::Expired);
        let other = failed(&json!({"kind": "Status", "code": 500, "message": "no\nmore"}));
        assert_eq!(other.to_string(), "the API server answered 500: no\\nmore");
        assert!(matches!(failed(&json!(null)), Stopped::Api(ApiError::Refused { code: 0, .. })));
    }
}
