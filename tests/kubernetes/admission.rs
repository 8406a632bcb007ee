//! What the API server takes: every object, every pod under the restricted profile, the release as a whole, and the
//! policy that puts the agent into pods.

use std::fs;
use std::process::Output;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::chart::{CHART, VALUES, render};
use crate::cluster::{Cluster, succeeded};
use crate::yaml;

/// The pods that the workloads among `objects` would make, and those that stand for themselves.
pub(crate) fn pods(objects: &[Value], namespace: &str) -> Vec<Value> {
    let mut pods = Vec::new();
    for object in objects {
        let spec = match object["kind"].as_str().unwrap() {
            "StatefulSet" | "Deployment" | "DaemonSet" | "Job" => &object["spec"]["template"],
            "Pod" => object,
            _ => continue,
        };
        let mut spec = spec["spec"].clone();
        // What the StatefulSet's claims become.
        if let Some(claims) = object["spec"]["volumeClaimTemplates"].as_array() {
            let volumes = spec["volumes"].as_array_mut().unwrap();
            for claim in claims {
                let name = &claim["metadata"]["name"];
                volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": "data-cert-authority-0"}}));
            }
        }
        let name = format!("{}-0", object["metadata"]["name"].as_str().unwrap());
        let metadata = json!({"name": name, "namespace": namespace});
        pods.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    }
    pods
}

/// A root.
fn root_pem() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn dry_run(cluster: &Cluster, objects: &[Value]) -> Output {
    cluster.kubectl_with(&["create", "--dry-run=server", "--validate=strict"], &yaml::join(objects))
}

