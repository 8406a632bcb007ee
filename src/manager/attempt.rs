//! Owns one attempt to obtain a certificate: key, CSR, CA, checks, publication.

use std::sync::Arc;
use std::time::Duration;

use super::{CertificateManager, CertificateUnavailableError, Current, NO_ANSWER, UnansweredOrder, Unpublished};
use crate::events::{CertificateEvent, EventError, EventRecord, new_correlation_id};
use crate::identity::csr::CsrError;
use crate::identity::{
    BundleError, CertificateBundle, CertificateMetadata, CheckError, KeyError, PrivateKey, generate_csr,
};
use crate::issuer::{IssueError, IssueErrorKind, Issued, Issuer, KeyMaker, Order};
use crate::policy::RevocationReason;
use crate::printable::error_chain;
use crate::schedule::{Failure, Jitter, RenewReason, RenewalRecord, Revocation, Validity};
use crate::status::LastAttempt;
use crate::store::StoreError;

/// Where an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("cannot make a key")]
    Key(#[from] KeyError),
    #[error("cannot make a CSR")]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("the CA returned a certificate that is not fit")]
    Check(#[from] CheckError),
    #[error("the CA was not asked, as its certificate could not be written")]
    Unwritable(#[source] StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AttemptError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Csr(_) => "csr",
            Self::Issue(error) => error.kind(),
            Self::Check(error) => error.kind(),
            Self::Unwritable(error) | Self::Store(error) => error.kind(),
        }
    }

    /// The policy's decision that refused, where the CA told.
    fn decision_id(&self) -> Option<String> {
        match self {
            Self::Issue(error) => error.decision_id.clone(),
            _ => None,
        }
    }

    fn event(&self) -> CertificateEvent {
        match self {
            Self::Issue(error) => match error.kind {
                IssueErrorKind::Unavailable | IssueErrorKind::RateLimited(_) | IssueErrorKind::Untrusted => {
                    CertificateEvent::CaUnavailable
                }
                _ => CertificateEvent::CsrFailed,
            },
            Self::Key(_) | Self::Csr(_) => CertificateEvent::CsrFailed,
            Self::Check(_) => CertificateEvent::ValidationFailed,
            Self::Unwritable(_) | Self::Store(_) => CertificateEvent::PublishFailed,
        }
    }

    fn failure(&self) -> Failure {
        match self {
            Self::Issue(error) => match error.kind {
                // A missing file costs the CA nothing.
                IssueErrorKind::Unavailable
                | IssueErrorKind::Untrusted
                | IssueErrorKind::Credential
                | IssueErrorKind::NotRegistered => Failure::Transient,
                IssueErrorKind::RateLimited(wait) => Failure::RateLimited(wait.unwrap_or_default()),
                IssueErrorKind::Unauthenticated
                | IssueErrorKind::Revoked
                | IssueErrorKind::Refused
                | IssueErrorKind::BrokenReply => Failure::Refused,
            },
            Self::Key(_) | Self::Csr(_) | Self::Check(_) => Failure::Refused,
            Self::Unwritable(_) | Self::Store(_) => Failure::Transient,
        }
    }

    /// Whether an agent without any certificate should give up at once instead of trying until its deadline.
    pub(super) fn is_final_without_certificate(&self) -> bool {
        match self {
            Self::Issue(error) => !matches!(
                error.kind,
                IssueErrorKind::Unavailable
                    | IssueErrorKind::RateLimited(_)
                    | IssueErrorKind::Credential
                    | IssueErrorKind::NotRegistered
            ),
            Self::Key(_) | Self::Csr(_) | Self::Check(_) | Self::Unwritable(_) => true,
            // The certificate is there, and its token is spent.
            Self::Store(_) => false,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Issue(error) => match error.kind {
                IssueErrorKind::Unavailable | IssueErrorKind::RateLimited(_) => CHECK_THE_CA,
                IssueErrorKind::NotRegistered => "register this process, the agent, and not the worker",
                IssueErrorKind::Untrusted => {
                    "check that ca.root_file or ca.root_fingerprint is the root of this CA, and that CA_SERVICE_URL \
                     has a name in its certificate"
                }
                IssueErrorKind::Unauthenticated | IssueErrorKind::Revoked | IssueErrorKind::Credential => {
                    "give a fresh token in ca.token_file (crank-ca token create --worker ID)"
                }
                IssueErrorKind::Refused => "ask the CA's operator which names this worker may have",
                IssueErrorKind::BrokenReply => {
                    "check that CA_SERVICE_URL leads to a crank-ca, or ca.socket to a Workload API"
                }
            },
            Self::Check(_) => "nothing was installed; check the CA, its clock and this machine's",
            Self::Key(_) | Self::Csr(_) => "check identity.key_type and identity.names",
            Self::Unwritable(error) | Self::Store(error) if error.kind() == "password" => {
                "put the password into the file that `password_file` of `[[file]]` names"
            }
            Self::Unwritable(_) | Self::Store(_) => "check the volume of the certificate directory: space, mode, owner",
        }
    }
}

