//! Several certificates kept by one agent.

use std::fs;
use std::net::SocketAddr;

use crank_agent::mtls::PeerUrl;
use crank_agent::store::read_bundle;
use serde_json::Value;

use crate::processes::{Agent, Ca, Worker, free_address, until};

/// A further certificate of another worker id, and its directory.
fn admin(worker: &Worker, ca: &Ca) -> String {
    let directory = worker.certificates().with_extension("admin");
    fs::create_dir_all(&directory).unwrap();
    let token = worker.certificates().with_extension("token");
    fs::write(&token, ca.token("admin")).unwrap();
    format!(
        "[[certificate]]\nname = \"admin\"\nworker_id = \"admin\"\nidentity.key_type = \"ecdsa-p384\"\n\
         files.directory = \"{}\"\nca.token_file = \"{}\"\n",
        directory.display(),
        token.display()
    )
}

fn serials(worker: &Worker) -> [String; 2] {
    [worker.certificates(), worker.certificates().with_extension("admin")]
        .map(|directory| read_bundle(&directory).unwrap().serial().to_owned())
}

fn status(worker: &Worker) -> Value {
    serde_json::from_slice(&worker.run_once(&["status", "--json"]).stdout).unwrap()
}

fn events_of(agent: &Agent, name: &str) -> Vec<Option<String>> {
    let records = agent.log();
    let records = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = records.filter(|record| record["event"] == name);
    named.map(|record| record["certificate"].as_str().map(str::to_owned)).collect()
}

fn metrics(worker: &Worker, address: SocketAddr) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = crank_agent::create_mtls_client(&worker.certificates()).unwrap();
        let url: PeerUrl = format!("https://localhost:{}/metrics", address.port()).parse().unwrap();
        client.get(url).send().await.unwrap().text().await.unwrap()
    })
}

#[test]
fn each_has_its_directory_names_key_and_events_and_all_are_renewed_on_demand() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    worker.configure(&admin(&worker, &ca));
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 2);
    let mut issued = events_of(&agent, "CERT_ISSUED");
    issued.sort();
    assert_eq!(issued, [None, Some("admin".to_owned())]);
    let [first, admin] = [worker.certificates(), worker.certificates().with_extension("admin")]
        .map(|directory| read_bundle(&directory).unwrap());
    let time = time::OffsetDateTime::now_utc();
    assert!(first.metadata(time).subject.contains("CN=streaming"));
    assert!(admin.metadata(time).subject.contains("CN=admin"));
    assert!(admin.key().public_key_der().len() > first.key().public_key_der().len(), "P-384 beside P-256");

    let report = status(&worker);
    assert_eq!(report["certificates"][0]["name"], "admin");
    assert_eq!(report["certificates"][0]["certificate"]["serial"], admin.serial());
    let shown = String::from_utf8(worker.run_once(&["status"]).stdout).unwrap();
    assert!(shown.contains("further") && shown.contains(admin.serial()) && shown.contains(first.serial()), "{shown}");

    let before = serials(&worker);
    assert_eq!(worker.run_once(&["renew"]).status.code(), Some(0));
    let after = serials(&worker);
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    // Changes in the further directory are put right, too.
    fs::remove_file(worker.certificates().with_extension("admin").join("client.crt")).unwrap();
    agent.event("CERT_FILES_HEALED", 1);
    assert_eq!(events_of(&agent, "CERT_FILES_HEALED"), [Some("admin".to_owned())]);
    assert!(agent.is_running());
}

#[test]
fn a_further_certificate_comes_and_goes_with_the_configuration_and_the_first_stays() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let serial = worker.serial();
    worker.configure(&admin(&worker, &ca));
    agent.event("CERT_ISSUED", 2);
    assert_eq!(status(&worker)["certificates"][0]["name"], "admin");
    assert_eq!(agent.count("CONFIG_RELOADED"), 1);

    // The directories changed for each other: both are let go of before they are taken.
    worker.configure("");
    agent.event("CONFIG_RELOADED", 2);
    until("it is forgotten", || status(&worker).get("certificates").is_none().then_some(()));
    assert_eq!(worker.serial(), serial);
    // The directory is free for others.
    let files = crank_agent::config::FilesConfig {
        directory: worker.certificates().with_extension("admin"),
        owner: None,
        group: None,
        key_mode: 0o600,
        keep_generations: std::time::Duration::from_mins(1),
        further: Vec::new(),
    };
    drop(crank_agent::store::Store::open(&files).unwrap());
    assert!(agent.is_running());
}

#[test]
fn an_agent_is_ready_with_all_of_them_and_its_metrics_tell_them_apart() {
    let ca = Ca::start("1h");
    let address = free_address();
    let worker = Worker::of(&ca, "streaming")
        .with("CRANK_SERVER_LISTEN", &address.to_string())
        .with("CRANK_SERVER_METRICS_ALLOW", "spiffe://crank.local/worker/streaming");
    worker.configure(&admin(&worker, &ca));
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 2);
    until("it is ready", || (worker.run_once(&["health"]).status.code() == Some(0)).then_some(()));
    let text = metrics(&worker, address);
    let of = |metric: &str| text.lines().filter(|line| line.starts_with(metric)).collect::<Vec<_>>();
    assert_eq!(
        of("crank_cert_issuance_total"),
        ["crank_cert_issuance_total 1", "crank_cert_issuance_total{certificate=\"admin\"} 1"]
    );
    assert_eq!(of("crank_cert_not_after_timestamp_seconds").len(), 2);
    assert_eq!(of("# TYPE crank_cert_issuance_total").len(), 1);
    assert_eq!(of("crank_agent_build_info").len(), 1);

    // Past mending while the directory is not there.
    let directory = worker.certificates().with_extension("admin");
    let aside = directory.with_extension("aside");
    fs::rename(&directory, &aside).unwrap();
    let output = until("it is not ready", || {
        let output = worker.run_once(&["health"]);
        (output.status.code() == Some(1)).then_some(output)
    });
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("certificate `admin`"), "{text}");
    assert!(agent.is_running());
}

#[test]
fn init_obtains_all_and_without_one_of_them_it_fails() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    worker.configure(&admin(&worker, &ca));
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
    assert_eq!(serials(&worker).len(), 2);

    let other = Worker::of(&ca, "other");
    let settings = admin(&other, &ca);
    fs::write(other.certificates().with_extension("token"), "of-no-use").unwrap();
    other.configure(&settings);
    let output = other.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(77));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`admin`"));
}
