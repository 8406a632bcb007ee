//! Tests of the record on a real `SQLite` file and a real `PostgreSQL` server.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::identity::WorkerId;
use crate::identity::bundle::certificates_to_pem;
use crate::testing::{TestCa, identity};

mod grouping;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;
mod standing;

use grouping::{
    a_batch_of_many_is_one_transaction_and_one_look_up,
    a_renewal_with_a_certificate_that_was_revoked_meanwhile_is_told_so,
    many_look_ups_at_once_each_get_their_own_answer,
};
use postgres::{PASSWORD, Postgres};
use standing::{
    a_crl_has_what_is_needed_and_old_ones_are_forgotten, a_number_is_on_one_crl_whoever_signs,
    certificates_in_force_are_listed_page_by_page, changes_are_counted_and_read_from_where_one_left_off,
    orders_in_force_are_counted_and_taken_back, the_first_revocation_stays_and_takes_the_key_along,
};

const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn new_token(id: &str) -> NewToken {
    NewToken {
        id: id.to_owned(),
        digest: crate::crypto::sha256(id.as_bytes()),
        worker_id: worker("streaming"),
        names: BTreeSet::from(["a.b".parse().unwrap(), "10.0.0.7".parse().unwrap()]),
        created_at: NOW,
        expires_at: NOW + time::Duration::minutes(10),
    }
}

fn reservation(serial: &str, owner: Option<&str>, key: u8) -> Reservation {
    Reservation {
        serial: serial.to_owned(),
        worker_id: owner.map(worker),
        names: BTreeSet::from(["streaming".parse().unwrap()]),
        not_before: NOW,
        not_after: NOW + time::Duration::days(1),
        key_digest: [key; 32],
        issuer_digest: [0; 32],
        authentication: "token",
        credential: "t1".to_owned(),
        source: "192.0.2.1:4711".to_owned(),
        decision_id: "dec_1".to_owned(),
        decisions: Vec::new(),
        correlation_id: "req_1".to_owned(),
        at: NOW,
    }
}

fn issuance(serial: &str, der: &[u8], token: Option<&str>, now: OffsetDateTime) -> Issuance {
    Issuance {
        serial: serial.to_owned(),
        worker_id: Some(worker("streaming")),
        not_after: NOW + time::Duration::days(1),
        der: der.to_vec(),
        credential: token.map_or(IssuedWith::Nothing, |id| IssuedWith::Token(id.to_owned())),
        now,
    }
}

/// Where one test keeps its record.
struct Place {
    directory: TempDir,
    database: Database,
}

impl Place {
    fn sqlite() -> Self {
        Self { directory: TempDir::new().unwrap(), database: Database::Sqlite }
    }

    fn postgres(server: &Postgres, name: &str) -> Self {
        server.create_database(name);
        let url = server.url(name);
        let server = PostgresServer { url, password_file: None, root_file: None, max_connections: 4 };
        Self { directory: TempDir::new().unwrap(), database: Database::Postgres(server) }
    }

    async fn open(&self) -> State {
        State::open(self.directory.path(), &self.database).await.unwrap()
    }
}

/// Each of these on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            use super::Place;
            $(#[tokio::test]
            async fn $test() {
                super::$test(&Place::sqlite()).await;
            })+
        }

        #[tokio::test]
        #[ignore = "needs postgres"]
        async fn postgres_keeps_what_sqlite_keeps() {
            let server = Postgres::start();
            $(
                eprintln!(stringify!($test));
                $test(&Place::postgres(&server, stringify!($test))).await;
            )+
        }
    };
}

mod reading;

on_both!(
    tokens_and_certificates_survive_reopening,
    a_token_is_used_once_and_a_second_certificate_is_not_recorded,
    a_lapsed_or_revoked_token_records_nothing,
    a_key_stays_with_its_first_owner,
    a_serial_is_reserved_once,
    of_many_at_once_each_gets_its_own_outcome,
    one_bad_row_does_not_fail_the_others,
    the_first_revocation_stays_and_takes_the_key_along,
    changes_are_counted_and_read_from_where_one_left_off,
    a_number_is_on_one_crl_whoever_signs,
    a_crl_has_what_is_needed_and_old_ones_are_forgotten,
    orders_in_force_are_counted_and_taken_back,
    certificates_in_force_are_listed_page_by_page,
    a_batch_of_many_is_one_transaction_and_one_look_up,
    a_renewal_with_a_certificate_that_was_revoked_meanwhile_is_told_so,
    many_look_ups_at_once_each_get_their_own_answer,
);

