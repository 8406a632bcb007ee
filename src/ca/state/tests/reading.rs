//! Tests of looking into the record, and of forgetting.

use super::*;
use crate::ca::records::{CertificateQuery, CertificateStatus, DecisionQuery, Order, Position};
use crate::policy::Decision;

const DAY: time::Duration = time::Duration::DAY;

on_both!(
    a_certificate_is_found_by_every_name_it_has_and_no_other,
    patterns_prefixes_and_times_narrow_the_list,
    every_row_is_seen_once_page_by_page,
    renewals_are_found_and_workers_are_told,
    what_is_over_is_forgotten_and_nothing_else,
    a_key_is_free_again_when_its_last_certificate_is_forgotten,
    a_denial_lasts_as_long_as_the_retention_and_what_was_allowed_longer,
    a_record_that_fits_has_no_problems_and_a_broken_one_is_told,
);

/// A certificate of `worker` with further names, from `at` for `life`.
async fn issue(state: &State, serial: &str, owner: &str, names: &[&str], at: OffsetDateTime, life: time::Duration) {
    let key = crate::crypto::sha256(serial.as_bytes());
    let own = crate::identity::TrustDomain::new("crank.local").unwrap().worker(&worker(owner));
    let mut all: BTreeSet<SubjectAltName> = names.iter().map(|name| name.parse().unwrap()).collect();
    all.extend([SubjectAltName::Uri(own), "localhost".parse().unwrap(), owner.parse().unwrap()]);
    let decision = Decision::allow("own names only");
    let decisions = vec![DecisionRecord::new("can_issue_certificate", &decision, &worker(owner), "req_1", at)];
    let reservation = Reservation {
        names: all,
        key_digest: key,
        not_before: at,
        not_after: at + life,
        at,
        decision_id: decision.id.clone(),
        decisions,
        ..reservation(serial, Some(owner), 0)
    };
    assert_eq!(state.reserve(reservation).await.unwrap(), Reserved::Done);
    let issuance =
        Issuance { worker_id: Some(worker(owner)), not_after: at + life, ..issuance(serial, b"der", None, at) };
    assert_eq!(state.record_issued(issuance).await.unwrap(), Recorded::Done);
}

async fn execute(state: &State, sql: &'static str) {
    on!(Pool, &state.writer, pool => sqlx::query(sql).execute(pool).await.map(drop)).unwrap();
}

async fn serials(state: &State, query: CertificateQuery) -> Vec<String> {
    let page = state.certificates(&query, None, NOW, 100).await.unwrap();
    page.records.into_iter().map(|record| record.serial).collect()
}

async fn a_certificate_is_found_by_every_name_it_has_and_no_other(place: &Place) {
    let state = place.open().await;
    issue(&state, "01", "streaming", &["a-b.example", "10.0.0.7"], NOW, DAY).await;
    issue(&state, "02", "other", &["streaming", "axb.example"], NOW + time::Duration::SECOND, DAY).await;
    let own = crate::identity::SpiffeId::new("spiffe://crank.local/worker/streaming").unwrap();
    let foreign = crate::identity::SpiffeId::new("spiffe://other.local/worker/streaming").unwrap();
    let find = async |name: SubjectAltName| {
        serials(&state, CertificateQuery { name: Some(name), ..CertificateQuery::default() }).await
    };
    assert_eq!(find("a-b.example".parse().unwrap()).await, ["01"]);
    assert_eq!(find("10.0.0.7".parse().unwrap()).await, ["01"]);
    // A name of one is the worker id of the other.
    assert_eq!(find("streaming".parse().unwrap()).await, ["02", "01"]);
    assert_eq!(find("localhost".parse().unwrap()).await, ["02", "01"]);
    assert_eq!(find(SubjectAltName::Uri(own)).await, ["01"]);
    assert_eq!(find(SubjectAltName::Uri(foreign)).await, [""; 0]);
    assert_eq!(find("b.example".parse().unwrap()).await, [""; 0]);
}

