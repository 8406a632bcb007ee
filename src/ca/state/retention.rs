//! Owns the forgetting of what has been over for long, in batches that keep nobody waiting.

use sqlx::QueryBuilder;
use time::OffsetDateTime;

use super::backend::{OpenTransaction, on};
use super::{State, StateError, failed};

/// What one batch has forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// Certificates, with their names, decisions, revocations, and keys that no other certificate has.
    pub(crate) certificates: u64,
    /// Tokens.
    pub(crate) tokens: u64,
    /// Decisions that no certificate goes along with.
    pub(crate) decisions: u64,
    /// Workers without certificates, CRLs, orders, revocations without certificates.
    pub(crate) others: u64,
}

impl Forgotten {
    /// How many rows that is in all.
    pub(crate) fn total(self) -> u64 {
        self.certificates + self.tokens + self.decisions + self.others
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            certificates: self.certificates + other.certificates,
            tokens: self.tokens + other.tokens,
            decisions: self.decisions + other.decisions,
            others: self.others + other.others,
        }
    }
}

impl State {
    /// Forgets some of what was over before `cutoff`, in one transaction: certificates first. Decisions that allowed
    /// something stay until `decided_before`, for what they allowed may still be in force. Nothing, when nothing is left,
    /// or another replica is at it.
    pub(crate) async fn forget_some(
        &self,
        cutoff: OffsetDateTime,
        decided_before: OffsetDateTime,
    ) -> Result<Forgotten, StateError> {
        let (cutoff, decided_before) = (cutoff.unix_timestamp(), decided_before.unix_timestamp());
        let mut transaction = self.writer.begin().await?;
        if !is_alone(&mut transaction).await? {
            return Ok(Forgotten::default());
        }
        let certificates = forget_certificates(&mut transaction, cutoff).await?;
        if certificates > 0 {
            transaction.commit().await?;
            return Ok(Forgotten { certificates, ..Forgotten::default() });
        }
        let forgotten = on!(OpenTransaction, &mut transaction, transaction => {
            let mut counts = [0; STATEMENTS.len()];
            for (count, (statement, what)) in counts.iter_mut().zip(STATEMENTS) {
                let before = if *what == ALLOWED { decided_before } else { cutoff };
                let done = sqlx::query(*statement).bind(before).bind(BATCH).execute(&mut **transaction).await;
                *count = done.map_err(failed("forget what is over"))?.rows_affected();
            }
            let [tokens, denied, allowed, identities, crls, orders, revocations] = counts;
            let others = identities + crls + orders + revocations;
            Forgotten { certificates: 0, tokens, decisions: denied + allowed, others }
        });
        // Also when nothing was: dropped, it would end later, and until then nobody else is alone.
        transaction.commit().await?;
        Ok(forgotten)
    }
}

/// Whether no other replica forgets at this moment. A file has one writer in any case.
async fn is_alone(transaction: &mut OpenTransaction) -> Result<bool, StateError> {
    match transaction {
        OpenTransaction::Sqlite(_) => Ok(true),
        OpenTransaction::Postgres(transaction) => {
            let (alone,): (bool,) = sqlx::query_as("SELECT pg_try_advisory_xact_lock($1)")
                .bind(ADVISORY_LOCK)
                .fetch_one(&mut **transaction)
                .await
                .map_err(failed("lock the record for forgetting"))?;
            Ok(alone)
        }
    }
}

