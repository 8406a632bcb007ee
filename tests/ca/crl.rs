//! The CRL as clients fetch it and as others read it.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use reqwest::Client;
use reqwest::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LAST_MODIFIED, VARY};
use serde_json::Value;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::harness::{TestCa, Worker, eventually};
use super::lint::pkilint;
use super::process::text;

/// A CRL as it came.
pub(crate) struct Fetched {
    pub(crate) der: Vec<u8>,
    pub(crate) etag: String,
}

impl Fetched {
    pub(crate) fn number(&self) -> u64 {
        let (_, crl) = CertificateRevocationList::from_der(&self.der).unwrap();
        crl.crl_number().unwrap().to_string().parse().unwrap()
    }
}

pub(crate) async fn fetch(client: &Client, url: &str) -> Fetched {
    let response = client.get(format!("{url}/ca/crl")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let etag = response.headers()[ETAG].to_str().unwrap().to_owned();
    Fetched { der: response.bytes().await.unwrap().to_vec(), etag }
}

/// The serials on a CRL, sorted.
pub(crate) fn serials(der: &[u8]) -> Vec<String> {
    let (_, crl) = CertificateRevocationList::from_der(der).unwrap();
    let entries = crl.iter_revoked_certificates();
    let mut serials: Vec<String> =
        entries.map(|entry| crank_agent::identity::metadata::serial_text(entry.raw_serial())).collect();
    serials.sort();
    serials
}

async fn on_crl(ca: &TestCa, worker: &Worker) {
    eventually("it is on the CRL", || async {
        serials(&fetch(&ca.client(), &ca.url("")).await.der).contains(&worker.serial)
    })
    .await;
}

#[tokio::test]
async fn anyone_fetches_it_as_der_or_pem_and_only_once() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let get = async |accept: &str, tag: Option<&str>| {
        let mut request = client.get(ca.url("/ca/crl")).header(ACCEPT, accept);
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        request.send().await.unwrap()
    };
    let response = get("*/*", None).await;
    let headers = response.headers().clone();
    assert_eq!(headers[CONTENT_TYPE], "application/pkix-crl");
    assert_eq!(headers[CACHE_CONTROL], "max-age=60");
    assert_eq!(headers[VARY], "accept");
    assert!(httpdate::parse_http_date(headers[LAST_MODIFIED].to_str().unwrap()).is_ok());
    let der = response.bytes().await.unwrap();
    let (rest, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert!(rest.is_empty());
    let now = time::OffsetDateTime::now_utc();
    let next_update = crl.next_update().unwrap().to_datetime();
    assert!(crl.last_update().to_datetime() < now && next_update - now > time::Duration::hours(23));

    for accept in ["application/x-pem-file", "application/pem-certificate-chain, */*"] {
        let response = get(accept, None).await;
        assert_eq!(response.headers()[ETAG], headers[ETAG]);
        assert!(accept.starts_with(response.headers()[CONTENT_TYPE].to_str().unwrap()));
        let pem = response.text().await.unwrap();
        assert!(pem.starts_with("-----BEGIN X509 CRL-----\n") && pem.ends_with("-----END X509 CRL-----\n"), "{pem}");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(block.contents, der);
    }
    let tag = headers[ETAG].to_str().unwrap();
    let response = get("*/*", Some(tag)).await;
    assert_eq!((response.status().as_u16(), &response.headers()[ETAG]), (304, &headers[ETAG]));
    assert!(response.bytes().await.unwrap().is_empty());
    assert_eq!(get("*/*", Some("\"another\"")).await.status().as_u16(), 200);
    // HEAD, as caches send it.
    let head = client.head(ca.url("/ca/crl")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()[ETAG]), (200, &headers[ETAG]));
}

