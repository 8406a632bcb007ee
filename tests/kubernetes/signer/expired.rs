//! Lists of many pages, and what the API server no longer knows: 410, of a page and of a watch.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::between::Between;
use super::restart::restart;
use super::{Ca, USAGES, create_all_as, create_as, prepare, signing_request};
use crate::cluster::{Cluster, succeeded};
use crate::node::until;

const REQUESTS: &str = "/certificatesigningrequests?";

/// Requests of the account `web`, three of which are approved: one on each page.
fn three_pages(cluster: &Cluster, namespace: &str, signer: &str) -> [String; 3] {
    let web = cluster.token(namespace, "web", None, None);
    let mut all: Vec<Value> = Vec::new();
    let name = |number: usize| format!("{namespace}-{number:03}");
    let approved = [7, 150, 249].map(name);
    let same = signing_request("same", signer, "", &USAGES);
    for number in 0..250 {
        let mut request = same.clone();
        if approved.contains(&name(number)) {
            request = signing_request("", signer, "", &USAGES);
        }
        request["metadata"]["name"] = Value::String(name(number));
        all.push(request);
    }
    succeeded("requests", &create_all_as(cluster, &web, &all));
    for name in &approved {
        cluster.must(&["certificate", "approve", name]);
    }
    approved
}

fn is_signed(cluster: &Cluster, name: &str) -> bool {
    cluster.object(&["get", "csr", name])["status"]["certificate"].is_string()
}

/// Forgets what was before now, as etcd is told to every few minutes.
fn compact(cluster: &Cluster) {
    // So that there is something that is newer.
    cluster.must(&["create", "configmap", "newer", "--namespace", "default"]);
    let call = |path: &str, body: &str| -> Value {
        let url = format!("https://127.0.0.1:{}/v3/kv/{path}", cluster.etcd_port);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--data", body, &url]);
        for (option, file) in [("--cacert", "ca.crt"), ("--cert", "server.crt"), ("--key", "server.key")] {
            command.arg(option).arg(cluster.path(file));
        }
        serde_json::from_str(&succeeded(path, &command.output().unwrap())).unwrap()
    };
    let now = call("range", &format!("{{\"key\":\"{}\"}}", STANDARD.encode("any")));
    let revision = now["header"]["revision"].as_str().unwrap();
    call("compaction", &format!("{{\"revision\":\"{revision}\",\"physical\":true}}"));
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_list_of_many_pages_is_read_to_its_end() {
    let cluster = Cluster::shared();
    let (namespace, signer) = ("pages", "pages.example/worker");
    prepare(&cluster, namespace, signer);
    let approved = three_pages(&cluster, namespace, signer);
    let between = Between::start(&cluster);
    let token = cluster.token(namespace, "cert-authority", None, None);
    let ca = Ca::start_at(&cluster, &between.url(), signer, &token);
    for name in &approved {
        until(name, || is_signed(&cluster, name));
    }
    assert_eq!(ca.list("pages.web").len(), 3);
    let pages = between.calls(&[REQUESTS, "limit=100"]);
    let further = between.calls(&[REQUESTS, "limit=100", "continue="]);
    assert_eq!((pages.len(), further.len()), (3, 2), "{pages:?}");
    assert!(pages.iter().all(|(_, code)| *code == 200), "{pages:?}");
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_list_whose_next_page_is_gone_is_begun_again() {
    // Its cache would know the page for a minute or so.
    let cluster = Cluster::start_with(&["--watch-cache=false"]);
    let (namespace, signer) = ("gone", "gone.example/worker");
    prepare(&cluster, namespace, signer);
    let approved = three_pages(&cluster, namespace, signer);
    let between = Between::start(&cluster);
    between.hold("continue=");
    let token = cluster.token(namespace, "cert-authority", None, None);
    let ca = Ca::start_at(&cluster, &between.url(), signer, &token);
    until("it asks for the second page", || between.held() == 1);
    compact(&cluster);
    between.release();
    for name in &approved {
        until(name, || is_signed(&cluster, name));
    }
    let codes: Vec<u16> = between.calls(&[REQUESTS, "continue="]).into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, [410, 200, 200]);
    assert_eq!(ca.list("gone.web").len(), 3, "each was signed once");
    assert!(!ca.log().contains("cannot follow the requests"), "{}", ca.log());
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_watch_that_comes_too_late_begins_with_a_list() {
    let cluster = Cluster::start();
    let (namespace, signer) = ("late", "late.example/worker");
    prepare(&cluster, namespace, signer);
    let between = Between::start(&cluster);
    let token = cluster.token(namespace, "cert-authority", None, None);
    let ca = Ca::start_at(&cluster, &between.url(), signer, &token);
    let web = cluster.token(namespace, "web", None, None);
    let sign = |name: &str| {
        succeeded(name, &create_as(&cluster, &web, &signing_request(name, signer, "", &USAGES)));
        cluster.must(&["certificate", "approve", name]);
    };
    sign("before");
    until("it is signed", || is_signed(&cluster, "before"));
    cluster.must(&["create", "configmap", "newer", "--namespace", "default"]);
    // An API server that starts knows nothing of before.
    let _again = restart(&cluster, str::to_owned, || {});
    sign("meanwhile");
    assert_eq!(between.calls(&["watch=true"]).iter().filter(|(_, code)| *code == 410).count(), 0);
    between.end_watches();
    until("it is signed too", || is_signed(&cluster, "meanwhile"));
    until("the API server no longer knew", || {
        let watches = between.calls(&[REQUESTS, "watch=true"]);
        watches.iter().any(|(_, code)| *code == 410)
    });
    assert_eq!(between.calls(&[REQUESTS, "limit=100"]).len(), 2, "it has listed again");
    assert!(!ca.log().contains("cannot follow the requests"), "{}", ca.log());
    assert_eq!(ca.list("late.web").len(), 2, "each was signed once");
}
