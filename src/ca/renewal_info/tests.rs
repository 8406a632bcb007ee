//! Tests of what renewal information says, and when that changes.

use super::*;
use crate::ca::crl::{Crl, CrlSet};
use crate::ca::state::CrlRecord;

const ISSUED: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

fn subject() -> Subject {
    Subject {
        serial: "41:02".to_owned(),
        worker_id: WorkerId::new("streaming").unwrap(),
        issuer_digest: [1; 32],
        not_before: ISSUED,
        not_after: ISSUED + time::Duration::hours(10),
        issued_at: ISSUED,
    }
}

fn order(id: &str, after: time::Duration, conditions: &[&str]) -> RenewalOrder {
    RenewalOrder {
        id: id.to_owned(),
        selector: Selector::matching(conditions).unwrap(),
        explanation: format!("because of {id}"),
        actor: "operator".to_owned(),
        start: ISSUED + after,
        end: ISSUED + after + time::Duration::HOUR,
        created_at: ISSUED,
        expires_at: ISSUED + time::Duration::DAY,
        cancelled_at: None,
    }
}

fn known(orders: Vec<RenewalOrder>) -> Known {
    let mut known = Known::default();
    known.orders = orders;
    known
}

fn told(orders: Vec<RenewalOrder>) -> serde_json::Value {
    let known = known(orders);
    let info = RenewalInfo::new(&subject(), &known, &["sha256:00".to_owned()], Some("https://example.org/why"));
    serde_json::from_slice(&info.body).unwrap()
}

#[test]
fn without_order_it_is_the_last_part_of_the_life_and_no_page_explains_it() {
    let told = told(Vec::new());
    let expected = serde_json::json!({
        "suggestedWindow": { "start": "2026-08-20T19:00:00Z", "end": "2026-08-20T20:30:00Z" },
        "explanation": "the last part of the certificate's life",
        "serial": "41:02",
        "revoked": null,
        "crl": null,
        "roots": ["sha256:00"],
    });
    assert_eq!(told, expected);
}

#[test]
fn of_several_orders_the_first_to_begin_counts_and_none_delays() {
    let hours = time::Duration::hours;
    let orders = vec![
        order("late", hours(5), &["worker=stream*"]),
        order("early", hours(1), &["worker=streaming"]),
        order("other", hours(0), &["worker=billing"]),
    ];
    let early = told(orders);
    assert_eq!(early["explanation"], "because of early");
    assert_eq!(early["explanationURL"], "https://example.org/why");
    let start = early["suggestedWindow"]["start"].as_str().unwrap();
    assert!(("2026-08-20T13:00:00Z".."2026-08-20T14:00:00Z").contains(&start), "{start}");
    // An order for next week is none for a certificate that does not live so long.
    assert_eq!(told(vec![order("week", hours(168), &["worker=*"])])["explanation"], NOTHING_SPECIAL);
}

#[test]
fn an_order_is_for_what_was_issued_before_it() {
    let mut later = subject();
    later.issued_at = ISSUED + time::Duration::SECOND;
    let order = order("now", time::Duration::ZERO, &["worker=*"]);
    assert!(order.is_for(&subject()) && !order.is_for(&later));
}

#[test]
fn the_tag_is_the_same_while_what_it_says_is_the_same() {
    let tag = |known: &Known, roots: &[&str]| {
        let roots: Vec<String> = roots.iter().map(|root| (*root).to_owned()).collect();
        RenewalInfo::new(&subject(), known, &roots, None).etag
    };
    let nothing = Known::default();
    let first = tag(&nothing, &["a"]);
    let mut with_crl = Known::default();
    let record = CrlRecord { number: 1, revision: 1, this_update: ISSUED, next_update: ISSUED, der: vec![1] };
    with_crl.crls = CrlSet::new(vec![Crl::new([1; 32], record)]);
    assert_ne!(first, tag(&with_crl, &["a"]));
    assert_ne!(first, tag(&nothing, &["a", "b"]));
    let ordered = known(vec![order("x", time::Duration::ZERO, &["worker=*"])]);
    assert_ne!(first, tag(&ordered, &["a"]));
    let of_others = known(vec![order("x", time::Duration::ZERO, &["worker=other"])]);
    assert_eq!(first, tag(&of_others, &["a"]));
}

#[test]
fn asking_again_is_suggested_by_the_life_of_the_certificate() {
    let of = |hours| Subject { not_after: ISSUED + time::Duration::hours(hours), ..subject() }.retry_after();
    assert_eq!((of(0), of(10), of(24), of(24 * 365)), (60, 1500, 3600, 6 * 3600));
}
