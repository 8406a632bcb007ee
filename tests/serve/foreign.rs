//! Clients of other makers.

use std::path::Path;
use std::process::{Command, Output};

use crank_agent::identity::CertificateBundle;

use crate::running::{PROMETHEUS, Running, allow};
use crate::support::valid_now;

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

struct Files {
    _directory: tempfile::TempDir,
    root: String,
    chain: String,
    key: String,
}

fn files(running: &Running, identity: &CertificateBundle) -> Files {
    let directory = tempfile::tempdir().unwrap();
    Files {
        root: write(directory.path(), "ca.crt", running.ca.root_pem()),
        chain: write(directory.path(), "client.crt", &identity.chain_pem()),
        key: write(directory.path(), "client.key", &identity.key_pem().unwrap()),
        _directory: directory,
    }
}

async fn output(program: &'static str, arguments: Vec<String>) -> Output {
    let run = move || Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output();
    tokio::task::spawn_blocking(run).await.unwrap().expect(program)
}

async fn curl(running: &Running, arguments: &[&str], path: &str) -> (Option<i32>, String) {
    let mut all = vec!["--silent", "--show-error", "--noproxy", "*", "--max-time", "8", "--write-out", " %{http_code}"];
    all.extend(arguments);
    let mut all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    all.push(format!("https://localhost:{}{path}", running.address.port()));
    let output = output("curl", all).await;
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_reads_probes_and_with_a_listed_certificate_metrics() {
    let running = Running::ready().await;
    let files = files(&running, &running.ca.issue(&[PROMETHEUS], valid_now()));
    let trust = ["--cacert", files.root.as_str()];
    let identity = [trust.as_slice(), &["--cert", &files.chain, "--key", &files.key]].concat();
    assert_eq!(curl(&running, &trust, "/readyz").await, (Some(0), "ok 200".to_owned()));
    assert!(curl(&running, &trust, "/metrics").await.1.ends_with(" 401"));
    assert!(curl(&running, &identity, "/metrics").await.1.ends_with(" 403"));
    running.metrics_allow.send_replace(vec![allow(PROMETHEUS)]);
    let (code, text) = curl(&running, &identity, "/metrics").await;
    assert!(code == Some(0) && text.contains("crank_agent_ready 1") && text.ends_with(" 200"), "{text}");
    // curl exits with 60 when the peer's certificate does not verify.
    assert_eq!(curl(&running, &[], "/readyz").await.0, Some(60));
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_verifies_the_chain_with_tls_1_3_and_1_2_and_with_nothing_older() {
    let running = Running::ready().await;
    let files = files(&running, &running.ca.issue(&[PROMETHEUS], valid_now()));
    // Without -cert_chain, s_client sends the leaf alone, and the client does not verify.
    let trust = ["-CAfile", &files.root, "-verify_hostname", "localhost", "-verify_return_error"];
    let identity = ["-cert", &files.chain, "-cert_chain", &files.chain, "-key", &files.key];
    let connect = async |version: &str| {
        let address = running.address.to_string();
        let target = ["s_client", "-connect", &address, "-servername", "localhost", version];
        let arguments = target.iter().chain(&trust).chain(&identity).map(ToString::to_string).collect();
        let output = output("openssl", arguments).await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for version in ["-tls1_3", "-tls1_2"] {
        let (success, text) = connect(version).await;
        assert!(success && text.contains("Verify return code: 0 (ok)"), "{version}: {text}");
    }
    assert!(!connect("-tls1_1").await.0);
    running.bundle.send_replace(None);
    assert!(!connect("-tls1_3").await.0);
}
