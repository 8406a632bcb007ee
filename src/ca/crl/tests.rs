//! Tests of what CRLs say and when they are signed.

use proptest::prelude::*;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::*;
use crate::ca::authority::{Authority, InitOptions, KeySettings};
use crate::ca::state::CrlRecord;
use crate::identity::TrustDomain;

const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

const LIFETIME: time::Duration = time::Duration::hours(24);

fn authority(directory: &tempfile::TempDir) -> Authority {
    let data = directory.path().join("ca");
    let options = InitOptions::new(TrustDomain::new("crank.local").unwrap());
    Authority::generate(&data, &options, NOW).unwrap();
    Authority::load(&data, &KeySettings::default()).unwrap()
}

fn plan(entries: Vec<CrlEntry>) -> CrlPlan {
    let times = plan_times(None, LIFETIME, NOW);
    CrlPlan {
        issuer_digest: [0; 32],
        number: times.number,
        revision: 1,
        this_update: times.this_update,
        next_update: times.next_update,
        entries,
    }
}

fn entry(serial: &str, reason: RevocationReason) -> CrlEntry {
    CrlEntry { serial: serial.to_owned(), reason, revoked_at: NOW }
}

fn crl(this_update: OffsetDateTime, next_update: OffsetDateTime, revision: i64) -> Crl {
    Crl::new([0; 32], CrlRecord { number: 1, revision, this_update, next_update, der: Vec::new() })
}

#[test]
fn a_signed_crl_says_what_was_planned_and_no_reason_where_there_is_none() {
    let directory = tempfile::TempDir::new().unwrap();
    let authority = authority(&directory);
    let entries =
        vec![entry("41:00:ff", RevocationReason::Unspecified), entry("7f:01", RevocationReason::KeyCompromise)];
    let der = sign_crl(&authority.signers()[0], &plan(entries)).unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    let said: Vec<_> = crl
        .iter_revoked_certificates()
        .map(|entry| {
            (entry.raw_serial().to_vec(), entry.reason_code().map(|(_, code)| code.0), entry.extensions().len())
        })
        .collect();
    assert_eq!(said, [(vec![0x41, 0, 0xff], None, 0), (vec![0x7f, 1], Some(1), 1)]);
    assert!(webpki::BorrowedCertRevocationList::from_der(&der).is_ok());
}

#[test]
fn an_empty_crl_and_one_of_ten_thousand_are_signed() {
    let directory = tempfile::TempDir::new().unwrap();
    let authority = authority(&directory);
    let der = sign_crl(&authority.signers()[0], &plan(Vec::new())).unwrap();
    assert_eq!(CertificateRevocationList::from_der(&der).unwrap().1.iter_revoked_certificates().count(), 0);
    let many = (0..10_000_u32).map(|number| {
        let serial = crate::identity::metadata::serial_text(&(0x4000_0000 + number).to_be_bytes());
        entry(&serial, RevocationReason::Superseded)
    });
    let der = sign_crl(&authority.signers()[0], &plan(many.collect())).unwrap();
    assert!(der.len() < 500_000, "{}", der.len());
}

#[test]
fn what_cannot_be_said_truly_is_not_signed() {
    let directory = tempfile::TempDir::new().unwrap();
    let authority = authority(&directory);
    let twice = vec![entry("41", RevocationReason::Unspecified), entry("41", RevocationReason::Superseded)];
    assert!(matches!(sign_crl(&authority.signers()[0], &plan(twice)), Err(CrlError::Mismatch { .. })));
    for bad in [
        CrlPlan { entries: vec![entry("4g", RevocationReason::Unspecified)], ..plan(Vec::new()) },
        CrlPlan { next_update: NOW - LIFETIME, ..plan(Vec::new()) },
        CrlPlan { number: -1, ..plan(Vec::new()) },
    ] {
        assert!(matches!(sign_crl(&authority.signers()[0], &bad), Err(CrlError::Signing { .. })), "{bad:?}");
    }
    let fraction = CrlPlan { this_update: NOW + time::Duration::milliseconds(5), ..plan(Vec::new()) };
    assert!(matches!(sign_crl(&authority.signers()[0], &fraction), Err(CrlError::Mismatch { what: "thisUpdate", .. })));
}

