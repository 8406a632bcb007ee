//! Certificates as linters of other makers see them: nothing is found but what docs/standards.md explains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crank_agent::ca::{CertificateAuthorityManager, Database, InitOptions};
use crank_agent::clock::SystemClock;
use crank_agent::config::Environment;
use crank_agent::identity::bundle::certificates_to_pem;
use crank_agent::identity::csr::generate_csr;
use crank_agent::identity::{KeyType, PrivateKey, TrustDomain};
use crank_agent::policy::DefaultPolicy;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{TestCa, chain_from, client_config, identity};

/// What a linter says, by the kind of certificate it says it of.
pub(crate) type Findings = BTreeSet<(String, String)>;

/// The certificates of a CA, one file each: root, intermediate, a leaf of each key type, the listener's.
struct Certificates {
    directory: TempDir,
    /// Kind and file.
    files: Vec<(&'static str, PathBuf)>,
}

impl Certificates {
    async fn issue() -> Self {
        let ca = TestCa::start().await;
        let mut found = Self { directory: TempDir::new().unwrap(), files: Vec::new() };
        let root = CertificateDer::from_pem_slice(ca.running.root_pem().as_bytes()).unwrap();
        for key_type in KeyType::ALL {
            let token = ca.token("streaming", &["streaming.example.org", "10.0.0.7", "fd00::7"]).await;
            let identity = identity("streaming", &["streaming.example.org", "10.0.0.7", "fd00::7"]);
            let key = PrivateKey::generate(key_type).unwrap();
            let csr = generate_csr(&identity, &key, key_type).unwrap();
            let chain = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.chain();
            if found.files.is_empty() {
                found.add("intermediate", "intermediate", &chain[1]);
            }
            found.add("leaf", key_type.name(), &chain[0]);
        }
        found.add("root", "root", &root);
        found.add("server", "server", &served_leaf(&ca).await);
        found.add_p384().await;
        found
    }

    /// The same with keys of P-384 throughout.
    async fn add_p384(&mut self) {
        let data = self.directory.path().join("p384");
        let identity = identity("streaming", &[]);
        let key_type = KeyType::EcdsaP384;
        let options = InitOptions { key_type, ..InitOptions::new(TrustDomain::new("crank.local").unwrap()) };
        let made = CertificateAuthorityManager::generate_ca_certificate(&data, &options, &SystemClock).unwrap();
        let policy = Box::new(DefaultPolicy::default());
        let environment = Environment::Production;
        let (database, clock) = (Database::Sqlite, Arc::new(SystemClock));
        let ca = CertificateAuthorityManager::open(&data, &database, policy, environment, clock).await.unwrap();
        let csr = generate_csr(&identity, &PrivateKey::generate(key_type).unwrap(), key_type).unwrap();
        let chain = chain_from(&ca.sign_worker_certificate(&csr, &identity, "lint").await.unwrap().certificate_pem);
        self.add("leaf", "p384-leaf", &chain[0]);
        self.add("intermediate", "p384-intermediate", &chain[1]);
        self.add("root", "p384-root", &chain_from(&made.root_pem)[0]);
    }

    /// Issuer and subject of every signature.
    fn pairs(&self) -> impl Iterator<Item = (&'static str, PathBuf, &Path)> {
        self.files.iter().filter(|(kind, _)| *kind != "root").map(|(kind, file)| {
            let prefix = if file.file_stem().unwrap().to_str().unwrap().starts_with("p384") { "p384-" } else { "" };
            let issuer = if *kind == "intermediate" { "root" } else { "intermediate" };
            (*kind, self.path(&format!("{prefix}{issuer}")), file.as_path())
        })
    }

    fn add(&mut self, kind: &'static str, name: &str, certificate: &CertificateDer<'static>) {
        let path = self.path(name);
        fs::write(&path, certificates_to_pem(std::slice::from_ref(certificate))).unwrap();
        self.files.push((kind, path));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }
}

/// The certificate that the CA's own listener presents.
pub(crate) async fn served_leaf(ca: &TestCa) -> CertificateDer<'static> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&ca.running.root_pem(), None)));
    let stream = tokio::net::TcpStream::connect(ca.running.address()).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// What the page says is switched off for `tool`, by kind of certificate.
fn explained(tool: &str) -> Findings {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/standards.md")).unwrap();
    let header = format!("| {tool} |");
    let rows =
        page.lines().skip_while(|line| !line.starts_with(&header)).skip(2).take_while(|line| line.starts_with('|'));
    let mut found = Findings::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells[2].len() > 20, "no reason given: {row}");
        found.extend(cells[1].split(", ").map(|kind| (cells[0].replace('`', ""), kind.to_owned())));
    }
    found
}

fn assert_explained(tool: &str, found: &Findings) {
    let explained = explained(tool);
    let unexplained: Vec<_> = found.difference(&explained).collect();
    assert!(unexplained.is_empty(), "{tool} finds what docs/standards.md does not explain: {unexplained:#?}");
    let needless: Vec<_> = explained.difference(found).collect();
    assert!(needless.is_empty(), "docs/standards.md switches off what {tool} does not find: {needless:#?}");
}

/// The lints of `zlint` that do not pass, of every source.
fn zlint(file: &Path) -> BTreeSet<String> {
    let output = Command::new("zlint").arg(file).output().unwrap();
    let results: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(results.len() > 300, "zlint ran {} lints only", results.len());
    let good = ["pass", "NA", "NE"];
    let failed = results.into_iter().filter(|(_, value)| !good.contains(&value["result"].as_str().unwrap()));
    failed.map(|(name, _)| name).collect()
}

/// The findings of a command of pkilint (`lint_pkix_cert`, `lint_crl`, …), from NOTICE up.
pub(crate) fn pkilint(command: &str, arguments: &[&str], files: &[&Path]) -> BTreeSet<String> {
    let output = Command::new(command)
        .arg("lint")
        .args(["--severity", "NOTICE", "--format", "JSON"])
        .args(arguments)
        .args(files)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str::<Value>(&text);
    assert!(report.is_ok(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report = report.unwrap();
    let results = report["results"].as_array().unwrap();
    let findings = results.iter().flat_map(|result| result["finding_descriptions"].as_array().unwrap());
    findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
#[ignore = "needs zlint"]
async fn zlint_finds_nothing_but_what_is_explained() {
    let certificates = Certificates::issue().await;
    let mut found = Findings::new();
    for (kind, file) in &certificates.files {
        found.extend(zlint(file).into_iter().map(|lint| (lint, (*kind).to_owned())));
    }
    assert_explained("zlint", &found);
}

#[tokio::test]
#[ignore = "needs pkilint"]
async fn pkilint_finds_nothing_but_what_is_explained() {
    let certificates = Certificates::issue().await;
    let mut found = Findings::new();
    let mut add = |kind: &str, lints: BTreeSet<String>| {
        found.extend(lints.into_iter().map(|lint| (lint, kind.to_owned())));
    };
    for (kind, file) in &certificates.files {
        add(kind, pkilint("lint_pkix_cert", &[], &[file]));
    }
    for (kind, issuer, subject) in certificates.pairs() {
        add(kind, pkilint("lint_pkix_signer_signee_cert_chain", &[], &[&issuer, subject]));
    }
    assert_explained("pkilint", &found);
}
