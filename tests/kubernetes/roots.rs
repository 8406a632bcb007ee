//! The change of a root by the chart's values, on a whole cluster, with a worker that lives through it.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::chart::CHART;
use crate::cluster::{Cluster, succeeded};
use crate::machine::Machine;
use crate::node::until;
use crate::page;
use crate::release::rolled_out;
use crate::yaml;

const NAMESPACE: &str = "crank";

/// A root, and a secret with an intermediate below it, as cert-manager makes them. Returns the root.
pub(crate) fn make_issuer(cluster: &Cluster, name: &str) -> String {
    let params = |kind: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{name} {kind}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let root = CertifiedIssuer::self_signed(params("root"), KeyPair::generate().unwrap()).unwrap();
    let issuer = CertifiedIssuer::signed_by(params("issuing"), KeyPair::generate().unwrap(), &root).unwrap();
    let data = json!({"tls.crt": issuer.pem(), "tls.key": issuer.key().serialize_pem(), "ca.crt": root.pem()});
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data});
    cluster.create(&secret.to_string()).unwrap();
    root.pem()
}

/// The standard output of `words` in the worker's pod.
fn inside(cluster: &Cluster, container: &str, words: &[&str]) -> String {
    cluster.must(&[&["exec", "deployment/streaming", "--container", container, "--"], words].concat())
}

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd and helm"]
fn a_root_is_changed_by_the_secrets_of_the_chart_under_a_worker() {
    let machine = Machine::with_controllers();
    let cluster = &machine.cluster;
    cluster.restricted_namespace(NAMESPACE, &[]);
    machine.volume("ca-data", "by-hand");
    let (old, new) = (make_issuer(cluster, "old"), make_issuer(cluster, "new"));
    let chart = yaml::path(CHART).display().to_string();
    let roots = cluster.path("roots.pem");
    let release = |command: &str, secrets: &str, trusted: &str| {
        fs::write(&roots, trusted).unwrap();
        let secrets = format!("ca.authority.secrets={{{secrets}}}");
        let trusted = format!("trust.roots={}", roots.display());
        let values = "trust.configMap.namespaces={default},injection.enabled=true,ca.persistence.storageClass=by-hand";
        let arguments = [command, "crank", &chart, "--namespace", NAMESPACE, "--set", values, "--set", &secrets];
        cluster.helm(&[&arguments[..], &["--set-file", &trusted]].concat());
        rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    };
    let both = old.clone() + &new;
    release("install", "old", &old);
    cluster.must(&["label", "namespace", "default", "crank-agent/injection=enabled"]);
    cluster.must(&["create", "serviceaccount", "streaming"]);
    let streaming = yaml::objects(&page::file("streaming.yaml")).remove(0);
    until("the policy is in force", || {
        let mut pod = streaming["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("probe");
        let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], &pod.to_string());
        let pod: Value = serde_json::from_str(&succeeded("a pod", &output)).unwrap();
        pod["spec"]["initContainers"].is_array()
    });
    cluster.create(&streaming.to_string()).unwrap();
    rolled_out(&machine, "default", "deployment/streaming");
    // Who signed the worker's certificate after it was renewed, and the roots it knows.
    let renewed = || {
        inside(cluster, "crank-agent", &["crank-agent", "renew"]);
        let words = ["openssl", "x509", "-noout", "-issuer", "-in", "/etc/certs/client.crt"];
        let issuer = inside(cluster, "streaming", &words);
        let words = ["openssl", "storeutl", "-noout", "-text", "-certs", "/etc/certs/ca.crt"];
        let known = inside(cluster, "streaming", &words);
        // Of one below the other authority too, as its peers show them.
        let known = ["old", "new"].map(|name| {
            known.contains(&format!("Subject: CN = {name} root")) || known.contains(&format!("Subject: CN={name} root"))
        });
        (issuer.trim().to_owned(), known)
    };
    let of = |name: &str| format!("issuer=CN = {name} issuing");
    assert_eq!(renewed(), (of("old"), [true, false]));
    release("upgrade", "old,new", &both);
    assert_eq!(renewed(), (of("old"), [true, true]), "both roots are handed out, and the first secret signs");
    release("upgrade", "new,old", &both);
    assert_eq!(renewed(), (of("new"), [true, true]), "it is the other that signs");
    release("upgrade", "new", &new);
    let words = ["exec", "--namespace", NAMESPACE, "cert-authority-0", "--container", "crank-ca", "--"];
    let retire = [&words[..], &["crank-ca", "root", "retire"]].concat();
    let refused = cluster.kubectl(&retire);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("not expired"), "{told}");
    cluster.must(&[&retire[..], &["--force"]].concat());
    until("the new root is the only one", || renewed() == (of("new"), [false, true]));

    // A worker that comes now knows the new root alone, and so does the CA after a restart.
    cluster.must(&["delete", "pod", "cert-authority-0", "--namespace", NAMESPACE]);
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    cluster.must(&["rollout", "restart", "deployment/streaming"]);
    rolled_out(&machine, "default", "deployment/streaming");
    assert_eq!(renewed(), (of("new"), [false, true]));
}
