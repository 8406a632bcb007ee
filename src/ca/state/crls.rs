//! Owns the record of CRLs: a number is taken before it is signed, a CRL is on disk before it is served.

use time::OffsetDateTime;

use super::backend::{OpenTransaction, on};
use super::revocations::{held_revision, next_revision};
use super::{State, StateError, failed, time_from_seconds};
use crate::ca::crl::{CrlEntry, CrlPlan, Previous, plan_times};
use crate::ca::revocation::reason_from_code;

/// A CRL that is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CrlRecord {
    /// Its number.
    pub(crate) number: i64,
    /// It has every revocation up to this change.
    pub(crate) revision: i64,
    /// Its `thisUpdate`.
    pub(crate) this_update: OffsetDateTime,
    /// Its `nextUpdate`.
    pub(crate) next_update: OffsetDateTime,
    /// The CRL.
    pub(crate) der: Vec<u8>,
}

impl State {
    /// Takes the next number of an issuer and gathers what its CRL must say: every revocation there is.
    pub(crate) async fn reserve_crl(
        &self,
        issuer_digest: [u8; 32],
        lifetime: time::Duration,
        now: OffsetDateTime,
    ) -> Result<CrlPlan, StateError> {
        let mut transaction = self.writer.begin().await?;
        // Nobody revokes from here on, so nothing up to this change is missing below.
        let revision = held_revision(&mut transaction).await?;
        let previous = previous(&mut transaction, &issuer_digest).await?;
        let times = plan_times(previous, lifetime, now);
        let rows: Vec<(String, i64, i64)> = on!(OpenTransaction, &mut transaction, transaction => {
            sqlx::query(
                "INSERT INTO crls (issuer_digest, number, revision, this_update, next_update) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(&issuer_digest[..])
            .bind(times.number)
            .bind(revision)
            .bind(times.this_update.unix_timestamp())
            .bind(times.next_update.unix_timestamp())
            .execute(&mut **transaction)
            .await
            .map_err(failed("take the number of a CRL"))?;
            sqlx::query_as(
                "SELECT serial, reason, revoked_at FROM revocations WHERE issuer_digest = $1 AND not_after >= $2 \
                 ORDER BY revision, serial",
            )
            .bind(&issuer_digest[..])
            .bind(times.end.unix_timestamp())
            .fetch_all(&mut **transaction)
            .await
            .map_err(failed("list revocations"))?
        });
        transaction.commit().await?;
        let entry = |(serial, reason, revoked_at)| {
            let reason = reason_from_code(reason).ok_or(StateError::Corrupt { what: "a reason" })?;
            // Not after `thisUpdate`, which lies a minute back: a verifier may stumble over it.
            let revoked_at = time_from_seconds(revoked_at)?.min(times.this_update);
            Ok(CrlEntry { serial, reason, revoked_at })
        };
        Ok(CrlPlan {
            issuer_digest,
            number: times.number,
            revision,
            this_update: times.this_update,
            next_update: times.next_update,
            entries: rows.into_iter().map(entry).collect::<Result<_, StateError>>()?,
        })
    }

    /// Keeps a signed CRL, and forgets all but the newest of its issuer.
    pub(crate) async fn record_crl(&self, plan: &CrlPlan, der: &[u8]) -> Result<(), StateError> {
        let mut transaction = self.writer.begin().await?;
        next_revision(&mut transaction).await?;
        on!(OpenTransaction, &mut transaction, transaction => {
            let recorded = sqlx::query(
                "UPDATE crls SET der = $3 WHERE issuer_digest = $1 AND number = $2 AND der IS NULL",
            )
            .bind(&plan.issuer_digest[..])
            .bind(plan.number)
            .bind(der)
            .execute(&mut **transaction)
            .await
            .map_err(failed("record a CRL"))?;
            if recorded.rows_affected() != 1 {
                return Err(StateError::Corrupt { what: "the number of a CRL" });
            }
            sqlx::query(
                "DELETE FROM crls WHERE issuer_digest = $1 AND number < (SELECT min(number) FROM \
                 (SELECT number FROM crls WHERE issuer_digest = $1 AND der IS NOT NULL \
                 ORDER BY number DESC LIMIT $2) AS kept)",
            )
            .bind(&plan.issuer_digest[..])
            .bind(KEPT)
            .execute(&mut **transaction)
            .await
            .map_err(failed("forget old CRLs"))?;
        });
        transaction.commit().await
    }

    /// The newest CRL of an issuer, unless its number is `known` or lower.
    pub(crate) async fn crl_after(
        &self,
        issuer_digest: &[u8; 32],
        known: i64,
    ) -> Result<Option<CrlRecord>, StateError> {
        let row: Option<(i64, i64, i64, i64, Vec<u8>)> = on!(Pool, &self.readers, pool => {
            sqlx::query_as(
                "SELECT number, revision, this_update, next_update, der FROM crls \
                 WHERE issuer_digest = $1 AND number > $2 AND der IS NOT NULL ORDER BY number DESC LIMIT 1",
            )
            .bind(&issuer_digest[..])
            .bind(known)
            .fetch_optional(pool)
            .await
            .map_err(failed("look up a CRL"))?
        });
        let Some((number, revision, this_update, next_update, der)) = row else { return Ok(None) };
        Ok(Some(CrlRecord {
            number,
            revision,
            this_update: time_from_seconds(this_update)?,
            next_update: time_from_seconds(next_update)?,
            der,
        }))
    }
}

/// The last number taken, and the last CRL signed.
async fn previous(transaction: &mut OpenTransaction, issuer_digest: &[u8; 32]) -> Result<Option<Previous>, StateError> {
    let row: Option<(i64, Option<i64>)> = on!(OpenTransaction, transaction, transaction => {
        sqlx::query_as(
            "SELECT number, (SELECT max(this_update) FROM crls WHERE issuer_digest = $1 AND der IS NOT NULL) \
             FROM crls WHERE issuer_digest = $1 ORDER BY number DESC LIMIT 1",
        )
        .bind(&issuer_digest[..])
        .fetch_optional(&mut **transaction)
        .await
        .map_err(failed("look up a CRL"))?
    });
    let Some((number, signed)) = row else { return Ok(None) };
    Ok(Some(Previous { number, this_update: signed.map(time_from_seconds).transpose()? }))
}

/// How many CRLs of an issuer are kept, for whoever asks what was said when.
const KEPT: i64 = 16;
