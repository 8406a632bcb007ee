//! Owns the SPIFFE Workload API as an issuer: a SPIRE agent on this machine hands out key, certificate and roots, and tells
//! by itself when there are others.

mod stream;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::roots::KnownRoots;
use super::{FollowedRoots, IssueError, IssueErrorKind, Issued, Issuer, KeyMaker, Order};
use crate::config::SvidSource;
use crate::identity::bundle::{CHAIN_LIMIT, ROOTS_LIMIT, certificates_from_der};
use crate::identity::check::spiffe_id_of;
use crate::identity::{PrivateKey, TrustDomain};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::store::FEDERATED_DOMAIN_LIMIT;
use crate::workload::messages::{X509Svid, X509SvidResponse};

use stream::{Broken, Newest, follow};

/// Speaks to a Workload API. One call is kept open, by which the API tells of each change; an order is answered by what it told
/// last, or where that is known already, by another call.
#[derive(Debug)]
pub struct WorkloadIssuer {
    source: SvidSource,
    url: String,
    timeout: Duration,
    newest: Newest,
    told: Mutex<watch::Receiver<()>>,
    call: std::sync::Mutex<Option<AbortOnDropHandle<()>>>,
}

impl WorkloadIssuer {
    /// An issuer for the API of `source`, which has `timeout` for a first answer.
    #[must_use]
    pub fn new(source: SvidSource, timeout: Duration) -> Self {
        let newest = Newest::default();
        let mut told = newest.told();
        // As long as there is no call, nobody knows what there is.
        told.mark_changed();
        let url = format!("unix://{}", source.socket.display());
        Self { source, url, timeout, newest, told: Mutex::new(told), call: std::sync::Mutex::default() }
    }

    /// Asks whether there is somebody who listens.
    ///
    /// # Errors
    /// When there is not.
    pub async fn health(&self) -> Result<(), IssueError> {
        self.connect().await.map(drop)
    }

    /// Begins another call in place of the one before, and waits for its first answer.
    async fn begin(&self) -> Result<X509SvidResponse, IssueError> {
        self.replace_call(None);
        let stream = self.connect().await?;
        let (first, answer) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(follow(stream, first, self.newest.clone()));
        self.replace_call(Some(AbortOnDropHandle::new(task)));
        let answer = answer.await.unwrap_or_else(|_| Err(Broken::Unavailable("ended the call".to_owned())));
        answer.map_err(|broken| self.broken(broken))
    }