/// Whether both have the same certificate and the same roots beside it.
fn says_the_same(one: &CertificateBundle, other: &CertificateBundle) -> bool {
    one.chain() == other.chain() && one.roots() == other.roots() && one.federated() == other.federated()
}

/// Whether the CA may have signed all the same.
fn leaves_open(kind: IssueErrorKind) -> bool {
    matches!(kind, IssueErrorKind::Unavailable | IssueErrorKind::RateLimited(_) | IssueErrorKind::BrokenReply)
}

impl<I: Issuer> CertificateManager<I> {
    /// Obtains a certificate and publishes it; on failure the schedule knows when to try again. With a `deadline` (by time
    /// since boot), the CA has until then to answer.
    pub(super) async fn attempt(
        &mut self,
        reason: RenewReason,
        deadline: Option<Duration>,
    ) -> Result<(), AttemptError> {
        tracing::debug!(?reason, "obtaining a certificate");
        // What waited for the disk until it expired is of no use.
        let now = self.wall();
        let unpublished = match self.unpublished.take_if(|waiting| now < waiting.bundle.not_after()) {
            Some(unpublished) => Ok(unpublished),
            None => self.obtain(reason, deadline).await,
        };
        let (result, correlation_id) = match unpublished {
            Ok(unpublished) => {
                let correlation_id = unpublished.correlation_id.clone();
                (self.publish(unpublished).await, correlation_id)
            }
            Err((error, correlation_id)) => (Err(error), correlation_id),
        };
        self.conclude(result.as_ref(), correlation_id);
        result.map(drop)
    }

    /// From key to checked bundle. The correlation id comes back in either case.
    async fn obtain(
        &mut self,
        reason: RenewReason,
        deadline: Option<Duration>,
    ) -> Result<Unpublished, (AttemptError, String)> {
        let correlation_id = new_correlation_id();
        self.obtain_as(&correlation_id, reason, deadline).await.map_err(|error| (error, correlation_id))
    }

