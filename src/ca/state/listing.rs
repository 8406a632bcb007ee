//! Owns the reading of the record page by page: each page begins after the last row of the one before, so that a row is
//! seen once whatever is written meanwhile, and memory does not grow with the record.

use sqlx::QueryBuilder;
use time::OffsetDateTime;

use super::backend::on;
use super::decisions::{DecisionRow, decision_rows};
use super::issuing::worker_of;
use super::rows::{CertificateRow, IdentityRow, RevocationRow};
use super::tokens::{TokenRow, token_rows};
use super::{DecisionRecord, State, StateError, TokenRecord, failed};
use crate::ca::records::{
    CertificateQuery, CertificateRecord, CertificateStatus, DecisionQuery, IdentityRecord, Order, Page, Position,
    RevocationRecord,
};
use crate::identity::{SubjectAltName, WorkerId};

/// Begins every statement that reads [`CertificateRow`]s, but for the certificate itself.
macro_rules! certificate_rows {
    ($der:literal) => {
        concat!(
            "SELECT c.serial, c.status, c.worker_id, c.names, c.not_before, c.not_after, c.key_digest, \
             c.issuer_digest, c.authentication, c.credential, c.source, c.decision_id, c.correlation_id, \
             c.reserved_at, c.issued_at, ",
            $der,
            " AS der, r.revoked_at, r.reason FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial"
        )
    };
}

impl State {
    /// The certificates that match, at most `limit` rows looked at.
    pub(crate) async fn certificates(
        &self,
        query: &CertificateQuery,
        after: Option<&Position>,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<Page<CertificateRecord>, StateError> {
        let rows: Vec<CertificateRow> = on!(Pool, &self.readers, pool => {
            let head = if query.pem { certificate_rows!("c.der") } else { certificate_rows!("NULL") };
            let mut sql = QueryBuilder::new(head);
            sql.push(" WHERE 1 = 1");
            if let Some(pattern) = &query.worker {
                let (from, to) = pattern.range();
                if pattern.is_exact() {
                    sql.push(" AND c.worker_id = ").push_bind(from);
                } else if !from.is_empty() {
                    sql.push(" AND c.worker_id >= ").push_bind(from).push(" AND c.worker_id < ").push_bind(to);
                }
            }
            if let Some(candidates) = query.name.as_ref().and_then(Candidates::of) {
                sql.push(" AND (c.serial IN (SELECT serial FROM certificate_names WHERE name = ");
                sql.push_bind(candidates.name).push(")");
                if let Some(worker_id) = candidates.worker_id {
                    sql.push(" OR c.worker_id = ").push_bind(worker_id);
                }
                sql.push(")");
            }
            if let Some(prefix) = &query.serial {
                let (from, to) = prefix.range();
                sql.push(" AND c.serial >= ").push_bind(from).push(" AND c.serial < ").push_bind(to);
            }
            if let Some(status) = query.status {
                sql.push(match status {
                    CertificateStatus::Reserved => " AND c.status = 'reserved'",
                    CertificateStatus::Revoked => " AND r.serial IS NOT NULL",
                    CertificateStatus::Valid | CertificateStatus::Expired => {
                        " AND c.status = 'issued' AND r.serial IS NULL"
                    }
                });
                match status {
                    CertificateStatus::Valid => {
                        sql.push(" AND c.not_after > ").push_bind(now.unix_timestamp());
                    }
                    CertificateStatus::Expired => {
                        sql.push(" AND c.not_after <= ").push_bind(now.unix_timestamp());
                    }
                    CertificateStatus::Reserved | CertificateStatus::Revoked => {}
                }
            }
            if let Some(end) = query.ending_before {
                sql.push(" AND c.not_after <= ").push_bind(end.unix_timestamp());
            }
            if let Some(since) = query.issued_since {
                sql.push(" AND c.reserved_at >= ").push_bind(since.unix_timestamp());
            }
            if let Some(authentication) = &query.authentication {
                sql.push(" AND c.authentication = ").push_bind(authentication.clone());
            }
            if let Some(credential) = &query.credential {
                sql.push(" AND c.credential = ").push_bind(credential.clone());
            }
            let (key, relation, direction) = match query.order {
                Order::NewestFirst => ("c.reserved_at", "<", "DESC"),
                Order::OldestFirst => ("c.reserved_at", ">", "ASC"),
                Order::EndingFirst => ("c.not_after", ">", "ASC"),
            };
            if let Some(Position(number, text)) = after {
                sql.push(format_args!(" AND ({key}, c.serial) {relation} ("));
                sql.push_bind(*number).push(", ").push_bind(text.clone()).push(")");
            }
            sql.push(format_args!(" ORDER BY {key} {direction}, c.serial {direction} LIMIT "));
            sql.push_bind(i64::from(limit));
            sql.build_query_as().fetch_all(pool).await.map_err(failed("list certificates"))?
        });
        let next = rows.last().map(|row| match query.order {
            Order::NewestFirst | Order::OldestFirst => Position(row.reserved_at, row.serial.clone()),
            Order::EndingFirst => Position(row.not_after, row.serial.clone()),
        });
        let next = next.filter(|_| is_full(rows.len(), limit));
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let record = row.into_record(now)?;
            if query.matches(&record) {
                records.push(record);
            }
        }
        Ok(Page { records, next })
    }

