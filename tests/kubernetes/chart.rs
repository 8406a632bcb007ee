//! The chart as text: it lints, renders, refuses what cannot work, and its table, its manifests and its alerts are in step.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::succeeded;
use crate::yaml;

pub(crate) const CHART: &str = "helm/crank-agent";

/// The files of values by which the chart is tried.
pub(crate) const VALUES: [&str; 4] =
    ["default-values.yaml", "rooted-values.yaml", "postgres-values.yaml", "agent-only-values.yaml"];

fn helm(arguments: &[&str]) -> Output {
    let home = TempDir::new().unwrap();
    let mut command = Command::new("helm");
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", home.path());
    command.args(arguments).current_dir(yaml::path("")).output().unwrap()
}

fn template(arguments: &[&str]) -> Output {
    helm(&[&["template", "crank", CHART, "--namespace", "crank"], arguments].concat())
}

/// The objects of the release `crank` in the namespace `crank`.
pub(crate) fn render(arguments: &[&str]) -> Vec<Value> {
    yaml::objects(&succeeded(&arguments.join(" "), &template(arguments)))
}

/// The workloads of a chart that depends on this one.
pub(crate) fn worker_chart() -> Vec<Value> {
    let directory = TempDir::new().unwrap();
    let copy = |from: &str, to: &str| {
        let status = Command::new("cp").arg("-r").arg(yaml::path(from)).arg(directory.path().join(to)).status();
        assert!(status.unwrap().success());
    };
    copy("tests/kubernetes/worker", "worker");
    fs::create_dir(directory.path().join("worker/charts")).unwrap();
    copy(CHART, "worker/charts/crank-agent");
    let worker = directory.path().join("worker").display().to_string();
    let text = succeeded("the worker's chart", &helm(&["template", "streaming", &worker, "--namespace", "streaming"]));
    let objects = yaml::objects(&text);
    objects.into_iter().filter(|object| ["Deployment", "Job"].contains(&object["kind"].as_str().unwrap())).collect()
}

