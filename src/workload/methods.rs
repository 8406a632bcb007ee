//! Owns the methods: which there are, what each asks of its caller, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::Streaming;

use super::envoy::{DiscoveryRequest, DiscoveryResponse, SECRET_TYPE, secrets};
use super::grpc::{AnswerBody, Part, Parts, Single, frame, is_grpc, not_grpc, only_request, requests, response};
use super::messages::NoParameters;
use super::state::{Snapshot, Standing};
use crate::crypto::sha256;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// The methods, and what they answer from.
#[derive(Clone)]
pub(super) struct Methods {
    pub(super) snapshots: watch::Receiver<Snapshot>,
    /// One for each call.
    pub(super) calls: Arc<Semaphore>,
    /// Cancelled, every call ends.
    pub(super) stop: CancellationToken,
}

/// Whether whoever made the connection may have answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Admitted,
    Refused,
}

impl Methods {
    /// Answers a request; `held` is dropped when the answer has ended.
    pub(super) async fn answer<H: Send + 'static>(
        &self,
        request: Request<Incoming>,
        verdict: Verdict,
        held: H,
    ) -> Response<AnswerBody> {
        if request.method() != Method::POST || !is_grpc(request.headers()) {
            return not_grpc();
        }
        response(self.call(request, verdict, held).await)
    }

    async fn call<H: Send + 'static>(
        &self,
        request: Request<Incoming>,
        verdict: Verdict,
        held: H,
    ) -> Result<AnswerBody, Status> {
        if verdict == Verdict::Refused {
            return Err(Status::permission_denied(
                "the user of this process is not in workload_api.allow of the agent",
            ));
        }
        let path = request.uri().path();
        let method = Called::of(path).ok_or_else(|| Status::unimplemented("there is no such method"))?;
        if path.starts_with(WORKLOAD_API) && request.headers().get(SECURITY_HEADER).is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument("the metadata workload.spiffe.io: true is missing"));
        }
        let held = (held, Arc::clone(&self.calls).try_acquire_owned().map_err(|_| too_many())?);
        let body = request.into_body();
        match method {
            Called::Svid => self.watch(body, |snapshot| &snapshot.svid, held).await,
            Called::Bundles => self.watch(body, |snapshot| &snapshot.bundles, held).await,
            Called::StreamSecrets => Ok(AnswerBody::of(Subscription::new(self, requests(body)), held)),
            Called::FetchSecrets => {
                let request = only_request(body).await?;
                Ok(AnswerBody::of(Single(Some(self.secrets(&request).await?)), held))
            }
            Called::OfTokens => Err(Status::unimplemented("this agent has X.509 certificates only, no tokens")),
        }
    }

    async fn watch<H: Send + 'static>(&self, body: Incoming, of: Of, held: H) -> Result<AnswerBody, Status> {
        let NoParameters {} = only_request(body).await?;
        let (snapshots, stop) = (self.snapshots.clone(), self.stop.clone());
        let watched = Watched { snapshots, of, sent: None, until: Instant::now() + FIRST_WAIT, stop };
        Ok(AnswerBody::of(watched, held))
    }

    /// The answer of `FetchSecrets`.
    async fn secrets(&self, request: &DiscoveryRequest) -> Result<hyper::body::Bytes, Status> {
        check_type(request)?;
        let until = Instant::now() + FIRST_WAIT;
        let mut snapshots = self.snapshots.clone();
        loop {
            if let Some(resources) = secrets(&request.resource_names, &snapshots.borrow_and_update())? {
                let (version_info, nonce) = (String::new(), String::new());
                let type_url = SECRET_TYPE.to_owned();
                return Ok(frame(&DiscoveryResponse { version_info, resources, type_url, nonce }));
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(stopping()),
                () = sleep_until(until) => return Err(not_yet()),
                changed = snapshots.changed() => changed.map_err(|_| stopping())?,
            }
        }
    }
}

/// A method that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    Svid,
    Bundles,
    /// Those of JWT-SVIDs and WIT-SVIDs.
    OfTokens,
    StreamSecrets,
    FetchSecrets,
}

impl Called {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/SpiffeWorkloadAPI/FetchX509SVID" => Some(Self::Svid),
            "/SpiffeWorkloadAPI/FetchX509Bundles" => Some(Self::Bundles),
            "/SpiffeWorkloadAPI/FetchJWTSVID"
            | "/SpiffeWorkloadAPI/FetchJWTBundles"
            | "/SpiffeWorkloadAPI/ValidateJWTSVID"
            | "/SpiffeWorkloadAPI/FetchWITSVID"
            | "/SpiffeWorkloadAPI/FetchWITBundles" => Some(Self::OfTokens),
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets" => Some(Self::StreamSecrets),
            "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets" => Some(Self::FetchSecrets),
            _ => None,
        }
    }
}

