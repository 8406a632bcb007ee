//! Tests of the record of revocations, CRLs and orders.

use std::collections::BTreeSet;

use super::*;
use crate::ca::renewal_info::{RenewalOrder, Selector};
use crate::policy::RevocationReason;

const DAY: time::Duration = time::Duration::DAY;

async fn issue(state: &State, serial: &str, key: u8) {
    assert_eq!(state.reserve(reservation(serial, Some("streaming"), key)).await.unwrap(), Reserved::Done);
    state.record_issued(issuance(serial, b"der", None, NOW)).await.unwrap();
}

fn revocation(serial: &str, reason: RevocationReason) -> NewRevocation {
    NewRevocation {
        serial: serial.to_owned(),
        reason,
        actor: "operator".to_owned(),
        decision_id: "dec_1".to_owned(),
        correlation_id: "req_1".to_owned(),
        at: NOW,
    }
}

async fn revoke(state: &State, serial: &str) -> Vec<RevocationRecord> {
    state.revoke(&[revocation(serial, RevocationReason::Superseded)]).await.unwrap()
}

pub(super) async fn the_first_revocation_stays_and_takes_the_key_along(place: &Place) {
    let state = place.open().await;
    issue(&state, "01", 1).await;
    issue(&state, "02", 2).await;
    let first = state.revoke(&[revocation("01", RevocationReason::KeyCompromise)]).await.unwrap();
    assert_eq!((first.len(), first[0].reason, first[0].revoked_at), (1, RevocationReason::KeyCompromise, NOW));
    let revision = state.revision().await.unwrap();
    assert_eq!(first[0].revision, revision);
    let again = revoke(&state, "01").await;
    assert_eq!((&again, state.revision().await.unwrap()), (&first, revision));
    assert_eq!(state.issued("01").await.unwrap().unwrap().revoked_at, Some(NOW));
    assert_eq!(state.issued("02").await.unwrap().unwrap().revoked_at, None);

    for (serial, key, outcome) in [("03", 1, Reserved::KeyOfAnother), ("04", 2, Reserved::Done)] {
        let reservation = reservation(serial, Some("streaming"), key);
        assert_eq!(state.reserve(reservation).await.unwrap(), outcome, "{serial}");
    }
    // Neither what was never issued, nor the CA's own, nor what there is not.
    state.reserve(reservation("05", None, 5)).await.unwrap();
    state.record_issued(Issuance { worker_id: None, ..issuance("05", b"der", None, NOW) }).await.unwrap();
    for serial in ["04", "05", "99"] {
        assert_eq!(revoke(&state, serial).await, [], "{serial}");
    }
}

pub(super) async fn changes_are_counted_and_read_from_where_one_left_off(place: &Place) {
    let state = place.open().await;
    for (serial, key) in [("01", 1), ("02", 2), ("03", 3)] {
        issue(&state, serial, key).await;
    }
    assert_eq!(state.revision().await.unwrap(), 0);
    revoke(&state, "02").await;
    let left_off = state.revision().await.unwrap();
    let both = [revocation("03", RevocationReason::Superseded), revocation("01", RevocationReason::Superseded)];
    assert_eq!(state.revoke(&both).await.unwrap().len(), 2);
    let serials = async |revision, end| {
        let records = state.revocations_since(revision, end).await.unwrap();
        records.into_iter().map(|record| record.serial).collect::<BTreeSet<_>>()
    };
    let set = |serials: &[&str]| serials.iter().map(|serial| (*serial).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(serials(-1, NOW).await, set(&["01", "02", "03"]));
    assert_eq!(serials(left_off, NOW).await, set(&["01", "03"]));
    assert_eq!(serials(left_off + 1, NOW).await, set(&[]));
    assert_eq!(serials(-1, NOW + DAY + time::Duration::SECOND).await, set(&[]));
}

pub(super) async fn a_number_is_on_one_crl_whoever_signs(place: &Place) {
    let (one, other) = (place.open().await, place.open().await);
    issue(&one, "01", 1).await;
    let mut numbers = Vec::new();
    for _ in 0..5 {
        let (mine, theirs) = tokio::join!(one.reserve_crl([0; 32], DAY, NOW), other.reserve_crl([0; 32], DAY, NOW));
        numbers.extend([mine.unwrap(), theirs.unwrap()].map(|plan| plan.number));
    }
    let distinct: BTreeSet<i64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), 10, "{numbers:?}");
    assert_eq!(distinct.first(), Some(&NOW.unix_timestamp()));

    // Revoked while others take numbers: it is on the next one whose number is taken after that.
    let (revoked, plan) = tokio::join!(revoke(&other, "01"), one.reserve_crl([0; 32], DAY, NOW));
    let (revision, plan) = (revoked[0].revision, plan.unwrap());
    assert_eq!(plan.revision >= revision, !plan.entries.is_empty(), "{plan:?}");
    let plan = one.reserve_crl([0; 32], DAY, NOW).await.unwrap();
    assert!(plan.revision >= revision && plan.entries.len() == 1);
    one.record_crl(&plan, b"crl").await.unwrap();
    assert!(one.record_crl(&plan, b"another").await.is_err());
    assert_eq!(other.crl_after(&[0; 32], plan.number - 1).await.unwrap().unwrap().der, b"crl");
    assert_eq!(other.crl_after(&[0; 32], plan.number).await.unwrap(), None);
}