#[test]
#[ignore = "needs helm"]
fn the_chart_lints_with_every_file_of_values() {
    let mut found: Vec<String> = fs::read_dir(yaml::path(CHART).join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut known = VALUES.map(str::to_owned).to_vec();
    known.sort();
    assert_eq!(found, known);
    for values in VALUES {
        let output = helm(&["lint", CHART, "--strict", "--values", &format!("{CHART}/ci/{values}")]);
        succeeded(values, &output);
    }
}

#[test]
#[ignore = "needs helm"]
fn the_chart_refuses_what_cannot_work() {
    let refused = [
        ("ca.replicas=2", "more than one needs PostgreSQL"),
        ("ca.postgres.enabled=true", "url"),
        ("ca.postgres.enabled=true,ca.postgres.url=postgres://db/crank", "every replica needs the same intermediate"),
        ("agent.caUrl=http://cert-authority:9090", "agent"),
        ("ca.enabled=false", "expected the URL of the CA"),
        ("ca.replica=1", "replica"),
        ("ca.lifetime=forever", "lifetime"),
        ("trust.roots=root", "roots"),
        ("image.digest=abc", "digest"),
        ("monitoring.serviceMonitor.enabled=true", "expected the namespaces of the workers"),
    ];
    for (set, reason) in refused {
        let output = template(&["--set", set]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaint.contains(reason), "{set}: {complaint}");
    }
}

#[test]
#[ignore = "needs helm"]
fn the_settings_of_the_ca_have_no_problems() {
    for values in &VALUES[..3] {
        let objects = render(&["--values", &format!("{CHART}/ci/{values}")]);
        let settings = yaml::find(&objects, "ConfigMap", "cert-authority")["data"]["crank-ca.toml"].as_str().unwrap();
        let directory = TempDir::new().unwrap();
        let text = with_files(settings, directory.path());
        let file = directory.path().join("crank-ca.toml");
        fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_crank-ca"))
            .args(["check-config", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let shown = succeeded(values, &output);
        assert!(shown.contains("cert-authority.crank.svc.cluster.local"), "{shown}");
    }
}

/// The settings with every file they name below `directory` instead, where it is made.
pub(crate) fn with_files(settings: &str, directory: &Path) -> String {
    let mut text = settings.to_owned();
    for path in settings.split('"').filter(|part| part.starts_with("/var/run/") || part.starts_with("/etc/")) {
        let there = directory.join(&path[1..]);
        fs::create_dir_all(there.parent().unwrap()).unwrap();
        if path.ends_with("rules") {
            let rules = yaml::path("deploy/policy/rules");
            assert!(Command::new("cp").arg("-r").arg(rules).arg(&there).status().unwrap().success());
        } else {
            fs::write(&there, "content\n").unwrap();
            fs::set_permissions(&there, fs::Permissions::from_mode(0o440)).unwrap();
        }
        text = text.replace(&format!("\"{path}\""), &format!("\"{}\"", there.display()));
    }
    text
}

#[test]
#[ignore = "needs helm"]
fn the_manifests_are_those_of_the_chart() {
    let directory = TempDir::new().unwrap();
    let output = Command::new(yaml::path("deploy/kubernetes/render")).arg(directory.path()).output().unwrap();
    succeeded("deploy/kubernetes/render", &output);
    let mut compared = 0;
    for part in ["ca", "injection", "components/sidecar", "components/job"] {
        for entry in fs::read_dir(directory.path().join(part)).unwrap() {
            let name = format!("{part}/{}", entry.unwrap().file_name().into_string().unwrap());
            let (made, kept) = (
                fs::read_to_string(directory.path().join(&name)).unwrap(),
                yaml::read(&format!("deploy/kubernetes/{name}")),
            );
            assert_eq!(made, kept, "{name} is out of step: run deploy/kubernetes/render");
            compared += 1;
        }
    }
    assert_eq!(compared, 6);
}

#[test]
#[ignore = "needs helm and kubectl"]
fn the_component_adds_what_the_named_template_adds() {
    let directory = TempDir::new().unwrap();
    let plain = |kind: &str, version: &str, name: &str, how: &str| {
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{ name: {name}, annotations: {{ crank-agent/inject: {how} }} }}\n\
             spec:\n  template:\n    spec:\n      serviceAccountName: {name}\n      initContainers: [{{ name: migrate, image: {name} }}]\n      \
             containers:\n        - {{ name: {name}, image: {name}, volumeMounts: [{{ name: crank-certs, mountPath: /etc/certs, readOnly: true }}] }}\n"
        )
    };
    let mut workloads: String =
        ["Deployment", "StatefulSet", "DaemonSet"].map(|kind| plain(kind, "apps/v1", "streaming", "sidecar")).concat();
    workloads += &plain("Job", "batch/v1", "report", "init");
    workloads += &plain("Deployment", "apps/v1", "untouched", "no");
    fs::write(directory.path().join("workloads.yaml"), workloads).unwrap();
    // Kustomize takes no absolute paths for components.
    let kept = yaml::path("deploy/kubernetes/components");
    assert!(Command::new("cp").arg("-r").arg(kept).arg(directory.path()).status().unwrap().success());
    let kustomization = "resources: [workloads.yaml]\ncomponents: [components/sidecar, components/job]\n";
    fs::write(directory.path().join("kustomization.yaml"), kustomization).unwrap();
    let output = Command::new("kubectl").arg("kustomize").arg(directory.path()).output().unwrap();
    let made = yaml::objects(&succeeded("kubectl kustomize", &output));
    let expected = worker_chart();
    for object in &made {
        let spec = &object["spec"]["template"]["spec"];
        let how = match object["kind"].as_str().unwrap() {
            _ if object["metadata"]["name"] == "untouched" => {
                assert_eq!(spec["volumes"], Value::Null);
                continue;
            }
            "Job" => "Job",
            _ => "Deployment",
        };
        let other = expected.iter().find(|other| other["kind"] == how).unwrap();
        let other = &other["spec"]["template"]["spec"];
        assert_eq!(spec["initContainers"][0], other["initContainers"][0], "{object:#}");
        assert_eq!(spec["initContainers"][1]["name"], "migrate", "the worker's own come after it");
        assert_eq!(spec["securityContext"], other["securityContext"]);
        assert_eq!(spec["volumes"], other["volumes"]);
        assert_eq!(spec["containers"][0]["volumeMounts"], other["containers"][0]["volumeMounts"]);
    }
    assert_eq!(made.len(), 5);
}

#[test]
fn the_table_of_values_says_what_the_values_say() {
    let readme = yaml::read(&format!("{CHART}/README.md"));
    let (_, rest) = readme.split_once("<!-- values:begin -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- values:end -->").unwrap();
    let expected = values_table(&yaml::read(&format!("{CHART}/values.yaml")));
    assert_eq!(table, expected, "the table should be:\n{expected}");
}

/// Each value with the comment above it, as a table.
fn values_table(text: &str) -> String {
    let values = yaml::objects(text).remove(0);
    let mut rows = String::from("| Value | Default | Meaning |\n| --- | --- | --- |\n");
    let (mut path, mut meaning): (Vec<(usize, String)>, Option<String>) = (Vec::new(), None);
    let mut documented = 0;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(begun) = line.strip_prefix("# -- ") {
            meaning = Some(begun.to_owned());
        } else if let (Some(more), Some(meaning)) = (line.strip_prefix("# "), meaning.as_mut()) {
            meaning.push(' ');
            meaning.push_str(more);
        } else if let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('#')) {
            path.retain(|(above, _)| *above < indent);
            path.push((indent, key.to_owned()));
            if let Some(meaning) = meaning.take() {
                let keys: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
                let value = keys.iter().fold(&values, |value, key| &value[*key]);
                writeln!(rows, "| `{}` | `{value}` | {meaning} |", keys.join(".")).unwrap();
                documented += 1;
            }
        }
    }
    assert!(documented > 60, "{documented}");
    rows
}

#[test]
fn the_version_of_the_chart_is_that_of_the_programs() {
    let chart = yaml::objects(&yaml::read(&format!("{CHART}/Chart.yaml"))).remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_alerts_are_those_of_the_documentation() {
    let alerts = yaml::objects(&yaml::read(&format!("{CHART}/alerts.yaml"))).remove(0);
    let alerts: BTreeMap<String, String> = alerts
        .as_array()
        .unwrap()
        .iter()
        .map(|alert| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&alert["expr"]), text(&alert["annotations"]["summary"]))
        })
        .collect();
    let page = yaml::read("docs/operations.md");
    let (_, table) = page.split_once("| alert when | means |\n| --- | --- |\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with("| `"));
    let told: BTreeMap<String, String> = rows
        .filter_map(|row| {
            let (expression, meaning) = row.strip_prefix("| `")?.split_once("` | ")?;
            Some((expression.to_owned(), meaning.trim_end_matches(" |").to_owned()))
        })
        .collect();
    assert!(alerts.len() > 8);
    assert_eq!(alerts, told);
}

#[test]
#[ignore = "needs helm and promtool"]
fn the_alerts_are_rules_that_prometheus_takes() {
    let objects = render(&["--set", "monitoring.prometheusRule.enabled=true"]);
    let rule = yaml::find(&objects, "PrometheusRule", "crank-agents");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rule["spec"].to_string()).unwrap();
    let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    let told = succeeded("promtool", &output);
    assert!(told.contains("11 rules found"), "{told}");
}
