//! Tokens of other authorities: who enrols with one, and every way in which a token can lie.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crank_agent::ca::{IssuerSettings, TokenIssuer};
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Reply, TestCa, assert_good, eventually, identity, key_and_csr};
use super::issuer::TestIssuer;
use super::key_server::KeyServer;

const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";

async fn ca_that_trusts(issuers: Vec<TokenIssuer>) -> TestCa {
    TestCa::start_with(|config| config.issuers = issuers).await
}

async fn enrol(ca: &TestCa, token: &str, worker: &str) -> Reply {
    let (_, csr) = key_and_csr(&identity(worker, &[]));
    ca.enrol(&ca.client(), Some(token), worker, &csr).await
}

#[tokio::test]
async fn a_service_account_enrols_with_its_projected_token_as_often_as_it_likes() {
    let cluster = TestIssuer::new(CLUSTER);
    let ca = ca_that_trusts(vec![cluster.trusted("kind = \"kubernetes\"")]).await;
    for algorithm in ["RS256", "ES256"] {
        let token = cluster.token(algorithm, &cluster.pod_claims("shop", "api"));
        for _ in 0..2 {
            let identity = identity("shop.api", &[]);
            let (key, csr) = key_and_csr(&identity);
            let reply = ca.enrol(&ca.client(), Some(&token), "shop.api", &csr).await;
            assert_good(&reply, &ca.running.root_pem(), &key, &identity.names);
        }
        let reply = enrol(&ca, &token, "shop.other").await;
        assert_eq!(
            (reply.status, reply.detail()),
            (403, "the credential is for worker `shop.api`, not for `shop.other`")
        );
    }
    assert_eq!(ca.issued().await, 4);
    // A request that comes again for the same key gets the same certificate, as after a lost reply.
    let token = cluster.token("RS256", &cluster.pod_claims("shop", "api"));
    let (_, csr) = key_and_csr(&identity("shop.api", &[]));
    let first = ca.enrol(&ca.client(), Some(&token), "shop.api", &csr).await.chain();
    assert_eq!(ca.enrol(&ca.client(), Some(&token), "shop.api", &csr).await.chain(), first);
    assert_eq!(ca.issued().await, 5);
}

#[tokio::test]
async fn every_algorithm_that_is_offered_verifies() {
    let issuer = TestIssuer::new("https://issuer.example");
    let ca = ca_that_trusts(vec![issuer.trusted("identity = \"{sub}\"")]).await;
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"] {
        let reply = enrol(&ca, &issuer.token(algorithm, &issuer.claims("streaming")), "streaming").await;
        assert_eq!(reply.status, 200, "{algorithm}: {}", reply.body);
    }
}