async fn patterns_prefixes_and_times_narrow_the_list(place: &Place) {
    let state = place.open().await;
    issue(&state, "4a:01", "payments-a", &[], NOW - 3 * DAY, DAY).await;
    issue(&state, "4a:02", "payments-b", &[], NOW - 2 * DAY, 9 * DAY).await;
    issue(&state, "4b:01", "payment", &[], NOW - DAY, 2 * DAY).await;
    state.reserve(reservation("4c:01", Some("payment"), 9)).await.unwrap();
    execute(
        &state,
        "INSERT INTO revocations (serial, issuer_digest, reason, actor, decision_id, correlation_id, not_after, \
         revoked_at, revision) SELECT serial, issuer_digest, 1, 'operator', '', '', not_after, 0, 0 FROM certificates \
         WHERE serial = '4a:02'",
    )
    .await;
    let all = CertificateQuery::default;
    let by_worker = async |pattern: &str| {
        serials(&state, CertificateQuery { worker: Some(pattern.parse().unwrap()), ..all() }).await
    };
    assert_eq!(by_worker("payments-*").await, ["4a:02", "4a:01"]);
    assert_eq!(by_worker("payment").await, ["4c:01", "4b:01"]);
    assert_eq!(by_worker("*-b").await, ["4a:02"]);
    let by_serial =
        async |prefix: &str| serials(&state, CertificateQuery { serial: Some(prefix.parse().unwrap()), ..all() }).await;
    assert_eq!(by_serial("4A").await, ["4a:02", "4a:01"]);
    assert_eq!(by_serial("4a02").await, ["4a:02"]);
    assert_eq!(by_serial("4a:0").await, ["4a:02", "4a:01"]);
    let by_status = async |status| serials(&state, CertificateQuery { status: Some(status), ..all() }).await;
    assert_eq!(by_status(CertificateStatus::Valid).await, ["4b:01"]);
    assert_eq!(by_status(CertificateStatus::Expired).await, ["4a:01"]);
    assert_eq!(by_status(CertificateStatus::Revoked).await, ["4a:02"]);
    assert_eq!(by_status(CertificateStatus::Reserved).await, ["4c:01"]);
    let since = serials(&state, CertificateQuery { issued_since: Some(NOW - DAY), ..all() }).await;
    assert_eq!(since, ["4c:01", "4b:01"]);
    let ending = CertificateQuery { ending_before: Some(NOW + DAY), order: Order::EndingFirst, ..all() };
    assert_eq!(serials(&state, ending).await, ["4a:01", "4b:01", "4c:01"]);
    let credential = CertificateQuery { credential: Some("' OR 1=1".to_owned()), ..all() };
    assert_eq!(serials(&state, credential).await, [""; 0]);
}

