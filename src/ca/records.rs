//! Owns the looking into the record: what was issued, to whom, by which credential and decision, and what became of it.

mod backup;
mod check;
mod export;
mod pattern;
mod query;
mod record;
mod restore;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::authority::{Authority, AuthorityError};
use super::state::{Database, DecisionRecord, State, StateError, TokenRecord};
use crate::clock::Clock;
use crate::identity::WorkerId;

pub use backup::{BackupError, BackupReport};
pub use check::CheckReport;
pub use export::{Record, csv_cells, write_json_line};
pub use pattern::{SerialPrefix, WorkerPattern};
pub use query::{CertificateQuery, DecisionQuery, IdentityQuery, Order, Page, Position};
pub(crate) use record::serialize_names;
pub use record::{
    CertificateHistory, CertificateRecord, CertificateStatus, IdentityRecord, IdentityState, RevocationRecord,
    WorkerHistory,
};
pub use restore::{RestoreReport, UnusedTokens, restore};

/// The record of one CA, to be read. Works beside serving CAs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    state: State,
    data_dir: PathBuf,
    database: Database,
    clock: Arc<dyn Clock>,
}

impl Records {
    /// The record of the CA under `data_dir`. The CA's keys are not needed. Needs a tokio runtime.
    ///
    /// # Errors
    /// When there is no CA, its database is open to other users, or does not open.
    pub async fn open(data_dir: &Path, database: &Database, clock: Arc<dyn Clock>) -> Result<Self, StateError> {
        if !Authority::exists(data_dir) {
            return Err(AuthorityError::Missing(data_dir.to_owned()).into());
        }
        let state = State::open(data_dir, database).await?;
        Ok(Self { state, data_dir: data_dir.to_owned(), database: database.clone(), clock })
    }

    /// The certificates that match, of the rows after `after`: some, none, or as many as a page has.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn certificates(
        &self,
        query: &CertificateQuery,
        after: Option<&Position>,
    ) -> Result<Page<CertificateRecord>, StateError> {
        self.state.certificates(query, after, self.now(), PAGE).await
    }

    /// The workers that match, by id.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn identities(
        &self,
        query: &IdentityQuery,
        after: Option<&Position>,
    ) -> Result<Page<IdentityRecord>, StateError> {
        let mut page = self.state.identities(None, after, self.now(), PAGE).await?;
        page.records.retain(|identity| query.matches(identity));
        Ok(page)
    }

    /// The policy's decisions that match.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn decisions(
        &self,
        query: &DecisionQuery,
        after: Option<&Position>,
    ) -> Result<Page<DecisionRecord>, StateError> {
        self.state.decisions(query, after, PAGE).await
    }

    /// The revocations, by time.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn revocations(
        &self,
        order: Order,
        after: Option<&Position>,
    ) -> Result<Page<RevocationRecord>, StateError> {
        self.state.revocations(None, order, after, PAGE).await
    }

    /// The join tokens, oldest first, without anything that could be used as one.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn tokens(&self, after: Option<&Position>) -> Result<Page<TokenRecord>, StateError> {
        self.state.tokens_page(after, PAGE).await
    }

    /// Everything known of one certificate, by its whole serial in the form `4a:3b:…`.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn certificate(&self, serial: &str) -> Result<Option<CertificateHistory>, StateError> {
        let now = self.now();
        let Some(certificate) = self.state.certificate(serial, now).await? else { return Ok(None) };
        let decision = self.state.decision(&certificate.decision_id).await?;
        let revocation = self.state.revocations(Some(serial), Order::NewestFirst, None, 1).await?.records.pop();
        let mut renewed_from = Vec::new();
        let mut earlier = certificate.renewed_from().map(str::to_owned);
        while let Some(serial) = earlier.filter(|_| renewed_from.len() < GENERATIONS) {
            let Some(certificate) = self.state.certificate(&serial, now).await? else { break };
            earlier = certificate.renewed_from().map(str::to_owned);
            renewed_from.push(CertificateRecord { pem: None, ..certificate });
        }
        let mut renewed_to: Vec<CertificateRecord> = Vec::new();
        if let Some(worker_id) = &certificate.worker_id {
            let mut parent = 0;
            let mut serial = certificate.serial.clone();
            while renewed_to.len() < GENERATIONS {
                let left = u32::try_from(GENERATIONS - renewed_to.len()).unwrap_or(0);
                renewed_to.extend(self.state.renewals_of(worker_id, &serial, now, left).await?);
                let Some(next) = renewed_to.get(parent) else { break };
                serial.clone_from(&next.serial);
                parent += 1;
            }
        }
        Ok(Some(CertificateHistory { certificate, decision, revocation, renewed_from, renewed_to }))
    }

    /// What is known of one worker, with its newest certificates.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn worker(&self, worker_id: &WorkerId) -> Result<Option<WorkerHistory>, StateError> {
        let now = self.now();
        let identity = self.state.identities(Some(worker_id), None, now, 1).await?.records.pop();
        let Some(identity) = identity else { return Ok(None) };
        let query = CertificateQuery { worker: Some(worker_id.into()), ..CertificateQuery::default() };
        let newest = u32::try_from(GENERATIONS).unwrap_or(u32::MAX);
        let certificates = self.state.certificates(&query, None, now, newest).await?.records;
        Ok(Some(WorkerHistory { identity, newest: certificates }))
    }

    /// Closes the database.
    pub async fn close(self) {
        self.state.close().await;
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now().wall
    }
}

/// How many rows are read at once.
const PAGE: u32 = 1_000;

/// How many renewals are followed either way.
const GENERATIONS: usize = 20;
