//! Clients without a credential: refused, but where an operator has written a rule.

use crank_agent::ca::{AnonymousRule, AnonymousSettings};
use serde_json::json;

use super::harness::{TestCa, assert_good, identity, key_and_csr};

fn rule(sources: &[&str], workers: &[&str]) -> AnonymousRule {
    let settings = json!({ "sources": sources, "workers": workers });
    serde_json::from_value::<AnonymousSettings>(settings).unwrap().resolve().unwrap()
}

#[tokio::test]
async fn an_old_client_gets_a_certificate_only_where_a_rule_says_so() {
    let rules = vec![rule(&["127.0.0.0/8"], &["old-*"]), rule(&["10.0.0.0/8"], &["*"])];
    let ca = TestCa::start_with(|config| config.anonymous = rules).await;
    let client = ca.client();
    let wanted = identity("old-1", &[]);
    let (key, csr) = key_and_csr(&wanted);
    let reply = ca.enrol(&client, None, "old-1", &csr).await;
    assert_good(&reply, &ca.running.root_pem(), &key, &wanted.names);
    // Nobody else, no other names, not with a credential that is bad, and not with the key of another.
    for (status, worker, names, token) in [
        (401, "streaming", &[][..], None),
        (401, "old-1.prod", &[], None),
        (403, "old-1", &["extra.example"], None),
        (401, "old-1", &[], Some("crank_unknown")),
    ] {
        let (_, csr) = key_and_csr(&identity(worker, names));
        let reply = ca.enrol(&client, token, worker, &csr).await;
        assert_eq!(reply.status, status, "{worker} {names:?}: {}", reply.body);
    }
    let csr = crank_agent::identity::csr::generate_csr(
        &identity("old-2", &[]),
        &key,
        crank_agent::identity::KeyType::default(),
    );
    let csr = csr.unwrap();
    assert_eq!(ca.enrol(&client, None, "old-2", &csr).await.status, 403);
    assert_eq!(ca.issued().await, 1);
}

#[tokio::test]
async fn a_rule_for_another_network_is_none() {
    let ca = TestCa::start_with(|config| config.anonymous = vec![rule(&["10.0.0.0/8"], &["*"])]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let reply = ca.enrol(&ca.client(), None, "streaming", &csr).await;
    assert_eq!(reply.status, 401);
    assert!(reply.detail().starts_with("no credential"), "{}", reply.detail());
}