async fn every_row_is_seen_once_page_by_page(place: &Place) {
    let state = place.open().await;
    for number in 0..23_i64 {
        // Some at the same second.
        issue(&state, &format!("{number:02x}"), "streaming", &[], NOW + time::Duration::seconds(number / 4), DAY).await;
    }
    for order in [Order::NewestFirst, Order::OldestFirst, Order::EndingFirst] {
        let query = CertificateQuery { order, ..CertificateQuery::default() };
        let mut seen = Vec::new();
        let mut after: Option<Position> = None;
        loop {
            let page = state.certificates(&query, after.as_ref(), NOW, 5).await.unwrap();
            seen.extend(page.records.into_iter().map(|record| (record.reserved_at, record.serial)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut expected = seen.clone();
        expected.sort();
        expected.dedup();
        if order == Order::NewestFirst {
            expected.reverse();
        }
        assert_eq!(seen, expected, "{order:?}");
        assert_eq!(seen.len(), 23);
    }
    let mut decisions = BTreeSet::new();
    let mut after = None;
    loop {
        let page = state.decisions(&DecisionQuery::default(), after.as_ref(), 7).await.unwrap();
        decisions.extend(page.records.into_iter().map(|record| record.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(decisions.len(), 23);
}

async fn renewals_are_found_and_workers_are_told(place: &Place) {
    let state = place.open().await;
    issue(&state, "01", "streaming", &[], NOW, DAY).await;
    let renewal = Reservation {
        authentication: "certificate",
        credential: "01".to_owned(),
        ..reservation("02", Some("streaming"), 2)
    };
    state.reserve(renewal).await.unwrap();
    state.record_issued(issuance("02", b"der", None, NOW)).await.unwrap();
    let found = state.renewals_of(&worker("streaming"), "01", NOW, 5).await.unwrap();
    assert_eq!(found.iter().map(|record| record.serial.as_str()).collect::<Vec<_>>(), ["02"]);
    assert_eq!(state.renewals_of(&worker("other"), "01", NOW, 5).await.unwrap(), []);
    let identities = state.identities(None, None, NOW, 5).await.unwrap().records;
    assert_eq!((identities.len(), identities[0].certificates, identities[0].last_serial.as_str()), (1, 2, "02"));
    assert_eq!(state.certificate("03", NOW).await.unwrap(), None);
    let whole = state.certificate("01", NOW).await.unwrap().unwrap();
    assert!(whole.pem.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

async fn forget_all(state: &State, cutoff: OffsetDateTime) -> Forgotten {
    let mut all = Forgotten::default();
    loop {
        let forgotten = state.forget_some(cutoff, cutoff - 365 * DAY).await.unwrap();
        if forgotten.total() == 0 {
            return all;
        }
        all = all.plus(forgotten);
    }
}

async fn what_is_over_is_forgotten_and_nothing_else(place: &Place) {
    let state = place.open().await;
    let second = time::Duration::SECOND;
    // Ends right before, at and after the time that counts; and one of a worker that has nothing else.
    for (serial, end) in [("01", -second), ("02", time::Duration::ZERO), ("03", second)] {
        issue(&state, serial, "streaming", &["a.example"], NOW - DAY, DAY + end).await;
    }
    issue(&state, "04", "gone", &[], NOW - DAY, DAY - second).await;
    issue(&state, "06", "streaming", &["a.example"], NOW - DAY, DAY - second).await;
    for (id, end) in [("t1", -second), ("t2", time::Duration::ZERO)] {
        let token = NewToken { created_at: NOW - DAY, expires_at: NOW + end, ..new_token(id) };
        state.add_token(&token).await.unwrap();
    }
    for statement in [
        "INSERT INTO revocations (serial, issuer_digest, reason, actor, decision_id, correlation_id, not_after, \
         revoked_at, revision) SELECT serial, issuer_digest, 1, 'operator', '', '', not_after, 0, 0 FROM certificates \
         WHERE serial > '01' AND serial <> '04'",
        "INSERT INTO revocations (serial, issuer_digest, reason, actor, decision_id, correlation_id, not_after, \
         revoked_at, revision) SELECT '05', issuer_digest, 1, 'operator', '', '', 1, 0, 0 FROM certificates \
         WHERE serial = '01'",
    ] {
        execute(&state, statement).await;
    }
    let forgotten = forget_all(&state, NOW).await;
    // The worker that is gone, and the revocation of a certificate that was never there.
    assert_eq!((forgotten.certificates, forgotten.tokens, forgotten.others), (2, 1, 2));
    // The last is revoked, and known until it has been on a CRL.
    assert_eq!(serials(&state, CertificateQuery::default()).await, ["06", "03", "02"]);
    let counts = state.counts().await.unwrap();
    assert_eq!((counts.identities, counts.tokens, counts.decisions, counts.revocations), (1, 1, 3, 3));
    assert_eq!(state.count_names().await.unwrap(), 3);
    assert_eq!(forget_all(&state, NOW).await, Forgotten::default());
    assert_eq!(forget_all(&state, NOW + 61 * DAY).await.certificates, 3);
    assert_eq!(state.count_names().await.unwrap(), 0);
}

async fn a_key_is_free_again_when_its_last_certificate_is_forgotten(place: &Place) {
    let state = place.open().await;
    for (serial, end) in [("01", NOW - DAY), ("02", NOW + DAY)] {
        let reservation = Reservation { not_after: end, ..reservation(serial, Some("a"), 1) };
        state.reserve(reservation).await.unwrap();
    }
    let by_another = async |serial: &str| state.reserve(reservation(serial, Some("b"), 1)).await.unwrap();
    forget_all(&state, NOW).await;
    assert_eq!(by_another("03").await, Reserved::KeyOfAnother);
    forget_all(&state, NOW + 2 * DAY).await;
    assert_eq!(by_another("04").await, Reserved::Done);
}

async fn a_denial_lasts_as_long_as_the_retention_and_what_was_allowed_longer(place: &Place) {
    let state = place.open().await;
    let record = |decision: Decision, at| DecisionRecord::new("revoke_certificate", &decision, &worker("a"), "req", at);
    let decisions = vec![
        record(Decision::deny("old"), NOW - DAY),
        record(Decision::deny("new"), NOW),
        record(Decision::allow("old"), NOW - 366 * DAY),
        record(Decision::allow("new"), NOW - DAY),
    ];
    state.record_decisions(decisions).await.unwrap();
    assert_eq!(forget_all(&state, NOW).await.decisions, 2);
    let left = state.decisions(&DecisionQuery::default(), None, 9).await.unwrap().records;
    assert!(left.iter().all(|decision| decision.reason == "new") && left.len() == 2);
    let denied = DecisionQuery { denied: true, ..DecisionQuery::default() };
    assert_eq!(state.decisions(&denied, None, 9).await.unwrap().records.len(), 1);
}

async fn a_record_that_fits_has_no_problems_and_a_broken_one_is_told(place: &Place) {
    let state = place.open().await;
    state.add_token(&new_token("t1")).await.unwrap();
    issue(&state, "01", "streaming", &["a.example"], NOW, DAY).await;
    issue(&state, "02", "other", &[], NOW, DAY).await;
    let own = Reservation { decision_id: String::new(), ..reservation("03", None, 3) };
    state.reserve(own).await.unwrap();
    assert_eq!(state.problems().await.unwrap(), [""; 0]);
    for (statement, told) in [
        ("UPDATE keys SET owner = 'other'", "01 is of a key that its worker does not own"),
        (
            "UPDATE tokens SET used_at = 1, used_serial = '02'",
            "t1 was used for a certificate that is not of its worker",
        ),
        ("UPDATE decisions SET outcome = 'deny'", "01 was issued without a decision that allows it"),
        ("UPDATE identities SET last_serial = '02', last_not_after = 1 WHERE worker_id = 'streaming'", "not its own"),
        ("DELETE FROM identities WHERE worker_id = 'other'", "02 is of a worker that is not known"),
        ("INSERT INTO certificate_names (name, serial) VALUES ('DNS:a', '09')", "09 has names and no certificate"),
    ] {
        execute(&state, statement).await;
        let problems = state.problems().await.unwrap();
        assert!(problems.iter().any(|problem| problem.contains(told)), "{told}: {problems:?}");
    }
}