#[test]
fn the_next_is_due_at_half_of_its_life_and_at_once_for_a_revocation() {
    let newest = crl(NOW - BACKDATE, NOW + LIFETIME, 7);
    let due = |revoked, hours| is_due(Some(&newest), revoked, LIFETIME, NOW + time::Duration::hours(hours));
    assert!(is_due(None, 0, LIFETIME, NOW));
    assert!(!due(0, 0) && !due(7, 11) && due(7, 12) && due(7, 1000));
    assert!(due(8, 0));
    // The clock was far ahead when it was signed.
    assert!(!due(7, 0) && due(7, -1));
}

#[test]
fn an_entry_is_left_out_once_it_was_on_a_crl_signed_after_its_end() {
    let hour = time::Duration::HOUR;
    let end = |previous: Option<OffsetDateTime>| {
        let previous = previous.map(|at| Previous { number: 1, this_update: Some(at) });
        plan_times(previous, LIFETIME, NOW).end
    };
    // The last one is older than what ended since: it is not left out, however long ago that was.
    assert_eq!(end(Some(NOW - 1000 * hour)), NOW - 1000 * hour);
    // And not before a whole life has passed.
    assert_eq!(end(Some(NOW - hour)), NOW - LIFETIME);
    assert_eq!(end(None), NOW - LIFETIME);
    assert_eq!(end(Some(NOW + 9 * hour)), NOW - LIFETIME);
}

#[test]
fn of_several_issuers_pem_has_all_and_der_the_current_one() {
    let of = |issuer: u8, der: &[u8]| {
        let record = CrlRecord { number: 1, revision: 1, this_update: NOW, next_update: NOW, der: der.to_vec() };
        Crl::new([issuer; 32], record)
    };
    let one = CrlSet::new(vec![of(1, b"one")]);
    assert_eq!(one.etag(), etag_of(b"one"));
    let both = CrlSet::new(vec![of(2, b"two"), of(1, b"one")]);
    assert_eq!(both.current().unwrap().der, &b"two"[..]);
    assert_eq!(both.of(&[1; 32]).unwrap().der, &b"one"[..]);
    assert_eq!(both.of(&[3; 32]), None);
    let text = String::from_utf8(both.pem().to_vec()).unwrap();
    assert_eq!(text, pem(both.current().unwrap()) + &pem(one.current().unwrap()));
    // A new one of either is news.
    let tags = [CrlSet::new(vec![of(2, b"two"), of(1, b"new")]), CrlSet::new(vec![of(2, b"new"), of(1, b"one")])];
    assert!(tags.iter().all(|set| set.etag() != both.etag()));
    assert_eq!(CrlSet::default().current(), None);
}

proptest! {
    #[test]
    fn numbers_grow_and_times_are_in_order_whatever_the_clock_does(
        steps in proptest::collection::vec((-100_000_i64..100_000, any::<bool>()), 1..20),
        lifetime in 60_i64..2_592_000,
    ) {
        let lifetime = time::Duration::seconds(lifetime);
        let mut now = NOW;
        let mut previous: Option<Previous> = None;
        for (step, signed) in steps {
            now += time::Duration::seconds(step);
            let times = plan_times(previous, lifetime, now);
            prop_assert!(times.this_update < times.next_update && times.end <= now - lifetime);
            prop_assert!(times.next_update >= now + lifetime && times.this_update <= now + CLOCK_TOLERANCE);
            if let Some(previous) = previous {
                prop_assert!(times.number > previous.number);
                let earlier = previous.this_update.filter(|at| *at <= now + CLOCK_TOLERANCE);
                prop_assert!(earlier.is_none_or(|at| times.this_update >= at));
            }
            // It is not due again at once.
            let newest = crl(times.this_update, times.next_update, 5);
            prop_assert!(!is_due(Some(&newest), 5, lifetime, now));
            let this_update = if signed { Some(times.this_update) } else { previous.and_then(|earlier| earlier.this_update) };
            previous = Some(Previous { number: times.number, this_update });
        }
    }
}
