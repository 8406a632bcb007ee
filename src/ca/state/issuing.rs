//! Owns the one transaction of many requests: keys, reservations, tokens, certificates and identities, each table with
//! one statement however many rows there are.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::QueryBuilder;

use super::backend::{OpenTransaction, Pool, on};
use super::certificates::{Issuance, IssuedWith, Recorded, Reservation, Reserved};
use super::writer::{Outcome, Write};
use super::{StateError, decisions, digest_from, failed, names_to_text};
use crate::identity::{SpiffeId, SubjectAltName, WorkerId};
use crate::printable::error_chain;

/// Writes all of them, or none and an error. When it returns they are on disk.
pub(super) async fn write(pool: &Pool, writes: &[Write]) -> Result<Vec<Outcome>, StateError> {
    let mut reservations = Vec::new();
    let mut issuances = Vec::new();
    let mut decided = Vec::new();
    for write in writes {
        match write {
            Write::Reserve(reservation, _) => {
                decided.extend(&reservation.decisions);
                reservations.push(&**reservation);
            }
            Write::Record(issuance, _) => issuances.push(&**issuance),
            Write::Decide(decisions, _) => decided.extend(decisions),
        }
    }
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = pool.begin().await?;
    decisions::insert(&mut transaction, &decided).await?;
    let mut reserved = reserve(&mut transaction, &reservations).await?.into_iter();
    let mut recorded = record(&mut transaction, &issuances).await?;
    transaction.commit().await?;
    refuse_revoked(pool, &issuances, &mut recorded).await;
    let mut recorded = recorded.into_iter();
    let outcome = |write: &Write| match write {
        Write::Reserve(..) => reserved.next().map(Outcome::Reserved),
        Write::Record(..) => recorded.next().map(Outcome::Recorded),
        Write::Decide(..) => Some(Outcome::Decided),
    };
    writes.iter().map(outcome).collect::<Option<Vec<_>>>().ok_or(StateError::Closed)
}

async fn reserve(
    transaction: &mut OpenTransaction,
    reservations: &[&Reservation],
) -> Result<Vec<Reserved>, StateError> {
    if reservations.is_empty() {
        return Ok(Vec::new());
    }
    let owners = own_keys(transaction, reservations).await?;
    let outcomes: Vec<Reserved> = reservations
        .iter()
        .map(|reservation| match owners.get(&reservation.key_digest) {
            Some(owner) if owner == owner_of(reservation) => Reserved::Done,
            _ => Reserved::KeyOfAnother,
        })
        .collect();
    let pairs = reservations.iter().zip(&outcomes);
    let done: Vec<&Reservation> =
        pairs.filter(|(_, outcome)| **outcome == Reserved::Done).map(|(reservation, _)| *reservation).collect();
    if done.is_empty() {
        return Ok(outcomes);
    }
    let mut rows = Vec::new();
    for reservation in &done {
        rows.push((*reservation, names_to_text(&reservation.names)?));
    }
    on!(OpenTransaction, transaction, transaction => {
        let mut query = QueryBuilder::new(
            "INSERT INTO certificates (serial, purpose, status, worker_id, names, not_before, not_after, key_digest, \
             issuer_digest, authentication, credential, source, decision_id, correlation_id, reserved_at) ",
        );
        query.push_values(rows, |mut row, (reservation, names)| {
            let worker_id = reservation.worker_id.as_ref().map(WorkerId::as_str);
            row.push_bind(&reservation.serial)
                .push_bind(if worker_id.is_some() { "worker" } else { "server" })
                .push("'reserved'")
                .push_bind(worker_id)
                .push_bind(names)
                .push_bind(reservation.not_before.unix_timestamp())
                .push_bind(reservation.not_after.unix_timestamp())
                .push_bind(&reservation.key_digest[..])
                .push_bind(&reservation.issuer_digest[..])
                .push_bind(reservation.authentication)
                .push_bind(&reservation.credential)
                .push_bind(&reservation.source)
                .push_bind(&reservation.decision_id)
                .push_bind(&reservation.correlation_id)
                .push_bind(reservation.at.unix_timestamp());
        });
        query.build().execute(&mut **transaction).await.map_err(failed("reserve a serial"))?;
    });
    record_names(transaction, &done).await?;
    Ok(outcomes)
}

/// The names by which a certificate would not be found otherwise.
async fn record_names(transaction: &mut OpenTransaction, reserved: &[&Reservation]) -> Result<(), StateError> {
    let rows: Vec<(String, &str)> = reserved
        .iter()
        .flat_map(|reservation| {
            let worker_id = reservation.worker_id.as_ref();
            let further = reservation.names.iter().filter(move |name| !follows_from(worker_id, name));
            further.map(|name| (name.to_string(), reservation.serial.as_str()))
        })
        .collect();
    // A database takes so many parameters for one statement and no more.
    for rows in rows.chunks(NAMES_AT_ONCE) {
        on!(OpenTransaction, transaction, transaction => {
            let mut query = QueryBuilder::new("INSERT INTO certificate_names (name, serial) ");
            query.push_values(rows, |mut row, (name, serial)| {
                row.push_bind(name).push_bind(*serial);
            });
            query.build().execute(&mut **transaction).await.map_err(failed("record a name"))?;
        });
    }
    Ok(())
}

