//! What many requests at the same time write and look up, each with one statement.

use tokio::sync::oneshot;

use super::*;
use crate::ca::state::certificates::IssuedRecord;
use crate::ca::state::issuing;
use crate::ca::state::reader::Record;
use crate::ca::state::writer::{Outcome, Write};

/// None of them by itself, as it would be after an error.
pub(super) async fn a_batch_of_many_is_one_transaction_and_one_look_up(place: &Place) {
    const MANY: u8 = 7;
    let state = place.open().await;
    let numbers: Vec<u8> = (1..=MANY).collect();
    let serial = |number: &u8| format!("0{number}");
    for number in &numbers {
        state.add_token(&new_token(&serial(number))).await.unwrap();
    }
    let reserve = |number: &u8| {
        let reservation = reservation(&serial(number), Some("streaming"), *number);
        Write::Reserve(Box::new(reservation), oneshot::channel().0)
    };
    let reserved = issuing::write(&state.writer, &numbers.iter().map(reserve).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(reserved, vec![Outcome::Reserved(Reserved::Done); numbers.len()]);
    // Half of them with a token, half with a certificate.
    let record = |number: &u8| {
        let issuance = issuance(&serial(number), b"der", Some(&serial(number)), NOW);
        let credential = if number.is_multiple_of(2) {
            IssuedWith::Certificate(serial(number))
        } else {
            issuance.credential.clone()
        };
        Write::Record(Box::new(Issuance { credential, ..issuance }), oneshot::channel().0)
    };
    let recorded = issuing::write(&state.writer, &numbers.iter().map(record).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(recorded, vec![Outcome::Recorded(Recorded::Done); numbers.len()]);

    let digests: Vec<[u8; 32]> = numbers.iter().map(|number| new_token(&serial(number)).digest).collect();
    assert_eq!(TokenRecord::find(&state.readers, &digests).await.unwrap().len(), numbers.len());
    let serials: Vec<String> = numbers.iter().map(serial).collect();
    assert_eq!(IssuedRecord::find(&state.readers, &serials).await.unwrap().len(), numbers.len());
}

pub(super) async fn a_renewal_with_a_certificate_that_was_revoked_meanwhile_is_told_so(place: &Place) {
    let state = place.open().await;
    for (serial, key) in [("01", 1), ("02", 2), ("03", 3), ("04", 4)] {
        state.reserve(reservation(serial, Some("streaming"), key)).await.unwrap();
    }
    for serial in ["01", "02"] {
        let recorded = state.record_issued(issuance(serial, b"der", None, NOW)).await.unwrap();
        assert_eq!(recorded, Recorded::Done);
    }
    let revocation = NewRevocation {
        serial: "01".to_owned(),
        reason: crate::policy::RevocationReason::KeyCompromise,
        actor: "operator".to_owned(),
        decision_id: "dec_1".to_owned(),
        correlation_id: "req_1".to_owned(),
        at: NOW,
    };
    assert_eq!(state.revoke(&[revocation]).await.unwrap().len(), 1);
    let renewed = |serial: &str, shown: &str| {
        let credential = IssuedWith::Certificate(shown.to_owned());
        state.record_issued(Issuance { credential, ..issuance(serial, b"der", None, NOW) })
    };
    let (revoked, good) = tokio::join!(renewed("03", "01"), renewed("04", "02"));
    assert_eq!((revoked.unwrap(), good.unwrap()), (Recorded::CertificateRevoked, Recorded::Done));
    // Whoever revokes all of the worker's certificates sees it.
    assert!(state.issued("03").await.unwrap().is_some());
}

pub(super) async fn many_look_ups_at_once_each_get_their_own_answer(place: &Place) {
    let state = place.open().await;
    for number in 0..20 {
        state.add_token(&new_token(&format!("t{number}"))).await.unwrap();
    }
    state.reserve(reservation("01", Some("streaming"), 1)).await.unwrap();
    state.record_issued(issuance("01", b"der", Some("t1"), NOW)).await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..200 {
        let state = state.clone();
        asked.spawn(async move {
            let id = format!("t{}", number % 30);
            let found = state.token(&new_token(&id).digest).await.unwrap();
            assert_eq!(found.map(|token| token.id), (number % 30 < 20).then_some(id));
            let serial = if number % 3 == 0 { "01" } else { "02" };
            assert_eq!(state.issued(serial).await.unwrap().is_some(), number % 3 == 0);
        });
    }
    asked.join_all().await;
}
