//! EST (RFC 7030) over real TLS: with our own client, and with those of other makers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde_json::Value;

use super::harness::{TestCa, identity, key_and_csr};
use super::process::{Directory, Process, text};

fn base64_of(csr_pem: &str) -> String {
    STANDARD.encode(CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).unwrap())
}

fn post(ca: &TestCa, client: &Client, operation: &str, body: String) -> RequestBuilder {
    let url = ca.url(&format!("/.well-known/est/{operation}"));
    client.post(url).header(CONTENT_TYPE, "application/pkcs10").body(body)
}

/// The DER of a certs-only answer.
async fn pkcs7(response: Response) -> Vec<u8> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.text().await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(headers[CONTENT_TYPE], "application/pkcs7-mime; smime-type=certs-only");
    assert_eq!(headers["content-transfer-encoding"], "base64");
    STANDARD.decode(body).unwrap()
}

/// The one certificate of an answer: what follows the head of the bag, up to its empty set of signers.
async fn issued(response: Response) -> CertificateDer<'static> {
    let der = pkcs7(response).await;
    let data = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    let tag = der.windows(data.len()).position(|window| window == data).unwrap() + data.len();
    // The tag `[0]` and a length of three bytes.
    assert_eq!(der[tag..tag + 2], [0xa0, 0x82]);
    CertificateDer::from(der[tag + 4..der.len() - 2].to_vec())
}

async fn kind(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["type"].as_str().unwrap().trim_start_matches("urn:crank-ca:problem:").to_owned())
}

#[tokio::test]
async fn a_worker_enrols_with_basic_or_bearer_and_re_enrols_with_its_certificate() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let identity = identity("streaming", &[]);
    for basic in [true, false] {
        let token = ca.token("streaming", &[]).await;
        let (key, csr) = key_and_csr(&identity);
        let request = post(&ca, &client, "simpleenroll", base64_of(&csr));
        let request = if basic { request.basic_auth("streaming", Some(&token)) } else { request.bearer_auth(&token) };
        let leaf = issued(request.send().await.unwrap()).await;

        let worker = ca.client_as(vec![leaf.clone()], &key);
        let (_, csr) = key_and_csr(&identity);
        let renewed = issued(post(&ca, &worker, "simplereenroll", base64_of(&csr)).send().await.unwrap()).await;
        assert_ne!(renewed, leaf);
        // With lines, and an answer that got lost: the same certificate again.
        let lines: Vec<String> = base64_of(&csr).as_bytes().chunks(60).map(text).collect();
        let again = post(&ca, &worker, "simplereenroll", lines.join("\r\n")).send().await.unwrap();
        assert_eq!(issued(again).await, renewed);
    }
    assert_eq!(ca.issued().await, 4);
}

#[tokio::test]
async fn the_ca_certificates_are_root_and_intermediate_and_a_csr_need_not_hold_anything() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let get = async |path: &str| client.get(ca.url(path)).send().await.unwrap();
    let der = pkcs7(get("/.well-known/est/cacerts").await).await;
    let root = CertificateDer::from_pem_slice(ca.running.root_pem().as_bytes()).unwrap();
    let contains = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
    let issuer = fs::read(ca.data_dir().join("authority/issuing.crt")).unwrap();
    assert!(contains(&root) && contains(&CertificateDer::from_pem_slice(&issuer).unwrap()));
    assert_eq!(get("/.well-known/est/csrattrs").await.status().as_u16(), 204);
    let keys = client.post(ca.url("/.well-known/est/serverkeygen")).send().await.unwrap();
    assert_eq!(kind(keys).await, (501, "not_implemented".to_owned()));
}

#[tokio::test]
async fn what_json_refuses_est_refuses_too() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &["extra.example"]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let (_, foreign) = key_and_csr(&identity("streaming", &["other.example"]));
    let (_, other) = key_and_csr(&identity("other", &[]));
    let good = base64_of(&csr);
    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    for (status, expected, authorization, body) in [
        (401, "no_credential", None, good.clone()),
        (401, "token_unknown", Some(basic("streaming", "password")), good.clone()),
        (401, "malformed_credential", Some("Basic ?".to_owned()), good.clone()),
        (403, "other_worker", Some(basic("other", &token)), good.clone()),
        (403, "other_worker", Some(basic("", &token)), good.clone()),
        (403, "other_worker", Some(basic("streaming", &token)), base64_of(&other)),
        (403, "names_not_permitted", Some(basic("streaming", &token)), base64_of(&foreign)),
        (400, "csr_malformed", Some(basic("streaming", &token)), csr.clone()),
        (400, "csr_malformed", Some(basic("streaming", &token)), "?".to_owned()),
        (400, "csr_malformed", Some(basic("streaming", &token)), String::new()),
        (413, "too_large", Some(basic("streaming", &token)), "A".repeat(64 * 1024 + 1)),
    ] {
        let mut request = post(&ca, &client, "simpleenroll", body);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        let challenges: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().cloned().collect();
        assert_eq!(challenges.iter().any(|value| value == "Basic realm=\"crank-ca\""), status == 401, "{expected}");
        assert_eq!(kind(response).await, (status, expected.to_owned()));
    }
    let json = client.post(ca.url("/.well-known/est/simpleenroll")).bearer_auth(&token).json(&good);
    assert_eq!(kind(json.send().await.unwrap()).await, (415, "unsupported_media_type".to_owned()));
    assert_eq!(ca.issued().await, 0);
}