/// Whether a certificate of this worker has the name in any case, and so is found by its worker.
pub(crate) fn follows_from(worker_id: Option<&WorkerId>, name: &SubjectAltName) -> bool {
    let Some(worker_id) = worker_id else { return false };
    match name {
        SubjectAltName::Dns(name) => name.as_str() == "localhost" || name.as_str() == worker_id.as_str(),
        SubjectAltName::Ip(_) => false,
        SubjectAltName::Uri(id) => worker_of(id) == Some(worker_id.as_str()),
    }
}

/// The worker whose SPIFFE id this is.
pub(super) fn worker_of(id: &SpiffeId) -> Option<&str> {
    let path = id.as_str().strip_prefix("spiffe://")?;
    path.split_once("/worker/").map(|(_, worker)| worker)
}

const NAMES_AT_ONCE: usize = 500;

/// Whose each key is, with those that were nobody's given to who asks first.
async fn own_keys(
    transaction: &mut OpenTransaction,
    reservations: &[&Reservation],
) -> Result<BTreeMap<[u8; 32], String>, StateError> {
    // In one order, so that two replicas that write the same keys wait for each other and do not lock each other out.
    let mut first: BTreeMap<[u8; 32], &str> = BTreeMap::new();
    for reservation in reservations {
        first.entry(reservation.key_digest).or_insert_with(|| owner_of(reservation));
    }
    on!(OpenTransaction, transaction, transaction => {
        let mut insert = new_keys(&first);
        insert.push(" ON CONFLICT (key_digest) DO NOTHING");
        let done = insert.build().execute(&mut **transaction).await.map_err(failed("record a key"))?;
        // As agents make a key for each certificate, that is nearly always all, and there is nothing to read.
        if done.rows_affected() == first.len() as u64 {
            return Ok(first.into_iter().map(|(digest, owner)| (digest, owner.to_owned())).collect());
        }
        let mut update = new_keys(&first);
        // An update that changes nothing keeps the row from being forgotten until this transaction has ended.
        update.push(" ON CONFLICT (key_digest) DO UPDATE SET owner = keys.owner RETURNING key_digest, owner");
        let rows: Vec<(Vec<u8>, String)> =
            update.build_query_as().fetch_all(&mut **transaction).await.map_err(failed("record a key"))?;
        rows.into_iter().map(|(digest, owner)| Ok((digest_from(&digest)?, owner))).collect()
    })
}

fn new_keys<'q, DB: sqlx::Database>(owners: &BTreeMap<[u8; 32], &'q str>) -> QueryBuilder<DB>
where
    DB::Arguments: Default,
    Vec<u8>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    &'q str: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    let mut insert = QueryBuilder::new("INSERT INTO keys (key_digest, owner) ");
    insert.push_values(owners, |mut row, (digest, owner)| {
        row.push_bind(digest.to_vec()).push_bind(*owner);
    });
    insert
}

/// The owner of a key; the CA itself has no name.
fn owner_of(reservation: &Reservation) -> &str {
    reservation.worker_id.as_ref().map_or("", WorkerId::as_str)
}

async fn record(transaction: &mut OpenTransaction, issuances: &[&Issuance]) -> Result<Vec<Recorded>, StateError> {
    if issuances.is_empty() {
        return Ok(Vec::new());
    }
    let tokens_used = use_tokens(transaction, issuances).await?;
    let good: Vec<&Issuance> = issuances
        .iter()
        .copied()
        .filter(|issuance| issuance.token().is_none() || tokens_used.contains(&issuance.serial))
        .collect();
    if !good.is_empty() {
        record_certificates(transaction, &good).await?;
        record_identities(transaction, &good).await?;
    }
    let outcome = |issuance: &&Issuance| match issuance.token() {
        Some(_) if !tokens_used.contains(&issuance.serial) => Recorded::TokenGone,
        _ => Recorded::Done,
    };
    Ok(issuances.iter().map(outcome).collect())
}

/// Whoever revokes all certificates of a worker sees what has been recorded by then; what is recorded later finds here,
/// after it is on disk, that the certificate it was asked with is revoked.
async fn refuse_revoked(pool: &Pool, issuances: &[&Issuance], outcomes: &mut [Recorded]) {
    let shown: BTreeSet<&str> = issuances.iter().filter_map(|issuance| issuance.certificate()).collect();
    if shown.is_empty() {
        return;
    }
    let revoked = revoked_among(pool, &shown).await;
    if let Err(error) = &revoked {
        tracing::error!(error = error_chain(error), "cannot look whether certificates were revoked meanwhile");
    }
    for (issuance, outcome) in issuances.iter().zip(outcomes) {
        match (issuance.certificate(), &revoked) {
            (None, _) => {}
            (Some(serial), Ok(revoked)) if !revoked.contains(serial) => {}
            (Some(_), Ok(_)) => *outcome = Recorded::CertificateRevoked,
            (Some(_), Err(_)) => *outcome = Recorded::Unchecked,
        }
    }
}