/// Good but for what `change` does to it.
fn changed(claims: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims.clone();
    change(&mut claims);
    claims
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of lies")]
async fn tokens_that_lie_get_nothing() {
    let (issuer, attacker) = (TestIssuer::new("https://issuer.example"), TestIssuer::new("https://issuer.example"));
    let ca = ca_that_trusts(vec![issuer.trusted("identity = \"{sub}\"\nalgorithms = [\"RS256\", \"ES256\"]")]).await;
    let good = issuer.claims("streaming");
    let (text, now) = (good.to_string(), good["iat"].as_i64().unwrap());
    let claims = |change: fn(&mut Value)| issuer.token("RS256", &changed(&good, change));
    let at = |name: &str, time: Value| issuer.token("RS256", &changed(&good, |claims| claims[name] = time));
    let header = |text_of_header: &str| issuer.sign("RS256", text_of_header, &text);
    let signed = |claims: &str| issuer.sign("RS256", r#"{"alg":"RS256","kid":"rsa"}"#, claims);
    let valid = issuer.token("RS256", &good);
    let parts: Vec<&str> = valid.split('.').collect();
    let with = |header: &str, signature: &str| format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), parts[1]);
    let keys = issuer.keys();
    // The public key as the secret of a symmetric signature, in each form in which it may lie around.
    let symmetric = |key: &str, secret: &[u8]| {
        let header = json!({ "alg": "HS256", "kid": key }).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), parts[1]);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let of_attacker = attacker.token("RS256", &good);
    let embedded = json!({ "alg": "RS256", "jwk": attacker.keys()["keys"][0], "kid": "rsa" }).to_string();
    let tampered = {
        let other = issuer.token("RS256", &issuer.claims("other"));
        let other: Vec<&str> = other.split('.').collect();
        format!("{}.{}.{}", parts[0], parts[1], other[2])
    };
    let cases = [
        ("none without a signature", "the token is not valid for this CA", with(r#"{"alg":"none"}"#, "")),
        ("none with one", "algorithm", with(r#"{"alg":"none"}"#, parts[2])),
        ("None", "algorithm", with(r#"{"alg":"None","kid":"rsa"}"#, parts[2])),
        ("HS256 with the modulus", "algorithm", symmetric("rsa", issuer.rsa.public_key().as_ref())),
        ("HS256 with the JWK", "algorithm", symmetric("rsa", keys["keys"][0].to_string().as_bytes())),
        (
            "HS256 with the modulus as text",
            "algorithm",
            symmetric("rsa", keys["keys"][0]["n"].as_str().unwrap().as_bytes()),
        ),
        ("HS256 with a symmetric key of the set", "algorithm", symmetric("shared", b"secret")),
        ("an algorithm that is not allowed here", "algorithm", issuer.token("ES384", &good)),
        ("an algorithm of another key", "algorithm", issuer.sign("RS256", r#"{"alg":"RS256","kid":"p256"}"#, &text)),
        ("a key of another algorithm", "algorithm", issuer.sign("ES256", r#"{"alg":"ES256","kid":"rsa"}"#, &text)),
        ("RS512 that says RS256", "signature", issuer.sign("RS512", r#"{"alg":"RS256","kid":"rsa"}"#, &text)),
        ("PS256 that says RS256", "signature", issuer.sign("PS256", r#"{"alg":"RS256","kid":"rsa"}"#, &text)),
        ("a key that is not there", "key is none", header(r#"{"alg":"RS256","kid":"other"}"#)),
        ("a key that is a path", "key is none", header(r#"{"alg":"RS256","kid":"../../../dev/null"}"#)),
        ("another's key of the same id", "signature", of_attacker.clone()),
        ("a key of its own", "signature", attacker.sign("RS256", &embedded, &text)),
        (
            "an address of keys",
            "key is none",
            attacker.sign("RS256", r#"{"alg":"RS256","kid":"x","jku":"https://127.0.0.1:1/"}"#, &text),
        ),
        (
            "an address of a chain",
            "signature",
            attacker.sign("RS256", r#"{"alg":"RS256","x5u":"https://127.0.0.1:1/"}"#, &text),
        ),
        (
            "an extension that must be understood",
            "without crit",
            header(r#"{"alg":"RS256","kid":"rsa","crit":["exp"]}"#),
        ),
        ("an unencoded payload", "without crit", header(r#"{"alg":"RS256","kid":"rsa","b64":false,"crit":["b64"]}"#)),
        ("two algorithms", "none of them twice", header(r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#)),
        ("a token in a token", "without crit", header(r#"{"alg":"RS256","kid":"rsa","cty":"JWT"}"#)),
        ("an encrypted token", "the token is not valid for this CA", format!("{valid}.{}.{}", parts[1], parts[2])),
        ("another purpose", "expected the type", header(r#"{"alg":"RS256","kid":"rsa","typ":"logout+jwt"}"#)),
        ("another's signature", "signature", tampered),
        ("half a signature", "", valid[..valid.len() - 20].to_owned()),
        ("two subjects", "none of them twice", signed(&text.replace('{', r#"{"sub":"other","#))),
        ("two members deep inside", "none of them twice", signed(&text.replace('{', r#"{"x":[{"a":1,"a":2}],"#))),
        ("another audience", "audience", claims(|claims| claims["aud"] = json!("other-ca"))),
        ("part of the audience", "audience", claims(|claims| claims["aud"] = json!("crank-ca-2"))),
        ("no audience", "audience", claims(|claims| _ = claims.as_object_mut().unwrap().remove("aud"))),
        ("an audience of other things", "audience", claims(|claims| claims["aud"] = json!(["crank-ca", 1]))),
        ("another issuer", "issuer", claims(|claims| claims["iss"] = json!("https://issuer.example/"))),
        ("issuers", "issuer", claims(|claims| claims["iss"] = json!(["https://issuer.example"]))),
        ("no expiry", "expected an expiry", claims(|claims| _ = claims.as_object_mut().unwrap().remove("exp"))),
        ("an expiry of another type", "expected times", claims(|claims| claims["exp"] = json!("9999999999"))),
        ("an expiry of no type", "expected times", at("exp", Value::Null)),
        ("expired", "has expired", at("exp", json!(now - 31))),
        ("not yet valid", "not yet valid", at("nbf", json!(now + 60))),
        ("a beginning of another type", "expected times", claims(|claims| claims["nbf"] = json!("9999999999"))),
        ("made in the future", "not yet valid", at("iat", json!(now + 60))),
        ("too long a life", "lives longer", at("exp", json!(now + 86_401))),
        ("no subject", "subject", claims(|claims| _ = claims.as_object_mut().unwrap().remove("sub"))),
        (
            "too large",
            "",
            issuer.token("RS256", &changed(&good, |claims| claims["x"] = json!("x".repeat(9_000))))
                + &"A".repeat(9_000),
        ),
    ];
    for (what, why, token) in cases {
        let (_, csr) = key_and_csr(&identity("streaming", &[]));
        let body = json!({ "csr": csr, "service_name": "streaming" }).to_string();
        let reply = ca.send(&ca.client(), Method::POST, "/certificates/csr", Some(&token), body).await.unwrap();
        let expected = if what == "too large" { 431 } else { 401 };
        assert_eq!(reply.status, expected, "{what}: {}", reply.body);
        assert!(reply.detail().contains(why), "{what}: {}", reply.body);
        assert!(!reply.body.to_string().contains(parts[2]), "{what}");
    }
    assert_eq!(ca.issued().await, 0);
    assert_eq!(enrol(&ca, &valid, "streaming").await.status, 200);
}

#[tokio::test]
async fn the_same_key_id_at_two_issuers_is_two_keys() {
    let (one, other) = (TestIssuer::new("https://one.example"), TestIssuer::new("https://other.example"));
    let ca = ca_that_trusts(vec![one.trusted("identity = \"one-{sub}\""), other.trusted("identity = \"other-{sub}\"")])
        .await;
    assert_eq!(enrol(&ca, &one.token("RS256", &one.claims("a")), "one-a").await.status, 200);
    assert_eq!(enrol(&ca, &other.token("RS256", &other.claims("a")), "other-a").await.status, 200);
    let crossed = one.token("RS256", &other.claims("a"));
    assert_eq!(enrol(&ca, &crossed, "other-a").await.detail(), "the token's signature is not valid");
    assert_eq!(ca.issued().await, 2);
}

#[tokio::test]
async fn a_service_account_token_must_be_a_projected_one_of_a_pod() {
    let cluster = TestIssuer::new(CLUSTER);
    let ca = ca_that_trusts(vec![cluster.trusted("kind = \"kubernetes\"")]).await;
    let good = cluster.pod_claims("shop", "api");
    let root = |change: fn(&mut Value)| changed(&good, |claims| change(&mut claims["kubernetes.io"]));
    for (what, claims) in [
        ("no pod", root(|root| _ = root.as_object_mut().unwrap().remove("pod"))),
        ("a pod without uid", root(|root| root["pod"] = json!({ "name": "api-0" }))),
        ("a pod with an empty uid", root(|root| root["pod"]["uid"] = json!(""))),
        ("an account without uid", root(|root| root["serviceaccount"] = json!({ "name": "api" }))),
        ("another namespace than the subject's", root(|root| root["namespace"] = json!("bank"))),
        ("another account than the subject's", root(|root| root["serviceaccount"]["name"] = json!("admin"))),
        ("another subject", changed(&good, |claims| claims["sub"] = json!("system:serviceaccount:bank:api"))),
        ("no such claims", changed(&good, |claims| _ = claims.as_object_mut().unwrap().remove("kubernetes.io"))),
        ("a name that is no worker id", {
            let mut claims = cluster.pod_claims("shop", "API");
            claims["sub"] = json!("system:serviceaccount:shop:API");
            claims
        }),
    ] {
        for worker in ["shop.api", "bank.api", "shop.admin"] {
            let reply = enrol(&ca, &cluster.token("RS256", &claims), worker).await;
            assert_eq!(reply.status, 403, "{what}: {}", reply.body);
        }
    }
    assert_eq!(ca.issued().await, 0);
    // One that may be without a pod, by the operator's word.
    let ca = ca_that_trusts(vec![cluster.trusted("kind = \"kubernetes\"\nrequire_pod_binding = false")]).await;
    let unbound = root(|root| _ = root.as_object_mut().unwrap().remove("pod"));
    assert_eq!(enrol(&ca, &cluster.token("RS256", &unbound), "shop.api").await.status, 200);
    let half = root(|root| root["pod"] = json!({ "name": "api-0" }));
    assert_eq!(enrol(&ca, &cluster.token("RS256", &half), "shop.api").await.status, 403);
}

#[tokio::test]
async fn names_and_requirements_come_from_the_configuration() {
    let issuer = TestIssuer::new("https://issuer.example");
    let further = "identity = \"{team}.{app}\"\nnames = [\"{app}.{team}.example\"]\n\
                   [require]\nverified = true\nlevel = 3\nref = \"refs/heads/main\"";
    let ca = ca_that_trusts(vec![issuer.trusted(further)]).await;
    let good = changed(&issuer.claims("x"), |claims| {
        for (name, value) in [("team", json!("shop")), ("app", json!("api")), ("verified", json!(true))] {
            claims[name] = value;
        }
        (claims["level"], claims["ref"]) = (json!(3), json!("refs/heads/main"));
    });
    let token = issuer.token("ES256", &good);
    let wanted = identity("shop.api", &["api.shop.example"]);
    let (key, csr) = key_and_csr(&wanted);
    let reply = ca.enrol(&ca.client(), Some(&token), "shop.api", &csr).await;
    assert_good(&reply, &ca.running.root_pem(), &key, &wanted.names);
    // Further names are permitted, not given; and none beside them.
    let (_, csr) = key_and_csr(&identity("shop.api", &["other.shop.example"]));
    assert_eq!(ca.enrol(&ca.client(), Some(&token), "shop.api", &csr).await.status, 403);
    for (name, value) in [
        ("verified", json!("true")),
        ("verified", json!(false)),
        ("level", json!(2)),
        ("level", json!("3")),
        ("ref", json!("refs/heads/main2")),
        ("ref", json!(["refs/heads/main"])),
        ("team", json!("shop.api")),
        ("team", json!("{app}")),
        ("team", json!(["shop"])),
        ("app", json!("*")),
        ("app", json!("a/../b")),
        ("app", json!("")),
    ] {
        let token = issuer.token("ES256", &changed(&good, |claims| claims[name] = value.clone()));
        assert_eq!(enrol(&ca, &token, "shop.api").await.status, 403, "{name} {value}");
    }
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_they_change_and_kept_when_they_are_broken() {
    let (issuer, next) = (TestIssuer::new("https://issuer.example"), TestIssuer::new("https://issuer.example"));
    let ca = ca_that_trusts(vec![issuer.trusted("identity = \"{sub}\"")]).await;
    let old = issuer.token("RS256", &issuer.claims("a"));
    let new = next.token("RS256", &next.claims("a"));
    assert_eq!((enrol(&ca, &old, "a").await.status, enrol(&ca, &new, "a").await.status), (200, 401));
    issuer.write_keys_text("{ half a fi");
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_millis(1_500) {
        assert_eq!(enrol(&ca, &old, "a").await.status, 200);
    }
    issuer.write_keys(&next.keys());
    eventually("the new keys count", || async { enrol(&ca, &new, "a").await.status == 200 }).await;
    assert_eq!(enrol(&ca, &old, "a").await.status, 401);
}

#[tokio::test]
async fn keys_are_fetched_over_verified_tls_with_a_token_and_seldom() {
    let (issuer, server) = (TestIssuer::new(CLUSTER), KeyServer::start().await);
    server.answer("200 OK", "", &issuer.keys().to_string());
    let settings =
        format!("issuer = \"{CLUSTER}\"\naudience = \"crank-ca\"\nkind = \"kubernetes\"\n{}", server.settings());
    let trusted = toml::from_str::<IssuerSettings>(&settings).unwrap().resolve().unwrap();
    let ca = ca_that_trusts(vec![trusted]).await;
    assert_eq!(server.requests().len(), 0);
    let token = issuer.token("RS256", &issuer.pod_claims("shop", "api"));
    assert_eq!(enrol(&ca, &token, "shop.api").await.status, 200);
    let requests = server.requests();
    assert!(requests[0].starts_with("GET /openid/v1/jwks HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("authorization: Bearer reader-token\r\n"), "{}", requests[0]);
    // Tokens with keys that nobody knows do not make it ask again and again, and what it knows stays good.
    for number in 0..20 {
        let header = json!({ "alg": "RS256", "kid": format!("key-{number}") }).to_string();
        let unknown = issuer.sign("RS256", &header, &issuer.pod_claims("shop", "api").to_string());
        assert_eq!(enrol(&ca, &unknown, "shop.api").await.detail(), "the token's key is none of its issuer's");
    }
    assert_eq!(server.requests().len(), 1);
    drop(server);
    assert_eq!(enrol(&ca, &token, "shop.api").await.status, 200);
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_the_cas_failure_and_not_the_workers() {
    let (issuer, server, stranger) = (TestIssuer::new(CLUSTER), KeyServer::start().await, KeyServer::start().await);
    let keys = issuer.keys().to_string();
    let token = issuer.token("RS256", &issuer.pod_claims("shop", "api"));
    let base = format!("issuer = \"{CLUSTER}\"\naudience = \"crank-ca\"\nkind = \"kubernetes\"\n{}", server.settings());
    let root = |server: &KeyServer| server.root_file().display().to_string();
    let distrusting = base.replace(&root(&server), &root(&stranger));
    let elsewhere = "Location: https://localhost/\r\n";
    let endless = "x".repeat(300 * 1024);
    for (what, status, header, body, settings) in [
        ("another root", "200 OK", "", keys.as_str(), &distrusting),
        ("a redirect", "302 Found", elsewhere, keys.as_str(), &base),
        ("an error", "500 Internal Server Error", "", keys.as_str(), &base),
        ("no keys", "200 OK", "", "{\"keys\":[]}", &base),
        ("too much", "200 OK", "", endless.as_str(), &base),
    ] {
        server.answer(status, header, body);
        let trusted = toml::from_str::<IssuerSettings>(settings).unwrap().resolve().unwrap();
        let ca = ca_that_trusts(vec![trusted]).await;
        let reply = enrol(&ca, &token, "shop.api").await;
        assert_eq!(reply.status, 503, "{what}: {}", reply.body);
        assert_eq!(reply.detail(), "the keys of the token's issuer are not available now", "{what}");
        assert_eq!(ca.issued().await, 0);
    }
    assert_eq!(stranger.requests().len(), 0);
}

#[tokio::test]
async fn without_a_trusted_issuer_no_such_token_counts() {
    let issuer = TestIssuer::new("https://issuer.example");
    let ca = TestCa::start().await;
    let reply = enrol(&ca, &issuer.token("RS256", &issuer.claims("streaming")), "streaming").await;
    assert_eq!((reply.status, reply.detail()), (401, "the token's issuer is not one that this CA trusts"));
}
