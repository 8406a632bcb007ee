//! Owns the record of orders to renew, and the list of the certificates that one could be for.

use time::OffsetDateTime;

use super::backend::on;
use super::revocations::next_revision;
use super::{State, StateError, digest_from, failed, time_from_seconds};
use crate::ca::renewal_info::{RenewalOrder, Selector, Subject};
use crate::identity::WorkerId;

/// Begins every statement that reads [`OrderRow`]s.
macro_rules! order_rows {
    () => {
        "SELECT id, selector, explanation, actor, window_start, window_end, created_at, expires_at, cancelled_at \
         FROM renewal_orders"
    };
}

impl State {
    /// Records an order. `false` when `limit` are in force already.
    pub(crate) async fn add_order(&self, order: &RenewalOrder, limit: u32) -> Result<bool, StateError> {
        let selector =
            serde_json::to_string(&order.selector).map_err(|_| StateError::Corrupt { what: "a selector" })?;
        let mut transaction = self.writer.begin().await?;
        next_revision(&mut transaction).await?;
        on!(OpenTransaction, &mut transaction, transaction => {
            let (in_force,): (i64,) = sqlx::query_as(
                "SELECT count(*) FROM renewal_orders WHERE cancelled_at IS NULL AND expires_at > $1",
            )
            .bind(order.created_at.unix_timestamp())
            .fetch_one(&mut **transaction)
            .await
            .map_err(failed("count orders"))?;
            if in_force >= i64::from(limit) {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO renewal_orders (id, selector, explanation, actor, window_start, window_end, created_at, \
                 expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(&order.id)
            .bind(selector)
            .bind(&order.explanation)
            .bind(&order.actor)
            .bind(order.start.unix_timestamp())
            .bind(order.end.unix_timestamp())
            .bind(order.created_at.unix_timestamp())
            .bind(order.expires_at.unix_timestamp())
            .execute(&mut **transaction)
            .await
            .map_err(failed("record an order"))?;
        });
        transaction.commit().await?;
        Ok(true)
    }

    /// Takes an order back. `false` when there is none in force with this id.
    pub(crate) async fn cancel_order(&self, id: &str, now: OffsetDateTime) -> Result<bool, StateError> {
        let mut transaction = self.writer.begin().await?;
        next_revision(&mut transaction).await?;
        let cancelled = on!(OpenTransaction, &mut transaction, transaction => {
            sqlx::query("UPDATE renewal_orders SET cancelled_at = $1 WHERE id = $2 AND cancelled_at IS NULL")
                .bind(now.unix_timestamp())
                .bind(id)
                .execute(&mut **transaction)
                .await
                .map_err(failed("cancel an order"))?
                .rows_affected()
        });
        if cancelled == 1 {
            transaction.commit().await?;
        }
        Ok(cancelled == 1)
    }

    /// The orders in force at `now`, at most `limit`.
    pub(crate) async fn orders_in_force(
        &self,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<RenewalOrder>, StateError> {
        let rows: Vec<OrderRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(
                order_rows!(),
                " WHERE cancelled_at IS NULL AND expires_at > $1 ORDER BY created_at DESC, id LIMIT $2"
            ))
            .bind(now.unix_timestamp())
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
            .map_err(failed("list orders"))?
        });
        rows.into_iter().map(RenewalOrder::try_from).collect()
    }

    /// The newest orders first, at most `limit`.
    pub(crate) async fn orders(&self, limit: u32) -> Result<Vec<RenewalOrder>, StateError> {
        let rows: Vec<OrderRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(order_rows!(), " ORDER BY created_at DESC, id LIMIT $1"))
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await
                .map_err(failed("list orders"))?
        });
        rows.into_iter().map(RenewalOrder::try_from).collect()
    }

    /// The workers' certificates that neither have ended nor are revoked, by serial, from after the given one.
    pub(crate) async fn subjects(
        &self,
        now: OffsetDateTime,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Subject>, StateError> {
        let rows: Vec<SubjectRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(
                "SELECT c.serial, c.worker_id, c.issuer_digest, c.not_before, c.not_after, c.issued_at \
                 FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial \
                 WHERE c.serial > $1 AND c.not_after > $2 AND c.status = 'issued' AND c.purpose = 'worker' \
                 AND r.serial IS NULL ORDER BY c.serial LIMIT $3",
            )
            .bind(after)
            .bind(now.unix_timestamp())
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
            .map_err(failed("list certificates"))?
        });
        rows.into_iter().map(Subject::try_from).collect()
    }
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    id: String,
    selector: String,
    explanation: String,
    actor: String,
    window_start: i64,
    window_end: i64,
    created_at: i64,
    expires_at: i64,
    cancelled_at: Option<i64>,
}

impl TryFrom<OrderRow> for RenewalOrder {
    type Error = StateError;

    fn try_from(row: OrderRow) -> Result<Self, StateError> {
        let selector: Selector =
            serde_json::from_str(&row.selector).map_err(|_| StateError::Corrupt { what: "a selector" })?;
        Ok(Self {
            id: row.id,
            selector,
            explanation: row.explanation,
            actor: row.actor,
            start: time_from_seconds(row.window_start)?,
            end: time_from_seconds(row.window_end)?,
            created_at: time_from_seconds(row.created_at)?,
            expires_at: time_from_seconds(row.expires_at)?,
            cancelled_at: row.cancelled_at.map(time_from_seconds).transpose()?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct SubjectRow {
    serial: String,
    worker_id: String,
    issuer_digest: Vec<u8>,
    not_before: i64,
    not_after: i64,
    issued_at: i64,
}

impl TryFrom<SubjectRow> for Subject {
    type Error = StateError;

    fn try_from(row: SubjectRow) -> Result<Self, StateError> {
        Ok(Self {
            serial: row.serial,
            worker_id: WorkerId::new(&row.worker_id).map_err(|_| StateError::Corrupt { what: "a worker id" })?,
            issuer_digest: digest_from(&row.issuer_digest)?,
            not_before: time_from_seconds(row.not_before)?,
            not_after: time_from_seconds(row.not_after)?,
            issued_at: time_from_seconds(row.issued_at)?,
        })
    }
}
