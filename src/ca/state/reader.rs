//! Owns group look-up: what requests at the same time want to know of tokens and certificates is read with one statement.
//!
//! A statement costs several hops to the thread or server that runs it, which is more than the look-up itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use sqlx::QueryBuilder;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::backend::{Pool, on};
use super::certificates::{IssuedRecord, IssuedRow, issued_rows};
use super::tokens::{TokenRecord, TokenRow, token_rows};
use super::writer::gather;
use super::{StateError, digest_from, failed};

/// Takes what is to be looked up. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reader(mpsc::Sender<LookUp>);

enum LookUp {
    /// By the digest of its text.
    Token([u8; 32], Told<TokenRecord>),
    /// By its serial.
    Certificate(String, Told<IssuedRecord>),
}

type Told<T> = oneshot::Sender<Result<Option<T>, StateError>>;

impl Reader {
    /// Starts as many tasks as the database can use; they end with the last clone of the reader.
    pub(super) fn start(pool: &Pool) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..LANES {
            tokio::spawn(look_up_all(pool.clone(), Arc::clone(&receiver)));
        }
        Self(sender)
    }

    /// The token with this digest.
    pub(super) async fn token(&self, digest: &[u8; 32]) -> Result<Option<TokenRecord>, StateError> {
        self.ask(|told| LookUp::Token(*digest, told)).await
    }

    /// The certificate with this serial, if it was issued.
    pub(super) async fn certificate(&self, serial: &str) -> Result<Option<IssuedRecord>, StateError> {
        self.ask(|told| LookUp::Certificate(serial.to_owned(), told)).await
    }

    async fn ask<T>(&self, look_up: impl FnOnce(Told<T>) -> LookUp) -> Result<Option<T>, StateError> {
        let (told, answer) = oneshot::channel();
        self.0.send(look_up(told)).await.map_err(|_| StateError::Closed)?;
        answer.await.map_err(|_| StateError::Closed)?
    }
}

async fn look_up_all(pool: Pool, receiver: Arc<Mutex<mpsc::Receiver<LookUp>>>) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        if !gather(&receiver, &mut batch, BATCH).await {
            return;
        }
        let (mut tokens, mut certificates) = (Vec::new(), Vec::new());
        for look_up in batch.drain(..) {
            match look_up {
                LookUp::Token(digest, told) if !told.is_closed() => tokens.push((digest, told)),
                LookUp::Certificate(serial, told) if !told.is_closed() => certificates.push((serial, told)),
                // Whoever has gone away needs no answer.
                LookUp::Token(..) | LookUp::Certificate(..) => {}
            }
        }
        answer(&pool, tokens).await;
        answer(&pool, certificates).await;
    }
}

/// Tells everyone what was found under his key.
async fn answer<R: Record>(pool: &Pool, asked: Vec<(R::Key, Told<R>)>) {
    if asked.is_empty() {
        return;
    }
    let keys: Vec<R::Key> = asked.iter().map(|(key, _)| key.clone()).collect();
    match R::find(pool, &keys).await {
        Ok(found) => {
            for (key, told) in asked {
                // The receiver may have gone away meanwhile.
                let _ = told.send(Ok(found.get(&key).cloned()));
            }
        }
        // One bad row must not fail the others: each by itself.
        Err(error) => {
            tracing::debug!(error = %error, look_ups = asked.len(), "looking up one by one");
            for (key, told) in asked {
                let found = R::find(pool, std::slice::from_ref(&key)).await;
                let _ = told.send(found.map(|found| found.get(&key).cloned()));
            }
        }
    }
}

/// What is looked up.
pub(super) trait Record: Clone {
    type Key: Eq + Hash + Clone;

    /// Those that there are.
    fn find(
        pool: &Pool,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self>, StateError>> + Send;
}

impl Record for TokenRecord {
    type Key = [u8; 32];

    async fn find(pool: &Pool, digests: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Self>, StateError> {
        let rows: Vec<TokenRow> = on!(Pool, pool, pool => {
            let mut select = QueryBuilder::new(concat!(token_rows!(), " WHERE token_digest IN ("));
            let mut list = select.separated(", ");
            for digest in padded(digests) {
                list.push_bind(&digest[..]);
            }
            list.push_unseparated(")");
            select.build_query_as().fetch_all(pool).await.map_err(failed("look up a token"))?
        });
        // Found by the digest that stands in the row: a wrong index gives nobody another's token.
        let record = |row: TokenRow| Ok((digest_from(&row.token_digest)?, Self::try_from(row)?));
        rows.into_iter().map(record).collect()
    }
}

impl Record for IssuedRecord {
    type Key = String;

    async fn find(pool: &Pool, serials: &[String]) -> Result<HashMap<String, Self>, StateError> {
        let rows: Vec<IssuedRow> = on!(Pool, pool, pool => {
            let mut select = QueryBuilder::new(concat!(issued_rows!(), " WHERE c.status = 'issued' AND c.serial IN ("));
            let mut list = select.separated(", ");
            for serial in padded(serials) {
                list.push_bind(serial.as_str());
            }
            list.push_unseparated(")");
            select.build_query_as().fetch_all(pool).await.map_err(failed("look up a certificate"))?
        });
        let record = |row: IssuedRow| Self::try_from(row).map(|record| (record.serial.clone(), record));
        rows.into_iter().map(record).collect()
    }
}

/// The last one repeated up to a power of two, so that there are few different statements to prepare.
pub(super) fn padded<T>(values: &[T]) -> impl Iterator<Item = &T> {
    let missing = values.len().next_power_of_two() - values.len();
    values.iter().chain(values.last().into_iter().cycle().take(missing))
}

/// The most look-ups in one statement.
const BATCH: usize = 64;

/// The most look-ups that wait; further requests wait for their place.
const QUEUE: usize = 1024;

/// While one statement runs, the next look-ups gather.
const LANES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_padded_to_a_power_of_two() {
        let lengths: Vec<usize> = (1..=9).map(|length| padded(&vec![7; length]).count()).collect();
        assert_eq!(lengths, [1, 2, 4, 4, 8, 8, 8, 8, 16]);
        assert_eq!(padded(&[1, 2, 3]).collect::<Vec<_>>(), [&1, &2, &3, &3]);
        assert_eq!(padded::<u8>(&[]).count(), 0);
    }
}