    async fn obtain_as(
        &mut self,
        correlation_id: &str,
        reason: RenewReason,
        deadline: Option<Duration>,
    ) -> Result<Unpublished, AttemptError> {
        // A certificate that cannot be written would be lost, and with it a token for one use.
        self.check_writable().await.map_err(AttemptError::Unwritable)?;
        let order = match (self.issuer.key_maker(), self.unanswered.take()) {
            (KeyMaker::Issuer, _) => None,
            (KeyMaker::Agent, Some(order)) => Some(order),
            (KeyMaker::Agent, None) => Some(self.new_order(correlation_id).await?),
        };
        let csr_pem = order.as_ref().map(|order| order.csr_pem.as_str()).unwrap_or_default();
        let now = self.wall();
        // A certificate that has expired or is revoked no longer proves who asks.
        let unrevoked = self.current.as_ref().filter(|current| !current.is_revoked());
        let current = unrevoked.map(|current| Arc::clone(&current.bundle)).filter(|bundle| now < bundle.not_after());
        let lapsed = unrevoked.map(|current| &current.bundle).or(self.lapsed.as_ref());
        let lapsed = lapsed.filter(|bundle| now < bundle.not_after() + LONGEST_GRACE).map(Arc::clone);
        if order.is_some() {
            self.emit(CertificateEvent::CsrSubmitted, correlation_id, None, None);
        }
        let request = Order {
            csr_pem,
            identity: &self.settings.identity,
            correlation_id,
            current: current.as_deref(),
            lapsed: lapsed.as_deref(),
            known: &self.known,
        };
        let mut answer = self.issue(&request, deadline).await;
        if current.is_some() && answer.as_ref().is_err_and(|error| error.kind == IssueErrorKind::Revoked) {
            let revocation = Revocation { at: now, reason: RevocationReason::Unspecified };
            self.note_revoked(revocation).await;
            let request = Order {
                csr_pem,
                identity: &self.settings.identity,
                correlation_id,
                current: None,
                lapsed: None,
                known: &self.known,
            };
            answer = self.issue(&request, deadline).await;
        }
        let issued = match answer {
            Ok(issued) => issued,
            Err(error) => {
                self.note_ca(error.clock_skew_seconds);
                if leaves_open(error.kind) {
                    self.unanswered = order;
                }
                return Err(error.into());
            }
        };
        self.status.send_modify(|status| status.ca.last_answer = Some(now));
        self.note_ca(issued.clock_skew_seconds);
        if self.issuer.key_maker() == KeyMaker::Issuer {
            self.handed_out = Some(issued.federated);
        }
        let key =
            issued.key.or(order.map(|order| order.key)).ok_or(BundleError::KeyMismatch).map_err(CheckError::from)?;
        let bundle = self.checks().accept(issued.chain, key, issued.trusted)?;
        let bundle = bundle.with_roots(issued.publish.roots).map_err(CheckError::from)?;
        // A CA that no longer hands out the root of what it issues would cut the worker off.
        self.checks().check(&bundle)?;
        let crls = self.crls_for(&bundle).await;
        let bundle = bundle.with_crls(crls).with_federated(self.federated());
        self.check_renewed(&bundle, reason)?;
        Ok(Unpublished {
            bundle: Arc::new(bundle),
            followed: issued.publish.followed,
            correlation_id: correlation_id.to_owned(),
            decision_id: issued.decision_id,
        })
    }

    /// Whether an issuer that renews by itself has done so, where it is time for it.
    fn check_renewed(&self, bundle: &CertificateBundle, reason: RenewReason) -> Result<(), IssueError> {
        let late = matches!(reason, RenewReason::Due | RenewReason::Expired);
        match &self.current {
            Some(current) if late && says_the_same(&current.bundle, bundle) => {
                let url = self.issuer.url();
                let message = format!("{url} still hands out the certificate in force, which it should have renewed");
                Err(IssueError::new(IssueErrorKind::Unavailable, message))
            }
            _ => Ok(()),
        }
    }

    /// Asks the CA, whose own deadline may be later than `deadline`.
    async fn issue(&self, order: &Order<'_>, deadline: Option<Duration>) -> Result<Issued, IssueError> {
        let left = deadline.map(|deadline| deadline.saturating_sub(self.clock.now().boot).max(LEAST_PATIENCE));
        let answer = tokio::time::timeout(left.unwrap_or(Duration::MAX), self.issuer.issue(order)).await;
        answer.unwrap_or_else(|_| {
            let message = format!("CA {} gave no answer in the time to wait for it at the start", self.issuer.url());
            Err(IssueError::new(IssueErrorKind::Unavailable, message))
        })
    }

    /// A fresh key for every certificate. RSA takes seconds: off the async thread.
    async fn new_order(&mut self, correlation_id: &str) -> Result<UnansweredOrder, AttemptError> {
        let key_type = self.settings.key_type;
        let identity = self.settings.identity.clone();
        let order = tokio::task::spawn_blocking(move || {
            let key = PrivateKey::generate(key_type)?;
            let csr_pem = generate_csr(&identity, &key, key_type)?;
            Ok::<_, AttemptError>(UnansweredOrder { key, csr_pem })
        })
        .await
        .unwrap_or(Err(AttemptError::Key(KeyError::Generation(key_type))))?;
        self.emit(CertificateEvent::CsrGenerated, correlation_id, None, None);
        Ok(order)
    }