    fn replace_call(&self, call: Option<AbortOnDropHandle<()>>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    async fn connect(&self) -> Result<UnixStream, IssueError> {
        let connected = UnixStream::connect(&self.source.socket).await;
        connected.map_err(|error| self.fail(IssueErrorKind::Unavailable, format!("cannot be reached: {error}")))
    }

    /// The identity that is wanted, of those that there are.
    fn pick(&self, response: &mut X509SvidResponse) -> Result<X509Svid, IssueError> {
        let SvidSource { spiffe_id, hint, .. } = &self.source;
        let offered = || {
            let each = response.svids.iter().map(|svid| match svid.hint.as_str() {
                "" => svid.spiffe_id.clone(),
                hint => format!("{} (hint {hint})", svid.spiffe_id),
            });
            printable(&each.collect::<Vec<_>>().join(", "), FOREIGN_TEXT_LIMIT)
        };
        let wanted = |svid: &X509Svid| {
            spiffe_id.as_ref().is_none_or(|id| id.as_str() == svid.spiffe_id)
                && hint.as_ref().is_none_or(|hint| *hint == svid.hint)
        };
        let mut matching = response.svids.iter().enumerate().filter(|(_, svid)| wanted(svid)).map(|(at, _)| at);
        let chosen = match (matching.next(), matching.next()) {
            (Some(only), None) => only,
            (None, _) if response.svids.is_empty() => return Err(self.not_registered("sent no identity")),
            (None, _) => {
                let what = format!("has none that fits identity.spiffe_id and identity.hint, but {}", offered());
                return Err(self.not_registered(&what));
            }
            (Some(_), Some(_)) => {
                let what = format!(
                    "has several identities for this process: {}; set identity.spiffe_id or identity.hint",
                    offered()
                );
                return Err(self.fail(IssueErrorKind::Refused, what));
            }
        };
        Ok(response.svids.swap_remove(chosen))
    }

    fn issued(&self, mut response: X509SvidResponse) -> Result<Issued, IssueError> {
        let svid = self.pick(&mut response)?;
        let broken = |what: &dyn std::fmt::Display| {
            self.fail(IssueErrorKind::BrokenReply, format!("sent what is not fit: {what}"))
        };
        let chain =
            certificates_from_der("certificate chain", &svid.chain, CHAIN_LIMIT).map_err(|error| broken(&error))?;
        let roots = certificates_from_der("roots", &svid.bundle, ROOTS_LIMIT).map_err(|error| broken(&error))?;
        let key = PrivateKey::from_pkcs8_der(&svid.key).map_err(|_| broken(&"a key that is not PKCS#8"))?;
        let named = X509Certificate::from_der(&chain[0]).ok().and_then(|(_, leaf)| spiffe_id_of(&leaf));
        if named.is_none_or(|named| named.as_str() != svid.spiffe_id) {
            return Err(broken(&"a certificate that has another SPIFFE id than it says beside it"));
        }
        let publish = FollowedRoots { roots: roots.clone(), followed: Vec::new() };
        Ok(Issued {
            key: Some(key),
            chain,
            trusted: roots,
            publish,
            federated: federated(&response),
            decision_id: None,
            clock_skew_seconds: None,
        })
    }

    fn not_registered(&self, what: &str) -> IssueError {
        let id = self.source.spiffe_id.as_ref().map_or("spiffe://…", |id| id.as_str());
        let user = rustix::process::geteuid().as_raw();
        self.fail(
            IssueErrorKind::NotRegistered,
            format!(
                "{what}; register this process, as with: spire-server entry create -parentID spiffe://… -spiffeID {id} \
                 -selector unix:uid:{user}"
            ),
        )
    }

    fn broken(&self, broken: Broken) -> IssueError {
        match broken {
            Broken::Denied(message) => self.not_registered(&format!("has no identity for this process ({message})")),
            Broken::Busy(message) => self.fail(IssueErrorKind::RateLimited(None), message),
            Broken::Unavailable(message) => self.fail(IssueErrorKind::Unavailable, message),
            Broken::Protocol(message) => self.fail(IssueErrorKind::BrokenReply, message),
        }
    }

    fn fail(&self, kind: IssueErrorKind, what: impl AsRef<str>) -> IssueError {
        IssueError::new(kind, format!("Workload API {} {}", self.url, what.as_ref()))
    }
}

impl Issuer for WorkloadIssuer {
    fn key_maker(&self) -> KeyMaker {
        KeyMaker::Issuer
    }

    async fn announced(&self) {
        // The sender is beside the receiver, and so never gone.
        let _ = self.told.lock().await.changed().await;
    }

    async fn issue(&self, _: &Order<'_>) -> Result<Issued, IssueError> {
        self.told.lock().await.mark_unchanged();
        let response = match self.newest.take() {
            Some(response) => response,
            None => timeout(self.timeout, self.begin()).await.unwrap_or_else(|_| {
                self.replace_call(None);
                let message = format!("gave no answer within {} s", self.timeout.as_secs_f64());
                Err(self.fail(IssueErrorKind::Unavailable, message))
            })?,
        };
        self.issued(response)
    }

    fn roots(&self, _: &KnownRoots) -> Result<Option<Vec<CertificateDer<'static>>>, IssueError> {
        Ok(None)
    }

    /// They come with each answer.
    async fn follow(&self, _: &KnownRoots) -> Result<Option<FollowedRoots>, IssueError> {
        Ok(None)
    }

    fn url(&self) -> &str {
        &self.url
    }
}

/// The roots of other trust domains. Those of no use cost nobody his certificate.
fn federated(response: &X509SvidResponse) -> BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
    let mut federated = BTreeMap::new();
    for (id, roots) in &response.federated_bundles {
        let domain = id.strip_prefix("spiffe://").and_then(|domain| TrustDomain::new(domain).ok());
        let domain = domain.filter(|domain| domain.as_str().len() <= FEDERATED_DOMAIN_LIMIT);
        let roots = certificates_from_der("roots", roots, ROOTS_LIMIT);
        if let (Some(domain), Ok(roots)) = (domain, roots) {
            federated.insert(domain, roots);
        } else {
            tracing::warn!(trust_domain = printable(id, 80), "the roots of another trust domain are of no use");
        }
    }
    federated
}

#[cfg(test)]
mod tests;