async fn tokens_and_certificates_survive_reopening(place: &Place) {
    let state = place.open().await;
    state.add_token(&new_token("t1")).await.unwrap();
    state.reserve(reservation("01", Some("streaming"), 1)).await.unwrap();
    assert_eq!(state.issued("01").await.unwrap(), None);
    let used = state.record_issued(issuance("01", b"der", Some("t1"), NOW)).await.unwrap();
    assert_eq!(used, Recorded::Done);
    state.close().await;

    let state = place.open().await;
    let token = state.token(&new_token("t1").digest).await.unwrap().unwrap();
    assert_eq!((token.used_at, token.used_serial.as_deref()), (Some(NOW), Some("01")));
    assert_eq!(token.names, new_token("t1").names);
    let certificate = state.issued("01").await.unwrap().unwrap();
    assert_eq!(certificate.worker_id, Some(worker("streaming")));
    assert_eq!(certificate.der, b"der");
    assert_eq!(state.issued_count().await.unwrap(), 1);
}

async fn a_token_is_used_once_and_a_second_certificate_is_not_recorded(place: &Place) {
    let state = place.open().await;
    state.add_token(&new_token("t1")).await.unwrap();
    for serial in ["01", "02"] {
        state.reserve(reservation(serial, Some("streaming"), 1)).await.unwrap();
    }
    let token = Some("t1");
    assert_eq!(state.record_issued(issuance("01", b"one", token, NOW)).await.unwrap(), Recorded::Done);
    assert_eq!(state.record_issued(issuance("02", b"two", token, NOW)).await.unwrap(), Recorded::TokenGone);
    assert_eq!(state.issued("02").await.unwrap(), None);
}

async fn a_lapsed_or_revoked_token_records_nothing(place: &Place) {
    let state = place.open().await;
    state.add_token(&new_token("t1")).await.unwrap();
    state.add_token(&new_token("t2")).await.unwrap();
    assert!(state.revoke_token("t2", NOW).await.unwrap());
    assert!(!state.revoke_token("t2", NOW).await.unwrap());
    state.reserve(reservation("01", Some("streaming"), 1)).await.unwrap();
    let lapsed = NOW + time::Duration::minutes(10);
    for (id, at) in [("t1", lapsed), ("t2", NOW), ("unknown", NOW)] {
        let recorded = state.record_issued(issuance("01", b"der", Some(id), at)).await.unwrap();
        assert_eq!(recorded, Recorded::TokenGone, "{id}");
    }
    assert_eq!(state.issued_count().await.unwrap(), 0);
    // What failed after authentication has not burned the token.
    let recorded = state.record_issued(issuance("01", b"der", Some("t1"), NOW)).await.unwrap();
    assert_eq!(recorded, Recorded::Done);
}

async fn a_key_stays_with_its_first_owner(place: &Place) {
    let state = place.open().await;
    let reserve = async |serial: &str, owner, key| state.reserve(reservation(serial, owner, key)).await.unwrap();
    assert_eq!(reserve("01", Some("a"), 1).await, Reserved::Done);
    assert_eq!(reserve("02", Some("a"), 1).await, Reserved::Done);
    assert_eq!(reserve("03", Some("b"), 1).await, Reserved::KeyOfAnother);
    assert_eq!(reserve("04", None, 2).await, Reserved::Done);
    assert_eq!(reserve("05", Some("a"), 2).await, Reserved::KeyOfAnother);
}

