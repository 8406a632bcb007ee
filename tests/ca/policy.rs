//! A CA whose default rules are narrowed: what the policy says reaches whoever asked, and a change of it takes effect.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crank_agent::policy::PolicyConfig;
use tempfile::TempDir;

use crate::harness::{Reply, TestCa, eventually, identity, key_and_csr};

/// Rules by which `allow` decides on issuance, and certificates live as long as `period` says.
fn write_rules(directory: &Path, allow: &str, period: &str) {
    let rules = format!(
        "package crank\n\ndefault can_issue_certificate := {{\"allow\": false, \"reason\": \"not today\"}}\n\n\
         can_issue_certificate := {{\"allow\": true}} if {allow}\n\n\
         certificate_validity_period := {{\"period\": \"{period}\"}}\n\n\
         should_renew_certificate := {{\"allow\": false}}\n\nrevoke_certificate := {{\"allow\": false}}\n"
    );
    fs::write(directory.join("crank.rego"), rules).unwrap();
}

/// The seconds between the ends of the certificate in `reply`.
fn life(reply: &Reply) -> i64 {
    let chain = reply.chain();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()
}

async fn start(directory: &Path) -> TestCa {
    let directory = directory.to_owned();
    TestCa::start_with(|config| {
        config.lifetime = Duration::from_hours(24);
        config.policy = PolicyConfig::Rego { directory, timeout: Duration::from_secs(4) };
    })
    .await
}

#[tokio::test]
async fn what_the_rules_say_reaches_the_worker_and_their_change_takes_effect_without_a_restart() {
    let directory = TempDir::new().unwrap();
    write_rules(directory.path(), "input.identity.worker_id == \"other\"", "1h");
    let ca = start(directory.path()).await;
    let own = identity("streaming", &[]);
    let token = ca.token("streaming", &[]).await;
    let (_, csr) = key_and_csr(&own);
    let client = ca.client();
    let enrol = || ca.enrol(&client, Some(&token), "streaming", &csr);
    let refused = enrol().await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let decision = refused.body["decision_id"].as_str().unwrap();
    assert_eq!(refused.detail(), format!("denied by policy: not today (decision {decision})"));
    assert_eq!(ca.issued().await, 0);

    write_rules(directory.path(), "input.request.key_type == \"ecdsa-p256\"", "1h");
    eventually("the new rules allow it", async || enrol().await.status == 200).await;
    let issued = enrol().await;
    assert!(issued.body["provider"]["decision_id"].as_str().unwrap().starts_with("dec_"));
    assert_eq!(life(&issued), 3600 + 60, "an hour, and a minute before");
}

#[tokio::test]
async fn rules_that_are_not_usable_keep_the_ca_from_starting_and_later_leave_the_last_good_ones() {
    let directory = TempDir::new().unwrap();
    write_rules(directory.path(), "true", "365d");
    let ca = start(directory.path()).await;
    let status = async || {
        let url = ca.url("/provider/status");
        let reply = crate::harness::send(&ca.client(), reqwest::Method::GET, &url, None, "").await.unwrap();
        reply.body["policy"].clone()
    };
    let before = status().await;
    assert_eq!((before["engine"].as_str(), before["current"].as_bool()), (Some("rego"), Some(true)));
    fs::write(directory.path().join("more.rego"), "package crank\n\nf(x) := f(x)\n\nf2 := ").unwrap();
    eventually("the CA tells that its rules are not the newest", async || status().await["current"] == false).await;
    assert_eq!(status().await["revision"], before["revision"]);
    let token = ca.token("streaming", &[]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let issued = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    assert_eq!(life(&issued), 24 * 3600 + 60, "the rules' year does not widen the CA's day");

    let config = PolicyConfig::Rego { directory: directory.path().to_owned(), timeout: Duration::from_secs(1) };
    let policy = config.build(
        crank_agent::policy::DefaultPolicy::default(),
        crank_agent::config::Environment::Production,
        std::sync::Arc::new(crank_agent::clock::SystemClock),
    );
    let error = crank_agent::printable::error_chain(&policy.err().unwrap());
    assert!(error.starts_with("the policy rules are not usable: more.rego:5:"), "{error}");
}
