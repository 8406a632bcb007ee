//! Owns which of the known authorities the configuration names.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::crank::CrankIssuer;
use super::roots::KnownRoots;
use super::workload::WorkloadIssuer;
use super::{
    CrlAnswer, FollowedRoots, IssueError, Issued, Issuer, KeyMaker, Order, RenewalAnswer, RenewalNews, RenewalQuestion,
};
use crate::clock::Clock;
use crate::config::{CaConfig, CaKind};

/// The authority of `ca.kind`.
#[derive(Debug)]
pub enum ConfiguredIssuer {
    /// `crank`.
    Crank(Box<CrankIssuer>),
    /// `spiffe-workload-api`.
    Workload(WorkloadIssuer),
}

impl ConfiguredIssuer {
    /// The issuer that `config` names.
    #[must_use]
    pub fn new(config: CaConfig, clock: Arc<dyn Clock>) -> Self {
        match config.kind {
            CaKind::Crank => Self::Crank(Box::new(CrankIssuer::new(config, clock))),
            CaKind::WorkloadApi(source) => Self::Workload(WorkloadIssuer::new(source, config.timeout)),
        }
    }

    /// Asks whether it is up, without a credential.
    ///
    /// # Errors
    /// When it does not answer, or is not the one expected.
    pub async fn health(&self) -> Result<(), IssueError> {
        match self {
            Self::Crank(issuer) => issuer.health().await,
            Self::Workload(issuer) => issuer.health().await,
        }
    }
}

impl Issuer for ConfiguredIssuer {
    fn key_maker(&self) -> KeyMaker {
        match self {
            Self::Crank(issuer) => issuer.key_maker(),
            Self::Workload(issuer) => issuer.key_maker(),
        }
    }

    async fn announced(&self) {
        match self {
            Self::Crank(issuer) => issuer.announced().await,
            Self::Workload(issuer) => issuer.announced().await,
        }
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        match self {
            Self::Crank(issuer) => issuer.issue(order).await,
            Self::Workload(issuer) => issuer.issue(order).await,
        }
    }

    async fn renewal_info(&self, question: &RenewalQuestion<'_>) -> Result<RenewalAnswer, IssueError> {
        match self {
            Self::Crank(issuer) => issuer.renewal_info(question).await,
            Self::Workload(_) => Ok(RenewalAnswer { news: RenewalNews::NotOffered, retry_after: None, waited: false }),
        }
    }

    async fn crl(&self, tag: Option<&str>, known: &KnownRoots) -> Result<CrlAnswer, IssueError> {
        match self {
            Self::Crank(issuer) => issuer.crl(tag, known).await,
            Self::Workload(_) => Ok(CrlAnswer::NotOffered),
        }
    }

    fn roots(&self, known: &KnownRoots) -> Result<Option<Vec<CertificateDer<'static>>>, IssueError> {
        match self {
            Self::Crank(issuer) => issuer.roots(known),
            Self::Workload(issuer) => issuer.roots(known),
        }
    }

    async fn follow(&self, known: &KnownRoots) -> Result<Option<FollowedRoots>, IssueError> {
        match self {
            Self::Crank(issuer) => issuer.follow(known).await,
            Self::Workload(issuer) => issuer.follow(known).await,
        }
    }

    fn url(&self) -> &str {
        match self {
            Self::Crank(issuer) => issuer.url(),
            Self::Workload(issuer) => issuer.url(),
        }
    }
}
