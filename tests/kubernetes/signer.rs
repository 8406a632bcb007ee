//! crank-ca as the signer of a cluster: requests as a kubelet and as accounts make them, answered by a CA that has no more
//! rights than its page asks for.

mod between;
mod expired;
mod kubelet;
mod pods;
mod restart;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::render;
use crate::cluster::{Cluster, free_ports, succeeded, with_input};
use crate::node::{Process, until};
use crate::yaml;

const PAGE: &str = "docs/kubernetes-signer.md";

/// The rights and the settings of the page, for this namespace and signer.
fn of_the_page(file: &str, namespace: &str, signer: &str) -> String {
    let page = yaml::read(PAGE);
    let first = format!("\n# {file}\n");
    let block = page.split("```").find(|block| block.contains(&first)).unwrap_or_else(|| panic!("no {file}"));
    let (_, text) = block.split_once(&first).unwrap();
    text.replace("crank-ca-signer", &format!("{namespace}-signer"))
        .replace("namespace: crank\n", &format!("namespace: {namespace}\n"))
        .replace("crank.local/worker", signer)
}

/// A namespace with accounts for the CA and for workers, who may make requests.
fn prepare(cluster: &Cluster, namespace: &str, signer: &str) {
    cluster.restricted_namespace(namespace, &["cert-authority", "web", "banned"]);
    succeeded("rights", &cluster.kubectl_with(&["create"], &of_the_page("rbac.yaml", namespace, signer)));
    let may = ["create", "clusterrole", namespace, "--verb=create", "--resource=certificatesigningrequests"];
    cluster.must(&may);
    let accounts = ["web", "banned"].map(|account| format!("--serviceaccount={namespace}:{account}"));
    cluster.must(&["create", "clusterrolebinding", namespace, "--clusterrole", namespace, &accounts[0], &accounts[1]]);
}

/// A CA that signs the requests of a cluster.
struct Ca {
    process: Process,
    directory: TempDir,
}

impl Ca {
    fn start(cluster: &Cluster, signer: &str, token: &str) -> Self {
        let server = cluster.must(&["config", "view", "--output", "jsonpath={.clusters[0].cluster.server}"]);
        Self::start_at(cluster, &server, signer, token)
    }