/// The custom resources of the Prometheus operator, as far as a release needs them to be there.
fn define_monitoring(cluster: &Cluster) {
    let definition = |kind: &str, plural: &str| {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
            },
        })
    };
    let all = [definition("ServiceMonitor", "servicemonitors"), definition("PrometheusRule", "prometheusrules")];
    let output = cluster.kubectl_with(&["apply"], &yaml::join(&all));
    succeeded("custom resources", &output);
    for plural in ["servicemonitors", "prometheusrules"] {
        let name = format!("crd/{plural}.monitoring.coreos.com");
        cluster.must(&["wait", "--for=condition=Established", "--timeout=60s", &name]);
    }
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn every_object_is_accepted_with_strict_validation() {
    let cluster = Cluster::shared();
    define_monitoring(&cluster);
    let (mut kinds, mut namespaces) = (Vec::new(), Vec::new());
    for values in VALUES {
        let objects = render(&["--values", &format!("{CHART}/ci/{values}")]);
        for object in &objects {
            kinds.push(object["kind"].as_str().unwrap().to_owned());
            if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                namespaces.push(namespace.to_owned());
            }
        }
        namespaces.sort();
        namespaces.dedup();
        for namespace in &namespaces {
            // It may be there already.
            cluster.kubectl(&["create", "namespace", namespace]);
        }
        // Pods are refused without their account, also in a dry run.
        for account in objects.iter().filter(|object| object["kind"] == "ServiceAccount") {
            succeeded(values, &cluster.kubectl_with(&["apply"], &account.to_string()));
        }
        let rest: Vec<Value> = objects.into_iter().filter(|object| object["kind"] != "ServiceAccount").collect();
        succeeded(values, &dry_run(&cluster, &rest));
    }
    kinds.sort();
    kinds.dedup();
    let all = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterTrustBundle",
        "ConfigMap",
        "Deployment",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
    ];
    assert_eq!(kinds, all);
    // It would tell what it does not know.
    let mut wrong = yaml::find(&render(&[]), "Service", "cert-authority").clone();
    wrong["spec"]["portz"] = json!([]);
    let refused = String::from_utf8(dry_run(&cluster, &[wrong]).stderr).unwrap();
    assert!(refused.contains("portz"), "{refused}");
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn every_pod_is_admitted_under_the_restricted_profile() {
    let cluster = Cluster::shared();
    let namespace = "restricted-pods";
    cluster.restricted_namespace(namespace, &["cert-authority", "crank-enrolment-test", "streaming", "report"]);
    let mut all = Vec::new();
    for values in VALUES {
        all.extend(pods(&render(&["--values", &format!("{CHART}/ci/{values}")]), namespace));
    }
    all.extend(pods(&crate::chart::worker_chart(), namespace));
    assert!(all.len() >= 8, "{}", all.len());
    for pod in &mut all {
        // The worker's own container is its author's to harden.
        for container in pod["spec"]["containers"].as_array_mut().unwrap() {
            if container["image"] == "streaming" || container["image"] == "report" {
                container["securityContext"] = json!({
                    "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
                });
            }
        }
        pod["spec"]["priorityClassName"] = Value::Null;
        let output = dry_run(&cluster, std::slice::from_ref(pod));
        succeeded(&pod["metadata"]["name"].to_string(), &output);
        // Each container has what the profile asks for by itself.
        let lists = ["initContainers", "containers"];
        for list in lists {
            for index in 0..pod["spec"][list].as_array().map_or(0, Vec::len) {
                let mut worse = pod.clone();
                worse["spec"][list][index]["securityContext"]["capabilities"] = Value::Null;
                let refused = String::from_utf8(dry_run(&cluster, &[worse]).stderr).unwrap();
                assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
            }
        }
    }
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn the_release_is_installed_upgraded_and_removed_by_helm() {
    let cluster = Cluster::shared();
    define_monitoring(&cluster);
    let chart = yaml::path(CHART).display().to_string();
    for namespace in ["release", "release-a", "release-b"] {
        cluster.restricted_namespace(namespace, &[]);
    }
    let notes = cluster.helm(&["install", "mesh", &chart, "--namespace", "release", "--wait=false"]);
    assert!(notes.contains("kubectl exec -n release cert-authority-0 -c crank-ca -- crank-ca root show"), "{notes}");
    assert!(!cluster.kubectl(&["get", "configmap", "crank-ca-root", "-n", "release"]).status.success());

    // As the notes say.
    let root = root_pem();
    let file = cluster.path("release-root.crt");
    fs::write(&file, &root).unwrap();
    let from_file = format!("trust.roots={}", file.display());
    let notes = cluster.helm(&[
        "upgrade",
        "mesh",
        &chart,
        "--namespace=release",
        "--reuse-values",
        "--set-file",
        &from_file,
        "--set=trust.configMap.namespaces={release-a,release-b}",
        "--set=injection.enabled=true",
        "--set=injection.namespaceSelector.matchLabels.crank-agent/injection=release",
        "--set=monitoring.serviceMonitor.enabled=true",
        "--set=monitoring.serviceMonitor.namespaces={release-a,release-b}",
        "--set=monitoring.prometheusRule.enabled=true",
    ]);
    assert!(notes.contains("helm test mesh -n release"), "{notes}");
    for namespace in ["release", "release-a", "release-b"] {
        let map = cluster.object(&["get", "configmap", "crank-ca-root", "--namespace", namespace]);
        assert_eq!(map["data"]["ca.crt"].as_str().unwrap(), root);
    }
    let set = cluster.object(&["get", "statefulset", "cert-authority", "--namespace", "release"]);
    assert_eq!(set["spec"]["template"]["spec"]["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch");
    cluster.must(&["get", "mutatingadmissionpolicy", "release-mesh-injection"]);
    cluster.must(&["get", "servicemonitor,prometheusrule", "--namespace", "release"]);

    cluster.helm(&["uninstall", "mesh", "--namespace", "release"]);
    let left = cluster.must(&["get", "all,configmap,networkpolicy,pdb,serviceaccount", "-n=release", "-o=name"]);
    assert_eq!(left.lines().collect::<Vec<_>>(), [""; 0]);
    assert!(!cluster.kubectl(&["get", "mutatingadmissionpolicy", "release-mesh-injection"]).status.success());
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn the_roots_reach_pods_by_a_cluster_trust_bundle() {
    let cluster = Cluster::shared();
    let root = root_pem();
    let file = cluster.path("bundle-root.crt");
    fs::write(&file, &root).unwrap();
    let from_file = format!("trust.roots={}", file.display());
    let objects = render(&[
        "--set-file",
        &from_file,
        "--set=trust.clusterTrustBundle.enabled=true,trust.clusterTrustBundle.name=mesh-root",
    ]);
    let bundle = yaml::find(&objects, "ClusterTrustBundle", "mesh-root");
    // Stored, which parses the certificates.
    let kept = cluster.create(&bundle.to_string()).unwrap();
    assert_eq!(kept["spec"]["trustBundle"].as_str().unwrap().trim(), root.trim());
    cluster.restricted_namespace("bundle", &["crank-enrolment-test"]);
    let pod = pods(&objects, "bundle").pop().unwrap();
    let admitted = cluster.create(&pod.to_string()).unwrap();
    let sources = admitted["spec"]["volumes"][1]["projected"]["sources"].as_array().unwrap();
    assert_eq!(sources[1]["clusterTrustBundle"], json!({"name": "mesh-root", "path": "ca.crt"}));
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn the_service_account_of_the_ca_may_do_nothing_but_read_the_keys_of_the_cluster() {
    let cluster = Cluster::shared();
    let objects = render(&[]);
    let bindings: Vec<&Value> =
        objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding")).collect();
    let [binding] = bindings[..] else { panic!("{bindings:?}") };
    cluster.restricted_namespace("rights", &["cert-authority", "other"]);
    let mut binding = binding.clone();
    binding["metadata"]["name"] = json!("rights");
    binding["subjects"][0]["namespace"] = json!("rights");
    succeeded("binding", &cluster.kubectl_with(&["create"], &binding.to_string()));
    let rights = |account: &str| {
        let subject = format!("--as=system:serviceaccount:rights:{account}");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:rights", "system:authenticated"];
        let groups = groups.map(|group| format!("--as-group={group}"));
        let mut arguments = vec!["auth", "can-i", "--list", "--no-headers", "--namespace=rights", &subject];
        arguments.extend(groups.iter().map(String::as_str));
        let mut lines: Vec<String> = cluster
            .must(&arguments)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        // Each binding has its line.
        lines.dedup();
        lines
    };
    let (own, other) = (rights("cert-authority"), rights("other"));
    let more: Vec<&str> = own.iter().filter(|line| !other.contains(line)).map(String::as_str).collect();
    let paths = ["/.well-known/openid-configuration", "/openid/v1/jwks"];
    let paths = paths.iter().flat_map(|path| [format!("[{path}/]"), format!("[{path}]")]);
    assert_eq!(
        more.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>(),
        paths.collect::<Vec<_>>()
    );
    assert!(more.iter().all(|line| line.ends_with("[get]")), "{more:?}");
    assert!(other.iter().all(|line| own.contains(line)));
    let token = cluster.token("rights", "cert-authority", None, None);
    let raw = |path: &str| {
        let mut command = cluster.command("kubectl");
        let server = format!("https://{}", cluster.address);
        let authority = cluster.path("ca.crt");
        command.env("KUBECONFIG", "/nonexistent").args(["get", "--raw", path, "--server", &server, "--token", &token]);
        command.arg("--certificate-authority").arg(authority).output().unwrap().status.success()
    };
    assert!(raw("/openid/v1/jwks"));
    for path in ["/api/v1/namespaces/rights/secrets", "/api/v1/pods", "/api/v1/nodes", "/metrics"] {
        assert!(!raw(path), "{path}");
    }
}
