//! The page on Kubernetes, followed from top to bottom on a cluster of its own. What needs a node is done by stand-ins:
//! `kubectl exec` runs the command here, and `kubectl rollout status` and `helm test` look whether there is such a thing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::CHART;
use crate::cluster::{Cluster, succeeded};
use crate::node::until;
use crate::yaml;

const PAGE: &str = "docs/kubernetes.md";

const KUBECTL: &str = r#"#!/bin/sh
case "$1" in
exec)
  while [ "$1" != -- ]; do shift; done
  shift
  exec "$@"
  ;;
rollout)
  shift 2
  exec "$REAL/kubectl" get "$@"
  ;;
esac
exec "$REAL/kubectl" "$@"
"#;

const HELM: &str = r#"#!/bin/sh
if [ "$1" = test ]; then
  shift
  exec "$REAL/helm" status "$@"
fi
exec "$REAL/helm" "$@"
"#;

/// The texts of the page's blocks in `language`.
fn blocks(language: &str) -> Vec<String> {
    let page = yaml::read(PAGE);
    let opening = format!("```{language}\n");
    let texts = page.split(&opening).skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    texts.collect()
}

/// The block that begins with the name of the file it is.
fn file(name: &str) -> String {
    let first = format!("# {name}\n");
    blocks("yaml").into_iter().find(|text| text.starts_with(&first)).unwrap_or_else(|| panic!("no {name}"))
}

fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(yaml::path(from)).arg(to).status().unwrap().success());
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
#[ignore = "needs kube-apiserver, etcd and helm"]
fn whoever_follows_the_page_ends_with_workers_that_have_the_agent() {
    let cluster = Cluster::start();
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    for part in ["helm", "deploy"] {
        copy(part, here);
    }
    for name in ["streaming.yaml", "kustomization.yaml", "worker.yaml"] {
        fs::write(here.join(name), file(name)).unwrap();
    }
    let shims = here.join("shims");
    fs::create_dir(&shims).unwrap();
    script(&shims.join("kubectl"), KUBECTL);
    script(&shims.join("helm"), HELM);
    let data = here.join("ca").display().to_string();
    let programs = Path::new(env!("CARGO_BIN_EXE_crank-ca")).parent().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_crank-ca")).args(["init", "--data-dir", &data]).output().unwrap();
    succeeded("crank-ca init", &made);

    let real = succeeded("which", &Command::new("which").arg("helm").output().unwrap());
    let real = Path::new(real.trim()).parent().unwrap();
    let path = format!("{}:{}:{}", shims.display(), programs.display(), std::env::var("PATH").unwrap());
    let mut session = cluster.command("sh");
    session.args(["-eux", "-c", &blocks("sh").concat()]).current_dir(here);
    session.env("PATH", path).env("REAL", real).env("CRANK_CA_DATA_DIR", &data);
    let output = session.output().unwrap();
    let told = succeeded(PAGE, &output);
    assert!(told.contains("\"issuer\":\"https://kubernetes.default.svc.cluster.local\""), "{told}");

    let root = fs::read_to_string(here.join("ca/authority/root.crt")).unwrap();
    for namespace in ["crank", "default"] {
        let map = cluster.object(&["get", "configmap", "crank-ca-root", "--namespace", namespace]);
        assert_eq!(map["data"]["ca.crt"].as_str().unwrap(), root);
    }
    // There is no controller to make the Deployments' pods.
    let pod_of = |name: &str| {
        let deployment = cluster.object(&["get", "deployment", name]);
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], &pod.to_string());
        serde_json::from_str::<Value>(&succeeded(name, &output)).unwrap()
    };
    let image = concat!("registry.example.org/crank-agent:", env!("CARGO_PKG_VERSION"));
    // The policy is in force a moment after it is stored.
    until("the policy is in force", || pod_of("streaming")["spec"]["initContainers"].is_array());
    for worker in ["streaming", "worker"] {
        let pod = pod_of(worker);
        let agent = &pod["spec"]["initContainers"][0];
        assert_eq!((&agent["name"], &agent["image"]), (&json!("crank-agent"), &json!(image)), "{worker}");
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/certs"), "{worker}");
    }
    // What the page tells of a pod that cannot be changed.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: two, annotations: {crank-agent/inject: sidecar}}, spec: {serviceAccountName: streaming, \
               volumes: [{name: own, emptyDir: {}}], containers: [{name: a, image: a, volumeMounts: [{name: own, mountPath: /etc/certs}]}]}}";
    let refused = cluster.create(pod).unwrap_err();
    assert!(refused.contains("must be unique"), "{refused}");
}

#[test]
#[ignore = "needs helm"]
fn the_charts_and_values_of_the_page_render() {
    let directory = TempDir::new().unwrap();
    let streaming = directory.path().join("streaming");
    fs::create_dir_all(streaming.join("templates")).unwrap();
    fs::create_dir_all(streaming.join("charts")).unwrap();
    copy(CHART, &streaming.join("charts"));
    fs::write(streaming.join("Chart.yaml"), file("Chart.yaml")).unwrap();
    fs::write(streaming.join("values.yaml"), file("values.yaml")).unwrap();
    let template = blocks("text").remove(0);
    assert_eq!(template, yaml::read("tests/kubernetes/worker/templates/deployment.yaml"));
    fs::write(streaming.join("templates/deployment.yaml"), template).unwrap();
    fs::write(directory.path().join("production.yaml"), file("production.yaml")).unwrap();
    let helm = |arguments: &[&str]| {
        let mut command = Command::new("helm");
        command.arg("template").args(arguments).env("HOME", directory.path()).current_dir(directory.path());
        yaml::objects(&succeeded(&arguments.join(" "), &command.output().unwrap()))
    };
    let objects = helm(&["streaming", "streaming"]);
    let agent = &yaml::find(&objects, "Deployment", "streaming")["spec"]["template"]["spec"]["initContainers"][0];
    let image = concat!("registry.example.org/crank-agent:", env!("CARGO_PKG_VERSION"));
    assert_eq!(agent["image"], image);
    assert_eq!(yaml::find(&objects, "Deployment", "streaming")["kind"], "Deployment");
    let chart = yaml::path(CHART).display().to_string();
    let objects = helm(&["crank", &chart, "--values", "production.yaml"]);
    assert_eq!(yaml::find(&objects, "Deployment", "cert-authority")["spec"]["replicas"], 3);
}

#[test]
fn the_commands_that_the_page_runs_in_pods_are_those_of_the_programs() {
    let lines: Vec<String> =
        blocks("text").iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let commands: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("kubectl exec "))
        .filter_map(|line| line.split_once(" -- crank-agent "))
        .map(|(_, words)| words)
        .collect();
    assert_eq!(commands, ["status", "renew"]);
    for words in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_crank-agent")).args([words, "--help"]).output().unwrap();
        succeeded(words, &output);
    }
}
