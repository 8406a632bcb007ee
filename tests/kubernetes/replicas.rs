//! Replicas of the CA with one record in `PostgreSQL`, on a whole cluster: what the page calls production.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::chart::render;
use crate::cluster::{Cluster, succeeded};
use crate::machine::{ADDRESS, Machine, NAME};
use crate::node::until;
use crate::page;
use crate::postgres::{PASSWORD, Postgres};
use crate::release::{are_for_the_ca, evict, is_ready, pods, rolled_out};
use crate::roots::make_issuer;
use crate::yaml;

const NAMESPACE: &str = "crank";

const CA: &str = "app.kubernetes.io/name=crank-ca";

fn authority(name: &str, constraint: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraint);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What an operator has beforehand: an intermediate, a database with a certificate, and the page's values.
fn prepare(machine: &Machine) -> Postgres {
    let cluster = &machine.cluster;
    let root = authority("Example Root", BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let intermediate = authority("Example Issuing", BasicConstraints::Constrained(0)).signed_by(&key, &root).unwrap();
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["db.lab.svc".to_owned()]).unwrap().signed_by(&server_key, &root).unwrap();
    let network = (machine.network(), std::net::Ipv4Addr::from(ADDRESS));
    let postgres = Postgres::start_in(network, &server.pem(), &server_key.serialize_pem());
    postgres.create_database("crank");
    let here = cluster.path("production");
    fs::create_dir(&here).unwrap();
    for (name, text) in [
        ("tls.crt", intermediate.pem()),
        ("tls.key", key.serialize_pem()),
        ("ca.crt", root.pem()),
        ("database-ca.crt", root.pem()),
        ("password", PASSWORD.to_owned()),
        (
            "production.yaml",
            page::file("production.yaml").replace("db.example.org", "db.lab.svc").replace("replicas: 3", "replicas: 2"),
        ),
    ] {
        fs::write(here.join(name), text).unwrap();
    }
    page::copy("helm", &here);

    // A Service whose server is not in the cluster.
    cluster.must(&["create", "namespace", "lab"]);
    let metadata = json!({"name": "db", "namespace": "lab", "labels": {"kubernetes.io/service-name": "db"}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"name": "sql", "port": 5432}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
        "ports": [{"name": "sql", "port": postgres.port()}], "endpoints": [{"addresses": [network.1]}],
    });
    succeeded("db", &cluster.kubectl_with(&["create"], &yaml::join(&[service, slice])));
    postgres
}

/// A pod of `account` that gets a certificate, on the node also while that takes no others. It is the chart's own test.
fn enrol(cluster: &Cluster, account: &str) {
    cluster.must(&["create", "serviceaccount", account, "--namespace", NAMESPACE]);
    let mut pod = yaml::find(&render(&[]), "Pod", "crank-enrolment-test").clone();
    pod["metadata"] = json!({"name": account, "namespace": NAMESPACE});
    pod["spec"]["serviceAccountName"] = json!(account);
    pod["spec"]["nodeName"] = json!(NAME);
    cluster.create(&pod.to_string()).unwrap();
    until(&format!("{account} has its certificate"), || {
        let pod = cluster.object(&["get", "pod", account, "--namespace", NAMESPACE]);
        assert_ne!(pod["status"]["phase"], "Failed", "{:#}", pod["status"]);
        pod["status"]["phase"] == "Succeeded"
    });
}

/// The workers that the CA in `pod` has certificates of.
fn workers(cluster: &Cluster, pod: &str) -> Vec<String> {
    let words = ["exec", "--namespace", NAMESPACE, pod, "--container", "crank-ca", "--", "crank-ca", "list", "--json"];
    let listed = cluster.must(&words);
    // The CA's own are nobody's.
    let worker = |line: &str| serde_json::from_str::<Value>(line).unwrap()["worker_id"].as_str().map(str::to_owned);
    let mut workers: Vec<String> = listed.lines().filter_map(worker).collect();
    workers.sort();
    workers
}

