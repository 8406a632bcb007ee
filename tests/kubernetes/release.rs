//! The CA with `SQLite` as helm installs it, on a whole cluster: its test, its volume, its evictions, its end.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::{Value, json};

use crate::chart::CHART;
use crate::cluster::{Cluster, succeeded};
use crate::controllers::logs;
use crate::machine::{Machine, NAME};
use crate::node::until;
use crate::page;
use crate::yaml;

const NAMESPACE: &str = "crank";

/// The pods that `selector` selects.
pub(crate) fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> Vec<Value> {
    let list = cluster.object(&["get", "pods", "--namespace", namespace, "--selector", selector]);
    list["items"].as_array().unwrap().clone()
}

/// The labels of a `matchLabels`, as a selector.
pub(crate) fn selector(labels: &Value) -> String {
    let labels: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Waits for a workload as `kubectl rollout status` does.
pub(crate) fn rolled_out(machine: &Machine, namespace: &str, workload: &str) {
    let cluster = &machine.cluster;
    let output = cluster.kubectl(&["rollout", "status", workload, "--namespace", namespace, "--timeout=180s"]);
    let told = || {
        let pods = cluster.must(&["describe", "pods", "--namespace", namespace]);
        format!("{}\n{pods}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs(cluster), machine.logs())
    };
    assert!(output.status.success(), "{workload}: {}", told());
}

/// The policy and the budget of the release are for the CA's pods, for all of them and for no others. That traffic is
/// kept to the policy is seen where it is enforced, in the test of the manifests.
pub(crate) fn are_for_the_ca(cluster: &Cluster, namespace: &str, names: &[&str]) {
    let policy = cluster.object(&["get", "networkpolicy", "cert-authority", "--namespace", namespace]);
    let budget = cluster.object(&["get", "poddisruptionbudget", "cert-authority", "--namespace", namespace]);
    for labels in [&policy["spec"]["podSelector"]["matchLabels"], &budget["spec"]["selector"]["matchLabels"]] {
        let found = pods(cluster, namespace, &selector(labels));
        let mut found: Vec<&str> = found.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, names);
    }
    // The port by name is one that they have.
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], "https");
    for pod in pods(cluster, namespace, &selector(&policy["spec"]["podSelector"]["matchLabels"])) {
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["name"], "https");
    }
    // The API server's own port, behind its Service, is among those that the CA may reach.
    let slices = cluster.object(&["get", "endpointslices", "--selector", "kubernetes.io/service-name=kubernetes"]);
    let port = &slices["items"][0]["ports"][0]["port"];
    let reached =
        policy["spec"]["egress"].as_array().unwrap().iter().flat_map(|rule| rule["ports"].as_array().unwrap());
    assert!(reached.into_iter().any(|reached| reached["port"] == *port), "{port}: {policy:#}");
}

/// Evicts a pod, as drains do.
pub(crate) fn evict(cluster: &Cluster, namespace: &str, pod: &str) -> Output {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    cluster.kubectl_with(&["create", "--raw", &path], &eviction.to_string())
}

fn root(cluster: &Cluster) -> String {
    let words = ["exec", "--namespace", NAMESPACE, "cert-authority-0", "--container", "crank-ca", "--"];
    cluster.must(&[&words[..], &["crank-ca", "root", "show"]].concat())
}

