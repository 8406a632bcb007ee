//! A worker's way to its certificate, with everything real but the node: the API server injects the agent and issues
//! the pod's token, crank-ca verifies it with the keys of the API server, and the containers' commands run as processes
//! of their user on volumes as the kubelet makes them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::chart::render;
use crate::cluster::{Cluster, free_ports, succeeded, with_input};
use crate::injection::injected_pod;
use crate::node::{Node, Process, USER, container, until};
use crate::yaml;

/// The CA of the chart on `node`: its init container twice, then its container.
struct Ca {
    _process: Process,
    port: u16,
    log: PathBuf,
    root: String,
}

impl Ca {
    fn start(cluster: &Cluster, node: &Node, namespace: &str) -> Self {
        let objects = render(&[]);
        let mut pod = yaml::find(&objects, "StatefulSet", "cert-authority")["spec"]["template"].clone();
        pod["metadata"]["namespace"] = json!(namespace);
        let [port] = free_ports();
        let settings = yaml::find(&objects, "ConfigMap", "cert-authority")["data"]["crank-ca.toml"].as_str().unwrap();
        let binding = objects.iter().find(|object| object["kind"] == "ClusterRoleBinding").unwrap();
        let mut binding = binding.clone();
        binding["metadata"]["name"] = json!(namespace);
        binding["subjects"][0]["namespace"] = json!(namespace);
        cluster.create(&binding.to_string()).unwrap();
        let data = node.volume("data");
        let authority = fs::read_to_string(cluster.path("ca.crt")).unwrap();
        let token = cluster.token(namespace, "cert-authority", None, None);
        let kubernetes = node.projected("kubernetes", &[("ca.crt", &authority), ("token", &token)]);
        // The names of a cluster are addresses here; nothing else is changed.
        let settings = settings
            .replace("0.0.0.0:9090", &format!("127.0.0.1:{port}"))
            .replace("kubernetes.default.svc/openid", &format!("{}/openid", cluster.address))
            .replace("/var/lib/crank-ca", data.to_str().unwrap())
            .replace("/var/run/crank-ca/kubernetes", kubernetes.to_str().unwrap());
        let mount = container(&pod, "containers", "crank-ca")["volumeMounts"].as_array().unwrap().clone();
        assert!(mount.iter().any(|mount| mount["name"] == "data" && mount["mountPath"] == "/var/lib/crank-ca"));
        let settings = node.projected("settings", &[("crank-ca.toml", &settings)]);
        let mounts = BTreeMap::from([("settings", settings.as_path()), ("data", data.as_path())]);
        let init = container(&pod, "initContainers", "init");
        let mut printed = Vec::new();
        for _ in 0..2 {
            printed.push(succeeded("init", &node.command("crank-ca", &pod, init, &mounts).output().unwrap()));
        }
        assert!(printed[1].contains("nothing was changed"), "a container that starts again keeps the CA: {printed:?}");
        let log = node.path("crank-ca.log");
        let serve = container(&pod, "containers", "crank-ca");
        let mut command = node.command("crank-ca", &pod, serve, &mounts);
        let file = fs::File::create(&log).unwrap();
        let process = Process(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap());
        // As `kubectl exec … crank-ca root show` would.
        let mut show = node.command(
            "crank-ca",
            &pod,
            &json!({"args": ["root", "show"], "env": serve["env"], "volumeMounts": serve["volumeMounts"]}),
            &mounts,
        );
        let root = succeeded("root show", &show.output().unwrap());
        let ca = Self { _process: process, port, log, root };
        until("the CA serves", || ca.log().contains("\"serving\""));
        ca
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The audit lines.
    fn audit(&self) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "crank::audit").collect()
    }
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn an_injected_agent_enrols_with_the_token_of_its_pod() {
    let cluster = Cluster::shared();
    let pod = injected_pod(&cluster, "payments", "ledger", "sidecar");
    let node = Node::new();
    let ca = Ca::start(&cluster, &node, "payments");
    let audience = pod["spec"]["volumes"].as_array().unwrap().iter().find_map(|volume| {
        volume["projected"]["sources"][0]["serviceAccountToken"]["audience"]
            .as_str()
            .filter(|_| volume["name"] == "crank-credentials")
    });
    let token = cluster.token("payments", "ledger", audience, Some(&pod));
    let certs = node.volume("certs");
    let credentials = node.projected("credentials", &[("token", &token), ("ca.crt", &ca.root)]);
    let mounts = BTreeMap::from([("crank-certs", certs.as_path()), ("crank-credentials", credentials.as_path())]);
    let agent = container(&pod, "initContainers", "crank-agent");
    let url = format!("https://localhost:{}", ca.port);
    let command = |container: &Value| {
        let mut command = node.command("crank-agent", &pod, container, &mounts);
        command.env("CA_SERVICE_URL", &url).env("CRANK_SERVER_LISTEN", "127.0.0.1:0");
        command
    };
    let log = fs::File::create(node.path("agent.log")).unwrap();
    let mut running = Process(command(agent).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    // The startup probe, by which the kubelet lets the worker start.
    let mut probe = agent.clone();
    probe["args"] = json!(agent["startupProbe"]["exec"]["command"].as_array().unwrap()[1..]);
    until("the startup probe succeeds", || {
        let ended = running.0.try_wait().unwrap();
        let told = || fs::read_to_string(node.path("agent.log")).unwrap();
        assert!(ended.is_none(), "{ended:?}: {}\n{}", told(), ca.log());
        command(&probe).output().unwrap().status.success()
    });
    let chain = fs::read_to_string(certs.join("client.crt")).unwrap();
    let shown = succeeded("openssl", &openssl(&["x509", "-noout", "-text"], &chain));
    for part in ["URI:spiffe://crank.local/worker/payments.ledger", "DNS:ledger.payments.svc", "CN = payments.ledger"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let key = fs::metadata(certs.join("..data/client.key")).unwrap();
    assert_eq!((key.uid(), key.gid(), key.mode() & 0o777), (USER, USER, 0o640), "the worker reads it by its group");
    let issued = ca.audit().into_iter().find(|line| line["decision"] == "issued").unwrap();
    assert_eq!((&issued["authentication"], &issued["worker_id"]), (&json!("kubernetes"), &json!("payments.ledger")));
    assert!(issued["credential"].as_str().unwrap().contains("worker"), "the pod is on record: {issued}");
    assert!(!ca.log().contains(&token), "no token is logged");

    // Tokens of another audience, or of no pod, are worth nothing.
    let others =
        [cluster.token("payments", "ledger", None, Some(&pod)), cluster.token("payments", "ledger", audience, None)];
    let mut init = agent.clone();
    init["args"] = json!(["init"]);
    for token in others {
        fs::write(credentials.join("token"), token).unwrap();
        let other = node.volume(&format!("certs-{}", ca.audit().len()));
        let output: Output = command(&init).env("CERT_DIR", &other).output().unwrap();
        assert_eq!(output.status.code(), Some(77), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(!other.join("client.crt").exists());
    }
    let refused = ca.audit().into_iter().filter(|line| line["decision"] == "refused").count();
    assert!(refused >= 2, "{refused}");
}

/// openssl with `text` on its standard input.
fn openssl(arguments: &[&str], text: &str) -> Output {
    let mut command = Command::new("openssl");
    command.args(arguments);
    with_input(command, text)
}
