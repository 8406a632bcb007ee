//! Tests that what is signed is what was planned, and that the second look sees a difference.

use rustls::pki_types::{TrustAnchor, UnixTime};
use tempfile::TempDir;

use super::*;
use crate::ca::authority::{InitOptions, KeySettings};
use crate::identity::{PrivateKey, RequestedIdentity, TrustDomain};

fn authority(key_type: KeyType) -> Authority {
    let directory = TempDir::new().unwrap();
    let options = InitOptions { key_type, ..InitOptions::new(TrustDomain::new("crank.local").unwrap()) };
    Authority::generate(&directory.path().join("ca"), &options, OffsetDateTime::now_utc()).unwrap();
    Authority::load(&directory.path().join("ca"), &KeySettings::default()).unwrap()
}

fn plan(key_type: KeyType) -> LeafPlan {
    let key = PrivateKey::generate(key_type).unwrap();
    let worker = WorkerId::new("streaming").unwrap();
    let names = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let identity = RequestedIdentity::new(worker.clone(), &TrustDomain::new("crank.local").unwrap(), names);
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    LeafPlan {
        serial: Serial::random().unwrap(),
        subject: Subject::Worker(worker),
        names: identity.names,
        key: CertifiableKey::new(&key.public_key_der(), key_type).unwrap(),
        not_before: now - BACKDATE,
        not_after: now + time::Duration::days(1),
    }
}

#[test]
fn every_key_type_is_certified_and_the_chain_verifies_for_both_uses() {
    for issuer_type in [KeyType::EcdsaP256, KeyType::EcdsaP384] {
        let authority = authority(issuer_type);
        for key_type in KeyType::ALL {
            let der = sign(&authority, &plan(key_type)).unwrap();
            let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
            let anchors: [TrustAnchor<'_>; 1] = [webpki::anchor_from_trusted_cert(&authority.roots()[0]).unwrap()];
            for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
                let chain = [authority.issuer().clone()];
                let algorithms = webpki::ALL_VERIFICATION_ALGS;
                leaf.verify_for_usage(algorithms, &anchors, &chain, UnixTime::now(), usage, None, None).unwrap();
            }
        }
    }
}

#[test]
fn serials_are_positive_and_of_one_length() {
    for _ in 0..1000 {
        let serial = Serial::random().unwrap();
        assert!((0x40..0x80).contains(&serial.0[0]));
        assert_eq!(serial.to_string().len(), 17 * 3 - 1);
    }
}

#[test]
fn each_difference_from_the_plan_is_seen() {
    let authority = authority(KeyType::EcdsaP256);
    let plan = plan(KeyType::EcdsaP256);
    let der = sign(&authority, &plan).unwrap();
    assert_eq!(compare::compare(authority.issuing(), &plan, &der), Ok(()));

    let second = time::Duration::seconds(1);
    let other_key = PrivateKey::generate(KeyType::EcdsaP256).unwrap().public_key_der();
    let mut fewer = plan.names.clone();
    fewer.pop_last();
    let other = WorkerId::new("other").unwrap();
    let cases = [
        ("serial", LeafPlan { serial: Serial::random().unwrap(), ..plan.clone() }),
        ("subject", LeafPlan { subject: Subject::Worker(other), ..plan.clone() }),
        ("subject", LeafPlan { subject: Subject::Server, ..plan.clone() }),
        ("names", LeafPlan { names: fewer, ..plan.clone() }),
        ("key", LeafPlan { key: CertifiableKey::new(&other_key, KeyType::EcdsaP256).unwrap(), ..plan.clone() }),
        ("notBefore", LeafPlan { not_before: plan.not_before - second, ..plan.clone() }),
        ("notAfter", LeafPlan { not_after: plan.not_after + second, ..plan.clone() }),
    ];
    for (what, planned) in cases {
        assert_eq!(compare::compare(authority.issuing(), &planned, &der), Err(what));
    }
    let mut flipped = der.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(compare::compare(authority.issuing(), &plan, &flipped.into()), Err("signature"));
    // The same names, key and times, by another issuer of the same name.
    let stranger = self::authority(KeyType::EcdsaP256);
    assert_eq!(compare::compare(stranger.issuing(), &plan, &der), Err("authority key identifier"));
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let authority = authority(KeyType::EcdsaP256);
    let mut plan = plan(KeyType::EcdsaP256);
    plan.not_after = authority.issuer_not_after() + time::Duration::seconds(1);
    assert!(matches!(sign(&authority, &plan), Err(SignError::Mismatch { what: "notAfter", .. })));
}

#[test]
fn the_servers_own_certificate_is_of_no_use_as_a_client() {
    let authority = authority(KeyType::EcdsaP256);
    let names = BTreeSet::from(["cert-authority".parse().unwrap()]);
    let der = sign(&authority, &LeafPlan { subject: Subject::Server, names, ..plan(KeyType::EcdsaP256) }).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
    let anchors = [webpki::anchor_from_trusted_cert(&authority.roots()[0]).unwrap()];
    let verify = |usage| {
        let chain = [authority.issuer().clone()];
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &chain, UnixTime::now(), usage, None, None).is_ok()
    };
    assert!(verify(webpki::KeyUsage::server_auth()));
    assert!(!verify(webpki::KeyUsage::client_auth()));
}