async fn of_many_at_once_each_gets_its_own_outcome(place: &Place) {
    let state = place.open().await;
    for id in ["t0", "t1", "t2"] {
        state.add_token(&new_token(id)).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60_u8 {
        let state = state.clone();
        tasks.spawn(async move {
            let serial = format!("{number:02x}");
            // Three in a row share a key, and the last of each three is somebody else.
            let owner = if number % 3 == 2 { "other" } else { "streaming" };
            let reserved = state.reserve(reservation(&serial, Some(owner), number / 3)).await.unwrap();
            let token = format!("t{}", number % 4);
            let recorded = match reserved {
                Reserved::Done => {
                    Some(state.record_issued(issuance(&serial, b"der", Some(&token), NOW)).await.unwrap())
                }
                Reserved::KeyOfAnother => None,
            };
            (number, owner, token, reserved, recorded)
        });
    }
    let outcomes = tasks.join_all().await;
    for key in 0..20 {
        let owners: BTreeSet<&str> = outcomes
            .iter()
            .filter(|(number, _, _, reserved, _)| number / 3 == key && *reserved == Reserved::Done)
            .map(|(_, owner, ..)| *owner)
            .collect();
        assert_eq!(owners.len(), 1, "key {key}");
    }
    for id in ["t0", "t1", "t2"] {
        let used =
            outcomes.iter().filter(|(_, _, token, _, recorded)| token == id && *recorded == Some(Recorded::Done));
        assert_eq!(used.count(), 1, "{id}");
    }
    assert_eq!(state.issued_count().await.unwrap(), 3);
}

async fn one_bad_row_does_not_fail_the_others(place: &Place) {
    let state = place.open().await;
    state.reserve(reservation("00", Some("streaming"), 0)).await.unwrap();
    let reserve = |number: u8| {
        let state = state.clone();
        let serial = format!("{number:02x}");
        async move { (number, state.reserve(reservation(&serial, Some("streaming"), number)).await) }
    };
    // The serial of the first is taken.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..30 {
        tasks.spawn(reserve(number));
    }
    for (number, outcome) in tasks.join_all().await {
        assert_eq!(outcome.is_ok(), number != 0, "{number}: {outcome:?}");
    }
}

async fn a_serial_is_reserved_once(place: &Place) {
    let state = place.open().await;
    state.reserve(reservation("01", Some("a"), 1)).await.unwrap();
    assert!(state.reserve(reservation("01", Some("a"), 1)).await.is_err());
    state.record_issued(issuance("01", b"der", None, NOW)).await.unwrap();
    assert!(state.record_issued(issuance("01", b"other", None, NOW)).await.is_err());
}

#[tokio::test]
async fn processes_that_open_a_fresh_database_at_once_all_succeed() {
    let directory = TempDir::new().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let path = directory.path().to_owned();
        tasks.spawn(async move { State::open(&path, &Database::Sqlite).await.is_ok() });
    }
    assert!(tasks.join_all().await.into_iter().all(|opened| opened));
}

#[tokio::test]
async fn a_database_open_to_others_is_refused() {
    let directory = TempDir::new().unwrap();
    State::open(directory.path(), &Database::Sqlite).await.unwrap().close().await;
    let path = directory.path().join("ca.sqlite3");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(State::open(directory.path(), &Database::Sqlite).await, Err(StateError::File(_))));
}

#[tokio::test]
async fn the_file_is_private() {
    let place = Place::sqlite();
    place.open().await;
    let mode = std::fs::metadata(place.directory.path().join("ca.sqlite3")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_server_on_the_network_is_verified_before_it_gets_the_password() {
    let (ours, other) = (TestCa::new(), TestCa::new());
    let bundle = ours.bundle(&identity("database"), OffsetDateTime::now_utc(), Duration::from_hours(1));
    let server = Postgres::start_with_tls(&bundle.chain_pem(), &bundle.key_pem().unwrap());
    server.create_database("mesh");
    let directory = TempDir::new().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let root_file = write("roots.pem", &certificates_to_pem(&ours.roots()));
    let other_roots = write("other.pem", &certificates_to_pem(&other.roots()));
    let password_file = write("password", &format!("{PASSWORD}\n"));
    let wrong_password = write("wrong", "sardine");
    let open = async |url: String, root_file: &Path, password_file: &Path| {
        let server = PostgresServer {
            url,
            password_file: Some(password_file.to_owned()),
            root_file: Some(root_file.to_owned()),
            max_connections: 2,
        };
        let opened = State::open(directory.path(), &Database::Postgres(server)).await;
        opened.map_err(|error| crate::printable::error_chain(&error))
    };
    let url = server.network_url("mesh");
    let state = open(url.clone(), &root_file, &password_file).await.unwrap();
    state.add_token(&new_token("t1")).await.unwrap();
    assert!(state.is_alive().await);
    let error = open(url.clone(), &other_roots, &password_file).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    // A name that the certificate does not have.
    let error = open(url.replace("localhost", "127.0.0.1"), &root_file, &password_file).await.unwrap_err();
    assert!(error.contains("certificate") && !error.contains(PASSWORD), "{error}");
    // The group may read it, others may not.
    let mode = |mode| std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o440);
    drop(open(url.clone(), &root_file, &password_file).await.unwrap());
    mode(0o604);
    let error = open(url.clone(), &root_file, &password_file).await.unwrap_err();
    assert!(error.contains("open to other users"), "{error}");
    let error = open(url, &root_file, &wrong_password).await.unwrap_err();
    assert!(error.contains("password") && !error.contains("sardine"), "{error}");
}