fn helm_test(cluster: &Cluster) -> (bool, String) {
    let arguments = ["test", "crank", "--namespace", NAMESPACE, "--timeout", "3m"];
    let output = cluster.command("helm").args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), told)
}

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd and helm"]
fn a_ca_with_sqlite_is_the_same_wherever_its_pod_has_been() {
    let machine = Machine::with_controllers();
    let cluster = &machine.cluster;
    cluster.restricted_namespace(NAMESPACE, &[]);
    machine.volume("ca-data", "by-hand");
    let chart = yaml::path(CHART).display().to_string();
    let install = ["install", "crank", &chart, "--namespace", NAMESPACE, "--set=ca.persistence.storageClass=by-hand"];
    // So that the test of a CA that is away is soon over.
    let impatient = "--set=agent.extraEnv[0].name=CRANK_CA_STARTUP_WAIT,agent.extraEnv[0].value=5s";
    let notes = cluster.helm(&[&install[..], &[impatient]].concat());
    assert!(notes.contains("--set \"trust.configMap.namespaces={NAMESPACE}\""), "{notes}");
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    let own = root(cluster);
    let file = cluster.path("root.crt");
    std::fs::write(&file, &own).unwrap();
    let from_file = format!("trust.roots={}", file.display());
    cluster.helm(&["upgrade", "crank", &chart, "--namespace", NAMESPACE, "--reuse-values", "--set-file", &from_file]);
    let (passed, told) = helm_test(cluster);
    assert!(passed && told.contains("Phase:          Succeeded"), "{told}\n{}", logs(cluster));
    are_for_the_ca(cluster, NAMESPACE, &["cert-authority-0"]);

    // Deleted, it comes back with its keys and its record.
    let ca = || cluster.object(&["get", "pod", "cert-authority-0", "--namespace", NAMESPACE]);
    let issued = || {
        let words = ["exec", "--namespace", NAMESPACE, "cert-authority-0", "--container", "crank-ca", "--"];
        let listed = cluster.must(&[&words[..], &["crank-ca", "list", "--json"]].concat());
        listed.lines().filter(|line| line.contains("\"crank.crank-enrolment-test\"")).count()
    };
    assert_eq!(issued(), 1);
    let before = ca()["metadata"]["uid"].clone();
    cluster.must(&["delete", "pod", "cert-authority-0", "--namespace", NAMESPACE]);
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    assert_ne!(ca()["metadata"]["uid"], before);
    assert_eq!((root(cluster), issued()), (own.clone(), 1));

    // A drain takes a single one too, and waits for nothing.
    cluster.must(&["drain", NAME, "--delete-emptydir-data", "--timeout=60s"]);
    until("its successor waits for a node", || ca()["status"]["phase"] == "Pending");
    cluster.must(&["uncordon", NAME]);
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    assert_eq!(root(cluster), own);

    // The test tells a CA that is away.
    cluster.must(&["scale", "statefulset/cert-authority", "--replicas=0", "--namespace", NAMESPACE]);
    cluster.must(&["wait", "--for=delete", "pod/cert-authority-0", "--namespace", NAMESPACE, "--timeout=60s"]);
    let (passed, told) = helm_test(cluster);
    let log = cluster.must(&["logs", "crank-enrolment-test", "--namespace", NAMESPACE]);
    assert!(!passed && log.contains("CA_UNAVAILABLE"), "{told}\n{log}");
    let failed = cluster.object(&["get", "pod", "crank-enrolment-test", "--namespace", NAMESPACE]);
    let code = &failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
    assert_eq!(*code, 69, "{:#}", failed["status"]);

    cluster.must(&["scale", "statefulset/cert-authority", "--replicas=1", "--namespace", NAMESPACE]);
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");

    // Backed up as the page says, while it serves.
    machine.volume("backup", "by-hand");
    let mut backup = yaml::objects(&page::file("backup.yaml"));
    backup[0]["spec"]["storageClassName"] = json!("by-hand");
    let image = concat!("registry.example.org/crank-ca:", env!("CARGO_PKG_VERSION"));
    assert_eq!(backup[1]["spec"]["template"]["spec"]["containers"][0]["image"], image);
    run_job(&machine, &backup);

    // Removed and installed again, it is the same still.
    let uninstall = || cluster.helm(&["uninstall", "crank", "--namespace", NAMESPACE, "--wait"]);
    uninstall();
    let claim = ["persistentvolumeclaim", "data-cert-authority-0", "--namespace", NAMESPACE];
    let mut data = cluster.object(&[&["get"], &claim[..]].concat());
    cluster.helm(&[&install[..], &["--set-file", &from_file]].concat());
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    assert_eq!((root(cluster), issued()), (own.clone(), 1));

    // Its volume lost, it comes back from the backup.
    uninstall();
    cluster.must(&[&["delete", "--timeout=60s"], &claim[..]].concat());
    machine.volume("ca-data-again", "by-hand");
    let (spec, metadata) = (data["spec"].take(), json!({"name": claim[1], "namespace": NAMESPACE}));
    let mut data = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec});
    data["spec"]["volumeName"] = json!("ca-data-again");
    let mut restore = backup.remove(1);
    restore["metadata"]["name"] = json!("crank-ca-restore");
    restore["spec"]["template"]["spec"]["affinity"] = Value::Null;
    let arguments = page::words("args: [restore,");
    restore["spec"]["template"]["spec"]["containers"][0]["args"] = json!(arguments);
    run_job(&machine, &[data, restore]);
    cluster.helm(&[&install[..], &["--set-file", &from_file]].concat());
    rolled_out(&machine, NAMESPACE, "statefulset/cert-authority");
    assert_eq!((root(cluster), issued()), (own, 1));
    let (passed, told) = helm_test(cluster);
    assert!(passed, "{told}");
    assert_eq!(issued(), 2);
    succeeded("eviction", &evict(cluster, NAMESPACE, "cert-authority-0"));
}

/// Creates `objects`, the last of which is a job, waits for its success, and deletes it.
fn run_job(machine: &Machine, objects: &[Value]) {
    let cluster = &machine.cluster;
    succeeded("a job", &cluster.kubectl_with(&["create"], &yaml::join(objects)));
    let job = format!("job/{}", objects.last().unwrap()["metadata"]["name"].as_str().unwrap());
    let output =
        cluster.kubectl(&["wait", "--for=condition=Complete", &job, "--namespace", NAMESPACE, "--timeout=90s"]);
    let told = || {
        let logs = cluster.kubectl(&["logs", &job, "--namespace", NAMESPACE]);
        let pods = cluster.must(&["describe", "pods", "--namespace", NAMESPACE]);
        format!("{}\n{pods}", String::from_utf8_lossy(&logs.stdout))
    };
    assert!(output.status.success(), "{job}: {}", told());
    cluster.must(&["delete", &job, "--namespace", NAMESPACE, "--timeout=60s"]);
}