#[tokio::test]
async fn a_re_enrolment_keeps_every_name() {
    let ca = TestCa::start().await;
    let token = ca.token("streaming", &["extra.example"]).await;
    let (key, csr) = key_and_csr(&identity("streaming", &["extra.example"]));
    let request = post(&ca, &ca.client(), "simpleenroll", base64_of(&csr)).bearer_auth(&token);
    let worker = ca.client_as(vec![issued(request.send().await.unwrap()).await], &key);
    let send = async |operation: &str, names: &[&str]| {
        let (_, csr) = key_and_csr(&identity("streaming", names));
        post(&ca, &worker, operation, base64_of(&csr)).send().await.unwrap()
    };
    assert_eq!(kind(send("simplereenroll", &[]).await).await, (403, "names_missing".to_owned()));
    assert_eq!(kind(send("simplereenroll", &["a.example"]).await).await, (403, "names_not_permitted".to_owned()));
    assert_eq!(ca.issued().await, 1);
    issued(send("simplereenroll", &["extra.example"]).await).await;
    // An enrolment may ask for less.
    issued(send("simpleenroll", &[]).await).await;
    assert_eq!(ca.send(&worker, Method::GET, "/health", None, "").await.unwrap().status, 200);
}

/// Runs `program` and returns what it wrote, if it succeeded.
fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = attempt(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    output.stdout
}

fn attempt(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// Verifies the leaf at `path` to the root, as OpenSSL sees it.
fn assert_verifies(directory: &Directory, path: &Path) {
    let authority = |name: &str| directory.path("ca/authority").join(name).display().to_string();
    let (root, issuer, leaf) = (authority("root.crt"), authority("issuing.crt"), path.display().to_string());
    for purpose in ["sslclient", "sslserver"] {
        let verify = ["verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", "streaming", "-CAfile", &root];
        run("openssl", &[&verify[..], &["-untrusted", &issuer, &leaf]].concat());
    }
}

/// Files of a foreign client.
struct Files<'a>(&'a Directory);

impl Files<'_> {
    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// A key of P-256 by OpenSSL and a CSR of it.
    fn csr(&self, name: &str, subject: &str, names: &str) -> String {
        let csr = self.name(&format!("{name}.csr"));
        let extension = format!("subjectAltName={names}");
        let key = self.name(&format!("{name}.key"));
        let key_options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", &key];
        let options = ["-subj", subject, "-addext", &extension, "-out", &csr];
        run("openssl", &[&["req", "-new"][..], &key_options, &options].concat());
        csr
    }

    /// The certificate in the DER at `name`, as PEM at `name`.pem.
    fn to_pem(&self, name: &str) -> PathBuf {
        let pem = self.name(&format!("{name}.pem"));
        run("openssl", &["x509", "-inform", "der", "-in", &self.name(name), "-out", &pem]);
        pem.into()
    }
}

const NAMES: &str = "DNS:streaming,DNS:localhost,URI:spiffe://crank.local/worker/streaming";

#[test]
#[ignore = "needs openssl"]
fn openssl_reads_the_bag_of_ca_certificates() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let files = Files(&directory);
    let root = files.name("ca/authority/root.crt");
    let url = format!("https://localhost:{}/.well-known/est/cacerts", process.port);
    fs::write(files.path("bag"), run("curl", &["--fail", "--silent", "--cacert", &root, &url])).unwrap();
    run("openssl", &["base64", "-d", "-A", "-in", &files.name("bag"), "-out", &files.name("bag.der")]);
    let found = text(&run("openssl", &["pkcs7", "-inform", "der", "-in", &files.name("bag.der"), "-print_certs"]));
    assert_eq!(found.matches("-----BEGIN CERTIFICATE-----").count(), 2, "{found}");
    for name in ["root", "issuing"] {
        let pem = fs::read_to_string(files.path(&format!("ca/authority/{name}.crt"))).unwrap();
        assert!(found.contains(pem.trim()), "{found}");
    }
}

