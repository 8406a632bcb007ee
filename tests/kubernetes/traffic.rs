//! Owns the enforcement of `NetworkPolicies` on the node, and pods that try to connect.

use std::fs::File;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::injection::HARDENED;
use crate::machine::NAME;
use crate::node::Process;
use crate::yaml;

/// Keeps the pods of the node to the policies of the cluster, until it is dropped.
pub(crate) fn enforce(cluster: &Cluster) -> Process {
    let log = File::create(cluster.path("network-policies.log")).unwrap();
    let mut command = cluster.command("network-policies");
    command.arg("-kubeconfig").arg(cluster.path("kubeconfig")).args(["-node", NAME, "-services", "10.96.0.0/16"]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

/// A pod with `labels` that tries to connect. It is there for longer than one try, since what a new pod sends before the node
/// has taken note of it is kept to no policy.
pub(crate) struct Probe<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    name: String,
}

impl<'a> Probe<'a> {
    pub(crate) fn start(cluster: &'a Cluster, namespace: &'a str, labels: &Value) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("probe-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let image = concat!("worker:", env!("CARGO_PKG_VERSION"));
        // Something that does not end.
        let container = json!({
            "name": "probe", "image": image, "args": ["s_server", "-accept", "9443", "-nocert", "-quiet"],
            "securityContext": yaml::objects(HARDENED)[0],
        });
        let spec = json!({
            "automountServiceAccountToken": false, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
        });
        let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        cluster.create(&pod.to_string()).unwrap();
        let pod = format!("pod/{name}");
        cluster.must(&["wait", "--for=condition=Ready", "--timeout=180s", &pod, "--namespace", namespace]);
        Self { cluster, namespace, name }
    }

    /// Whether it gets a TLS connection to `target`; else the connection must have been refused.
    pub(crate) fn reaches(&self, target: &str) -> bool {
        let here = ["exec", &self.name, "--namespace", self.namespace, "--"];
        let words = ["openssl", "s_client", "-brief", "-connect", target];
        let output = self.cluster.kubectl(&[&here[..], &words].concat());
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).unwrap();
        let established = told.contains("CONNECTION ESTABLISHED");
        assert!(established || told.contains("Connection refused"), "{told}");
        established
    }
}
