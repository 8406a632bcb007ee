//! The manifests and components as kubectl applies them, on a whole cluster: what the page tells those who have no Helm.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Cluster, succeeded};
use crate::machine::Machine;
use crate::node::until;
use crate::page;
use crate::release::{pods, rolled_out};
use crate::traffic::{self, Probe};
use crate::yaml;

/// Runs the commands of the page's block that holds `text`, in `here`.
fn session(machine: &Machine, here: &Path, text: &str) {
    let commands = page::block_with(text);
    let output = machine.cluster.command("sh").args(["-eux", "-c", &commands]).current_dir(here).output().unwrap();
    let logs = || format!("{}\n{}", crate::controllers::logs(&machine.cluster), machine.logs());
    assert!(output.status.success(), "{commands}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
}

/// Workloads of each kind that the components change, with a service account for each.
fn workloads() -> Vec<Value> {
    let mount = json!([{"name": "crank-certs", "mountPath": "/etc/certs", "readOnly": true}]);
    let workload = |version: &str, kind: &str, how: &str, container: Value, more: &Value| {
        let name = kind.to_lowercase();
        let mut container = container;
        container["name"] = json!("worker");
        container["volumeMounts"] = mount.clone();
        let mut spec = json!({"template": {"spec": {"serviceAccountName": name, "containers": [container]}}});
        if kind == "Job" {
            spec["template"]["spec"]["restartPolicy"] = json!("Never");
        } else {
            spec["selector"] = json!({"matchLabels": {"app": name}});
            spec["template"]["metadata"] = json!({"labels": {"app": name}});
        }
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({"name": name, "annotations": {"crank-agent/inject": how}});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let server = json!({"image": "registry.example.org/worker:1"});
    let image = concat!("worker:", env!("CARGO_PKG_VERSION"));
    let reader = json!({"image": image, "args": ["x509", "-noout", "-subject", "-in", "/etc/certs/client.crt"]});
    let mut objects = vec![
        workload("apps/v1", "Deployment", "sidecar", server.clone(), &json!({})),
        workload("apps/v1", "StatefulSet", "sidecar", server.clone(), &json!({"serviceName": "statefulset"})),
        workload("apps/v1", "DaemonSet", "sidecar", server, &json!({})),
        workload("batch/v1", "Job", "init", reader, &json!({})),
    ];
    for kind in ["deployment", "statefulset", "daemonset", "job", "annotated"] {
        objects.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": kind}}));
    }
    objects
}

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd, network-policies and kubectl"]
fn whoever_has_no_helm_applies_the_manifests_and_has_the_same() {
    let machine = Machine::with_controllers();
    let cluster = &machine.cluster;
    let _enforced = traffic::enforce(cluster);
    let class = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: standard, annotations: \
                 {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: kubernetes.io/no-provisioner, \
                 volumeBindingMode: WaitForFirstConsumer}";
    cluster.create(class).unwrap();
    machine.volume("standard-0", "standard");
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    page::copy("deploy", here);
    fs::create_dir(here.join("crank")).unwrap();
    fs::write(here.join("crank/kustomization.yaml"), page::file("crank/kustomization.yaml")).unwrap();
    session(&machine, here, "kubectl apply --kustomize crank");
    let ca = pods(cluster, "crank", "app.kubernetes.io/name=crank-ca").remove(0);
    let image = |program: &str| format!("registry.example.org/{program}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(ca["spec"]["containers"][0]["image"], image("crank-ca"));

    // Each kind of workload by its component.
    let kustomization = "namespace: default\nresources: [workloads.yaml]\n\
                         components: [deploy/kubernetes/components/sidecar, deploy/kubernetes/components/job]\n\
                         images: [{ name: crank-agent, newName: registry.example.org/crank-agent }]\n";
    fs::write(here.join("kustomization.yaml"), kustomization).unwrap();
    fs::write(here.join("workloads.yaml"), yaml::join(&workloads())).unwrap();
    let mut apply = cluster.command("kubectl");
    succeeded("apply", &apply.args(["apply", "--kustomize", "."]).current_dir(here).output().unwrap());
    for kind in ["deployment", "statefulset", "daemonset"] {
        rolled_out(&machine, "default", &format!("{kind}/{kind}"));
        let pod = pods(cluster, "default", &format!("app={kind}")).remove(0);
        assert_eq!(pod["spec"]["initContainers"][0]["image"], image("crank-agent"));
        let words = ["exec", pod["metadata"]["name"].as_str().unwrap(), "--container", "crank-agent", "--"];
        assert_eq!(cluster.must(&[&words[..], &["crank-agent", "health"]].concat()).trim(), "ready");
    }
    cluster.must(&["wait", "--for=condition=Complete", "--timeout=180s", "job/job"]);
    let told = cluster.must(&["logs", "job/job", "--container", "worker"]);
    assert!(told.contains("CN = default.job"), "{told}");

    // And by the policy.
    session(&machine, here, "deploy/kubernetes/injection/policy.yaml |");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "annotated", "annotations": {"crank-agent/inject": "sidecar"}},
        "spec": {"serviceAccountName": "annotated", "containers": [{"name": "a", "image": "worker:1"}]},
    });
    until("the policy is in force", || {
        let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], &pod.to_string());
        let pod: Value = serde_json::from_str(&succeeded("a pod", &output)).unwrap();
        pod["spec"]["initContainers"][0]["image"] == image("crank-agent")
    });
    cluster.create(&pod.to_string()).unwrap();
    cluster.must(&["wait", "--for=condition=Ready", "--timeout=180s", "pod/annotated"]);

    only_whom_the_policy_names_reaches_the_ca(cluster);
}

/// With its `NetworkPolicy` enforced, under which all of the above has been.
fn only_whom_the_policy_names_reaches_the_ca(cluster: &Cluster) {
    let ca = &pods(cluster, "crank", "app.kubernetes.io/name=crank-ca")[0];
    let address = format!("{}:9090", ca["status"]["podIP"].as_str().unwrap());
    let service = "cert-authority.crank.svc:9090";
    let any = Probe::start(cluster, "default", &json!({}));
    let other = Probe::start(cluster, "default", &json!({"team": "other"}));
    let named = Probe::start(cluster, "default", &json!({"team": "named"}));
    assert!(any.reaches(service) && other.reaches(service) && named.reaches(service), "the default names every pod");
    let policy = json!({"spec": {"ingress": [{
        "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"team": "named"}}}],
        "ports": [{"port": "https", "protocol": "TCP"}],
    }]}});
    cluster.must(&["patch", "networkpolicy", "cert-authority", "--namespace=crank", "--patch", &policy.to_string()]);
    until("the policy is enforced", || !any.reaches(service));
    assert!(!other.reaches(&address), "nor past the Service");
    until("who is named gets through", || named.reaches(service));

    // The CA itself reaches the API server, whose keys it has read, and no worker; which another does.
    let worker = pods(cluster, "default", "app=deployment").remove(0);
    let worker = format!("{}:8443", worker["status"]["podIP"].as_str().unwrap());
    let labels = &ca["metadata"]["labels"];
    let posing = json!({
        "app.kubernetes.io/name": labels["app.kubernetes.io/name"], "app.kubernetes.io/instance": labels["app.kubernetes.io/instance"],
    });
    let posing = Probe::start(cluster, "crank", &posing);
    until("its own traffic is kept to the policy", || !posing.reaches(&worker));
    assert!(posing.reaches("kubernetes.default.svc:443"));
    assert!(Probe::start(cluster, "crank", &json!({})).reaches(&worker));
}