type Of = fn(&Snapshot) -> &Standing;

/// An answer of the Workload API: the state as it is, then each change.
struct Watched {
    snapshots: watch::Receiver<Snapshot>,
    of: Of,
    sent: Option<u64>,
    /// How long to wait for the first.
    until: Instant,
    stop: CancellationToken,
}

impl Parts for Watched {
    async fn next(&mut self) -> Part {
        loop {
            let waiting = match (self.of)(&self.snapshots.borrow_and_update()) {
                Standing::Served(served) if self.sent != Some(served.number) => {
                    self.sent = Some(served.number);
                    return Part::Message(served.frame.clone());
                }
                Standing::Refused(reason) => return Part::End(Status::permission_denied(*reason)),
                Standing::Waiting => true,
                Standing::Served(_) => false,
            };
            tokio::select! {
                () = self.stop.cancelled() => return Part::End(stopping()),
                () = sleep_until(self.until), if waiting => return Part::End(not_yet()),
                changed = self.snapshots.changed() => if changed.is_err() { return Part::End(stopping()) },
            }
        }
    }
}

/// An answer of `StreamSecrets`: what was asked for last, as it is, then each change.
struct Subscription {
    requests: Streaming<DiscoveryRequest>,
    snapshots: watch::Receiver<Snapshot>,
    stop: CancellationToken,
    names: Option<Vec<String>>,
    /// Digests of the resources that were sent last.
    sent: Option<Vec<[u8; 32]>>,
    responses: u64,
}

impl Subscription {
    fn new(methods: &Methods, requests: Streaming<DiscoveryRequest>) -> Self {
        let (snapshots, stop) = (methods.snapshots.clone(), methods.stop.clone());
        Self { requests, snapshots, stop, names: None, sent: None, responses: 0 }
    }

    /// Takes note of a request, which also says what became of the response before.
    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type(&request)?;
        if let Some(error) = &request.error_detail {
            let error = printable(&error.message, FOREIGN_TEXT_LIMIT);
            tracing::warn!(%error, "Envoy did not take a secret");
        }
        // One that was sent before our last response says nothing about it.
        let stale = self.responses > 0 && request.response_nonce != self.responses.to_string();
        if !stale && self.names.as_ref() != Some(&request.resource_names) {
            self.names = Some(request.resource_names);
            self.sent = None;
        }
        Ok(())
    }

    /// The response that is due.
    fn response(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        let Some(names) = &self.names else { return Ok(None) };
        let Some(resources) = secrets(names, &self.snapshots.borrow_and_update())? else { return Ok(None) };
        let digests = resources.iter().map(|resource| sha256(resource.value())).collect();
        if self.sent.as_ref() == Some(&digests) {
            return Ok(None);
        }
        self.sent = Some(digests);
        self.responses += 1;
        let number = self.responses.to_string();
        let type_url = SECRET_TYPE.to_owned();
        Ok(Some(DiscoveryResponse { version_info: number.clone(), resources, type_url, nonce: number }))
    }
}

impl Parts for Subscription {
    async fn next(&mut self) -> Part {
        loop {
            match self.response() {
                Ok(Some(response)) => return Part::Message(frame(&response)),
                Ok(None) => {}
                Err(status) => return Part::End(status),
            }
            let taken = tokio::select! {
                () = self.stop.cancelled() => return Part::End(stopping()),
                changed = self.snapshots.changed() => changed.map_err(|_| stopping()),
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => return Part::End(Status::ok("")),
                    Err(status) => Err(status),
                },
            };
            if let Err(status) = taken {
                return Part::End(status);
            }
        }
    }
}

fn check_type(request: &DiscoveryRequest) -> Result<(), Status> {
    match request.type_url.as_str() {
        "" | SECRET_TYPE => Ok(()),
        _ => Err(Status::invalid_argument("there are secrets only")),
    }
}

fn too_many() -> Status {
    Status::resource_exhausted("too many calls at a time")
}

fn not_yet() -> Status {
    Status::unavailable("there is no certificate yet")
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping, or reads its configuration anew")
}

/// Of the Workload API, as against other services.
const WORKLOAD_API: &str = "/SpiffeWorkloadAPI/";

/// What a program that was tricked into a request does not send (SPIFFE Workload Endpoint, section 3).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// How long a call waits for the first certificate. Longer than most take, so that who starts together with the agent has his
/// at once; and who does not get one learns why.
const FIRST_WAIT: Duration = Duration::from_secs(30);
