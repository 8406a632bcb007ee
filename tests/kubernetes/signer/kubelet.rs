//! The projected volume of a pod on a real node: the kubelet itself asks for its certificate.

use std::fs;

use serde_json::{Value, json};

use super::{Ca, of_the_page, prepare, text};
use crate::machine::{Machine, NAME};
use crate::node::until;
use crate::yaml;

#[test]
#[ignore = "needs root, kube-apiserver, kubelet and containerd"]
fn a_pod_finds_key_and_certificate_in_its_volume() {
    let machine = Machine::start();
    let cluster = &machine.cluster;
    let (namespace, signer) = ("volume", "volume.example/worker");
    prepare(cluster, namespace, signer);
    let ca = Ca::start(cluster, signer, &cluster.token(namespace, "cert-authority", None, None));
    let root = fs::read_to_string(ca.directory.path().join("ca/authority/root.crt")).unwrap();
    let metadata = json!({"name": "crank-ca-root", "namespace": namespace});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": root}});
    cluster.create(&map.to_string()).unwrap();

    let pod_for = |account: &str| {
        let mut pod = yaml::objects(&of_the_page("worker.yaml", namespace, signer)).remove(0);
        pod["metadata"] = json!({"name": account, "namespace": namespace});
        let spec = &mut pod["spec"];
        (spec["serviceAccountName"], spec["nodeName"]) = (json!(account), json!(NAME));
        (spec["restartPolicy"], spec["dnsPolicy"]) = (json!("Never"), json!("Default"));
        let chain = "/etc/certs/tls.crt";
        let run = |name: &str, arguments: &[&str]| {
            let mut container = spec["containers"][0].clone();
            container["name"] = json!(name);
            container["image"] = json!(concat!("worker:", env!("CARGO_PKG_VERSION")));
            container["args"] = json!(arguments);
            container
        };
        let verify = ["verify", "-x509_strict", "-CAfile", "/etc/certs/ca.crt", "-untrusted", chain, chain];
        let containers = [
            run("verify", &verify),
            run("names", &["x509", "-in", chain, "-noout", "-ext", "subjectAltName", "-pubkey"]),
            run("key", &["pkey", "-in", "/etc/certs/tls.key", "-pubout"]),
        ];
        spec["containers"] = json!(containers);
        cluster.create(&pod.to_string()).unwrap();
    };
    pod_for("web");
    let pod = || cluster.object(&["get", "pod", "web", "--namespace", namespace]);
    until("the worker's commands are over", || {
        let phase = pod()["status"]["phase"].clone();
        assert!(phase != "Failed", "{:#}\n{}", pod()["status"], machine.logs());
        phase == "Succeeded"
    });
    let logs = |container: &str| cluster.must(&["logs", "--namespace", namespace, "web", "--container", container]);
    assert_eq!(logs("verify"), "/etc/certs/tls.crt: OK\n");
    let names = logs("names");
    for name in ["DNS:volume.web", "DNS:web.volume.svc", "URI:spiffe://crank.local/worker/volume.web"] {
        assert!(names.contains(name), "{name}: {names}");
    }
    assert!(names.contains(logs("key").trim()), "the key is that of the certificate: {names}");
    assert_eq!(ca.list("volume.web").len(), 1);

    // What the policy denies keeps its pod from starting.
    pod_for("banned");
    let requests = || cluster.object(&["get", "podcertificaterequests", "--namespace", namespace]);
    let denied = |requests: &Value| {
        let all = requests["items"].as_array().unwrap();
        all.iter().any(|request| text(&request["status"]["conditions"][0]["reason"]) == "PolicyDenied")
    };
    until("the request is denied", || denied(&requests()));
    let banned = cluster.object(&["get", "pod", "banned", "--namespace", namespace]);
    assert_eq!(banned["status"]["phase"], "Pending");
}
