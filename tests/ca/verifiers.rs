//! Chains as verifiers of other makers see them: each takes the good ones, for both uses, and refuses the wrong ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crank_agent::identity::bundle::certificates_to_pem;
use crank_agent::identity::csr::generate_csr;
use crank_agent::identity::{KeyType, PrivateKey};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::harness::{TestCa, identity};
use super::lint::served_leaf;

struct Chains {
    directory: TempDir,
}

impl Chains {
    /// Chains of a CA by key type, and such as nobody should take; and the root of another CA.
    async fn issue() -> Self {
        let (ca, other) = (TestCa::start().await, TestCa::start().await);
        let chains = Self { directory: TempDir::new().unwrap() };
        fs::write(chains.path("root"), ca.running.root_pem()).unwrap();
        fs::write(chains.path("other-root"), other.running.root_pem()).unwrap();
        for key_type in KeyType::ALL {
            let token = ca.token("streaming", &[]).await;
            let key = PrivateKey::generate(key_type).unwrap();
            let csr = generate_csr(&identity("streaming", &[]), &key, key_type).unwrap();
            let chain = ca.enrol(&ca.client(), Some(&token), "streaming", &csr).await.chain();
            chains.add(key_type.name(), &chain);
            // The last byte is of the signature.
            let mut forged = chain[0].to_vec();
            *forged.last_mut().unwrap() ^= 1;
            chains.add(&format!("forged-{}", key_type.name()), &[forged.into(), chain[1].clone()]);
            chains.add("without-intermediate", &chain[..1]);
            chains.add("server-only", &[served_leaf(&ca).await, chain[1].clone()]);
        }
        chains
    }

    fn add(&self, name: &str, chain: &[CertificateDer<'static>]) {
        fs::write(self.path(name), certificates_to_pem(chain)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }

    /// `verify` takes a root, a chain, a host and a use (`server` or `client`).
    fn assert_verified_by(&self, verify: impl Fn(&Path, &Path, &str, &str) -> Output) {
        let outcome = |root: &str, chain: &str, host: &str, usage: &str| {
            let output = verify(&self.path(root), &self.path(chain), host, usage);
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        };
        for key_type in KeyType::ALL {
            let name = key_type.name();
            for usage in ["server", "client"] {
                let (good, said) = outcome("root", name, "streaming", usage);
                assert!(good, "{name} {usage}: {said}");
            }
            assert!(!outcome("root", &format!("forged-{name}"), "streaming", "server").0, "forged {name}");
        }
        assert!(outcome("root", "server-only", "localhost", "server").0);
        for (root, chain, host, usage) in [
            ("other-root", "ecdsa-p256", "streaming", "server"),
            ("root", "ecdsa-p256", "other", "server"),
            ("root", "without-intermediate", "streaming", "server"),
            ("root", "server-only", "localhost", "client"),
        ] {
            let (good, said) = outcome(root, chain, host, usage);
            assert!(!good, "{root} {chain} {host} {usage}: {said}");
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ca/foreign").join(name)
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_takes_the_good_chains_and_no_others() {
    Chains::issue().await.assert_verified_by(|root, chain, host, usage| {
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", &format!("ssl{usage}"), "-verify_hostname", host, "-CAfile"])
            .arg(root)
            .arg("-untrusted")
            .args([chain, chain])
            .output()
            .unwrap()
    });
}

#[tokio::test]
#[ignore = "needs gnutls"]
async fn gnutls_takes_the_good_chains_and_no_others() {
    Chains::issue().await.assert_verified_by(|root, chain, host, usage| {
        let purpose = if usage == "client" { "1.3.6.1.5.5.7.3.2" } else { "1.3.6.1.5.5.7.3.1" };
        let mut command = Command::new("certtool");
        command.args(["--verify", "--verify-hostname", host, "--verify-purpose", purpose, "--load-ca-certificate"]);
        command.arg(root).arg("--infile").arg(chain).output().unwrap()
    });
}

#[tokio::test]
#[ignore = "needs go"]
async fn go_takes_the_good_chains_and_no_others() {
    let chains = Chains::issue().await;
    let program = chains.path("verify");
    run(Command::new("go").env("GOTOOLCHAIN", "local").args(["build", "-o"]).args([&program, &source("verify.go")]));
    chains.assert_verified_by(|root, chain, host, usage| {
        Command::new(&program).args([root, chain]).args([host, usage]).output().unwrap()
    });
}

#[tokio::test]
#[ignore = "needs java"]
async fn java_takes_the_good_chains_and_no_others() {
    let chains = Chains::issue().await;
    let classes = chains.directory.path();
    run(Command::new("javac").arg("-d").args([classes, &source("Verify.java")]));
    chains.assert_verified_by(|root, chain, host, usage| {
        let mut command = Command::new("java");
        command.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp"]).arg(classes).arg("Verify");
        command.args([root, chain]).args([host, usage]).output().unwrap()
    });
}