    /// The certificate with this serial, issued or reserved, with its text.
    pub(crate) async fn certificate(
        &self,
        serial: &str,
        now: OffsetDateTime,
    ) -> Result<Option<CertificateRecord>, StateError> {
        let row: Option<CertificateRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(certificate_rows!("c.der"), " WHERE c.serial = $1"))
                .bind(serial)
                .fetch_optional(pool)
                .await
                .map_err(failed("look up a certificate"))?
        });
        row.map(|row| row.into_record(now)).transpose()
    }

    /// The certificates that `worker_id` got by showing the certificate `serial`, oldest first.
    pub(crate) async fn renewals_of(
        &self,
        worker_id: &WorkerId,
        serial: &str,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<CertificateRecord>, StateError> {
        let rows: Vec<CertificateRow> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(concat!(
                certificate_rows!("NULL"),
                " WHERE c.worker_id = $1 AND c.authentication = 'certificate' AND c.credential = $2 \
                 ORDER BY c.reserved_at, c.serial LIMIT $3"
            ))
            .bind(worker_id.as_str())
            .bind(serial)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
            .map_err(failed("list renewals"))?
        });
        rows.into_iter().map(|row| row.into_record(now)).collect()
    }

    /// The workers, by id; with `only` that one.
    pub(crate) async fn identities(
        &self,
        only: Option<&WorkerId>,
        after: Option<&Position>,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<Page<IdentityRecord>, StateError> {
        let rows: Vec<IdentityRow> = on!(Pool, &self.readers, pool => {
            let mut sql = QueryBuilder::new(
                "SELECT i.worker_id, i.first_issued_at, i.last_issued_at, i.last_serial, i.last_not_after, \
                 i.certificates, c.not_before, r.revoked_at FROM identities i \
                 LEFT JOIN certificates c ON c.serial = i.last_serial \
                 LEFT JOIN revocations r ON r.serial = i.last_serial WHERE 1 = 1",
            );
            if let Some(worker_id) = only {
                sql.push(" AND i.worker_id = ").push_bind(worker_id.to_string());
            }
            if let Some(Position(_, text)) = after {
                sql.push(" AND i.worker_id > ").push_bind(text.clone());
            }
            sql.push(" ORDER BY i.worker_id LIMIT ").push_bind(i64::from(limit));
            sql.build_query_as().fetch_all(pool).await.map_err(failed("list identities"))?
        });
        let next = rows.last().map(|row| Position(0, row.worker_id.clone())).filter(|_| is_full(rows.len(), limit));
        let records = rows.into_iter().map(|row| row.into_record(now)).collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    }

    /// The policy's decisions that match.
    pub(crate) async fn decisions(
        &self,
        query: &DecisionQuery,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Page<DecisionRecord>, StateError> {
        let rows: Vec<DecisionRow> = on!(Pool, &self.readers, pool => {
            let mut sql = QueryBuilder::new(concat!(decision_rows!(), " WHERE 1 = 1"));
            if query.denied {
                sql.push(" AND outcome = 'deny'");
            }
            if let Some(since) = query.since {
                sql.push(" AND decided_at >= ").push_bind(since.unix_timestamp());
            }
            let (relation, direction) = query.order.by_time();
            if let Some(Position(number, text)) = after {
                sql.push(format_args!(" AND (decided_at, id) {relation} ("));
                sql.push_bind(*number).push(", ").push_bind(text.clone()).push(")");
            }
            sql.push(format_args!(" ORDER BY decided_at {direction}, id {direction} LIMIT "));
            sql.push_bind(i64::from(limit));
            sql.build_query_as().fetch_all(pool).await.map_err(failed("list decisions"))?
        });
        let next = rows.last().map(DecisionRow::position).filter(|_| is_full(rows.len(), limit));
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let record = DecisionRecord::try_from(row)?;
            if query.matches(&record) {
                records.push(record);
            }
        }
        Ok(Page { records, next })
    }

    /// The revocations; with `only` that of this serial.
    pub(crate) async fn revocations(
        &self,
        only: Option<&str>,
        order: Order,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Page<RevocationRecord>, StateError> {
        let rows: Vec<RevocationRow> = on!(Pool, &self.readers, pool => {
            let mut sql = QueryBuilder::new(
                "SELECT r.serial, r.issuer_digest, r.reason, r.actor, r.decision_id, r.correlation_id, r.not_after, \
                 r.revoked_at, c.worker_id FROM revocations r LEFT JOIN certificates c ON c.serial = r.serial \
                 WHERE 1 = 1",
            );
            if let Some(serial) = only {
                sql.push(" AND r.serial = ").push_bind(serial.to_owned());
            }
            let (relation, direction) = order.by_time();
            if let Some(Position(number, text)) = after {
                sql.push(format_args!(" AND (r.revoked_at, r.serial) {relation} ("));
                sql.push_bind(*number).push(", ").push_bind(text.clone()).push(")");
            }
            sql.push(format_args!(" ORDER BY r.revoked_at {direction}, r.serial {direction} LIMIT "));
            sql.push_bind(i64::from(limit));
            sql.build_query_as().fetch_all(pool).await.map_err(failed("list revocations"))?
        });
        let next = rows.last().map(RevocationRow::position).filter(|_| is_full(rows.len(), limit));
        let records = rows.into_iter().map(RevocationRecord::try_from).collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    }

    /// The tokens, oldest first.
    pub(crate) async fn tokens_page(
        &self,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Page<TokenRecord>, StateError> {
        let rows: Vec<TokenRow> = on!(Pool, &self.readers, pool => {
            let mut sql = QueryBuilder::new(token_rows!());
            if let Some(Position(number, text)) = after {
                sql.push(" WHERE (created_at, id) > (");
                sql.push_bind(*number).push(", ").push_bind(text.clone()).push(")");
            }
            sql.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(limit));
            sql.build_query_as().fetch_all(pool).await.map_err(failed("list tokens"))?
        });
        let next = rows.last().map(TokenRow::position).filter(|_| is_full(rows.len(), limit));
        let records = rows.into_iter().map(TokenRecord::try_from).collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    }
}

/// Whether there may be more.
fn is_full(rows: usize, limit: u32) -> bool {
    rows >= usize::try_from(limit).unwrap_or(usize::MAX)
}

/// By what a certificate with a name is found; whether it has the name is looked at afterwards.
struct Candidates {
    name: String,
    worker_id: Option<String>,
}

impl Candidates {
    /// `None` for a name that every worker has.
    fn of(name: &SubjectAltName) -> Option<Self> {
        let worker_id = match name {
            SubjectAltName::Dns(name) if name.as_str() == "localhost" => return None,
            SubjectAltName::Dns(name) => Some(name.as_str()),
            SubjectAltName::Ip(_) => None,
            SubjectAltName::Uri(id) => worker_of(id),
        };
        Some(Self { name: name.to_string(), worker_id: worker_id.map(str::to_owned) })
    }
}
