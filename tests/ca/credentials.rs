//! Who gets a certificate: join tokens, renewal by the current certificate, and everybody else, who does not.

use std::collections::BTreeSet;
use std::time::Duration;

use crank_agent::ca::ROUTES;
use crank_agent::identity::{KeyType, WorkerId};
use reqwest::Method;
use serde_json::json;

use super::harness::{TestCa, assert_good, eventually, identity, key_and_csr};

#[tokio::test]
async fn a_worker_enrols_with_a_token_and_its_chain_verifies() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &["streaming.example", "10.0.0.7"]).await;
    let identity = identity("streaming", &["streaming.example", "10.0.0.7"]);
    let (key, csr) = key_and_csr(&identity);
    let reply = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    assert_eq!(reply.body["status"], "success");
    assert_eq!(reply.body["provider"]["name"], "crank-ca");
    assert_eq!(reply.body["ca_certificate"], ca.running.root_pem());
    assert_eq!(reply.chain().len(), 2);
    assert_good(&reply, &ca.running.root_pem(), &key, &identity.names);
}

#[tokio::test]
async fn a_csr_without_names_gets_the_workers_own() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &["streaming.example"]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let reply = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    let key = crank_agent::identity::PrivateKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
    assert_good(&reply, &ca.running.root_pem(), &key, &identity("streaming", &[]).names);
}

#[tokio::test]
async fn no_route_issues_anything_without_a_credential() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let json = json!({ "csr": csr, "service_name": "streaming" }).to_string();
    let base64 = csr.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    for route in ROUTES {
        let path = route.path.replace("{serial}", "01:02");
        let est = path.starts_with("/.well-known/est/");
        let (media_type, body) = if est { ("application/pkcs10", &base64) } else { ("application/json", &json) };
        let open = [
            "/health",
            "/ca/certificate",
            "/ca/crl",
            "/provider/status",
            "/provider/config",
            "/.well-known/est/cacerts",
        ];
        let open = open.contains(&path.as_str());
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ENROL"] {
            // The second is {"alg":"none"} with {"sub":"streaming"}.
            for token in [None, Some("crank_unknown"), Some("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzdHJlYW1pbmcifQ.AAAA")] {
                let named = Method::from_bytes(method.as_bytes()).unwrap();
                let mut request = client.request(named, ca.url(&path)).header("content-type", media_type);
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                let response = request.body(body.clone()).send().await.unwrap();
                let status = response.status().as_u16();
                let text = response.text().await.unwrap();
                assert!(!text.contains("\"certificate\""), "{method} {path}: {text}");
                assert!(!text.contains("PRIVATE KEY"), "{method} {path}: {text}");
                assert_eq!(status == 200, open && matches!(method, "GET" | "HEAD"), "{method} {path}: {text}");
                assert_ne!(status, 415, "{method} {path}: it was not asked for a credential");
            }
        }
    }
    assert_eq!(ca.issued().await, 0);
    let reply = ca.enrol(&client, None, "streaming", &csr).await;
    assert_eq!(reply.status, 401);
    assert!(reply.detail().starts_with("no credential"), "{}", reply.detail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_clients_with_one_token_exactly_one_gets_a_certificate() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let attempts = (0..50).map(|_| {
        let (client, token, ca) = (ca.client(), token.clone(), &ca);
        async move {
            let (_, csr) = key_and_csr(&identity("streaming", &[]));
            ca.enrol(&client, Some(&token), "streaming", &csr).await
        }
    });
    let replies = join_all(attempts).await;
    let won = replies.iter().filter(|reply| reply.status == 200).count();
    let lost = replies.iter().filter(|reply| reply.status == 401 && reply.detail().contains("has been used")).count();
    assert_eq!((won, lost), (1, 49));
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test]
async fn an_expired_token_is_told_so_and_an_unknown_one_is_told_nothing() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let worker = WorkerId::new("streaming").unwrap();
    let short = ca.running.tokens().create(worker, Duration::from_secs(1), []).await.unwrap();
    // A refused request leaves the token as it is, so this can ask again and again.
    eventually("the token expires", || async {
        let reply = ca.enrol(&client, Some(short.secret.expose()), "streaming", "no CSR").await;
        reply.status == 401 && reply.detail().contains("has expired")
    })
    .await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let mut almost = ca.token("streaming", &[]).await;
    almost.replace_range(48..49, if almost.ends_with('A') { "E" } else { "A" });
    for unknown in [&almost, "x", &"x".repeat(4000), "crank_"] {
        let reply = ca.enrol(&client, Some(unknown), "streaming", &csr).await;
        assert_eq!((reply.status, reply.detail()), (401, "the token is not valid for this CA"));
    }
    assert_eq!(ca.issued().await, 0);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_worker_and_names_only() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &["streaming.example"]).await;
    let (_, csr) = key_and_csr(&identity("other", &[]));
    let reply = ca.enrol(&client, Some(&token), "other", &csr).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.detail(), "the credential is for worker `streaming`, not for `other`");
    // The right service name does not help a CSR of another subject.
    let reply = ca.enrol(&client, Some(&token), "streaming", &csr).await;
    assert_eq!(reply.status, 403);
    let (_, csr) = key_and_csr(&identity("streaming", &["streaming.example", "foreign.example", "10.0.0.8"]));
    let reply = ca.enrol(&client, Some(&token), "streaming", &csr).await;
    assert_eq!(reply.status, 403);
    let expected = "names not permitted for worker `streaming`: DNS:foreign.example, IP:10.0.0.8";
    assert_eq!(reply.detail(), expected);
    // None of that has used the token up.
    let (_, csr) = key_and_csr(&identity("streaming", &["streaming.example"]));
    assert_eq!(ca.enrol(&client, Some(&token), "streaming", &csr).await.status, 200);
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test]
async fn no_worker_gets_a_name_of_the_ca_itself() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &["cert-authority"]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &["cert-authority"]));
    let reply = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    assert_eq!((reply.status, ca.issued().await), (403, 0));
}