#[test]
#[ignore = "needs root, kube-apiserver, kubelet, containerd, helm and postgres"]
fn replicas_go_on_when_one_is_gone_and_come_back_with_their_database() {
    let machine = Machine::with_controllers();
    let cluster = &machine.cluster;
    let mut postgres = prepare(&machine);
    let mut session = cluster.command("sh");
    session.args(["-eux", "-c", &page::block_with("production.yaml")]).current_dir(cluster.path("production"));
    let output = session.output().unwrap();
    let logs = || format!("{}\n{}", crate::controllers::logs(cluster), machine.logs());
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
    rolled_out(&machine, NAMESPACE, "deployment/cert-authority");
    let names = || {
        let pods = pods(cluster, NAMESPACE, CA);
        let mut names: Vec<String> =
            pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let ready = || pods(cluster, NAMESPACE, CA).iter().filter(|pod| is_ready(pod)).count();
    let both = names();
    are_for_the_ca(cluster, NAMESPACE, &[both[0].as_str(), both[1].as_str()]);
    cluster.helm(&["test", "crank", "--namespace", NAMESPACE, "--timeout", "3m"]);
    for name in &both {
        assert_eq!(workers(cluster, name), ["crank.crank-enrolment-test"], "one record, whichever has issued");
    }

    // One goes, and no other can come: the node takes none.
    cluster.must(&["cordon", NAME]);
    cluster.must(&["delete", "pod", &both[0], "--namespace", NAMESPACE]);
    until("one is left", || ready() == 1);
    enrol(cluster, "late");
    assert_eq!(workers(cluster, &both[1]), ["crank.crank-enrolment-test", "crank.late"]);
    // Nor may the last one go: agents would have nobody left to ask.
    let refused = evict(cluster, NAMESPACE, &both[1]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("disruption budget"), "{told}");
    let drain = cluster.kubectl(&["drain", NAME, "--force", "--delete-emptydir-data", "--timeout=3s"]);
    assert!(!drain.status.success(), "a drain waits for the other one");
    assert_eq!(ready(), 1);
    cluster.must(&["uncordon", NAME]);
    rolled_out(&machine, NAMESPACE, "deployment/cert-authority");
    let budget = || cluster.object(&["get", "poddisruptionbudget", "cert-authority", "--namespace", NAMESPACE]);
    until("one may go", || budget()["status"]["disruptionsAllowed"] == 1);
    succeeded("eviction", &evict(cluster, NAMESPACE, &both[1]));
    until("both are new", || ready() == 2 && names().iter().all(|name| !both.contains(name)));

    // Without their database they take no requests, and are not restarted for that.
    postgres.kill();
    until("none is ready", || ready() == 0);
    postgres.resume();
    until("both are ready", || ready() == 2);
    for pod in pods(cluster, NAMESPACE, CA) {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    enrol(cluster, "last");
    assert_eq!(workers(cluster, &names()[0]), ["crank.crank-enrolment-test", "crank.last", "crank.late"]);

    a_root_is_changed_by_the_values(&machine);
}

fn a_root_is_changed_by_the_values(machine: &Machine) {
    let cluster = &machine.cluster;
    let here = cluster.path("production");
    let old = fs::read_to_string(here.join("ca.crt")).unwrap();
    let new = make_issuer(cluster, "next");
    let steps = [
        ("beside", "crank-ca-issuer,next", old.clone() + &new, "CN=Example Issuing"),
        ("before", "next,crank-ca-issuer", old + &new, "CN=next issuing"),
        ("alone", "next", new, "CN=next issuing"),
    ];
    for (account, secrets, roots, issuer) in steps {
        fs::write(here.join("roots.crt"), roots).unwrap();
        let secrets = format!("ca.authority.secrets={{{secrets}}}");
        let roots = format!("trust.roots={}", here.join("roots.crt").display());
        let chart = here.join("helm/crank-agent").display().to_string();
        let arguments = ["upgrade", "crank", &chart, "--namespace", NAMESPACE, "--reuse-values", "--set", &secrets];
        cluster.helm(&[&arguments[..], &["--set-file", &roots]].concat());
        rolled_out(machine, NAMESPACE, "deployment/cert-authority");
        enrol(cluster, account);
        let log = cluster.must(&["logs", account, "--namespace", NAMESPACE]);
        assert!(log.contains(issuer), "{account}: {log}");
    }
}