async fn revoked_among(pool: &Pool, serials: &BTreeSet<&str>) -> Result<BTreeSet<String>, StateError> {
    let rows: Vec<(String,)> = on!(Pool, pool, pool => {
        let mut select = QueryBuilder::new("SELECT serial FROM revocations WHERE serial IN (");
        let mut list = select.separated(", ");
        for serial in serials {
            list.push_bind(*serial);
        }
        list.push_unseparated(")");
        select.build_query_as().fetch_all(pool).await.map_err(failed("look up revocations"))?
    });
    Ok(rows.into_iter().map(|(serial,)| serial).collect())
}

impl Issuance {
    fn token(&self) -> Option<&str> {
        match &self.credential {
            IssuedWith::Token(id) => Some(id),
            IssuedWith::Certificate(_) | IssuedWith::Nothing => None,
        }
    }

    fn certificate(&self) -> Option<&str> {
        match &self.credential {
            IssuedWith::Certificate(serial) => Some(serial),
            IssuedWith::Token(_) | IssuedWith::Nothing => None,
        }
    }
}

/// Uses up the tokens. Returns the serials whose token was still good.
async fn use_tokens(
    transaction: &mut OpenTransaction,
    issuances: &[&Issuance],
) -> Result<BTreeSet<String>, StateError> {
    // Each token for the first that comes with it; ordered as keys are.
    let mut first: BTreeMap<&str, &Issuance> = BTreeMap::new();
    for issuance in issuances {
        if let Some(token) = issuance.token() {
            first.entry(token).or_insert(issuance);
        }
    }
    if first.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows: Vec<(String,)> = on!(OpenTransaction, transaction, transaction => {
        let mut query = QueryBuilder::new("WITH used (id, serial, now) AS (");
        query.push_values(&first, |mut row, (id, issuance)| {
            row.push_bind(*id).push_bind(&issuance.serial).push_bind(issuance.now.unix_timestamp());
        });
        query.push(
            ") UPDATE tokens SET used_at = used.now, used_serial = used.serial FROM used WHERE tokens.id = used.id \
             AND tokens.used_at IS NULL AND tokens.revoked_at IS NULL AND tokens.expires_at > used.now \
             RETURNING used_serial",
        );
        query.build_query_as().fetch_all(&mut **transaction).await.map_err(failed("use a token"))?
    });
    Ok(rows.into_iter().map(|(serial,)| serial).collect())
}

async fn record_certificates(transaction: &mut OpenTransaction, issuances: &[&Issuance]) -> Result<(), StateError> {
    let serials: BTreeSet<&str> = issuances.iter().map(|issuance| issuance.serial.as_str()).collect();
    let recorded = on!(OpenTransaction, transaction, transaction => {
        let mut query = QueryBuilder::new("WITH signed (serial, der, now) AS (");
        query.push_values(issuances, |mut row, issuance| {
            row.push_bind(&issuance.serial).push_bind(&issuance.der[..]).push_bind(issuance.now.unix_timestamp());
        });
        query.push(
            ") UPDATE certificates SET status = 'issued', der = signed.der, issued_at = signed.now FROM signed \
             WHERE certificates.serial = signed.serial AND certificates.status = 'reserved'",
        );
        let done = query.build().execute(&mut **transaction).await.map_err(failed("record a certificate"))?;
        done.rows_affected()
    });
    // All of them, each once: a certificate without its reservation is not sent.
    if recorded != issuances.len() as u64 || serials.len() != issuances.len() {
        return Err(StateError::Corrupt { what: "a reservation" });
    }
    Ok(())
}

async fn record_identities(transaction: &mut OpenTransaction, issuances: &[&Issuance]) -> Result<(), StateError> {
    // A statement may touch a row only once: of a worker's certificates the last, with how many there are.
    let mut last: BTreeMap<&str, (&Issuance, i64)> = BTreeMap::new();
    for issuance in issuances {
        if let Some(worker_id) = &issuance.worker_id {
            let entry = last.entry(worker_id.as_str()).or_insert((issuance, 0));
            *entry = (issuance, entry.1 + 1);
        }
    }
    if last.is_empty() {
        return Ok(());
    }
    on!(OpenTransaction, transaction, transaction => {
        let mut query = QueryBuilder::new(
            "INSERT INTO identities (worker_id, first_issued_at, last_issued_at, last_serial, last_not_after, \
             certificates) ",
        );
        query.push_values(last, |mut row, (worker_id, (issuance, certificates))| {
            row.push_bind(worker_id)
                .push_bind(issuance.now.unix_timestamp())
                .push_bind(issuance.now.unix_timestamp())
                .push_bind(&issuance.serial)
                .push_bind(issuance.not_after.unix_timestamp())
                .push_bind(certificates);
        });
        query.push(
            " ON CONFLICT (worker_id) DO UPDATE SET last_issued_at = excluded.last_issued_at, \
             last_serial = excluded.last_serial, last_not_after = excluded.last_not_after, \
             certificates = identities.certificates + excluded.certificates",
        );
        query.build().execute(&mut **transaction).await.map_err(failed("record an identity"))?;
    });
    Ok(())
}