    /// Writes a checked bundle; kept for the next attempt when the disk does not take it.
    async fn publish(&mut self, unpublished: Unpublished) -> Result<CertificateMetadata, AttemptError> {
        let Unpublished { bundle, followed, correlation_id, decision_id } = unpublished;
        if let Some(current) = self.current.clone().filter(|_| self.issuer.key_maker() == KeyMaker::Issuer)
            && current.bundle.leaf_digest() == bundle.leaf_digest()
        {
            return self.go_on(current, bundle).await;
        }
        let record = RenewalRecord::new(Jitter::draw(), self.wall());
        let written = self.write(Arc::clone(&bundle), record, followed.clone()).await;
        if let Err(error) = written {
            self.unpublished = Some(Unpublished { bundle, followed, correlation_id, decision_id });
            return Err(error.into());
        }
        let renews = self.had_certificate && !self.current.as_ref().is_some_and(Current::is_revoked);
        let event = if renews { CertificateEvent::CertRenewed } else { CertificateEvent::CertIssued };
        let metadata = bundle.metadata(self.wall());
        self.schedule.installed(Validity::of(&bundle), record, self.clock.now());
        self.install(Current { bundle, record, withdrawn: false });
        let cert_metadata = Some(metadata.clone());
        self.events.emit(&EventRecord { cert_metadata, decision_id, ..self.record(event, &correlation_id) });
        Ok(metadata)
    }

    /// The certificate is the one in force; its roots may be others.
    async fn go_on(
        &mut self,
        current: Current,
        bundle: Arc<CertificateBundle>,
    ) -> Result<CertificateMetadata, AttemptError> {
        let metadata = bundle.metadata(self.wall());
        if !says_the_same(&current.bundle, &bundle) {
            self.write(Arc::clone(&bundle), current.record, Vec::new()).await?;
            tracing::info!("published the changed roots");
            self.install(Current { bundle, ..current });
        }
        self.schedule.confirmed(self.clock.now());
        Ok(metadata)
    }

    /// Tells everybody how the attempt ended.
    fn conclude(&mut self, result: Result<&CertificateMetadata, &AttemptError>, correlation_id: String) {
        let now = self.clock.now();
        let error = result.err().map(|error| EventError::new(error.kind(), &error_chain(error)));
        if let Err(failed) = result {
            let wait = self.schedule.failed(failed.failure(), now, Jitter::draw());
            let detail = format!("attempt {} failed, next in {:.1} s", self.schedule.failures(), wait.as_secs_f64());
            self.events.emit(&EventRecord {
                cert_metadata: self.metadata(),
                error: error.clone(),
                decision_id: failed.decision_id(),
                detail: Some(detail),
                ..self.record(failed.event(), &correlation_id)
            });
        }
        for waiter in self.waiters.drain(..) {
            // Whoever asked may have gone.
            let _ = waiter.send(match (&result, &error) {
                (Ok(certificate), _) => Ok((*certificate).clone()),
                (Err(_), Some(error)) => Err(error.clone()),
                (Err(_), None) => continue,
            });
        }
        self.report_attempt(LastAttempt { at: now.wall, correlation_id, error }, now);
    }

    /// The error with which an agent without a certificate ends.
    pub(super) fn first_failed(&self, last: Option<&AttemptError>, attempts: u32) -> CertificateUnavailableError {
        let Some(error) = last else {
            return self.unavailable(NO_ANSWER, "no attempt was made".to_owned());
        };
        let seconds = self.settings.startup_wait.as_secs_f64();
        let tried = if error.is_final_without_certificate() {
            String::new()
        } else {
            format!(" (attempts: {attempts}, waited up to {seconds} s)")
        };
        CertificateUnavailableError {
            advice: error.advice(),
            ..self.unavailable(error.kind(), format!("{}{tried}", error_chain(error)))
        }
    }

    pub(super) fn unavailable(&self, kind: &'static str, message: String) -> CertificateUnavailableError {
        CertificateUnavailableError {
            worker: self.settings.identity.worker_id.to_string(),
            kind,
            message,
            advice: CHECK_THE_CA,
        }
    }
}

const CHECK_THE_CA: &str = "check that the CA runs and that CA_SERVICE_URL, or ca.socket, leads to it";

/// Even at the end of the time to wait at the start, a CA gets this long to answer.
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// No CA takes a certificate that expired longer ago.
const LONGEST_GRACE: time::Duration = time::Duration::days(7);
