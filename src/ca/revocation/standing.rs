//! Owns what a serving process knows of the standing of certificates, in memory: revocations, orders to renew, CRLs; and
//! tells whoever waits when it changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use time::OffsetDateTime;
use tokio::sync::{Mutex, Notify, watch};

use super::audit;
use crate::ca::crl::{Crl, CrlSet};
use crate::ca::renewal_info::{ORDERS_LIMIT, RenewalOrder};
use crate::ca::state::{RevocationRecord, State, StateError};
use crate::policy::RevocationReason;

/// What is known, at some change of the record. It may lag behind the record by a moment: good for telling others, not
/// for deciding who may renew.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The change up to which all is known; `None` before the first look.
    revision: Option<i64>,
    issuer_digests: Vec<[u8; 32]>,
    revoked: HashMap<String, Revoked>,
    last_revocations: HashMap<[u8; 32], i64>,
    /// The orders in force.
    pub(crate) orders: Vec<RenewalOrder>,
    /// The newest CRL of each issuer.
    pub(crate) crls: CrlSet,
}

/// That and why a certificate is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revoked {
    /// When.
    pub(crate) at: OffsetDateTime,
    /// Why.
    pub(crate) reason: RevocationReason,
    not_after: OffsetDateTime,
}

impl Known {
    /// Whether the certificate is revoked.
    pub(crate) fn revoked(&self, serial: &str) -> Option<Revoked> {
        self.revoked.get(serial).copied()
    }

    /// The last change that revoked a certificate of this issuer; 0 when there was none.
    pub(crate) fn last_revocation(&self, issuer_digest: &[u8; 32]) -> i64 {
        self.last_revocations.get(issuer_digest).copied().unwrap_or(0)
    }

    fn learn(&mut self, record: RevocationRecord) {
        let last = self.last_revocations.entry(record.issuer_digest).or_insert(0);
        *last = record.revision.max(*last);
        let revoked = Revoked { at: record.revoked_at, reason: record.reason, not_after: record.not_after };
        self.revoked.insert(record.serial, revoked);
    }
}

/// The one copy of [`Known`] of a CA in this process.
pub(crate) struct Standing {
    known: RwLock<Known>,
    /// Held by who looks.
    looking: Mutex<()>,
    /// How many times something changed.
    changes: watch::Sender<u64>,
    told: Notify,
}

impl Standing {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Self {
            known: RwLock::default(),
            looking: Mutex::default(),
            changes: watch::Sender::new(0),
            told: Notify::new(),
        }
    }

    /// Reads what is known.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marked as changed whenever what is known, or who issues, has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whoever keeps this up to date shall look.
    pub(crate) fn tell(&self) {
        self.told.notify_one();
    }

    /// Ends when [`tell`](Self::tell) is called.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Reads from the record what has changed since the last look. What another task wrote before is known when this
    /// returns.
    pub(crate) async fn look(
        &self,
        state: &State,
        issuer_digests: &[[u8; 32]],
        now: OffsetDateTime,
    ) -> Result<(), StateError> {
        let _turn = self.looking.lock().await;
        let revision = state.revision().await?;
        let (before, same_issuers) = self.with(|known| (known.revision, known.issuer_digests == issuer_digests));
        if before == Some(revision) && same_issuers {
            return Ok(());
        }
        // What comes in between is read now and once more at the next look.
        let revoked = state.revocations_since(before.unwrap_or(-1), now.saturating_sub(KEPT)).await?;
        let orders = state.orders_in_force(now, ORDERS_LIMIT).await?;
        let mut crls = Vec::with_capacity(issuer_digests.len());
        for digest in issuer_digests {
            let known = self.with(|known| known.crls.of(digest).cloned());
            let newer = state.crl_after(digest, known.as_ref().map_or(-1, |crl| crl.number)).await?;
            crls.extend(newer.map(|record| Crl::new(*digest, record)).or(known));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.crls.crls() != crls {
            known.crls = CrlSet::new(crls);
            let kept = now.saturating_sub(KEPT);
            known.revoked.retain(|_, revoked| revoked.not_after >= kept);
        }
        known.orders = orders;
        for record in revoked {
            // At the start of the process it is no news.
            if before.is_some() && !known.revoked.contains_key(&record.serial) {
                audit::learned(&record);
            }
            known.learn(record);
        }
        known.revision = Some(revision);
        known.issuer_digests = issuer_digests.to_vec();
        drop(known);
        self.touch();
        Ok(())
    }

    /// Marks it as changed.
    pub(crate) fn touch(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").finish_non_exhaustive()
    }
}

/// How long after its end a revoked certificate is kept in mind.
const KEPT: time::Duration = time::Duration::days(1);
