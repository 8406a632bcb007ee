//! Owns the record of what the policy decided: denials by themselves, what was allowed together with its certificate.

use serde::Serialize;
use sqlx::QueryBuilder;
use time::OffsetDateTime;

use super::backend::{OpenTransaction, on};
use super::{State, StateError, failed, time_from_seconds};
use crate::ca::records::Position;
use crate::identity::WorkerId;
use crate::policy::{Decision, Outcome};

/// What a policy hook decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionRecord {
    /// `dec_` and 32 hexadecimal digits.
    pub id: String,
    /// The hook: `can_issue_certificate`, `certificate_validity_period`, `revoke_certificate`.
    pub hook: String,
    /// Allowed or denied.
    pub outcome: Outcome,
    /// Why; one printable line.
    pub reason: String,
    /// What it rests on, as the engine says; `None` for the default rules.
    pub basis: Option<String>,
    /// Whom it is about.
    pub worker_id: WorkerId,
    /// The request.
    pub correlation_id: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub decided_at: OffsetDateTime,
}

impl DecisionRecord {
    /// The record of what `hook` decided.
    pub(crate) fn new(
        hook: &'static str,
        decision: &Decision,
        worker_id: &WorkerId,
        correlation_id: &str,
        decided_at: OffsetDateTime,
    ) -> Self {
        Self {
            id: decision.id.clone(),
            hook: hook.to_owned(),
            outcome: decision.outcome,
            reason: decision.reason.clone(),
            basis: decision.basis.clone(),
            worker_id: worker_id.clone(),
            correlation_id: correlation_id.to_owned(),
            decided_at,
        }
    }
}

/// Begins every statement that reads [`DecisionRow`]s.
macro_rules! decision_rows {
    () => {
        "SELECT id, hook, outcome, reason, basis, worker_id, correlation_id, decided_at FROM decisions"
    };
}
pub(super) use decision_rows;

impl State {
    /// Writes decisions that no reservation goes along with. On disk when it returns.
    pub(crate) async fn record_decisions(&self, decisions: Vec<DecisionRecord>) -> Result<(), StateError> {
        self.issuing.decide(decisions).await
    }

    /// The decision with this id.
    pub(crate) async fn decision(&self, id: &str) -> Result<Option<DecisionRecord>, StateError> {
        let row: Option<DecisionRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(decision_rows!(), " WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
                .map_err(failed("look up a decision"))?
        });
        row.map(DecisionRecord::try_from).transpose()
    }
}

/// Writes decisions in a transaction of whoever acts on them: without the record, nothing is done.
pub(super) async fn insert(transaction: &mut OpenTransaction, decisions: &[&DecisionRecord]) -> Result<(), StateError> {
    if decisions.is_empty() {
        return Ok(());
    }
    on!(OpenTransaction, transaction, transaction => {
        let mut query = QueryBuilder::new(
            "INSERT INTO decisions (id, hook, outcome, reason, basis, worker_id, correlation_id, decided_at) ",
        );
        query.push_values(decisions, |mut row, decision| {
            row.push_bind(&decision.id)
                .push_bind(&decision.hook)
                .push_bind(if decision.outcome == Outcome::Allow { "allow" } else { "deny" })
                .push_bind(&decision.reason)
                .push_bind(&decision.basis)
                .push_bind(decision.worker_id.as_str())
                .push_bind(&decision.correlation_id)
                .push_bind(decision.decided_at.unix_timestamp());
        });
        query.build().execute(&mut **transaction).await.map_err(failed("record a decision"))?;
    });
    Ok(())
}

#[derive(sqlx::FromRow)]
pub(super) struct DecisionRow {
    id: String,
    hook: String,
    outcome: String,
    reason: String,
    basis: Option<String>,
    worker_id: String,
    correlation_id: String,
    decided_at: i64,
}

impl DecisionRow {
    pub(super) fn position(&self) -> Position {
        Position(self.decided_at, self.id.clone())
    }
}

impl TryFrom<DecisionRow> for DecisionRecord {
    type Error = StateError;

    fn try_from(row: DecisionRow) -> Result<Self, StateError> {
        let outcome = match row.outcome.as_str() {
            "allow" => Outcome::Allow,
            "deny" => Outcome::Deny,
            _ => return Err(StateError::Corrupt { what: "an outcome" }),
        };
        Ok(Self {
            id: row.id,
            hook: row.hook,
            outcome,
            reason: row.reason,
            basis: row.basis,
            worker_id: WorkerId::new(&row.worker_id).map_err(|_| StateError::Corrupt { what: "a worker id" })?,
            correlation_id: row.correlation_id,
            decided_at: time_from_seconds(row.decided_at)?,
        })
    }
}