pub(super) async fn a_crl_has_what_is_needed_and_old_ones_are_forgotten(place: &Place) {
    let state = place.open().await;
    issue(&state, "01", 1).await;
    revoke(&state, "01").await;
    let entries = async |at| {
        let plan = state.reserve_crl([0; 32], DAY, at).await.unwrap();
        state.record_crl(&plan, b"crl").await.unwrap();
        plan.entries.len()
    };
    assert_eq!(state.reserve_crl([9; 32], DAY, NOW).await.unwrap().entries, []);
    assert_eq!(entries(NOW).await, 1);
    // It ends after a day. Long after that it is on one more, and then on none.
    assert_eq!(entries(NOW + 10 * DAY).await, 1);
    assert_eq!(entries(NOW + 11 * DAY).await, 0);
    let oldest = state.crl_after(&[0; 32], 0).await.unwrap().unwrap().number;
    for _ in 0..20 {
        entries(NOW + 11 * DAY).await;
    }
    let statement = "SELECT count(*), min(number) FROM crls WHERE issuer_digest = $1";
    let (count, first): (i64, i64) = on!(Pool, &state.readers, pool => {
        sqlx::query_as(statement).bind(&[0_u8; 32][..]).fetch_one(pool).await.unwrap()
    });
    assert!(count == 16 && first > oldest, "{count} {first}");
}

fn order(id: &str, expires: time::Duration) -> RenewalOrder {
    RenewalOrder {
        id: id.to_owned(),
        selector: Selector::matching(&["worker=stream*"]).unwrap(),
        explanation: "maintenance".to_owned(),
        actor: "operator".to_owned(),
        start: NOW,
        end: NOW + time::Duration::HOUR,
        created_at: NOW,
        expires_at: NOW + expires,
        cancelled_at: None,
    }
}

pub(super) async fn orders_in_force_are_counted_and_taken_back(place: &Place) {
    let state = place.open().await;
    for id in ["a", "b"] {
        assert!(state.add_order(&order(id, DAY), 2).await.unwrap());
    }
    let revision = state.revision().await.unwrap();
    assert!(!state.add_order(&order("c", DAY), 2).await.unwrap());
    assert_eq!(state.revision().await.unwrap(), revision);
    assert_eq!(state.orders_in_force(NOW, 10).await.unwrap(), [order("a", DAY), order("b", DAY)]);
    assert!(state.cancel_order("a", NOW).await.unwrap() && !state.cancel_order("a", NOW).await.unwrap());
    assert!(!state.cancel_order("x", NOW).await.unwrap());
    assert_eq!(state.revision().await.unwrap(), revision + 1);
    assert!(state.add_order(&order("c", DAY), 2).await.unwrap());
    let ids = |orders: Vec<RenewalOrder>| orders.into_iter().map(|order| order.id).collect::<String>();
    assert_eq!(ids(state.orders_in_force(NOW, 10).await.unwrap()), "bc");
    assert_eq!(ids(state.orders_in_force(NOW + DAY, 10).await.unwrap()), "");
    assert_eq!(ids(state.orders(10).await.unwrap()), "abc");
}

pub(super) async fn certificates_in_force_are_listed_page_by_page(place: &Place) {
    let state = place.open().await;
    for (serial, key) in [("01", 1), ("02", 2), ("03", 3), ("04", 4)] {
        issue(&state, serial, key).await;
    }
    revoke(&state, "02").await;
    state.reserve(reservation("05", Some("streaming"), 5)).await.unwrap();
    let page = async |now, after: &str| {
        let subjects = state.subjects(now, after, 2).await.unwrap();
        subjects.into_iter().map(|subject| subject.serial).collect::<Vec<_>>()
    };
    assert_eq!(page(NOW, "").await, ["01", "03"]);
    assert_eq!(page(NOW, "03").await, ["04"]);
    assert_eq!(page(NOW, "04").await, [""; 0]);
    assert_eq!(page(NOW + DAY, "").await, [""; 0]);
    let in_force = state.serials_in_force(&worker("streaming"), NOW).await.unwrap();
    assert_eq!(in_force, ["01", "03", "04"]);
    assert_eq!(state.serials_in_force(&worker("other"), NOW).await.unwrap(), [""; 0]);
}