#[tokio::test]
async fn the_current_certificate_renews_the_same_identity_and_no_other() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &["streaming.example"]).await;
    let identity_now = identity("streaming", &["streaming.example"]);
    let (key, csr) = key_and_csr(&identity_now);
    let first = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    let client = ca.client_as(first.chain(), &key);

    let (key, csr) = key_and_csr(&identity_now);
    let renewed = ca.enrol(&client, None, "streaming", &csr).await;
    assert_good(&renewed, &ca.running.root_pem(), &key, &identity_now.names);
    assert_ne!(renewed.chain()[0], first.chain()[0]);

    let (_, csr) = key_and_csr(&identity("other", &[]));
    assert_eq!(ca.enrol(&client, None, "other", &csr).await.status, 403);
    assert_eq!(ca.enrol(&client, None, "streaming", &csr).await.status, 403);
    let (_, csr) = key_and_csr(&identity("streaming", &["streaming.example", "more.example"]));
    assert_eq!(ca.enrol(&client, None, "streaming", &csr).await.status, 403);
    assert_eq!(ca.issued().await, 2);
}

#[tokio::test]
async fn a_token_counts_alone_even_beside_a_good_certificate() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let first = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    let client = ca.client_as(first.chain(), &key);
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    assert_eq!(ca.enrol(&client, Some(&token), "streaming", &csr).await.status, 401);
    let other = ca.token("other", &[]).await;
    let (_, csr) = key_and_csr(&identity("other", &[]));
    assert_eq!(ca.enrol(&client, Some(&other), "other", &csr).await.status, 200);
}

#[tokio::test]
async fn a_header_that_is_no_token_is_refused_even_beside_a_good_certificate() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &[]).await;
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let chain = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.chain();
    let client = ca.client_as(chain, &key);
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let body = json!({ "csr": csr, "service_name": "streaming" }).to_string();
    let fresh = format!("Bearer {}", ca.token("streaming", &[]).await);
    let cases: [&[&str]; 6] =
        [&[""], &["Bearer"], &["Bearer "], &["Basic eDp5"], &[&fresh, &fresh], &["Bearer", &fresh]];
    for values in cases {
        let mut request = client.post(ca.url("/certificates/csr")).body(body.clone());
        for value in values {
            request = request.header("authorization", *value);
        }
        assert_eq!(request.send().await.unwrap().status().as_u16(), 401, "{values:?}");
    }
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test]
async fn a_certificate_of_another_ca_opens_nothing() {
    let (ca, foreign) = (TestCa::start().await, TestCa::start().await);
    let token = foreign.token("streaming", &[]).await;
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let reply = foreign.enrol(&foreign.client(), Some(&token), "streaming", &csr).await;
    let client = ca.client_as(reply.chain(), &key);
    let body = json!({ "csr": csr, "service_name": "streaming" }).to_string();
    let result = ca.send(&client, Method::POST, "/certificates/csr", None, body).await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(ca.issued().await, 0);
    // Nor does a token of that CA.
    let token = foreign.token("streaming", &[]).await;
    assert_eq!(ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.status, 401);
}

#[tokio::test]
async fn a_key_of_another_worker_is_refused() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let first = identity("streaming", &[]);
    let (key, csr) = key_and_csr(&first);
    let token = ca.token("streaming", &[]).await;
    let reply = ca.enrol(&client, Some(&token), "streaming", &csr).await;
    assert_good(&reply, &ca.running.root_pem(), &key, &first.names);
    let csr = crank_agent::identity::csr::generate_csr(&identity("other", &[]), &key, KeyType::default()).unwrap();
    let token = ca.token("other", &[]).await;
    let reply = ca.enrol(&client, Some(&token), "other", &csr).await;
    assert_eq!((reply.status, ca.issued().await), (403, 1));
    assert!(reply.detail().contains("make a fresh key"), "{}", reply.detail());
}

#[tokio::test]
async fn many_workers_enrol_at_once_with_serials_all_different() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let attempts = (0..40).map(|number| {
        let (client, ca) = (client.clone(), &ca);
        async move {
            let worker = format!("worker-{number}");
            let token = ca.token(&worker, &[]).await;
            let (_, csr) = key_and_csr(&identity(&worker, &[]));
            ca.enrol(&client, Some(&token), &worker, &csr).await.chain()[0].to_vec()
        }
    });
    let leaves: BTreeSet<Vec<u8>> = join_all(attempts).await.into_iter().collect();
    assert_eq!((leaves.len(), ca.issued().await), (40, 40));
}

pub(crate) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    use std::pin::Pin;
    use std::task::Poll;
    let mut pending: Vec<(Pin<Box<_>>, Option<T>)> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}
