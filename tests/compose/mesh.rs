//! The Compose example through a day of operations: rotation, an absent CA, restarts, a lost volume.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::engine::{Engine, all_of, until};

/// The example, running under a name of its own.
struct Mesh {
    engine: Engine,
}

impl Mesh {
    fn up() -> Self {
        let mesh = Self { engine: Engine::start() };
        mesh.compose(&["up", "--detach", "--wait"]);
        mesh
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let output = self.try_compose(arguments);
        if !output.status.success() {
            let log = all_of(&self.try_compose(&["logs", "--tail", "20"]));
            panic!("docker compose {arguments:?}:\n{}\n{log}", all_of(&output));
        }
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_compose(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["compose", "--file", "deploy/compose/compose.yaml", "--project-name", "tested"];
        all.extend(arguments);
        self.engine.try_docker(&all)
    }

    /// One call from client to server: the serial of the certificate that the server showed.
    fn call(&self) -> String {
        let line =
            self.compose(&["exec", "-T", "client", "python3", "/app/client.py", "--once", "https://server:8443/"]);
        let result: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(result["answer"], "hello client", "{result}");
        result["server_serial"].as_str().unwrap().to_owned()
    }

    /// What the agent of `worker` says of itself.
    fn status(&self, worker: &str) -> Value {
        let agent = format!("{worker}-agent");
        serde_json::from_str(&self.compose(&["exec", "-T", &agent, "crank-agent", "status", "--json"])).unwrap()
    }

    /// The serial of the certificate that the agent of `worker` has published, as the client writes it.
    fn published(&self, worker: &str) -> String {
        self.status(worker)["certificate"]["serial"].as_str().unwrap().replace(':', "")
    }

    /// Waits until the server shows the certificate that its agent has published, and returns its serial.
    fn served(&self) -> String {
        let published = self.published("server");
        until("the server shows what is published", || (self.call() == published).then_some(()));
        published
    }

    fn renew(&self, worker: &str) -> Output {
        self.try_compose(&["exec", "-T", &format!("{worker}-agent"), "crank-agent", "renew", "--timeout", "60s"])
    }

    /// What curl says in the container of Prometheus, which has a certificate of the mesh.
    fn curl(&self, arguments: &[&str]) -> Output {
        let mut all =
            vec!["exec", "-T", "prometheus", "curl", "--silent", "--show-error", "--cacert", "/etc/certs/ca.crt"];
        all.extend(arguments);
        self.try_compose(&all)
    }

    /// The calls of the client since it started that failed.
    fn failed_calls(&self) -> Vec<String> {
        let log = self.compose(&["logs", "--no-log-prefix", "client"]);
        assert!(log.contains("\"status\": 200"), "{log}");
        log.lines().filter(|line| !line.contains("\"status\": 200")).map(str::to_owned).collect()
    }

    /// The container of `service`, as the engine tells of it.
    fn container(&self, service: &str) -> Value {
        let id = self.compose(&["ps", "--all", "--quiet", service]);
        let facts: Vec<Value> = serde_json::from_str(&self.engine.docker(&["inspect", id.trim()])).unwrap();
        facts.into_iter().next().unwrap()
    }
}

const OWN: [&str; 4] = ["--cert", "/etc/certs/client.crt", "--key", "/etc/certs/client.key"];

#[test]
#[ignore = "needs Docker"]
fn the_example_starts_by_one_command_and_lives_through_what_happens() {
    let mesh = Mesh::up();
    every_container_is_confined(&mesh);
    who_may_call_is_told_by_certificates(&mesh);
    prometheus_sees_every_agent(&mesh);

    // A rotation, that no call notices.
    let before = mesh.served();
    assert!(mesh.renew("server").status.success());
    let renewed = mesh.served();
    assert_ne!(renewed, before);
    assert!(mesh.renew("client").status.success());
    mesh.call();
    assert_eq!(mesh.failed_calls(), [""; 0]);

    // Without its CA the mesh goes on; with it, it renews again.
    mesh.compose(&["stop", "cert-authority"]);
    let output = mesh.renew("server");
    assert_eq!(output.status.code(), Some(69), "{}", all_of(&output));
    assert_eq!(mesh.served(), renewed);
    mesh.compose(&["exec", "-T", "server-agent", "crank-agent", "health"]);
    mesh.compose(&["start", "cert-authority"]);
    until("the agent is answered again", || mesh.renew("server").status.success().then_some(()));
    let current = mesh.served();
    assert_ne!(current, renewed);

    // An agent that comes back takes over what it left.
    mesh.compose(&["restart", "server-agent"]);
    mesh.compose(&["up", "--detach", "--wait"]);
    assert_eq!(mesh.served(), current);
    assert!(mesh.renew("server").status.success());
    mesh.compose(&["restart", "server"]);
    mesh.compose(&["up", "--detach", "--wait"]);
    let current = mesh.served();

    // A volume is lost, with key and certificate: `up` brings a fresh token, and with it another identity.
    let root = mesh.compose(&["exec", "-T", "server", "cat", "/etc/certs/ca.crt"]);
    mesh.compose(&["rm", "--stop", "--force", "server", "server-agent"]);
    mesh.engine.docker(&["volume", "rm", "tested_server-certs"]);
    mesh.compose(&["up", "--detach", "--wait"]);
    assert_ne!(mesh.served(), current);
    assert_eq!(mesh.compose(&["exec", "-T", "server", "cat", "/etc/certs/ca.crt"]), root, "the CA is the same");

    no_secret_is_in_any_log(&mesh);
    mesh.compose(&["down", "--volumes", "--timeout", "5"]);
}

fn every_container_is_confined(mesh: &Mesh) {
    let services = mesh.compose(&["config", "--services"]);
    let services: BTreeSet<&str> = services.lines().collect();
    assert!(services.len() >= 11, "{services:?}");
    for service in services {
        let container = mesh.container(service);
        let host = &container["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{service}");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{service}");
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges:true"]), "{service}");
        assert_ne!(host["Privileged"], true, "{service}");
        let user = container["Config"]["User"].as_str().unwrap();
        assert!(["65532:65532", "65534:65534"].contains(&user), "{service}: {user:?}");
        // The keys of the CA are with the CA alone.
        let mounts = container["Mounts"].as_array().unwrap();
        let has_keys = mounts.iter().any(|mount| mount["Name"] == "tested_ca-data");
        assert_eq!(has_keys, container["Config"]["Image"] == "crank-ca", "{service}");
        if container["State"]["Running"] == true {
            assert_eq!(container["State"]["Health"]["Status"], "healthy", "{service}");
        } else {
            assert_eq!(container["State"]["ExitCode"], 0, "{service}");
        }
    }
}

fn who_may_call_is_told_by_certificates(mesh: &Mesh) {
    mesh.call();
    let url = "https://server:8443/";
    let other = mesh.curl(&[&OWN[..], &[url]].concat());
    assert_eq!(String::from_utf8_lossy(&other.stdout), "not for prometheus\n", "{}", all_of(&other));
    let nobody = mesh.curl(&["--output", "/dev/null", "--write-out", "%{http_code}", url]);
    assert_eq!(String::from_utf8_lossy(&nobody.stdout), "400", "{}", all_of(&nobody));
    // Agents show their metrics to Prometheus, by certificate.
    let nobody =
        mesh.curl(&["--output", "/dev/null", "--write-out", "%{http_code}", "https://server-agent:9443/metrics"]);
    assert_eq!(String::from_utf8_lossy(&nobody.stdout), "401", "{}", all_of(&nobody));
}

fn prometheus_sees_every_agent(mesh: &Mesh) {
    until("three agents are scraped", || {
        let url = "https://localhost:9090/api/v1/query?query=crank_agent_ready";
        let output = mesh.curl(&[url]);
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        let ready = answer["data"]["result"].as_array()?.iter().filter(|series| series["value"][1] == "1").count();
        (ready == 3).then_some(())
    });
    // On the machine, at the published port, with the name that every certificate has.
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.crt");
    std::fs::write(&roots, mesh.compose(&["exec", "-T", "server", "cat", "/etc/certs/ca.crt"])).unwrap();
    let mut curl = mesh.engine.on_host("curl");
    let output = curl
        .args(["--silent", "--show-error", "--fail", "--cacert"])
        .arg(&roots)
        .arg("https://localhost:9091/-/healthy");
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", all_of(&output));
}

fn no_secret_is_in_any_log(mesh: &Mesh) {
    let log = mesh.compose(&["logs"]);
    assert!(log.contains("CERT_ISSUED") && log.contains("CERT_RENEWED"));
    assert!(!log.contains("PRIVATE KEY"));
    for worker in ["server", "client", "prometheus"] {
        let volume = format!("tested_{worker}-token:/token:ro");
        let read = ["run", "--rm", "-v", &volume, "python:3.13-slim", "cat", "/token/crank-token"];
        let token = mesh.engine.docker(&read);
        assert!(token.starts_with("crank_") && !log.contains(token.trim()), "{worker}");
    }
}
