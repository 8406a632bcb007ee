//! The record as operators see it: beside a serving process, by list, show, export, backup and restore.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crank_agent::identity::PrivateKey;
use reqwest::{Client, Method};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::harness::{Reply, client_config, client_with_config, identity, key_and_csr, send};
use super::postgres::Postgres;
use super::process::{Directory, Process, crank_ca, text};

/// Runs a command that must succeed. Returns what it printed.
fn run(arguments: &[&str]) -> String {
    let output = crank_ca(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn anybody(directory: &Directory) -> Client {
    client_with_config(client_config(&directory.root_pem(), None))
}

fn holder(directory: &Directory, chain: &[CertificateDer<'static>], key: &PrivateKey) -> Client {
    client_with_config(client_config(&directory.root_pem(), Some((chain.to_vec(), key.to_rustls()))))
}

async fn ask(port: u16, client: &Client, token: Option<&str>, worker: &str, csr: &str) -> Reply {
    let url = format!("https://localhost:{port}/certificates/csr");
    let body = json!({ "csr": csr, "service_name": worker }).to_string();
    send(client, Method::POST, &url, token, body).await.unwrap()
}

/// Enrols `worker` with `token`; its key and chain.
async fn enrol(
    directory: &Directory,
    port: u16,
    token: &str,
    worker: &str,
    names: &[&str],
) -> (PrivateKey, Vec<CertificateDer<'static>>) {
    let (key, csr) = key_and_csr(&identity(worker, names));
    let reply = ask(port, &anybody(directory), Some(token), worker, &csr).await;
    (key, reply.chain())
}

/// Renews with the certificate of `chain`.
async fn renew(
    directory: &Directory,
    port: u16,
    worker: &str,
    key: &PrivateKey,
    chain: &[CertificateDer<'static>],
) -> Reply {
    let (_, csr) = key_and_csr(&identity(worker, &[]));
    ask(port, &holder(directory, chain, key), None, worker, &csr).await
}

#[tokio::test]
async fn the_record_says_who_asked_for_which_name_and_what_became_of_it() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let data = directory.data();
    let token = run(&["token", "create", "--data-dir", &data, "--worker", "api", "--name", "api.example.org"]);
    let (key, chain) = enrol(&directory, process.port, token.trim(), "api", &["api.example.org"]).await;
    enrol(&directory, process.port, &directory.token("streaming"), "streaming", &[]).await;
    let (_, csr) = key_and_csr(&identity("api", &["api.example.org"]));
    let renewed = ask(process.port, &holder(&directory, &chain, &key), None, "api", &csr).await;
    assert_eq!(renewed.status, 200);

    let found = lines(&run(&["list", "--data-dir", &data, "--name", "api.example.org", "--json"]));
    assert_eq!(found.len(), 2);
    let by = |kind: &str| found.iter().find(|record| record["authentication"] == kind).unwrap();
    let (newest, first) = (by("certificate"), by("token"));
    assert_eq!(newest["credential"], first["serial"]);
    assert_eq!(newest["correlation_id"], renewed.correlation_id);
    assert!(newest["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(found.iter().all(|record| record["worker_id"] == "api" && record["status"] == "valid"));

    let serial = first["serial"].as_str().unwrap();
    let shown = run(&["show", "--data-dir", &data, &serial.replace(':', "").to_uppercase(), "--pem"]);
    for part in [
        &format!("serial        {serial}\n"),
        "status        valid\n",
        "worker        api\n",
        "              DNS:api.example.org\n",
        "asked with    token tok_",
        "decision      allow: own names only (dec_",
        &format!("renewed by    {}  valid until ", newest["serial"].as_str().unwrap()),
        "-----BEGIN CERTIFICATE-----\n",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let shown: Value = serde_json::from_str(&run(&["show", "--data-dir", &data, serial, "--json"])).unwrap();
    assert_eq!(shown["renewed_to"][0]["serial"], newest["serial"]);
    assert_eq!(shown["decision"]["id"], first["decision_id"]);
    let shown = run(&["show", "--data-dir", &data, "api"]);
    assert!(shown.contains("state         valid\n") && shown.contains("certificates  2\n"), "{shown}");

    let table = run(&["list", "identities", "--data-dir", &data]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert_eq!(run(&["list", "identities", "--data-dir", &data, "--late"]).lines().count(), 1);
    assert_eq!(lines(&run(&["list", "decisions", "--data-dir", &data, "--json", "--worker", "api"])).len(), 2);
    assert_eq!(lines(&run(&["list", "--data-dir", &data, "--worker", "stream*", "--json"])).len(), 1);
    assert_eq!(lines(&run(&["list", "revocations", "--data-dir", &data, "--json"])).len(), 0);
    assert_eq!(run(&["list", "--data-dir", &data, "--status", "valid"]).lines().count(), 5, "with the CA's own");
    let first_token = first["credential"].as_str().unwrap();
    let by_token = lines(&run(&["list", "--data-dir", &data, "--by-token", first_token, "--json"]));
    assert_eq!(by_token, std::slice::from_ref(first));
    let cut = crank_ca(&["list", "--data-dir", &data, "--limit", "1", "--json"]);
    assert!(text(&cut.stderr).contains("--limit 0") && lines(&text(&cut.stdout)).len() == 1);
    assert!(run(&["check-record", "--data-dir", &data]).starts_with("good: 4 certificates"));
    assert_eq!(crank_ca(&["show", "--data-dir", &data, "nobody"]).status.code(), Some(78));
}

#[tokio::test]
async fn an_export_has_every_row_and_no_token() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let data = directory.data();
    let token = directory.token("streaming");
    enrol(&directory, process.port, &token, "streaming", &[]).await;
    let out = directory.path("certificates.csv");
    run(&["export", "--data-dir", &data, "--format", "csv", "--pem", "--out", out.to_str().unwrap()]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let mut reader = csv::Reader::from_path(&out).unwrap();
    assert_eq!(&reader.headers().unwrap()[0], "serial");
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    let row = rows.iter().find(|row| &row[2] == "streaming").unwrap();
    assert_eq!(&row[3], "DNS:localhost DNS:streaming URI:spiffe://crank.local/worker/streaming");
    assert!(row[17].starts_with("-----BEGIN CERTIFICATE-----\n"));
    let mut all = fs::read_to_string(&out).unwrap();
    for (what, count) in [("certificates", 2), ("identities", 1), ("tokens", 1), ("decisions", 1), ("revocations", 0)] {
        let exported = run(&["export", "--data-dir", &data, "--format", "json", "--what", what]);
        assert_eq!(lines(&exported).len(), count, "{what}");
        all.push_str(&exported);
    }
    assert!(!all.contains(&token) && !all.contains("digest"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_under_load_restores_to_a_ca_whose_workers_renew() {
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let data = directory.data();
    let (key, chain) = enrol(&directory, process.port, &directory.token("before"), "before", &[]).await;
    let (unused, used_later) = (directory.token("streaming"), directory.token("after"));

    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, port) = (Arc::clone(&stop), process.port);
        let client = holder(&directory, &chain, &key);
        tokio::spawn(async move {
            let mut issued = 0;
            while !stop.load(Ordering::SeqCst) {
                let (_, csr) = key_and_csr(&identity("before", &[]));
                assert_eq!(ask(port, &client, None, "before", &csr).await.status, 200);
                issued += 1;
            }
            issued
        })
    };
    // A further issuer lies in directories of its own.
    run(&["root", "rotate", "--data-dir", &data]);
    let backup = directory.path("backup");
    let out = backup.to_str().unwrap().to_owned();
    let arguments = ["backup", "--data-dir", &data, "--out", &out].map(str::to_owned);
    let said = tokio::task::spawn_blocking(move || run(&arguments.each_ref().map(String::as_str))).await.unwrap();
    assert!(said.contains("1 workers, 3 tokens"), "{said}");
    stop.store(true, Ordering::SeqCst);
    assert!(load.await.unwrap() > 0);
    for path in [&backup, &backup.join("authority")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    for entry in fs::read_dir(&backup).unwrap().chain(fs::read_dir(backup.join("authority")).unwrap()) {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert!(matches!(mode & 0o777, 0o600 | 0o700), "{mode:o}");
    }
    assert_eq!(crank_ca(&["backup", "--data-dir", &data, "--out", &out]).status.code(), Some(73), "is there already");
    let (late_key, late_chain) = enrol(&directory, process.port, &used_later, "after", &[]).await;
    process.end(Signal::KILL);

    assert_eq!(crank_ca(&["restore", "--from", &out, "--data-dir", &data]).status.code(), Some(73), "over a CA");
    let restored = directory.path("restored").display().to_string();
    let said = run(&["restore", "--from", &out, "--data-dir", &restored]);
    assert!(said.contains("2 unused tokens are revoked"), "{said}");
    assert_eq!(
        fs::metadata(directory.path("restored/authority/root.crt")).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert!(run(&["check-record", "--data-dir", &restored]).starts_with("good: "));
    // The ids and states of the issuers; the certificates of each are counted.
    let issuers = |data: &str| -> Vec<Vec<String>> {
        let list = run(&["root", "list", "--data-dir", data]);
        list.lines().map(|line| line.split_whitespace().take(3).map(str::to_owned).collect()).collect()
    };
    assert_eq!(issuers(&restored), issuers(&data));
    assert_eq!(issuers(&restored).len(), 3);
    let process = Process::start_with(&["--data-dir", &restored]);
    assert_eq!(renew(&directory, process.port, "before", &key, &chain).await.status, 200);
    let unknown = renew(&directory, process.port, "after", &late_key, &late_chain).await;
    assert_eq!(unknown.status, 401);
    assert!(unknown.detail().contains("not issued"), "{}", unknown.detail());
    for (token, worker) in [(&unused, "streaming"), (&used_later, "after")] {
        let (_, csr) = key_and_csr(&identity(worker, &[]));
        let refused = ask(process.port, &anybody(&directory), Some(token), worker, &csr).await;
        assert_eq!(refused.status, 401);
        assert!(refused.detail().contains("revoked"), "{}", refused.detail());
    }
    let token = run(&["token", "create", "--data-dir", &restored, "--worker", "after"]);
    enrol(&directory, process.port, token.trim(), "after", &[]).await;
}

#[test]
fn a_backup_that_is_not_whole_restores_nothing_and_a_restore_that_was_cut_off_is_done_again() {
    let directory = Directory::with_ca();
    let data = directory.data();
    directory.token("streaming");
    let out = directory.path("backup").display().to_string();
    run(&["backup", "--data-dir", &data, "--out", &out]);
    let restored = directory.path("restored").display().to_string();
    let restore = || crank_ca(&["restore", "--from", &out, "--data-dir", &restored, "--keep-tokens"]);
    for name in ["ca.sqlite3", "authority/issuing.key", "manifest.json"] {
        let path = directory.path("backup").join(name);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        for content in [&damaged[..], &whole[..middle]] {
            fs::write(&path, content).unwrap();
            let output = restore();
            assert_eq!(output.status.code(), Some(65), "{name}: {}", text(&output.stderr));
            assert!(!directory.path("restored/authority").exists());
        }
        fs::write(&path, &whole).unwrap();
    }
    // As a kill between the two renames would leave it.
    fs::write(directory.path("restored/ca.sqlite3"), "half").unwrap();
    assert!(directory.path("restored/.restore.new").exists());
    let output = restore();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!directory.path("restored/.restore.new").exists());
    let list = run(&["token", "list", "--data-dir", &restored]);
    assert!(list.contains("good"), "{list}");
    // A record without a CA that no restore has left is somebody's.
    fs::create_dir(directory.path("other")).unwrap();
    fs::write(directory.path("other/ca.sqlite3"), "").unwrap();
    let other = directory.path("other").display().to_string();
    assert_eq!(crank_ca(&["restore", "--from", &out, "--data-dir", &other]).status.code(), Some(73));
}

#[test]
fn a_manifest_cannot_lead_out_of_the_backup() {
    let directory = Directory::with_ca();
    let out = directory.path("backup").display().to_string();
    run(&["backup", "--data-dir", &directory.data(), "--out", &out]);
    let path = directory.path("backup/manifest.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for name in ["../x", "authority/../../x", "/etc/passwd", "authority/", "authority/..", "other"] {
        let mut changed = manifest.clone();
        changed["files"][name] = changed["files"]["authority/root.crt"].clone();
        fs::write(&path, changed.to_string()).unwrap();
        let restored = directory.path("restored").display().to_string();
        let output = crank_ca(&["restore", "--from", &out, "--data-dir", &restored]);
        assert_eq!(output.status.code(), Some(65), "{name}: {}", text(&output.stderr));
        assert!(!directory.path("restored").exists());
    }
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_record_in_postgres_is_read_saved_and_restored_by_its_own_tools() {
    let server = Postgres::start();
    server.create_database("one");
    server.create_database("two");
    let directory = Directory::with_ca();
    let data = directory.data();
    let (one, two) = (server.url("one"), server.url("two"));
    let mut process = Process::start_with(&["--data-dir", &data, "--database-url", &one]);
    let token = run(&["token", "create", "--data-dir", &data, "--database-url", &one, "--worker", "api"]);
    let (key, chain) = enrol(&directory, process.port, token.trim(), "api", &[]).await;
    let found = lines(&run(&["list", "--data-dir", &data, "--database-url", &one, "--name", "api", "--json"]));
    assert_eq!(found.len(), 1);
    let serial = found[0]["serial"].as_str().unwrap();
    assert!(run(&["show", "--data-dir", &data, "--database-url", &one, serial]).contains("own names only"));
    let exported = run(&["export", "--data-dir", &data, "--database-url", &one, "--format", "csv"]);
    assert_eq!(exported.lines().count(), 3, "{exported}");
    assert!(run(&["check-record", "--data-dir", &data, "--database-url", &one]).starts_with("good: 2"));

    let out = directory.path("backup").display().to_string();
    assert!(run(&["backup", "--data-dir", &data, "--database-url", &one, "--out", &out]).contains("pg_dump"));
    let dump = directory.path("record.dump");
    let file = fs::File::create(&dump).unwrap();
    server.run("pg_dump", "one", &["--format=custom"], Stdio::null(), file.into());
    process.end(Signal::KILL);
    let file = fs::File::open(&dump).unwrap();
    server.run("pg_restore", "two", &["--exit-on-error", "--no-owner"], file.into(), Stdio::null());
    let restored = directory.path("restored").display().to_string();
    run(&["restore", "--from", &out, "--data-dir", &restored]);
    let process = Process::start_with(&["--data-dir", &restored, "--database-url", &two]);
    assert_eq!(renew(&directory, process.port, "api", &key, &chain).await.status, 200);
    assert!(run(&["check-record", "--data-dir", &restored, "--database-url", &two]).starts_with("good: 4"));
}
