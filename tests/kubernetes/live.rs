//! Pods of workers on a real node: when they start, how they speak to each other, what a renewal does, and how they end.

use serde_json::{Value, json};

use crate::chart::render;
use crate::cluster::Cluster;
use crate::injection::{HARDENED, inject};
use crate::machine::{ADDRESS, Machine, NAME};
use crate::node::until;
use crate::yaml;

const NAMESPACE: &str = "live";

/// A pod on the node, which resolves no names but `hosts`.
fn on_the_node(mut pod: Value, name: &str, hosts: &Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod["spec"]["nodeName"] = json!(NAME);
    pod["spec"]["hostAliases"] = json!([hosts]);
    pod["spec"]["dnsPolicy"] = json!("Default");
    pod
}

/// The CA's pod, by the chart, with a volume in the place of its claim. Returns the address.
fn start_ca(cluster: &Cluster) -> String {
    let objects = render(&[]);
    let mut settings = yaml::find(&objects, "ConfigMap", "cert-authority").clone();
    settings["metadata"]["namespace"] = json!(NAMESPACE);
    cluster.create(&settings.to_string()).unwrap();
    let root = json!({"ca.crt": std::fs::read_to_string(cluster.path("ca.crt")).unwrap()});
    let metadata = json!({"name": "kube-root-ca.crt", "namespace": NAMESPACE});
    cluster
        .create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": root}).to_string())
        .unwrap();
    let mut pod = yaml::find(&objects, "StatefulSet", "cert-authority")["spec"]["template"].clone();
    pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "data", "emptyDir": {}}));
    let [a, b, c, d] = ADDRESS;
    let hosts = json!({"ip": format!("{a}.{b}.{c}.{d}"), "hostnames": ["kubernetes.default.svc"]});
    cluster.create(&on_the_node(pod, "cert-authority-0", &hosts).to_string()).unwrap();
    ready(cluster, "cert-authority-0");
    pod_of(cluster, "cert-authority-0")["status"]["podIP"].as_str().unwrap().to_owned()
}

/// A worker that has asked for the agent: openssl with `arguments`, as a user of its own.
fn worker(cluster: &Cluster, name: &str, ca: &str, arguments: &[&str]) {
    let mut security = yaml::objects(HARDENED).remove(0);
    security["runAsUser"] = json!(1000);
    let image = concat!("worker:", env!("CARGO_PKG_VERSION"));
    let container = json!({"name": "worker", "image": image, "args": arguments, "securityContext": security});
    let spec = json!({
        "serviceAccountName": name, "automountServiceAccountToken": false, "restartPolicy": "Never",
        // openssl has no handler for SIGTERM, and as the first process would wait for the end of this.
        "terminationGracePeriodSeconds": 3, "containers": [container],
    });
    let pod = json!({"metadata": {"annotations": {"crank-agent/inject": "sidecar"}}, "spec": spec});
    let hosts = json!({"ip": ca, "hostnames": ["cert-authority.crank.svc"]});
    cluster.create(&on_the_node(pod, name, &hosts).to_string()).unwrap();
}

fn pod_of(cluster: &Cluster, name: &str) -> Value {
    cluster.object(&["get", "pod", name, "--namespace", NAMESPACE])
}