    /// One that reaches the API server at `server`.
    fn start_at(cluster: &Cluster, server: &str, signer: &str, token: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let data = path("ca");
        let init = Command::new(env!("CARGO_BIN_EXE_crank-ca")).args(["init", "--data-dir"]).arg(&data).output();
        succeeded("init", &init.unwrap());
        fs::write(path("token"), token).unwrap();
        fs::create_dir(path("policy")).unwrap();
        let policy = "package crank\n\nbanned if endswith(input.identity.worker_id, \".banned\")\n\n\
                      can_issue_certificate := {\"allow\": true} if not banned\n\n\
                      can_issue_certificate := {\"allow\": false, \"reason\": \"this one is banned\"} if banned\n\n\
                      certificate_validity_period := {\"period\": \"12h\"} if true\n\n\
                      should_renew_certificate := {\"allow\": false} if true\n\n\
                      revoke_certificate := {\"allow\": true} if true\n";
        fs::write(path("policy/rules.rego"), policy).unwrap();
        fs::copy(cluster.path("ca.crt"), path("roots.pem")).unwrap();
        let [port] = free_ports();
        let text = |path: PathBuf| path.display().to_string();
        let settings = format!(
            "data_dir = '{}'\nlisten = '127.0.0.1:{port}'\nnames = ['localhost']\nlifetime = '24h'\n\
             [policy]\nengine = 'rego'\ndirectory = '{}'\n\
             [kubernetes]\nsigner_name = '{signer}'\nurl = '{server}'\nroot_file = '{}'\ntoken_file = '{}'\n\
             names = ['{{serviceaccount}}.{{namespace}}.svc']\n",
            text(data),
            text(path("policy")),
            text(path("roots.pem")),
            text(path("token")),
        );
        fs::write(path("crank-ca.toml"), settings).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = cluster.command(env!("CARGO_BIN_EXE_crank-ca"));
        command.args(["serve", "--log-format", "json", "--config"]).arg(path("crank-ca.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut ca = Self { process: Process(command.spawn().unwrap()), directory };
        until("the CA serves", || {
            assert!(ca.process.0.try_wait().unwrap().is_none(), "{}", ca.log());
            ca.log().contains("\"serving\"")
        });
        ca
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// The one audit line on the request with this uid.
    fn audit(&self, uid: &str) -> Value {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut found: Vec<Value> = lines
            .filter(|line| line["target"] == "crank::audit")
            .filter(|line| line.to_string().contains(&format!("\"credential\":\"{uid} ")))
            .collect();
        assert_eq!(found.len(), 1, "{uid}: {found:?}");
        found.remove(0)
    }

    /// The valid certificates of this worker on record.
    fn list(&self, worker: &str) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crank-ca"));
        command.args(["list", "--json", "--worker", worker, "--data-dir"]).arg(self.directory.path().join("ca"));
        let text = succeeded("list", &command.output().unwrap());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What openssl says of the first certificate of `chain`, which must verify to the CA's root.
    fn verified(&self, chain: &str) -> String {
        let file = self.directory.path().join("chain.pem");
        fs::write(&file, chain).unwrap();
        let file = file.to_str().unwrap();
        let root = self.directory.path().join("ca/authority/root.crt");
        let verify = ["verify", "-x509_strict", "-CAfile", root.to_str().unwrap(), "-untrusted", file, file];
        succeeded("verify", &Command::new("openssl").args(verify).output().unwrap());
        let show = ["x509", "-in", file, "-noout", "-ext", "subjectAltName", "-serial", "-pubkey"];
        succeeded("x509", &Command::new("openssl").args(show).output().unwrap())
    }
}

/// A key of this kind, and a PKCS#10 request with these names, or none.
fn csr(key: &[&str], names: &str, form: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-keyout", "/dev/null", "-subj", "/", "-outform", form]).args(key);
    if !names.is_empty() {
        command.args(["-addext", &format!("subjectAltName={names}")]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A `CertificateSigningRequest` for these names.
fn signing_request(name: &str, signer: &str, names: &str, usages: &[&str]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(csr(&P256, names, "PEM")), "signerName": signer, "usages": usages, "expirationSeconds": 3600,
        },
    })
}

/// Creates `object` with a token instead of the administrator's certificate.
fn create_as(cluster: &Cluster, token: &str, object: &Value) -> Output {
    create_all_as(cluster, token, std::slice::from_ref(object))
}

/// The same for several.
fn create_all_as(cluster: &Cluster, token: &str, objects: &[Value]) -> Output {
    let server = cluster.must(&["config", "view", "--output", "jsonpath={.clusters[0].cluster.server}"]);
    let mut command = cluster.command("kubectl");
    command.env("KUBECONFIG", "/nonexistent").args([
        "create",
        "--filename",
        "-",
        "--server",
        &server,
        "--token",
        token,
    ]);
    command.arg("--certificate-authority").arg(cluster.path("ca.crt"));
    with_input(command, &yaml::join(objects))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn decoded(certificate: &Value) -> String {
    String::from_utf8(STANDARD.decode(text(certificate)).unwrap()).unwrap()
}

const USAGES: [&str; 3] = ["digital signature", "server auth", "client auth"];

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_signing_request_is_signed_once_it_is_approved() {
    let cluster = Cluster::shared();
    let (namespace, signer) = ("signed", "signed.example/worker");
    prepare(&cluster, namespace, signer);
    let ca = Ca::start(&cluster, signer, &cluster.token(namespace, "cert-authority", None, None));
    let web = cluster.token(namespace, "web", None, None);
    let banned = cluster.token(namespace, "banned", None, None);
    let create = |token: &str, name: &str, signer: &str, names: &str, usages: &[&str]| {
        succeeded(name, &create_as(&cluster, token, &signing_request(name, signer, names, usages)));
    };
    create(&web, "signed-unapproved", signer, "", &USAGES);
    create(&web, "signed-elsewhere", "other.example/worker", "", &USAGES);
    create(&web, "signed-names", signer, "DNS:signed.web,DNS:other", &USAGES);
    create(&web, "signed-usages", signer, "", &["cert sign"]);
    create(&banned, "signed-banned", signer, "", &USAGES);
    let by_admin = signing_request("signed-by-admin", signer, "", &USAGES);
    cluster.create(&by_admin.to_string()).unwrap();
    create(&web, "signed-good", signer, "DNS:signed.web", &USAGES);
    let approve = |name: &str| cluster.must(&["certificate", "approve", name]);
    for name in ["elsewhere", "names", "usages", "banned", "by-admin", "good"] {
        approve(&format!("signed-{name}"));
    }
    let request = |name: &str| cluster.object(&["get", "csr", &format!("signed-{name}")]);
    until("the certificate is there", || request("good")["status"]["certificate"].is_string());
    let good = request("good");
    let chain = decoded(&good["status"]["certificate"]);
    let shown = ca.verified(&chain);
    assert!(shown.contains("DNS:signed.web\n"), "{shown}");
    let listed = ca.list("signed.web");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["authentication"], "certificate_signing_request", "{listed:?}");
    let line = ca.audit(text(&good["metadata"]["uid"]));
    assert_eq!((text(&line["decision"]), text(&line["worker_id"])), ("issued", "signed.web"));
    assert!(line.to_string().contains(text(&listed[0]["serial"])), "{line}");

    for (name, reason, message) in [
        ("names", "NamesNotPermitted", "names not permitted for worker `signed.web`: DNS:other"),
        ("usages", "Usages", "usages that no worker's certificate has: cert sign"),
        ("banned", "PolicyDenied", "denied by policy: this one is banned"),
        ("by-admin", "NoServiceAccount", "the request was made by `admin`"),
    ] {
        until(name, || condition(&request(name), "Failed").is_some());
        let request = request(name);
        let failed = condition(&request, "Failed").unwrap();
        assert_eq!(failed["reason"], reason);
        assert!(text(&failed["message"]).starts_with(message), "{failed}");
        assert!(request["status"]["certificate"].is_null());
        let line = ca.audit(text(&request["metadata"]["uid"]));
        assert_eq!(line["decision"], "refused");
        assert!(text(&failed["message"]).contains(text(&line["decision_id"])), "{failed}\n{line}");
    }
    // Both were there before all that have been answered.
    assert_eq!(request("unapproved")["status"], json!({}));
    let elsewhere = request("elsewhere");
    assert_eq!(elsewhere["status"]["conditions"].as_array().unwrap().len(), 1);
    assert!(elsewhere["status"]["certificate"].is_null());
    // And now the other way.
    approve("signed-unapproved");
    until("it is signed", || request("unapproved")["status"]["certificate"].is_string());
    assert_eq!(ca.list("signed.web").len(), 2);
}

#[test]
#[ignore = "needs helm"]
fn the_chart_gives_the_rights_of_the_page() {
    let with = render(&["--set", "ca.kubernetesSigner.enabled=true"]);
    let page = yaml::objects(&of_the_page("rbac.yaml", "crank", "crank.local/worker"));
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        let (own, told) =
            (yaml::find(&with, kind, "crank-cert-authority-signer"), yaml::find(&page, kind, "crank-signer"));
        assert_eq!((&own["rules"], &own["subjects"]), (&told["rules"], &told["subjects"]));
    }
    let without: Vec<String> = render(&[]).iter().map(yaml::name_of).collect();
    assert!(!without.iter().any(|name| name.contains("signer")), "off unless asked for: {without:?}");
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn the_rights_of_the_page_permit_to_sign_and_nothing_else() {
    let cluster = Cluster::shared();
    let (namespace, signer) = ("signer-rights", "rights.example/worker");
    prepare(&cluster, namespace, signer);
    let account = format!("system:serviceaccount:{namespace}:cert-authority");
    let can = |verb: &str, group: &str, resource: &str, subresource: &str, name: &str| {
        let attributes = json!({
            "verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name,
        });
        let groups = ["system:authenticated", "system:serviceaccounts"];
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "groups": groups, "resourceAttributes": attributes},
        });
        cluster.create(&review.to_string()).unwrap()["status"]["allowed"] == true
    };
    let certificates = |verb: &str, resource: &str, subresource: &str, name: &str| {
        can(verb, "certificates.k8s.io", resource, subresource, name)
    };
    for resource in ["podcertificaterequests", "certificatesigningrequests"] {
        for verb in ["get", "list", "watch"] {
            assert!(certificates(verb, resource, "", ""), "{verb} {resource}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert!(!certificates(verb, resource, "", ""), "{verb} {resource}");
        }
        assert!(certificates("update", resource, "status", "") && !certificates("patch", resource, "status", ""));
    }
    assert!(!certificates("update", "certificatesigningrequests", "approval", ""));
    assert!(certificates("sign", "signers", "", signer));
    assert!(!certificates("approve", "signers", "", signer));
    assert!(!certificates("sign", "signers", "", "kubernetes.io/kubelet-serving"));
    assert!(!can("get", "", "secrets", "", "") && !can("get", "", "pods", "", ""));
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn two_that_answer_at_once_are_no_error_to_each_other() {
    let cluster = Cluster::shared();
    let (namespace, signer) = ("twice", "twice.example/worker");
    prepare(&cluster, namespace, signer);
    let token = cluster.token(namespace, "cert-authority", None, None);
    // With no common record, so that both sign: only the API server decides which of them was first.
    let both = [Ca::start(&cluster, signer, &token), Ca::start(&cluster, signer, &token)];
    let web = cluster.token(namespace, "web", None, None);
    let names: Vec<String> = (0..12).map(|number| format!("twice-{number}")).collect();
    for name in &names {
        succeeded(name, &create_as(&cluster, &web, &signing_request(name, signer, "", &USAGES)));
    }
    let approve: Vec<&str> = ["certificate", "approve"].into_iter().chain(names.iter().map(String::as_str)).collect();
    cluster.must(&approve);
    let request = |name: &str| cluster.object(&["get", "csr", name]);
    for name in &names {
        until(name, || request(name)["status"]["certificate"].is_string());
        assert!(condition(&request(name), "Failed").is_none());
    }
    for ca in both {
        assert!(!ca.log().contains("cannot answer a request"), "{}", ca.log());
    }
}
