//! Owns what is asked of the record: filters, order, and the place where a page begins.

use time::OffsetDateTime;

use super::{CertificateRecord, CertificateStatus, IdentityRecord, IdentityState, SerialPrefix, WorkerPattern};
use crate::ca::state::DecisionRecord;
use crate::identity::SubjectAltName;

/// Which certificates: those for which all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateQuery {
    /// Of the workers that match.
    pub worker: Option<WorkerPattern>,
    /// With exactly this name among their SANs.
    pub name: Option<SubjectAltName>,
    /// Whose serial begins so.
    pub serial: Option<SerialPrefix>,
    /// With this status.
    pub status: Option<CertificateStatus>,
    /// That end at this time or before.
    pub ending_before: Option<OffsetDateTime>,
    /// Whose serial was taken at this time or later.
    pub issued_since: Option<OffsetDateTime>,
    /// Authenticated in this way.
    pub authentication: Option<String>,
    /// Authenticated by this token id, certificate serial, …
    pub credential: Option<String>,
    /// Which come first.
    pub order: Order,
    /// Whether the certificates themselves are wanted.
    pub pem: bool,
}

impl CertificateQuery {
    /// What the database was not asked, or only roughly.
    pub(crate) fn matches(&self, record: &CertificateRecord) -> bool {
        let worker = |pattern: &WorkerPattern| record.worker_id.as_ref().is_some_and(|id| pattern.matches(id.as_str()));
        self.worker.as_ref().is_none_or(worker)
            && self.name.as_ref().is_none_or(|name| record.names.contains(name))
            && self.serial.as_ref().is_none_or(|prefix| prefix.matches(&record.serial))
    }
}

/// Which workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityQuery {
    /// That match.
    pub worker: Option<WorkerPattern>,
    /// Only those whose renewal is overdue or whose newest certificate is over or revoked.
    pub late: bool,
}

impl IdentityQuery {
    pub(super) fn matches(&self, record: &IdentityRecord) -> bool {
        self.worker.as_ref().is_none_or(|pattern| pattern.matches(record.worker_id.as_str()))
            && (!self.late || record.state != IdentityState::Valid)
    }
}

/// Which decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionQuery {
    /// About the workers that match.
    pub worker: Option<WorkerPattern>,
    /// Only denials.
    pub denied: bool,
    /// Made at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Which come first; [`Order::EndingFirst`] is as [`Order::OldestFirst`].
    pub order: Order,
}

impl DecisionQuery {
    pub(crate) fn matches(&self, record: &DecisionRecord) -> bool {
        self.worker.as_ref().is_none_or(|pattern| pattern.matches(record.worker_id.as_str()))
    }
}

/// Which come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest.
    #[default]
    NewestFirst,
    /// The oldest.
    OldestFirst,
    /// Those that end first.
    EndingFirst,
}

impl Order {
    /// How the next row compares with the one before, and the direction, by time.
    pub(crate) fn by_time(self) -> (&'static str, &'static str) {
        match self {
            Self::NewestFirst => ("<", "DESC"),
            Self::OldestFirst | Self::EndingFirst => (">", "ASC"),
        }
    }
}

/// Some rows, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Those that match; may be none although more follow.
    pub records: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Position>,
}

/// A place between two rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position(pub(crate) i64, pub(crate) String);