#[tokio::test]
async fn an_issuer_is_named_by_the_digest_of_its_certificate() {
    let ca = TestCa::start().await;
    let worker = ca.worker("streaming").await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &worker.chain[1]);
    let digest = digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let current = fetch(&ca.client(), &ca.url("")).await;
    let get = async |issuer: &str| {
        let response = ca.client().get(ca.url(&format!("/ca/crl?issuer={issuer}"))).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap())
    };
    assert_eq!(get(&digest).await, (200, current.der.clone().into()));
    assert_eq!(get(&format!("sha256:{digest}")).await.0, 200);
    for unknown in ["", "ab", &"0".repeat(64), &"é".repeat(32)] {
        assert_eq!(get(unknown).await.0, 404, "{unknown}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_reads_it_and_refuses_a_revoked_certificate_by_it() {
    let ca = TestCa::start().await;
    let (good, bad) = (ca.worker("streaming").await, ca.worker("streaming").await);
    assert_eq!(ca.revoke(&bad.client, &bad.serial, r#"{"reason":"keyCompromise"}"#).await.status, 200);
    on_crl(&ca, &bad).await;
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let fetched = fetch(&ca.client(), &ca.url("")).await;
    fs::write(path("crl.der"), &fetched.der).unwrap();
    let pem = ca.client().get(ca.url("/ca/crl")).header(ACCEPT, "application/x-pem-file").send().await.unwrap();
    fs::write(path("crl.pem"), pem.bytes().await.unwrap()).unwrap();
    fs::write(path("root.pem"), ca.running.root_pem()).unwrap();
    for (name, worker) in [("good", &good), ("bad", &bad)] {
        let pem = |certificates| crank_agent::identity::bundle::certificates_to_pem(certificates);
        fs::write(path(&format!("{name}.pem")), pem(&worker.chain[..1])).unwrap();
        fs::write(path("issuer.pem"), pem(&worker.chain[1..])).unwrap();
    }

    let shown =
        openssl(&["crl", "-inform", "DER", "-in", &path("crl.der"), "-noout", "-text", "-CAfile", &path("issuer.pem")]);
    let said = text(&shown.stdout);
    assert!(text(&shown.stderr).contains("verify OK"), "{}", text(&shown.stderr));
    let expected =
        ["Version 2 (0x1)", "X509v3 CRL Number", "Next Update: ", "Key Compromise", "Authority Key Identifier"];
    for part in expected {
        assert!(said.contains(part), "no {part}: {said}");
    }
    assert_eq!(said.matches("Serial Number: ").count(), 1);

    let verify = |name: &str| {
        let chain = ["-CAfile", &path("root.pem"), "-untrusted", &path("issuer.pem"), "-CRLfile", &path("crl.pem")];
        let leaf = path(&format!("{name}.pem"));
        openssl(&[&["verify", "-x509_strict", "-crl_check"], &chain[..], &[&leaf]].concat())
    };
    let verified = verify("good");
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let refused = verify("bad");
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("certificate revoked"),
        "{}",
        text(&refused.stderr)
    );
}

#[tokio::test]
#[ignore = "needs zlint and pkilint"]
async fn linters_find_nothing_in_it() {
    let ca = TestCa::start().await;
    let worker = ca.worker("streaming").await;
    let directory = tempfile::TempDir::new().unwrap();
    for name in ["empty", "full"] {
        if name == "full" {
            assert_eq!(ca.revoke(&worker.client, &worker.serial, r#"{"reason":"superseded"}"#).await.status, 200);
            on_crl(&ca, &worker).await;
        }
        let pem = ca.client().get(ca.url("/ca/crl")).header(ACCEPT, "application/x-pem-file").send().await.unwrap();
        let path = directory.path().join(name);
        fs::write(&path, pem.bytes().await.unwrap()).unwrap();
        for profile in ["PKIX", "BR"] {
            let found = pkilint("lint_crl", &["--type", "CRL", "--profile", profile], &[&path]);
            assert!(found.is_empty(), "{name}: {found:?}");
        }
        let output = Command::new("zlint").arg(&path).output().unwrap();
        let results: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(results.len() > 5 && results.keys().any(|lint| lint.contains("crl")), "{results:?}");
        let good = ["pass", "NA", "NE"];
        let found: Vec<_> =
            results.iter().filter(|(_, told)| !good.contains(&told["result"].as_str().unwrap())).collect();
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).output().unwrap()
}
