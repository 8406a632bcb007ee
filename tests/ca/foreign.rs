//! Clients of other makers, and the forms in which the old ones speak.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::harness::{TestCa, chain_from, identity, key_and_csr};
use super::process::{Directory, Process, text};

#[tokio::test]
async fn an_old_client_without_credential_is_refused_and_told_what_to_do() {
    let ca = TestCa::start().await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let reply = ca.enrol(&ca.client(), None, "streaming", &csr).await;
    assert_eq!((reply.status, ca.issued().await), (401, 0));
    for part in ["crank-ca token create", "Authorization: Bearer", "current certificate"] {
        assert!(reply.detail().contains(part), "no {part:?} in {}", reply.detail());
    }
}

#[tokio::test]
async fn neither_content_type_nor_further_fields_matter() {
    let ca = TestCa::start().await;
    let client = ca.client();
    for content_type in [None, Some("application/json; charset=utf-8"), Some("text/plain"), Some("\u{e9}/")] {
        let token = ca.token("streaming", &[]).await;
        let (_, csr) = key_and_csr(&identity("streaming", &[]));
        let body = json!({ "csr": csr, "service_name": "streaming", "names": ["other"], "validity_days": 9999 });
        let mut request = client.post(ca.url("/certificates/csr")).bearer_auth(&token).body(body.to_string());
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{content_type:?}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
    assert_eq!(ca.issued().await, 4);
}

#[tokio::test]
async fn the_open_answers_have_the_fields_of_the_contract_and_no_others() {
    let ca = TestCa::start().await;
    for (path, fields) in
        [("/health", vec!["provider", "service", "status"]), ("/ca/certificate", vec!["ca_certificate", "provider"])]
    {
        let body: Value = ca.client().get(ca.url(path)).send().await.unwrap().json().await.unwrap();
        let found: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, fields, "{path}");
    }
}

#[test]
#[ignore = "needs python3 and openssl"]
fn python_enrols_with_a_csr_made_by_openssl() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let root_file = directory.path("ca/authority/root.crt");
    for key in [["ec", "ec_paramgen_curve:P-256"], ["rsa", "rsa_keygen_bits:2048"]] {
        let csr = openssl_csr(&directory, key);
        let enrol = |root: &Path, token: Option<&str>| python(process.port, root, &csr, token);
        let token = directory.token("streaming");

        let answers = enrol(&root_file, Some(&token));
        assert!(answers.status.success(), "{}", text(&answers.stderr));
        let answers: Value = serde_json::from_slice(&answers.stdout).unwrap();
        assert_eq!(answers["health"][1]["status"], "healthy");
        assert_eq!(answers["root"][1]["ca_certificate"], directory.root_pem());
        assert_eq!(answers["enrolment"][0], 200, "{answers}");
        assert_eq!(chain_from(answers["enrolment"][1]["certificate"].as_str().unwrap()).len(), 2);
        let chain = directory.path("chain.pem");
        fs::write(&chain, answers["enrolment"][1]["certificate"].as_str().unwrap()).unwrap();
        let verified =
            openssl(&["verify", "-x509_strict", "-verify_hostname", "streaming", "-CAfile"], &[&root_file], &chain);
        assert!(verified.status.success(), "{}", text(&verified.stderr));

        let answers: Value = serde_json::from_slice(&enrol(&root_file, None).stdout).unwrap();
        assert_eq!(answers["enrolment"][0], 401);
        assert!(answers["enrolment"][1]["detail"].as_str().unwrap().starts_with("no credential"), "{answers}");
    }
    // With another CA's root it does not get as far as sending the token.
    let other = Directory::with_ca();
    let refused = python(
        process.port,
        &other.path("ca/authority/root.crt"),
        &openssl_csr(&directory, ["ec", "ec_paramgen_curve:P-256"]),
        Some("unsent"),
    );
    assert!(!refused.status.success() && text(&refused.stderr).contains("CERTIFICATE_VERIFY_FAILED"));
}

fn python(port: u16, root: &Path, csr: &Path, token: Option<&str>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ca/foreign/enrol.py");
    let url = format!("https://localhost:{port}");
    Command::new("python3").arg(script).arg(url).args([root, csr]).arg("streaming").args(token).output().unwrap()
}

fn openssl_csr(directory: &Directory, [algorithm, option]: [&str; 2]) -> PathBuf {
    let csr = directory.path("streaming.csr");
    let output = Command::new("openssl")
        .args(["req", "-new", "-nodes", "-newkey", algorithm, "-pkeyopt", option])
        .args(["-subj", "/CN=streaming/O=Crank Platform/OU=Worker Services"])
        .args(["-addext", "subjectAltName=DNS:streaming,DNS:localhost,URI:spiffe://crank.local/worker/streaming"])
        .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"])
        .arg("-keyout")
        .args([&directory.path("streaming.key")])
        .arg("-out")
        .arg(&csr)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    csr
}

fn openssl(arguments: &[&str], files: &[&Path], chain: &Path) -> Output {
    Command::new("openssl").args(arguments).args(files).arg("-untrusted").args([chain, chain]).output().unwrap()
}
