//! Owns the enforcement of `NetworkPolicies` on the node, and pods that try to connect.

use std::fs::File;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::injection::HARDENED;
use crate::machine::NAME;
use crate::node::{Process, until};
use crate::yaml;

/// Keeps the pods of the node to the policies of the cluster, until it is dropped.
pub(crate) fn enforce(cluster: &Cluster) -> Process {
    let log = File::create(cluster.path("network-policies.log")).unwrap();
    let mut command = cluster.command("network-policies");
    command.arg("-kubeconfig").arg(cluster.path("kubeconfig")).args(["-node", NAME, "-services", "10.96.0.0/16"]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

/// Whether a new pod with `labels` gets a TLS connection to `target`; else the connection must have been refused.
pub(crate) fn reaches(cluster: &Cluster, namespace: &str, labels: &Value, target: &str) -> bool {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("probe-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let image = concat!("worker:", env!("CARGO_PKG_VERSION"));
    let container = json!({
        "name": "probe", "image": image, "args": ["s_client", "-brief", "-connect", target],
        "securityContext": yaml::objects(HARDENED)[0],
    });
    let spec = json!({
        "automountServiceAccountToken": false, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
    });
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    cluster.create(&pod.to_string()).unwrap();
    let mut told = String::new();
    until(&format!("{name} has tried to reach {target}"), || {
        told = String::from_utf8(cluster.kubectl(&["logs", &name, "--namespace", namespace]).stdout).unwrap();
        told.contains("CONNECTION ESTABLISHED") || told.contains("connect:errno=")
    });
    cluster.must(&["delete", "pod", &name, "--namespace", namespace, "--now", "--wait=false"]);
    assert!(told.contains("CONNECTION ESTABLISHED") || told.contains("Connection refused"), "{told}");
    told.contains("CONNECTION ESTABLISHED")
}
