//! The shipped rules give the same answers in this process and in a real OPA.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crank_agent::policy::rego::{Cases, RuleSet};
use crank_agent::policy::{Hook, Input};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Opa, rules};

fn cases() -> Cases {
    Cases::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy/cases.yaml")).unwrap()
}

#[test]
fn the_shipped_cases_pass() {
    let reports = cases().run(&Arc::new(RuleSet::load(&rules()).unwrap()));
    let failed: Vec<_> = reports.iter().filter(|report| report.failure.is_some()).collect();
    assert!(failed.is_empty() && reports.len() > 15, "{failed:#?}");
}

#[tokio::test]
#[ignore = "needs opa"]
async fn both_engines_give_the_same_answers() {
    let directory = TempDir::new().unwrap();
    let (_opa, socket) = Opa::at_socket(directory.path());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let client = reqwest::Client::builder().unix_socket(socket).tls_backend_preconfigured(tls).build().unwrap();
    let rules = Arc::new(RuleSet::load(&rules()).unwrap());
    let mut questions: Vec<Input> = cases().questions().unwrap().into_iter().map(|(_, input)| input).collect();
    let mut runner = TestRunner::default();
    questions.extend((0..400).map(|_| any_question().new_tree(&mut runner).unwrap().current()));
    let (mut allowed, mut denied) = (0, 0);
    for question in questions {
        let url = format!("http://localhost/v1/data/crank/{}?strict-builtin-errors=true", question.hook);
        let reply = client.post(url).json(&json!({ "input": question })).send().await.unwrap();
        let theirs: Value = reply.json().await.unwrap();
        let ours = rules.answer(question.clone(), Duration::from_secs(5)).unwrap();
        assert_eq!(ours.as_ref(), theirs.get("result"), "{question:#?}");
        match ours.unwrap().get("allow") {
            Some(Value::Bool(false)) => denied += 1,
            _ => allowed += 1,
        }
    }
    assert!(allowed > 50 && denied > 50, "{allowed} {denied}");
}

fn any_names() -> impl Strategy<Value = Value> {
    let dns = "streaming|localhost|ledger|payments\\.api|api\\.payments\\.svc\\.cluster\\.local|[a-z]{1,3}(\\.[a-z]{1,3}){0,2}";
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| std::net::IpAddr::from(octets).to_string()),
        any::<[u8; 3]>().prop_map(|[b, c, d]| format!("10.{b}.{c}.{d}")),
        any::<[u16; 8]>().prop_map(|groups| std::net::IpAddr::from(groups).to_string()),
    ];
    let list = |element: BoxedStrategy<String>| proptest::collection::btree_set(element, 0..3);
    (list(dns.boxed()), list(ip.boxed())).prop_map(|(dns, ip)| json!({ "dns": dns, "ip": ip, "uri": [] }))
}

fn any_question() -> impl Strategy<Value = Input> {
    let worker = "streaming|newcomer|payments\\.api|payments\\.api\\.test|[a-z]{1,3}(\\.[a-z]{1,3}){0,2}";
    let key_type = prop::sample::select(vec!["ecdsa-p256", "ed25519", "rsa-2048", "rsa-4096"]);
    let actor = (prop::sample::select(vec!["worker", "admin", "operator"]), "streaming|alice|mallory|[a-z]{0,3}");
    let hook = prop::sample::select(Hook::ALL.to_vec());
    let environment = prop::sample::select(vec!["production", "development"]);
    let life = (1_i64..100_000_000, -1_000_000_i64..100_000_000);
    (hook, environment, worker, any_names(), key_type, actor, life).prop_map(
        |(hook, environment, worker, names, key_type, (kind, actor), (lifetime, remaining))| {
            let mut document = serde_json::to_value(Input::sample(hook)).unwrap();
            document["environment"] = environment.into();
            if document.get("identity").is_some() {
                document["identity"]["worker_id"] = worker.clone().into();
                document["request"]["names"] = names;
                document["request"]["key_type"] = key_type.into();
            }
            if document.get("certificate").is_some() {
                document["certificate"]["lifetime_seconds"] = lifetime.into();
                document["certificate"]["remaining_seconds"] = remaining.into();
            }
            if document.get("revocation").is_some() {
                document["revocation"]["worker_id"] = worker.into();
                document["revocation"]["actor"] = json!({ "kind": kind, "name": actor });
            }
            serde_json::from_value(document).unwrap()
        },
    )
}
