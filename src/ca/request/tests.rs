//! Tests with CSRs good, hostile and broken. The fixtures are by OpenSSL: kinds that our library refuses to make.

use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::ca::est;
use crate::identity::bundle::certificates_to_pem;
use crate::identity::csr::generate_csr;
use crate::identity::{KeyType, PrivateKey, RequestedIdentity, TrustDomain, WorkerId};

fn identity() -> RequestedIdentity {
    let worker = WorkerId::new("streaming").unwrap();
    RequestedIdentity::new(worker, &TrustDomain::new("crank.local").unwrap(), ["10.0.0.7".parse().unwrap()])
}

/// A CSR that asks for what `change` puts in.
fn csr(change: impl FnOnce(&mut CertificateParams)) -> String {
    csr_with_attributes(change, Vec::new())
}

fn csr_with_attributes(change: impl FnOnce(&mut CertificateParams), attributes: Vec<Attribute>) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request_with_attributes(&key, attributes).unwrap().pem().unwrap()
}

fn to_pem(der: &[u8]) -> String {
    certificates_to_pem(&[der.to_vec().into()]).replace("CERTIFICATE", "CERTIFICATE REQUEST")
}

fn der_of(pem: &str) -> Vec<u8> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn the_agents_own_csr_is_read_for_every_key_type() {
    for key_type in KeyType::ALL {
        let key = PrivateKey::generate(key_type).unwrap();
        let request = parse(&generate_csr(&identity(), &key, key_type).unwrap()).unwrap();
        assert_eq!(request.key.digest(), key.public_key_digest(), "{key_type}");
        assert_eq!(request.key.key_type(), key_type);
        assert_eq!(request.common_name.as_deref(), Some("streaming"));
        let names = request.names.unwrap();
        assert_eq!((names.names, names.never), (identity().names, Vec::new()));
    }
}

#[test]
fn a_csr_may_say_nothing_but_its_key() {
    let request = parse(&csr(|_| {})).unwrap();
    assert_eq!((request.common_name, request.names), (None, None));
}

#[test]
fn names_that_nobody_gets_are_told_apart() {
    let pem = csr(|params| {
        params.subject_alt_names = vec![
            SanType::DnsName("*.example".try_into().unwrap()),
            SanType::DnsName("Streaming".try_into().unwrap()),
            SanType::Rfc822Name("a@b.example".try_into().unwrap()),
            SanType::URI("https://example/".try_into().unwrap()),
            SanType::DnsName("a b".try_into().unwrap()),
        ];
    });
    let names = parse(&pem).unwrap().names.unwrap();
    assert_eq!(names.names, BTreeSet::from(["streaming".parse().unwrap()]));
    let never = ["DNS:*.example", "other:RFC822Name(a@b.example)", "URI:https://example/", "DNS:a b"];
    assert_eq!(names.never, never);
}

#[test]
fn what_no_worker_may_have_is_refused() {
    let cases: [(&str, String); 8] = [
        ("basic constraints CA:TRUE", csr(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("a key usage beyond", csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign])),
        (
            "a key usage beyond",
            csr(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment]),
        ),
        (
            "an extended key usage beyond",
            csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        ("an extended key usage beyond", csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any])),
        (
            "extension 1.2.3.4",
            csr(|params| params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])]),
        ),
        (
            "subject attribute 2.5.4.10 `Other`",
            csr(|params| params.distinguished_name.push(DnType::OrganizationName, "Other")),
        ),
        ("subject attribute 2.5.4.6", csr(|params| params.distinguished_name.push(DnType::CountryName, "AQ"))),
    ];
    for (what, pem) in cases {
        match parse(&pem) {
            Err(CsrRefusal::Asks(asks)) => assert!(asks.starts_with(what), "{asks}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn an_attribute_beside_the_extension_request_is_refused() {
    // challengePassword "x".
    let oid: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
    let pem = csr_with_attributes(|_| {}, vec![Attribute { oid, values: vec![0x31, 3, 0x0c, 1, b'x'] }]);
    assert_eq!(parse(&pem), Err(CsrRefusal::Asks("attribute 1.2.840.113549.1.9.7".to_owned())));
}

#[test]
fn an_extension_that_appears_twice_is_refused() {
    let extension = || CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0]);
    let pem = csr(|params| params.custom_extensions = vec![extension(), extension()]);
    assert_eq!(parse(&pem), Err(CsrRefusal::Malformed("an extension appears twice")));
}

#[test]
fn a_second_value_behind_the_extension_request_is_refused() {
    // extensionRequest with a SET of two empty sequences.
    let oid: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
    let one = csr_with_attributes(|_| {}, vec![Attribute { oid, values: vec![0x31, 2, 0x30, 0] }]);
    assert!(parse(&one).is_ok());
    let two = csr_with_attributes(|_| {}, vec![Attribute { oid, values: vec![0x31, 4, 0x30, 0, 0x30, 0] }]);
    assert!(matches!(parse(&two), Err(CsrRefusal::Malformed(_))));
}

