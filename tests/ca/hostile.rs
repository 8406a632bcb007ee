//! Requests made to hurt, over the network: each is answered with an error, and nothing is issued.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use reqwest::Method;
use serde_json::json;

use super::harness::{TestCa, identity, key_and_csr};

fn csr(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn csr_for(name: SanType) -> String {
    csr(|params| params.subject_alt_names = vec![name])
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

#[tokio::test]
async fn hostile_csrs_get_an_error_that_says_why_and_no_certificate() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &[]).await;
    let (_, good) = key_and_csr(&identity("streaming", &[]));
    // The last but one line of base64 belongs to the signature.
    let mut lines: Vec<&str> = good.lines().collect();
    let signature = lines.len() - 3;
    let changed: String = lines[signature].chars().rev().collect();
    lines[signature] = &changed;
    let broken = lines.join("\n");
    let cases = [
        (403, "CA:TRUE", csr(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))),
        (403, "key usage", csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign])),
        (403, "extended key usage", csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any])),
        (403, "DNS:*.streaming", csr_for(dns("*.streaming"))),
        (403, "DNS:foreign.example", csr_for(dns("foreign.example"))),
        (403, "IP:127.0.0.1", csr_for(SanType::IpAddress([127, 0, 0, 1].into()))),
        (403, "URI:spiffe://crank.local/worker/other", csr_for(uri("spiffe://crank.local/worker/other"))),
        (403, "URI:spiffe://other.local/worker/streaming", csr_for(uri("spiffe://other.local/worker/streaming"))),
        (403, "URI:spiffe://crank.local/worker/../admin", csr_for(uri("spiffe://crank.local/worker/../admin"))),
        (403, "a@b.example", csr_for(SanType::Rfc822Name("a@b.example".try_into().unwrap()))),
        (400, "RSA of 2048", include_str!("../../src/ca/request/fixtures/rsa-1024.pem").to_owned()),
        (400, "prove possession", include_str!("../../src/ca/request/fixtures/sha1.pem").to_owned()),
        (400, "CSR", broken),
        (400, "PEM", String::new()),
        (400, "PEM", "-----BEGIN CERTIFICATE REQUEST-----".to_owned()),
        (400, "PEM", "\u{0}\u{202e}".repeat(100)),
    ];
    for (status, what, csr) in cases {
        let reply = ca.enrol(&client, Some(&token), "streaming", &csr).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
        assert!(reply.detail().contains(what), "{what}: {}", reply.body);
        assert_eq!(reply.body["status"], status);
        assert_eq!(reply.body["correlation_id"], reply.correlation_id);
    }
    assert_eq!(ca.issued().await, 0);
    assert_eq!(ca.enrol(&client, Some(&token), "streaming", &good).await.status, 200);
}

#[tokio::test]
async fn every_seed_of_the_fuzz_target_gets_the_problem_in_its_name() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let spent = ca.token("streaming", &[]).await;
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/csr_body");
    let mut good = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let kind = name.split('-').next().unwrap();
        let token = if kind == "good" { ca.token("streaming", &[]).await } else { spent.clone() };
        let body = std::fs::read(&path).unwrap();
        let reply = ca.send(&client, Method::POST, "/certificates/csr", Some(&token), body).await.unwrap();
        if kind == "good" {
            assert_eq!(reply.status, 200, "{name}: {}", reply.body);
            good += 1;
            continue;
        }
        let found = reply.body["type"].as_str().unwrap().trim_start_matches("urn:crank-ca:problem:");
        match kind {
            "names" => assert!(matches!(found, "names_not_permitted" | "other_worker"), "{name}: {}", reply.body),
            kind => assert_eq!(found, kind, "{name}: {}", reply.body),
        }
        // What came from outside is told in one printable line, and not at length.
        let detail = reply.detail();
        assert!(detail.chars().count() < 1500 && !detail.chars().any(char::is_control), "{name}: {detail}");
    }
    assert_eq!(ca.issued().await, good);
    // The token that all of them showed is good still.
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    assert_eq!(ca.enrol(&client, Some(&spent), "streaming", &csr).await.status, 200);
}