fn ready(cluster: &Cluster, name: &str) {
    until(&format!("{name} is ready"), || {
        let pod = pod_of(cluster, name);
        assert_ne!(pod["status"]["phase"], "Failed", "{:#}", pod["status"]);
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
}

/// The standard output of `words` in a container.
fn exec(cluster: &Cluster, pod: &str, container: &str, words: &[&str]) -> String {
    cluster.must(&[&["exec", "--namespace", NAMESPACE, pod, "--container", container, "--"], words].concat())
}

/// What openssl serves with: the certificate of its pod.
pub(crate) const SERVER: [&str; 14] = [
    "s_server",
    "-accept",
    "8443",
    "-www",
    "-cert",
    "/etc/certs/client.crt",
    "-cert_chain",
    "/etc/certs/client.crt",
    "-key",
    "/etc/certs/client.key",
    "-CAfile",
    "/etc/certs/ca.crt",
    "-Verify",
    "3",
];

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd and helm"]
fn pods_start_once_they_have_a_certificate_and_end_as_they_should() {
    let machine = Machine::start();
    let cluster = &machine.cluster;
    inject(cluster, NAMESPACE, "server");
    for account in ["client", "job"] {
        let metadata = json!({"name": account, "namespace": NAMESPACE});
        cluster
            .create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}).to_string())
            .unwrap();
    }
    let ca = start_ca(cluster);
    let root = exec(cluster, "cert-authority-0", "crank-ca", &["crank-ca", "root", "show"]);
    let metadata = json!({"name": "crank-ca-root", "namespace": NAMESPACE});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": root}});
    cluster.create(&map.to_string()).unwrap();

    // The CA may not read the keys of the cluster yet: nobody gets a certificate, and the worker does not start.
    worker(cluster, "server", &ca, &SERVER);
    until("the agent has been told that it has to wait", || {
        let output = cluster.kubectl(&["logs", "--namespace", NAMESPACE, "server", "--container", "crank-agent"]);
        String::from_utf8_lossy(&output.stdout).contains("CA_UNAVAILABLE")
    });
    let status = pod_of(cluster, "server")["status"].clone();
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing", "{status:#}");
    let mut binding = render(&[]).into_iter().find(|object| object["kind"] == "ClusterRoleBinding").unwrap();
    binding["subjects"][0]["namespace"] = json!(NAMESPACE);
    cluster.create(&binding.to_string()).unwrap();
    ready(cluster, "server");
    worker(cluster, "client", &ca, &SERVER);
    ready(cluster, "client");

    // From pod to pod, by the name of the Service that the server would have.
    let server = pod_of(cluster, "server")["status"]["podIP"].as_str().unwrap().to_owned();
    let at = format!("{server}:8443");
    let connect = |name: &str, own: &[&str]| {
        let words = [
            "openssl",
            "s_client",
            "-connect",
            &at,
            "-brief",
            "-CAfile",
            "/etc/certs/ca.crt",
            "-verify_return_error",
            "-verify_hostname",
            name,
        ];
        let words = [&words[..], own].concat();
        let arguments =
            [&["exec", "--namespace", NAMESPACE, "client", "--container", "worker", "--"], &words[..]].concat();
        let output = cluster.kubectl(&arguments);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let own =
        ["-cert", "/etc/certs/client.crt", "-key", "/etc/certs/client.key", "-cert_chain", "/etc/certs/client.crt"];
    let (connected, told) = connect("server.live.svc", &own);
    assert!(connected && told.contains("Verification: OK"), "{told}\n{}", machine.logs());
    assert!(!connect("other.live.svc", &own).0, "by another name it is another");

    // A renewal, as the worker sees it.
    let serial =
        || exec(cluster, "server", "worker", &["openssl", "x509", "-noout", "-serial", "-in", "/etc/certs/client.crt"]);
    let before = serial();
    assert_eq!(exec(cluster, "server", "crank-agent", &["crank-agent", "health"]).trim(), "ready");
    assert!(exec(cluster, "server", "crank-agent", &["crank-agent", "renew"]).starts_with("renewed: "));
    assert_ne!(serial(), before);

    // A job ends when its own container does, and the agent with it.
    worker(cluster, "job", &ca, &["x509", "-noout", "-subject", "-in", "/etc/certs/client.crt"]);
    until("the job has succeeded", || {
        let pod = pod_of(cluster, "job");
        assert_ne!(pod["status"]["phase"], "Failed", "{:#}", pod["status"]);
        pod["status"]["phase"] == "Succeeded"
    });
    let ended = pod_of(cluster, "job")["status"]["initContainerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(0), &json!("Completed")), "{ended:#}");
    let log = cluster.must(&["logs", "--namespace", NAMESPACE, "job", "--container", "worker"]);
    assert!(log.contains("CN = live.job"), "{log}");

    // A drain takes the workers away, and waits for nothing.
    cluster.must(&["label", "pod", "server", "client", "--namespace", NAMESPACE, "drain=yes"]);
    cluster.must(&["drain", NAME, "--force", "--delete-emptydir-data", "--pod-selector", "drain=yes", "--timeout=60s"]);
    let left = cluster.must(&["get", "pods", "--namespace", NAMESPACE, "--output", "name"]);
    assert_eq!(left.lines().collect::<Vec<_>>(), ["pod/cert-authority-0", "pod/job"]);
}