#[test]
fn weak_and_unknown_keys_are_refused() {
    for (name, pem) in [
        ("RSA-1024", include_str!("fixtures/rsa-1024.pem")),
        ("RSA with exponent 3", include_str!("fixtures/rsa-exponent-3.pem")),
        ("secp256k1", include_str!("fixtures/secp256k1.pem")),
        ("P-256 by explicit parameters", include_str!("fixtures/explicit-parameters.pem")),
        ("P-256 with a compressed point", include_str!("fixtures/compressed-point.pem")),
        ("Ed448", include_str!("fixtures/ed448.pem")),
    ] {
        assert!(matches!(parse(pem), Err(CsrRefusal::Key(_))), "{name}: {:?}", parse(pem));
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(parse(&pem), Err(CsrRefusal::Key(_))));
}

#[test]
fn a_signature_by_sha_1_or_by_another_key_is_no_proof() {
    assert!(matches!(parse(include_str!("fixtures/sha1.pem")), Err(CsrRefusal::Proof(_))));
    // The public key of one CSR in the other: same length, so the DER stays whole.
    let mine = der_of(&csr(|_| {}));
    let other = der_of(&csr(|_| {}));
    let point = mine.windows(3).position(|window| window == [0x42, 0, 4]).unwrap() + 3;
    let mut forged = mine.clone();
    forged[point..point + 64].copy_from_slice(&other[point..point + 64]);
    assert_eq!(parse(&to_pem(&mine)).map(|_| ()), Ok(()));
    assert_eq!(parse(&to_pem(&forged)), Err(CsrRefusal::Proof("it does not verify")));
}

#[test]
fn what_is_not_exactly_one_csr_is_refused() {
    let good = csr(|_| {});
    let mut longer = der_of(&good);
    longer.push(0);
    for bad in [
        String::new(),
        "x".to_owned(),
        good.repeat(2),
        good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        good.replace("-----END", "-----BEGIN"),
        to_pem(&longer),
        to_pem(&[]),
        to_pem(&[0x30, 0x80]),
    ] {
        assert!(matches!(parse(&bad), Err(CsrRefusal::Malformed(_))), "{bad}");
    }
}

/// The seeds of the fuzz target: name and body.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/csr_body");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_seed_is_refused_for_the_reason_in_its_name() {
    let seeds = seeds();
    assert!(seeds.len() > 130);
    let mut wrong = Vec::new();
    for (name, body) in seeds {
        let kind = name.split('-').next().unwrap();
        let read = read_csr_body(&body);
        if read.err().unwrap_or(kind) != kind || read.is_ok() != matches!(kind, "good" | "names") {
            wrong.push(format!("{name}: {read:?}"));
        }
        // EST, which has no PEM around it, comes to the same.
        let Ok(request) = serde_json::from_slice::<CsrRequest>(&body) else { continue };
        let Ok(der) = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes()) else { continue };
        let again = est::decode(to_base64(&der).as_bytes()).and_then(|der| parse_der(&der));
        assert!(parse(&request.csr).is_err() || again == parse(&request.csr), "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn to_base64(der: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(der)
}

#[test]
fn ten_thousand_names_are_read_in_no_time() {
    let names = (0..10_000).map(|number| SanType::DnsName(format!("a{number}").try_into().unwrap())).collect();
    let pem = csr(|params| params.subject_alt_names = names);
    let begun = std::time::Instant::now();
    assert_eq!(parse(&pem).unwrap().names.unwrap().names.len(), 10_000);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
}

proptest! {
    #[test]
    fn a_seed_with_bytes_changed_is_taken_without_panic(
        seed: prop::sample::Index,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
    ) {
        let (_, body) = seed.get(&seeds()).clone();
        let Ok(request) = serde_json::from_slice::<CsrRequest>(&body) else { return Ok(()) };
        let Ok(der) = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes()) else { return Ok(()) };
        let mut der = der.to_vec();
        for (at, with) in changes {
            if !der.is_empty() {
                let at = at.index(der.len());
                der[at] = with;
            }
        }
        let _ = parse_der(&der);
        der.truncate(cut.index(der.len() + 1));
        let _ = parse(&to_pem(&der));
    }

    #[test]
    fn any_text_is_taken_without_panic(text in any::<String>()) {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn any_bytes_in_a_pem_block_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse(&to_pem(&bytes)).is_err());
    }

    #[test]
    fn a_csr_with_a_byte_changed_proves_nothing_new(at in any::<prop::sample::Index>(), with in 1_u8..) {
        let good = generate_csr(
            &identity(),
            &PrivateKey::generate(KeyType::EcdsaP256).unwrap(),
            KeyType::EcdsaP256,
        ).unwrap();
        let mut der = der_of(&good);
        let at = at.index(der.len());
        der[at] ^= with;
        // Either it is refused, or the change was in what says nothing (such as padding bits).
        if let Ok(request) = parse(&to_pem(&der)) {
            prop_assert_eq!(request, parse(&good).unwrap());
        }
    }

    #[test]
    fn a_csr_cut_short_is_refused(at in any::<prop::sample::Index>()) {
        let der = der_of(&csr(|_| {}));
        prop_assert!(parse(&to_pem(&der[..at.index(der.len())])).is_err());
    }
}
