//! Owns the way of one request from its taking up until its answer is written: no request twice at a time in this process,
//! not too many at once, and failures of ours tried again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::client::{ApiError, Client};
use super::objects::{Metadata, waiting};
use super::settings::{KubernetesSigner, RequestKind};
use super::{csr, pod};
use crate::ca::enrolment::{Attestation, Context, EnrolmentError, IssuedCertificate};
use crate::ca::manager::CertificateAuthorityManager;
use crate::events::new_correlation_id;
use crate::printable::error_chain;
use crate::schedule::Jitter;
use crate::schedule::backoff::BackOff;

/// Attends to the requests of one kind.
pub(super) struct Desk {
    kind: RequestKind,
    manager: Arc<CertificateAuthorityManager>,
    signer: Arc<KubernetesSigner>,
    client: Arc<Client>,
    /// `/apis/certificates.k8s.io/v1`, once that is known.
    group: OnceLock<String>,
    places: Arc<Semaphore>,
    /// By uid, those that somebody is at.
    taken_up: Mutex<HashSet<String>>,
}

/// How it stands with a request after a look.
enum Look {
    /// It is answered, by us or somebody else, or gone.
    Over,
    /// Not now; at the earliest after this, if that is known.
    Later(Option<Duration>),
}

impl Desk {
    pub(super) fn new(
        kind: RequestKind,
        manager: Arc<CertificateAuthorityManager>,
        signer: Arc<KubernetesSigner>,
        client: Arc<Client>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(PLACES));
        Self { kind, manager, signer, client, group: OnceLock::new(), places, taken_up: Mutex::default() }
    }

    /// Where the requests are.
    pub(super) fn found(&self, group: &str) {
        // A cluster that has a newer version one day keeps the old one for long.
        let _ = self.group.set(group.to_owned());
    }

    /// Attends to `object` in a task of its own, if it waits for us. Waits while there is no place.
    pub(super) async fn take_up(self: &Arc<Self>, object: &Value, cancel: &CancellationToken) {
        let Some(metadata) = waiting(self.kind, &self.signer.signer_name, object) else { return };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        if !self.taken_up().insert(metadata.uid.clone()) {
            return;
        }
        let (desk, object, cancel) = (Arc::clone(self), object.clone(), cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = desk.attend(&metadata, object, place) => {}
            }
            desk.taken_up().remove(&metadata.uid);
        });
    }

    async fn attend(&self, metadata: &Metadata, object: Value, place: tokio::sync::OwnedSemaphorePermit) {
        // Replicas see a request at the same moment. Whoever comes a little later finds what the first has recorded.
        self.manager.clock.sleep(SPREAD.mul_f64(f64::from(Jitter::draw()))).await;
        let mut back_off = BackOff::new(LONGEST_WAIT);
        let (mut object, mut place) = (Some(object), Some(place));
        loop {
            let Look::Later(wait) = self.look(metadata, object.take()).await else { return };
            // Others have the place meanwhile.
            drop(place.take());
            let wait = back_off.next_wait(Jitter::draw()).max(wait.unwrap_or_default());
            self.manager.clock.sleep(wait).await;
            place = Arc::clone(&self.places).acquire_owned().await.ok();
        }
    }

    /// Looks at the request, as it is in `object` or else as the API server has it now, and answers it if that can be done.
    async fn look(&self, metadata: &Metadata, object: Option<Value>) -> Look {
        let path = self.path(metadata);
        let object = match object {
            Some(object) => object,
            None => match self.client.get(&path, &[]).await {
                Ok(object) => object,
                Err(error) => return self.later(metadata, &error),
            },
        };
        let ours = waiting(self.kind, &self.signer.signer_name, &object).is_some_and(|now| now.uid == metadata.uid);
        let Some(attestation) = ours.then(|| self.attestation(&object)).flatten() else { return Look::Over };
        let context = Context::local(&new_correlation_id());
        let result = self.manager.enrol_attested(attestation, &context).await;
        let status = match result {
            Ok(issued) => self.issued(&object, &issued),
            Err(EnrolmentError::TooMany { seconds }) => return Look::Later(Some(Duration::from_secs(seconds))),
            Err(error) if error.is_internal() => {
                tracing::warn!(error = error_chain(&error), request = metadata.name, "cannot sign a request for now");
                return Look::Later(None);
            }
            Err(error) => self.refused(&object, &Answer::of(&error)),
        };
        self.write(metadata, &path, object, status).await
    }

    async fn write(&self, metadata: &Metadata, path: &str, mut object: Value, status: Value) -> Look {
        let path = format!("{path}/status");
        object["status"] = status;
        let refusal = match self.client.put(&path, &object).await {
            Ok(_) => return Look::Over,
            // The API server will not have this answer, now or later: say so where whoever asked looks.
            Err(ApiError::Refused { code: 422, message }) => message,
            Err(error) => return self.later(metadata, &error),
        };
        tracing::error!(request = metadata.name, refusal, "the API server does not take the answer to a request");
        let answer = Answer { kind: "status_refused", message: refusal };
        object["status"] = self.refused(&self.without_answer(object.clone()), &answer);
        match self.client.put(&path, &object).await {
            Ok(_) => Look::Over,
            Err(error) => self.later(metadata, &error),
        }
    }

    /// What a failed call means for the request.
    fn later(&self, metadata: &Metadata, error: &ApiError) -> Look {
        match error.code() {
            Some(404) => Look::Over,
            // Somebody else wrote: look again what.
            Some(409) => Look::Later(None),
            code => {
                let requests = self.kind.resource();
                tracing::warn!(%error, request = metadata.name, requests, "cannot answer a request for now");
                // Rights come by an operator.
                Look::Later(matches!(code, Some(401 | 403)).then_some(FORBIDDEN_WAIT))
            }
        }
    }

    /// `None` for an object that lacks what every object of its kind has.
    fn attestation(&self, object: &Value) -> Option<Attestation> {
        let object = object.clone();
        match self.kind {
            RequestKind::PodCertificateRequest => {
                Some(pod::attestation(&self.signer, &serde_json::from_value(object).ok()?))
            }
            RequestKind::CertificateSigningRequest => {
                Some(csr::attestation(&self.signer, &serde_json::from_value(object).ok()?))
            }
        }
    }

    fn issued(&self, object: &Value, issued: &IssuedCertificate) -> Value {
        match self.kind {
            RequestKind::PodCertificateRequest => pod::issued(issued, self.manager.clock.now().wall, Jitter::draw()),
            RequestKind::CertificateSigningRequest => csr::issued(&object["status"], issued),
        }
    }

    fn refused(&self, object: &Value, answer: &Answer) -> Value {
        let now = self.manager.clock.now().wall;
        match self.kind {
            RequestKind::PodCertificateRequest => pod::refused(answer, now),
            RequestKind::CertificateSigningRequest => csr::refused(&object["status"], answer, now),
        }
    }

    /// `object` as it was before the answer that was not taken.
    fn without_answer(&self, mut object: Value) -> Value {
        if self.kind == RequestKind::CertificateSigningRequest
            && let Some(status) = object["status"].as_object_mut()
        {
            status.remove("certificate");
        }
        object
    }

    fn path(&self, metadata: &Metadata) -> String {
        let group = self.group.get().map_or("/apis/certificates.k8s.io/v1", String::as_str);
        let (resource, name) = (self.kind.resource(), &metadata.name);
        match self.kind {
            RequestKind::PodCertificateRequest => {
                format!("{group}/namespaces/{}/{resource}/{name}", metadata.namespace)
            }
            RequestKind::CertificateSigningRequest => format!("{group}/{resource}/{name}"),
        }
    }

    fn taken_up(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.taken_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many requests are attended to at once.
const PLACES: usize = 32;

/// Within this, replicas begin.
const SPREAD: Duration = Duration::from_millis(250);

/// Before asking again for what is not permitted.
const FORBIDDEN_WAIT: Duration = Duration::from_mins(5);

/// The longest wait between two looks, unless a limit says more.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