#[tokio::test]
async fn a_key_of_another_worker_is_refused_however_it_comes() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let token = ca.token("streaming", &[]).await;
    let chain = ca.enrol(&client, Some(&token), "streaming", &csr).await.chain();
    // A thief of the key knows no CSR of its owner, but can make one of his own.
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![dns("thief")];
    let pair = KeyPair::from_pem(&key.to_pem().unwrap()).unwrap();
    let stolen = params.serialize_request(&pair).unwrap().pem().unwrap();
    let token = ca.token("thief", &[]).await;
    let reply = ca.enrol(&client, Some(&token), "thief", &stolen).await;
    assert_eq!((reply.status, reply.body["type"].as_str()), (403, Some("urn:crank-ca:problem:key_of_another")));
    assert_eq!(ca.issued().await, 1);
    assert_eq!(ca.enrol(&ca.client_as(chain, &key), None, "streaming", &csr).await.status, 200);
}

#[tokio::test]
async fn ten_thousand_names_are_too_many_however_they_come() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &[]).await;
    let many =
        |count: u32| csr(|params| params.subject_alt_names = (0..count).map(|n| dns(&format!("a{n}"))).collect());
    // The largest that a request holds is read, and refused by its names.
    let reply = ca.enrol(&client, Some(&token), "streaming", &many(5_000)).await;
    assert_eq!(reply.body["type"], "urn:crank-ca:problem:names_not_permitted", "{}", reply.body);
    assert!(reply.detail().len() < 1000, "{}", reply.detail());
    if let Ok(reply) = ca.send(&client, Method::POST, "/certificates/csr", Some(&token), many(10_000)).await {
        assert_eq!(reply.status, 413, "{}", reply.body);
    }
    assert_eq!(ca.issued().await, 0);
}

#[tokio::test]
async fn bodies_that_are_no_request_are_refused() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &[]).await;
    let deep = "[".repeat(60_000);
    for body in ["", "{}", "null", "{\"csr\":1,\"service_name\":2}", "\u{ff}\u{fe}", &deep] {
        let path = "/certificates/csr";
        let reply = ca.send(&client, Method::POST, path, Some(&token), body.to_owned()).await.unwrap();
        assert_eq!(reply.status, 400, "{}", reply.body);
    }
    assert_eq!(ca.issued().await, 0);
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_whether_its_length_is_told_or_not() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let padded = |length: usize| {
        let mut text = json!({ "csr": csr, "service_name": "streaming" }).to_string();
        text.push_str(&" ".repeat(length - text.len()));
        text
    };
    for length in [64 * 1024 + 1, 1024 * 1024] {
        let bodies: [reqwest::Body; 2] = [padded(length).into(), chunked(padded(length))];
        for body in bodies {
            // The answer may come while the client still sends, and is then lost to it.
            if let Ok(reply) = ca.send(&ca.client(), Method::POST, "/certificates/csr", Some(&token), body).await {
                assert_eq!(reply.status, 413, "{}", reply.body);
            }
        }
    }
    assert_eq!(ca.issued().await, 0);
    let largest = padded(64 * 1024);
    let reply = ca.send(&ca.client(), Method::POST, "/certificates/csr", Some(&token), chunked(largest)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn a_correlation_id_is_kept_where_it_is_harmless() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let long = "x".repeat(65);
    for (sent, kept) in [("req_1-A", true), ("a b", false), ("a;b", false), (long.as_str(), false), ("", false)] {
        let response = client.get(ca.url("/health")).header("x-correlation-id", sent).send().await.unwrap();
        let got = response.headers()["x-correlation-id"].to_str().unwrap();
        assert_eq!(got == sent, kept, "{sent:?} became {got:?}");
        assert!(!got.is_empty());
    }
}

/// A body whose length is not told in advance.
fn chunked(text: String) -> reqwest::Body {
    struct Chunks(Vec<u8>);
    impl hyper::body::Body for Chunks {
        type Data = hyper::body::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(None);
            }
            let length = self.0.len().min(4096);
            let chunk: Vec<u8> = self.0.drain(..length).collect();
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(chunk.into()))))
        }
    }
    reqwest::Body::wrap(Chunks(text.into_bytes()))
}
