//! The page on Kubernetes, followed from top to bottom on a whole cluster, as somebody would who begins with nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::CHART;
use crate::cluster::succeeded;
use crate::machine::Machine;
use crate::node::until;
use crate::release::{pods, rolled_out};
use crate::yaml;

const PAGE: &str = "docs/kubernetes.md";

/// The texts of the page's blocks in `language`.
fn blocks(language: &str) -> Vec<String> {
    let page = yaml::read(PAGE);
    let opening = format!("```{language}\n");
    let texts = page.split(&opening).skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    texts.collect()
}

/// The commands among which there is one that holds `text`.
pub(crate) fn block_with(text: &str) -> String {
    let blocks = ["sh", "text"].into_iter().flat_map(blocks);
    blocks.into_iter().find(|block| block.contains(text)).unwrap_or_else(|| panic!("no {text}"))
}

/// The block that begins with the name of the file it is.
pub(crate) fn file(name: &str) -> String {
    let first = format!("# {name}\n");
    blocks("yaml").into_iter().find(|text| text.starts_with(&first)).unwrap_or_else(|| panic!("no {name}"))
}

/// The words of the list in the text of the page that begins with `text`.
pub(crate) fn words(text: &str) -> Vec<String> {
    let page = yaml::read(PAGE);
    let (_, rest) = page.split_once(text).unwrap_or_else(|| panic!("no {text}"));
    let (_, first) = text.split_once('[').unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    format!("{first}{list}").split(',').map(|word| word.trim().to_owned()).collect()
}

pub(crate) fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(yaml::path(from)).arg(to).status().unwrap().success());
}

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd and helm"]
fn whoever_follows_the_page_ends_with_workers_that_have_the_agent() {
    let machine = Machine::with_controllers();
    let cluster = &machine.cluster;
    // Where volumes come from is the cluster's.
    let class = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: standard, annotations: \
                 {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: kubernetes.io/no-provisioner, \
                 volumeBindingMode: WaitForFirstConsumer}";
    cluster.create(class).unwrap();
    machine.volume("standard-0", "standard");
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    for part in ["helm", "deploy"] {
        copy(part, here);
    }
    for name in ["streaming.yaml", "kustomization.yaml", "worker.yaml"] {
        fs::write(here.join(name), file(name)).unwrap();
    }
    let session = |commands: &str| {
        let mut session = cluster.command("sh");
        let output = session.args(["-eux", "-c", commands]).current_dir(here).output().unwrap();
        let logs = || format!("{}\n{}", crate::controllers::logs(cluster), machine.logs());
        assert!(output.status.success(), "{commands}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
        String::from_utf8(output.stdout).unwrap()
    };
    let (mut told, mut waited) = (String::new(), false);
    for commands in blocks("sh") {
        if commands.contains("streaming.yaml") {
            // The policy is in force a moment after it is stored; nobody writes the file faster.
            let probe = "{apiVersion: v1, kind: Pod, metadata: {name: probe, annotations: {crank-agent/inject: init}}, \
                         spec: {containers: [{name: a, image: a}]}}";
            until("the policy is in force", || {
                let output = cluster.kubectl_with(&["create", "--dry-run=server", "--output=json"], probe);
                let pod: Value = serde_json::from_str(&succeeded("a pod", &output)).unwrap();
                pod["spec"]["initContainers"].is_array()
            });
            waited = true;
        }
        told += &session(&commands);
    }
    assert!(waited);
    assert!(told.contains("\"issuer\":\"https://kubernetes.default.svc.cluster.local\""), "{told}");
    assert!(told.contains("Phase:          Succeeded"), "{told}");

    let root = fs::read_to_string(here.join("ca.crt")).unwrap();
    for namespace in ["crank", "default"] {
        let map = cluster.object(&["get", "configmap", "crank-ca-root", "--namespace", namespace]);
        assert_eq!(map["data"]["ca.crt"].as_str().unwrap(), root);
    }
    let image = concat!("registry.example.org/crank-agent:", env!("CARGO_PKG_VERSION"));
    for worker in ["streaming", "worker"] {
        rolled_out(&machine, "default", &format!("deployment/{worker}"));
        let pod = pods(cluster, "default", &format!("app={worker}")).remove(0);
        let agent = &pod["spec"]["initContainers"][0];
        assert_eq!((&agent["name"], &agent["image"]), (&json!("crank-agent"), &json!(image)), "{worker}");
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/certs"), "{worker}");
    }
    // Both have one account, and so one name.
    let told = session(&block_with("-- crank-agent status"));
    assert!(told.contains("default.streaming") && told.contains("renewed: "), "{told}");

    // A job with the agent beside it ends, for the job's controller too.
    let job = format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: report}}, spec: {{template: {{metadata: {{annotations: \
         {{crank-agent/inject: sidecar}}}}, spec: {{serviceAccountName: streaming, restartPolicy: Never, containers: [{{name: report, \
         image: 'worker:{}', args: [x509, -noout, -in, /etc/certs/client.crt]}}]}}}}}}}}",
        env!("CARGO_PKG_VERSION")
    );
    cluster.create(&job).unwrap();
    cluster.must(&["wait", "--for=condition=Complete", "--timeout=180s", "job/report"]);

    // Upgrades, as the page tells them.
    cluster.must(&["rollout", "restart", "deployment/streaming"]);
    rolled_out(&machine, "default", "deployment/streaming");
    cluster.helm(&["rollback", "crank", "1", "--namespace", "crank"]);
    rolled_out(&machine, "crank", "statefulset/cert-authority");
    cluster.helm(&["rollback", "crank", "--namespace", "crank"]);
    cluster.helm(&["test", "crank", "--namespace", "crank", "--timeout", "3m"]);

    // The job of the page, into a claim of its own.
    machine.volume("standard-1", "standard");
    fs::write(here.join("backup.yaml"), file("backup.yaml")).unwrap();
    session(&block_with("--filename backup.yaml"));

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
    let template = block_with(".Subcharts");
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