#[test]
#[ignore = "needs estclient"]
fn the_client_of_globalsign_fetches_enrols_and_re_enrols() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let files = Files(&directory);
    let root = files.name("ca/authority/root.crt");
    let server = format!("localhost:{}", process.port);
    let common = ["-server", &server, "-explicit", &root];
    let est = |command: &str, further: &[&str]| attempt("estclient", &[&[command][..], &common, further].concat());

    let found = est("cacerts", &[]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    assert_eq!(text(&found.stdout).matches("-----BEGIN CERTIFICATE-----").count(), 2);
    let attributes = est("csrattrs", &[]);
    assert!(attributes.status.success(), "{}", text(&attributes.stderr));

    let csr = files.csr("first", "/CN=streaming", NAMES);
    let token = directory.token("streaming");
    let first = files.name("first.pem");
    let basic = ["-user", "streaming", "-pass", &token];
    let foreign = files.csr("foreign", "/CN=streaming", "DNS:other.example");
    let refused = est("enroll", &[&basic[..], &["-csr", &foreign]].concat());
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("names not permitted for worker `streaming`"), "{said}");
    let refused = est("enroll", &["-user", "other", "-pass", &token, "-csr", &csr]);
    assert!(text(&refused.stderr).contains("the credential is for worker `streaming`, not for `other`"));
    let enrolled = est("enroll", &[&basic[..], &["-csr", &csr, "-out", &first]].concat());
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    assert_verifies(&directory, Path::new(&first));

    // The CA verifies the client to its root, so the intermediate is sent along.
    let chain =
        fs::read_to_string(&first).unwrap() + &fs::read_to_string(files.path("ca/authority/issuing.crt")).unwrap();
    fs::write(files.path("chain.pem"), chain).unwrap();
    let csr = files.csr("second", "/CN=streaming", NAMES);
    let (chain, key, second) = (files.name("chain.pem"), files.name("first.key"), files.name("second.pem"));
    let own = ["-certs", &chain, "-key", &key];
    let renewed = est("reenroll", &[&own[..], &["-csr", &csr, "-out", &second]].concat());
    assert!(renewed.status.success(), "{}", text(&renewed.stderr));
    assert_verifies(&directory, Path::new(&second));
    assert_ne!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

    let keys = est("serverkeygen", &[&own[..], &["-csr", &csr]].concat());
    assert!(text(&keys.stderr).contains("the CA makes no private keys"), "{}", text(&keys.stderr));
}

#[test]
#[ignore = "needs strongswan"]
fn the_client_of_strongswan_fetches_enrols_and_re_enrols() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let files = Files(&directory);
    let (root, issuer) = (files.name("ca/authority/root.crt"), files.name("ca/authority/issuing.crt"));
    let url = format!("https://localhost:{}", process.port);
    let common = ["--url", &url, "--cacert", &root];
    let fetched = files.name("fetched");
    run("pki", &[&["--estca"][..], &common, &["--caout", &fetched, "--outform", "pem"]].concat());
    let found: Vec<String> =
        ["fetched", "fetched-1"].iter().filter_map(|name| fs::read_to_string(files.path(name)).ok()).collect();
    assert!(found.iter().any(|pem| pem.contains(directory.root_pem().trim())), "{found:?}");

    let der = |csr: String| {
        let out = format!("{csr}.der");
        run("openssl", &["req", "-in", &csr, "-outform", "der", "-out", &out]);
        out
    };
    let token = directory.token("streaming");
    let basic = format!("streaming:{token}");
    let est = |csr: &str, further: &[&str]| {
        attempt("pki", &[&["--est"][..], &common, &["--cacert", &issuer, "--in", csr], further].concat())
    };
    let foreign = der(files.csr("foreign", "/CN=streaming", "DNS:other.example"));
    let refused = est(&foreign, &["--userpass", &basic]);
    assert!(!refused.status.success() && refused.stdout.is_empty());
    let csr = der(files.csr("first", "/CN=streaming", NAMES));
    let refused = est(&csr, &["--userpass", &format!("other:{token}")]);
    assert!(!refused.status.success() && refused.stdout.is_empty());
    let enrolled = est(&csr, &["--userpass", &basic]);
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    fs::write(files.path("first"), enrolled.stdout).unwrap();
    assert_verifies(&directory, &files.to_pem("first"));

    let csr = der(files.csr("second", "/CN=streaming", NAMES));
    let renewed = est(&csr, &["--cert", &files.name("first"), "--key", &files.name("first.key")]);
    assert!(renewed.status.success(), "{}", text(&renewed.stderr));
    fs::write(files.path("second"), renewed.stdout).unwrap();
    assert_verifies(&directory, &files.to_pem("second"));
    assert_ne!(fs::read(files.path("first")).unwrap(), fs::read(files.path("second")).unwrap());
    let audit: Vec<Value> = process.log.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
    let decisions = audit.iter().filter(|line| line["target"] == "crank::audit").map(|line| &line["authentication"]);
    assert_eq!(decisions.collect::<Vec<_>>(), ["token", "token", "token", "certificate"]);
}