async fn forget_certificates(transaction: &mut OpenTransaction, cutoff: i64) -> Result<u64, StateError> {
    let rows: Vec<(String, Vec<u8>, String)> = on!(OpenTransaction, transaction, transaction => {
        sqlx::query_as(
            "DELETE FROM certificates WHERE serial IN \
             (SELECT serial FROM certificates c WHERE not_after < $1 AND (not_after < $2 OR NOT EXISTS \
             (SELECT 1 FROM revocations r WHERE r.serial = c.serial)) ORDER BY not_after LIMIT $3) \
             RETURNING serial, key_digest, decision_id",
        )
        .bind(cutoff)
        .bind(cutoff.saturating_sub(REVOKED_FOR))
        .bind(BATCH)
        .fetch_all(&mut **transaction)
        .await
        .map_err(failed("forget certificates"))?
    });
    if rows.is_empty() {
        return Ok(0);
    }
    let mut keys: Vec<&[u8]> = rows.iter().map(|(_, key, _)| &key[..]).collect();
    keys.sort_unstable();
    keys.dedup();
    lock_keys(transaction, &keys).await?;
    on!(OpenTransaction, transaction, transaction => {
        let serials = rows.iter().map(|(serial, ..)| serial.as_str());
        let decisions = rows.iter().map(|(_, _, decision)| decision.as_str());
        let mut statements = [
            within("DELETE FROM certificate_names WHERE serial IN (", serials.clone()),
            within("DELETE FROM revocations WHERE serial IN (", serials),
            within("DELETE FROM decisions WHERE id IN (", decisions),
            within(FORGET_KEYS, keys),
        ];
        for statement in &mut statements {
            statement.build().execute(&mut **transaction).await.map_err(failed("forget certificates"))?;
        }
    });
    Ok(rows.len() as u64)
}

/// A statement that ends with a list of values.
fn within<'q, DB: sqlx::Database, T>(head: &str, values: impl IntoIterator<Item = T>) -> QueryBuilder<DB>
where
    DB::Arguments: Default,
    T: sqlx::Encode<'q, DB> + sqlx::Type<DB> + 'q,
{
    let mut statement = QueryBuilder::new(head);
    let mut list = statement.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    list.push_unseparated(")");
    statement
}

/// Locks the keys, to be looked at by a later statement: whoever has one of them certified at the same time has then either
/// been waited for and is seen, or waits and finds the key gone. A file has one writer in any case.
async fn lock_keys(transaction: &mut OpenTransaction, keys: &[&[u8]]) -> Result<(), StateError> {
    let OpenTransaction::Postgres(transaction) = transaction else { return Ok(()) };
    sqlx::query("SELECT 1 FROM keys WHERE key_digest = ANY($1) ORDER BY key_digest FOR UPDATE")
        .bind(keys)
        .execute(&mut **transaction)
        .await
        .map_err(failed("lock keys"))?;
    Ok(())
}

/// What takes [`State::forget_some`]'s later time.
const ALLOWED: &str = "allowed decisions";

/// Each forgets at most `$2` rows that were over before `$1`.
const STATEMENTS: &[(&str, &str); 7] = &[
    (
        "DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        "tokens",
    ),
    (
        "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions \
         WHERE outcome = 'deny' AND decided_at < $1 ORDER BY decided_at LIMIT $2)",
        "denials",
    ),
    (
        "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE decided_at < $1 \
         ORDER BY decided_at LIMIT $2)",
        ALLOWED,
    ),
    (
        "DELETE FROM identities WHERE worker_id IN (SELECT worker_id FROM identities i WHERE last_not_after < $1 \
         AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.worker_id = i.worker_id) LIMIT $2) \
         AND last_not_after < $1",
        "identities",
    ),
    // Never the last of an issuer: numbers only grow.
    (
        "DELETE FROM crls WHERE next_update < $1 AND number < \
         (SELECT max(number) FROM crls newer WHERE newer.issuer_digest = crls.issuer_digest) \
         AND $2 > 0",
        "CRLs",
    ),
    (
        "DELETE FROM renewal_orders WHERE id IN (SELECT id FROM renewal_orders WHERE window_end < $1 \
         AND expires_at < $1 LIMIT $2)",
        "orders",
    ),
    (
        "DELETE FROM revocations WHERE serial IN (SELECT serial FROM revocations r WHERE not_after < $1 \
         AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.serial = r.serial) LIMIT $2)",
        "revocations",
    ),
];

/// How much longer a revoked certificate is known, in seconds: until it has been on a CRL after its end, however long CRLs
/// live.
const REVOKED_FOR: i64 = 60 * 24 * 3_600;

/// The most rows of a kind in one transaction, for which others wait.
const BATCH: i64 = 100;

/// Of keys that no certificate has any longer. That of a revoked certificate stays nobody's for ever, which is `!`.
const FORGET_KEYS: &str = "DELETE FROM keys WHERE owner <> '!' \
     AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.key_digest = keys.key_digest) AND key_digest IN (";

/// Told from other users of the same server: the letters `crank-ca`.
const ADVISORY_LOCK: i64 = 0x6372_616e_6b2d_6361;
