//! CRLs of a CA of the tests' own, and of nobody.

use std::time::Duration;

use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::testing::{TestCa, identity};

const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const DAY: Duration = Duration::from_hours(24);

fn number(crl: &Crl) -> String {
    crl.number().to_string()
}

#[test]
fn it_says_what_is_revoked_and_who_signed_it() {
    let ca = TestCa::new();
    let (good, bad) = (ca.bundle(&identity("good"), NOW, DAY), ca.bundle(&identity("bad"), NOW, DAY));
    let crl = ca.crl(7, NOW..NOW + DAY, &[&bad]);
    assert_eq!((number(&crl).as_str(), crl.next_update()), ("7", NOW + DAY));
    assert_eq!(crl.entry_of(&good.chain()[0]), None);
    let entry = crl.entry_of(&bad.chain()[0]).unwrap();
    assert_eq!(entry, RevokedEntry { at: NOW, reason: RevocationReason::KeyCompromise });
    assert_eq!(crl.check_signature(&ca.roots()), Ok(CrlSigner::Known));
}

#[test]
fn of_an_issuer_that_is_not_at_hand_nothing_is_known() {
    let (ca, other) = (TestCa::new(), TestCa::named("Other"));
    let crl = ca.crl(1, NOW..NOW + DAY, &[]);
    assert_eq!(crl.check_signature(&other.roots()), Ok(CrlSigner::Unknown));
    // A certificate of another issuer with the same serial is not revoked by it.
    let bundle = ca.bundle(&identity("bad"), NOW, DAY);
    let foreign = other.crl(1, NOW..NOW + DAY, &[&bundle]);
    assert_eq!(foreign.entry_of(&bundle.chain()[0]), None);
}

#[test]
fn another_ca_of_the_same_name_is_another_issuer() {
    let (ca, namesake) = (TestCa::new(), TestCa::new());
    let crl = namesake.crl(1, NOW..NOW + DAY, &[]);
    assert_eq!(crl.check_signature(&ca.roots()), Ok(CrlSigner::Unknown));
    assert_eq!(crl.check_signature(&[ca.roots(), namesake.roots()].concat()), Ok(CrlSigner::Known));
}

#[test]
fn it_is_good_from_this_update_to_next_update() {
    let crl = TestCa::new().crl(1, NOW..NOW + DAY, &[]);
    let at = |seconds: i64| crl.check_dates(NOW + time::Duration::seconds(seconds), Duration::from_mins(1));
    assert!(matches!(at(-61), Err(CrlError::NotYetValid { .. })));
    assert_eq!((at(-60), at(0), at(86_399)), (Ok(()), Ok(()), Ok(())));
    assert!(matches!(at(86_400), Err(CrlError::Expired { .. })));
}

#[test]
fn numbers_are_compared_and_shown_as_numbers() {
    let of = |bytes: &[u8]| CrlNumber::from_bytes(bytes).unwrap();
    assert!(of(&[2]) < of(&[1, 0]) && of(&[0xff; 8]) < of(&[1; 20]));
    assert_eq!(of(&[1, 0]).to_string(), "256");
    assert_eq!(of(&[]).to_string(), "0");
    assert_eq!(of(&[1, 0, 0, 0, 0, 0, 0, 0, 2]).to_string(), "01:00:00:00:00:00:00:00:02");
    assert_eq!(CrlNumber::from_bytes(&[1; 21]), None);
}

#[test]
fn pem_goes_there_and_back() {
    let ca = TestCa::new();
    let crls = vec![ca.crl(1, NOW..NOW + DAY, &[]), TestCa::new().crl(2, NOW..NOW + DAY, &[])];
    assert_eq!(crls_from_pem(crls_to_pem(&crls).as_bytes()), Ok(crls));
    assert!(matches!(crls_from_pem(b""), Err(CrlError::Number(_))));
    let many = crls_to_pem(&vec![ca.crl(1, NOW..NOW + DAY, &[]); CRLS_LIMIT + 1]);
    assert!(matches!(crls_from_pem(many.as_bytes()), Err(CrlError::Number(_))));
}

proptest! {
    #[test]
    fn whatever_is_changed_in_it_does_not_verify(at in 0_usize..10_000, mask in 1_u8..) {
        let ca = TestCa::new();
        let crl = ca.crl(1, NOW..NOW + DAY, &[&ca.bundle(&identity("bad"), NOW, DAY)]);
        let mut der = crl.der().to_vec();
        let at = at % der.len();
        der[at] ^= mask;
        if let Ok(changed) = Crl::from_der(der.into()) {
            prop_assert_ne!(changed.check_signature(&ca.roots()), Ok(CrlSigner::Known));
        }
    }

    #[test]
    fn any_bytes_are_taken_without_panic(bytes: Vec<u8>, cut in 0_usize..1_000) {
        let _ = crls_from_pem(&bytes);
        let _ = Crl::from_der(bytes.into());
        let whole = TestCa::new().crl(1, NOW..NOW + DAY, &[]);
        let cut = cut % whole.der().len();
        prop_assert!(Crl::from_der(whole.der()[..cut].to_vec().into()).is_err());
    }
}
