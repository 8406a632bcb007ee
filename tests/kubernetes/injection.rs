//! The policy that puts the agent into the pods that ask for it, as the API server applies it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chart::{render, worker_chart};
use crate::cluster::{Cluster, succeeded};
use crate::node::{USER, environment, until};
use crate::yaml;

/// A namespace with the policy, and a pod in it that has asked for the agent.
pub(crate) fn injected_pod(cluster: &Cluster, namespace: &str, account: &str, how: &str) -> Value {
    inject(cluster, namespace, account);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: worker\n  namespace: {namespace}\n  annotations: {{ crank-agent/inject: {how} }}\n\
         spec:\n  serviceAccountName: {account}\n  automountServiceAccountToken: false\n  containers:\n    - name: worker\n      image: worker\n      \
         securityContext: {HARDENED}\n"
    );
    cluster.create(&pod).unwrap()
}

/// What the restricted profile asks of a worker's container.
pub(crate) const HARDENED: &str = "{ allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: { drop: [ALL] }, seccompProfile: { type: RuntimeDefault } }";

/// A restricted namespace in which the policy of the chart is in force.
pub(crate) fn inject(cluster: &Cluster, namespace: &str, account: &str) {
    cluster.restricted_namespace(namespace, &[account, "cert-authority"]);
    cluster.must(&["label", "namespace", namespace, &format!("crank-agent/injection={namespace}")]);
    let selector =
        format!("injection.enabled=true,injection.namespaceSelector.matchLabels.crank-agent/injection={namespace}");
    let objects = render(&["--set", &selector]);
    let policies: Vec<Value> = objects
        .into_iter()
        .filter(|object| object["kind"].as_str().unwrap().starts_with("MutatingAdmissionPolicy"))
        .map(|mut object| {
            object["metadata"]["name"] = json!(namespace);
            if object["kind"] == "MutatingAdmissionPolicyBinding" {
                object["spec"]["policyName"] = json!(namespace);
            }
            object
        })
        .collect();
    assert_eq!(policies.len(), 2);
    for policy in policies {
        cluster.create(&policy.to_string()).unwrap();
    }
    // It is in force a moment after it is stored.
    let probe = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: probe, namespace: {namespace}, annotations: {{crank-agent/inject: init}}}}, \
         spec: {{serviceAccountName: {account}, containers: [{{name: a, image: a, securityContext: {HARDENED}}}]}}}}"
    );
    until("the policy is in force", || {
        let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], &probe);
        let pod: Value = serde_json::from_str(&succeeded("a pod", &output)).unwrap();
        pod["spec"]["initContainers"].is_array()
    });
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn a_pod_that_asks_for_it_gets_the_agent() {
    let cluster = Cluster::shared();
    inject(&cluster, "injection", "streaming");
    let pod = |name: &str, metadata: &str, spec: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: injection, {metadata} }}\n\
             spec:\n  serviceAccountName: streaming\n  automountServiceAccountToken: false\n{spec}  containers:\n    - {{ name: one, image: one, securityContext: {HARDENED} }}\n    \
             - {{ name: two, image: two, securityContext: {HARDENED}, volumeMounts: [{{ name: scratch, mountPath: /scratch }}] }}\n  \
             volumes: [{{ name: scratch, emptyDir: {{}} }}]\n"
        );
        cluster.create(&text).unwrap()
    };
    let migrate = format!("  initContainers: [{{ name: migrate, image: migrate, securityContext: {HARDENED} }}]\n");
    let sidecar = pod("sidecar", "annotations: { crank-agent/inject: sidecar }", &migrate);
    let template = &worker_chart()[0]["spec"]["template"];
    let made = &sidecar["spec"]["initContainers"][0];
    let asked = &with_defaults(&cluster, &template["spec"]["initContainers"][0]);
    assert_eq!(made["restartPolicy"], "Always");
    for key in
        ["image", "args", "ports", "startupProbe", "readinessProbe", "livenessProbe", "resources", "securityContext"]
    {
        assert_eq!(made[key], asked[key], "{key}");
    }
    let (mut left, mut right) = (environment(&sidecar, made), environment(&sidecar, asked));
    left.sort();
    right.sort();
    assert_eq!(left, right, "as the named template has it");
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&sidecar["spec"]["initContainers"]), ["crank-agent", "migrate"], "it comes first");
    for (list, index) in [("initContainers", 1), ("containers", 0), ("containers", 1)] {
        let mounts = &sidecar["spec"][list][index]["volumeMounts"];
        let certs = mounts.as_array().unwrap().iter().find(|mount| mount["name"] == "crank-certs").unwrap();
        assert_eq!(*certs, json!({"name": "crank-certs", "mountPath": "/etc/certs", "readOnly": true}));
    }
    let volumes = names(&sidecar["spec"]["volumes"]);
    assert_eq!(volumes, ["scratch", "crank-certs", "crank-credentials"]);
    assert_eq!(sidecar["spec"]["securityContext"]["fsGroup"], USER);
    assert_eq!(sidecar["metadata"]["labels"]["crank-agent/metrics"], "true");

    // A group of the pod's own, and other names.
    let own = pod(
        "own",
        "labels: { app: own }, annotations: { crank-agent/inject: sidecar, crank-agent/names: 'api.example.org,10.0.0.7' }",
        "  securityContext: { fsGroup: 1000 }\n",
    );
    let variables: BTreeMap<_, _> = environment(&own, &own["spec"]["initContainers"][0]).into_iter().collect();
    assert_eq!(variables["CRANK_FILES_GROUP"], "1000");
    assert_eq!(variables["CRANK_IDENTITY_NAMES"], "api.example.org,10.0.0.7");
    assert_eq!(variables["SERVICE_NAME"], "injection.streaming");
    assert_eq!(own["spec"]["securityContext"]["fsGroup"], 1000);
    assert_eq!(own["metadata"]["labels"]["app"], "own");
    let none = pod("none", "annotations: { crank-agent/inject: sidecar, crank-agent/names: '' }", "");
    assert!(
        environment(&none, &none["spec"]["initContainers"][0]).iter().all(|(name, _)| name != "CRANK_IDENTITY_NAMES")
    );

    // A job's, which ends before the worker starts.
    let init = pod("init", "annotations: { crank-agent/inject: init }", "");
    let container = &init["spec"]["initContainers"][0];
    assert_eq!((&container["args"], &container["restartPolicy"]), (&json!(["init"]), &Value::Null));

    // Who has not asked, or has it already, is left alone.
    let plain = pod("plain", "labels: { app: plain }", "");
    assert_eq!(plain["spec"]["initContainers"], Value::Null);
    let mut already = yaml::objects(&template.to_string()).remove(0);
    already["spec"]["containers"][0]["securityContext"] = yaml::objects(HARDENED).remove(0);
    let metadata =
        json!({"name": "already", "namespace": "injection", "annotations": {"crank-agent/inject": "sidecar"}});
    let already = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": already["spec"]});
    let already = cluster.create(&already.to_string()).unwrap();
    assert_eq!(already["spec"]["initContainers"].as_array().unwrap().len(), 1);
}

/// The container with what the API server adds to every container.
fn with_defaults(cluster: &Cluster, container: &Value) -> Value {
    let volumes = json!([
        {"name": "crank-certs", "emptyDir": {}}, {"name": "crank-credentials", "emptyDir": {}},
    ]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "defaults", "namespace": "injection"},
        "spec": {
            "serviceAccountName": "streaming", "initContainers": [container], "volumes": volumes,
            "containers": [{"name": "a", "image": "a", "securityContext": yaml::objects(HARDENED)[0]}],
        },
    });
    let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], &pod.to_string());
    let pod: Value = serde_json::from_str(&succeeded("defaults", &output)).unwrap();
    pod["spec"]["initContainers"][0].clone()
}
