//! What the Prometheus operator makes of the chart's `ServiceMonitor` and `PrometheusRule`, and what Prometheus says to that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::render;
use crate::cluster::{Cluster, free_ports, succeeded, with_input};
use crate::node::{Process, until};
use crate::yaml;

/// The directory of the operator's custom resources, beside the program.
fn definitions() -> PathBuf {
    let output = Command::new("which").arg("prometheus-operator").output().unwrap();
    let program = PathBuf::from(succeeded("prometheus-operator", &output).trim()).canonicalize().unwrap();
    program.with_file_name("definitions")
}

fn start_operator(cluster: &Cluster) -> Process {
    let log = File::create(cluster.path("prometheus-operator.log")).unwrap();
    let [port] = free_ports();
    let mut command = cluster.command("prometheus-operator");
    command
        .arg(format!("--apiserver=https://{}", cluster.address))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.args(["--ca-file=ca.crt", "--cert-file=admin.crt", "--key-file=admin.key"]);
    command.current_dir(cluster.path("")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

/// The configuration that the operator has made for the Prometheus `crank`, as text.
fn configuration(cluster: &Cluster) -> Option<String> {
    let arguments = ["get", "secret", "prometheus-crank", "--namespace", "crank", "--output", "json"];
    let output = cluster.kubectl(&arguments);
    let secret: Value = serde_json::from_slice(&output.stdout).ok()?;
    let packed = secret["data"]["prometheus.yaml.gz"].as_str()?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", "base64 --decode | gzip --decompress --stdout"]);
    Some(succeeded("gzip", &with_input(unpack, packed)))
}

/// The rules that the operator has made of the `PrometheusRule`, written to `directory`.
fn write_rules(cluster: &Cluster, directory: &Path) {
    let map = cluster.object(&["get", "configmap", "prometheus-crank-rulefiles-0", "--namespace", "crank"]);
    fs::create_dir_all(directory).unwrap();
    for (name, text) in map["data"].as_object().unwrap() {
        fs::write(directory.join(name), text.as_str().unwrap()).unwrap();
    }
}

#[test]
#[ignore = "needs kube-apiserver, etcd, helm, prometheus-operator and promtool"]
fn the_operator_makes_a_configuration_of_them_that_prometheus_takes() {
    let cluster = Cluster::start();
    cluster.must(&["create", "--filename", definitions().to_str().unwrap()]);
    cluster.must(&["wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s"]);
    for namespace in ["crank", "media"] {
        cluster.must(&["create", "namespace", namespace]);
    }
    let values = "monitoring.serviceMonitor.enabled=true,monitoring.serviceMonitor.namespaces={media},\
                  monitoring.prometheusRule.enabled=true";
    let objects: Vec<Value> =
        render(&["--set", values]).into_iter().filter(|object| object["metadata"]["name"] == "crank-agents").collect();
    let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Service", "PrometheusRule", "ServiceMonitor"]);
    succeeded("objects", &cluster.kubectl_with(&["create", "--validate=strict"], &yaml::join(&objects)));
    let prometheus = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": {"name": "crank", "namespace": "crank"},
        // The version is that of promtool.
        "spec": {"version": "v2.42.0", "serviceMonitorSelector": {}, "ruleSelector": {}, "replicas": 1},
    });
    cluster.create(&prometheus.to_string()).unwrap();
    let mut operator = start_operator(&cluster);
    let mut text = String::new();
    until("the operator has read the ServiceMonitor", || {
        let ended = operator.0.try_wait().unwrap();
        let log = || fs::read_to_string(cluster.path("prometheus-operator.log")).unwrap();
        assert!(ended.is_none(), "{ended:?}:\n{}", log());
        text = configuration(&cluster).unwrap_or_default();
        text.contains("job_name")
    });
    let mut made = yaml::objects(&text).remove(0);
    let job = &made["scrape_configs"][0];
    assert_eq!((&job["job_name"], &job["scheme"]), (&json!("serviceMonitor/crank/crank-agents/0"), &json!("https")));
    assert_eq!(job["tls_config"]["server_name"], "localhost");
    assert_eq!(job["kubernetes_sd_configs"][0]["namespaces"]["names"], json!(["media"]));
    let kept = job["relabel_configs"].as_array().unwrap().iter().filter(|rule| rule["action"] == "keep");
    let kept: Vec<&str> = kept.map(|rule| rule["regex"].as_str().unwrap()).collect();
    assert!(kept.contains(&"crank-probes") && kept.iter().any(|regex| regex.contains("crank-agents")), "{kept:?}");

    // With the files where they are here.
    let directory = TempDir::new().unwrap();
    let here = |name: &str| directory.path().join(name);
    fs::create_dir(here("certs")).unwrap();
    for (name, from) in [("ca.crt", "ca.crt"), ("client.crt", "admin.crt"), ("client.key", "admin.key")] {
        fs::copy(cluster.path(from), here("certs").join(name)).unwrap();
        assert!(text.contains(&format!("/etc/certs/{name}")), "{text}");
    }
    assert!(text.contains("/etc/prometheus/rules/"), "{text}");
    write_rules(&cluster, &here("rules/prometheus-crank-rulefiles-0"));
    // Debian's Prometheus is built without discovery by Kubernetes: what the operator has written of that is seen above alone.
    made["scrape_configs"][0].as_object_mut().unwrap().remove("kubernetes_sd_configs");
    let moved = made.to_string().replace("/etc/certs", here("certs").to_str().unwrap());
    let moved = moved.replace("/etc/prometheus/rules", here("rules").to_str().unwrap());
    fs::write(here("prometheus.yaml"), moved).unwrap();
    let output = Command::new("promtool").args(["check", "config"]).arg(here("prometheus.yaml")).output().unwrap();
    let told = succeeded("promtool", &output);
    assert!(told.contains("is valid prometheus config file syntax") && told.contains("11 rules found"), "{told}");
}
