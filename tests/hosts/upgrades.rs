//! The state that one version leaves and another finds: older ones are read, of newer ones what can be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use sqlx::Connection;

use crate::processes::{Worker, until};

/// A copy of a committed state, with the modes that Git does not keep.
fn restore(name: &str, target: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/states").join(name);
    assert!(Command::new("cp").arg("-a").arg(source).arg(target).status().unwrap().success());
    protect(target);
}

fn protect(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            protect(&entry.path());
        } else if entry.file_type().unwrap().is_file() {
            let public = entry.path().extension().is_some_and(|end| end == "crt");
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(if public { 0o644 } else { 0o600 })).unwrap();
        }
    }
}

/// A worker with the state of an agent before, and no CA.
fn worker() -> (Worker, tempfile::TempDir) {
    let elsewhere = tempfile::tempdir().unwrap();
    let root = elsewhere.path().join("root.crt");
    let worker = Worker::at("streaming", "https://localhost:1", &root);
    restore("agent-1", &worker.certificates());
    fs::copy(worker.certificates().join("..data/ca.crt"), root).unwrap();
    (worker, elsewhere)
}

fn status(worker: &Worker) -> Value {
    until("the agent is ready", || worker.run_once(&["health"]).status.success().then_some(()));
    serde_json::from_slice(&worker.run_once(&["status", "--json"]).stdout).unwrap()
}

const SERIAL: &str = "77:07:36:93:9f:c3:0f:f4:35:94:71:7b:04:0a:92:01:df:70:20:bc";

/// Seven days before the end, and the part of a day that the jitter gives.
const RENEWAL: &str = "2100-10-21T09:24:51.";

#[test]
fn the_directory_of_an_older_agent_serves_on_with_its_plan() {
    let (worker, _elsewhere) = worker();
    let agent = worker.start();
    let status = status(&worker);
    assert_eq!(status["certificate"]["serial"], SERIAL, "{}", agent.log());
    assert!(status["next_renewal"].as_str().unwrap().starts_with(RENEWAL), "{status}");
    assert_eq!(agent.count("CERT_VALIDATION_FAILED") + agent.count("CSR_GENERATED"), 0, "{}", agent.log());
}

#[test]
fn of_a_newer_agents_directory_what_is_known_is_used() {
    let (worker, _elsewhere) = worker();
    let record = worker.certificates().join("..data/.renewal.json");
    let mut newer: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    newer["format"] = json!(2);
    newer["of_later_use"] = json!({ "for": ["what", "is", "not", "known"] });
    fs::write(&record, newer.to_string()).unwrap();
    fs::write(worker.certificates().join("..data/of-later-use.pem"), "unknown").unwrap();
    let agent = worker.start();
    let status = status(&worker);
    assert_eq!(status["certificate"]["serial"], SERIAL, "{}", agent.log());
    assert!(status["next_renewal"].as_str().unwrap().starts_with(RENEWAL), "{status}");
}

#[test]
fn a_record_that_cannot_be_read_costs_the_plan_and_not_the_certificate() {
    let (worker, _elsewhere) = worker();
    fs::write(worker.certificates().join("..data/.renewal.json"), "{\"plan\":[]}").unwrap();
    let agent = worker.start();
    let status = status(&worker);
    assert_eq!(status["certificate"]["serial"], SERIAL, "{}", agent.log());
    let renewal = status["next_renewal"].as_str().unwrap();
    assert!(renewal.starts_with("2100-10-2") && !renewal.starts_with(RENEWAL), "drawn anew: {renewal}");
}

struct OlderCa(tempfile::TempDir);

impl OlderCa {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        restore("ca-1", &directory.path().join("ca"));
        Self(directory)
    }

    fn data_directory(&self) -> PathBuf {
        self.0.path().join("ca")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crank-ca"));
        command.env_clear().args(arguments).arg("--data-dir").arg(self.data_directory()).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn the_record_of_an_older_ca_is_read_and_goes_on() {
    let ca = OlderCa::new();
    assert_eq!(ca.succeed(&["check-record"]), "good: 2 certificates are as their rows say\n");
    assert!(ca.succeed(&["list"]).contains("57:8e:7a:0f:8e:c8:6f:3e:5f:d2:d3:f4:0c:2c:ba:8b:ee"));
    assert!(ca.succeed(&["show", "streaming"]).contains("57:8e:7a:0f:8e:c8:6f:3e:5f:d2:d3:f4:0c:2c:ba:8b:ee"));
    let tokens = ca.succeed(&["token", "list"]).lines().count();
    ca.succeed(&["token", "create", "--worker", "api"]);
    assert_eq!(ca.succeed(&["token", "list"]).lines().count(), tokens + 1);
    assert!(ca.succeed(&["root", "show"]).contains("BEGIN CERTIFICATE"));
}

/// Whoever goes back restores a backup: an older program must not write into what it does not understand.
#[tokio::test]
async fn the_record_of_a_newer_ca_is_refused_and_left_as_it_is() {
    let ca = OlderCa::new();
    let url = format!("sqlite://{}", ca.data_directory().join("ca.sqlite3").display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (2, 'next', 1, x'00', 0)";
    sqlx::query(newer).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    for arguments in [["token", "list"].as_slice(), &["list"], &["serve", "--listen", "127.0.0.1:0"]] {
        let output = ca.run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(complaint.contains("a newer crank-ca"), "{arguments:?}: {complaint}");
    }
}
