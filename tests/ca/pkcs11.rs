//! The binary with its issuing key in a security module: `SoftHSM`, by PKCS#11.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::harness::{assert_good, client_config, client_with_config, identity, key_and_csr};
use super::process::{Process, text};

/// A token of one test, and a directory for a CA.
struct Module {
    directory: TempDir,
}

impl Module {
    fn new() -> Self {
        let module = Self { directory: TempDir::new().unwrap() };
        fs::create_dir(module.path("tokens")).unwrap();
        let tokens = module.path("tokens");
        fs::write(module.path("softhsm2.conf"), format!("directories.tokendir = {}\n", tokens.display())).unwrap();
        let arguments = ["--init-token", "--free", "--label", "Crank CA", "--so-pin", "5678", "--pin", "1234"];
        let output = Command::new("softhsm2-util")
            .args(arguments)
            .env("SOFTHSM2_CONF", module.path("softhsm2.conf"))
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        module.pin("1234\n");
        module
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pin(&self, pin: &str) {
        fs::write(self.path("pin"), pin).unwrap();
        fs::set_permissions(self.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn uri(&self, object: &str) -> String {
        let pin = self.path("pin");
        format!("pkcs11:token=Crank%20CA;object={object}?module-path={LIBRARY}&pin-source=file:{}", pin.display())
    }

    fn crank_ca(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crank-ca"));
        let data = self.path("ca");
        command.args(arguments).arg("--data-dir").arg(data).env_clear();
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.crank_ca(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
        text(&output.stderr)
    }

    fn serve(&self) -> Process {
        Process::of(self.crank_ca(&["serve", "--listen", "127.0.0.1:0", "--dns", "localhost"]))
    }

    fn token(&self) -> String {
        let output = self.run(&["token", "create", "--worker", "streaming"]);
        text(&output.stdout).trim().to_owned()
    }

    fn root(&self) -> String {
        fs::read_to_string(self.path("ca/authority/root.crt")).unwrap()
    }

    async fn enrols(&self, process: &Process) -> u16 {
        let client = client_with_config(client_config(&self.root(), None));
        let identity = identity("streaming", &[]);
        let (key, csr) = key_and_csr(&identity);
        let reply = process.enrol(&client, Some(&self.token()), &csr).await;
        if reply.status == 200 {
            assert_good(&reply, &self.root(), &key, &identity.names);
        }
        reply.status
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util"]
async fn the_issuing_key_is_made_on_a_token_and_signs_there() {
    for key_type in ["ecdsa-p256", "ecdsa-p384"] {
        let module = Module::new();
        module.succeeds(&["init", "--key", &module.uri("issuing"), "--key-type", key_type]);
        let kept = module.path("ca/authority");
        assert!(!kept.join("issuing.key").exists());
        assert_eq!(fs::read_to_string(kept.join("issuing.uri")).unwrap(), module.uri("issuing"));
        assert!(!fs::read_to_string(kept.join("issuing.uri")).unwrap().contains("1234"));
        let mut process = module.serve();
        assert_eq!(module.enrols(&process).await, 200);
        assert_eq!(module.enrols(&process).await, 200);
        assert_eq!(process.end(Signal::TERM).code(), Some(0));
        let log: String = process.log.try_iter().collect();
        assert!(!log.contains("1234\\n") && !log.contains("not signed"), "{log}");
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util"]
async fn a_token_that_goes_and_comes_back_costs_errors_and_no_restart() {
    let module = Module::new();
    module.succeeds(&["init", "--key", &module.uri("issuing")]);
    let process = module.serve();
    assert_eq!(module.enrols(&process).await, 200);
    fs::rename(module.path("tokens"), module.path("away")).unwrap();
    assert_eq!(module.enrols(&process).await, 500);
    fs::rename(module.path("away"), module.path("tokens")).unwrap();
    assert_eq!(module.enrols(&process).await, 200);
}

#[tokio::test]
#[ignore = "needs softhsm2-util"]
async fn issuers_change_from_a_file_to_a_token_while_it_serves() {
    let module = Module::new();
    module.succeeds(&["init"]);
    let process = module.serve();
    assert_eq!(module.enrols(&process).await, 200);
    module.succeeds(&["root", "rotate", "--key", &module.uri("second")]);
    module.succeeds(&["root", "activate"]);
    let new = module.root();
    super::harness::eventually("the new root signs", async || {
        let client = client_with_config(client_config(&new, None));
        let url = format!("https://localhost:{}/health", process.port);
        let answer = client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200) && module.enrols(&process).await == 200
    })
    .await;
}

#[test]
#[ignore = "needs softhsm2-util, openssl"]
fn a_request_is_signed_by_the_token() {
    let module = Module::new();
    let csr = module.path("issuing.csr").display().to_string();
    module.succeeds(&["init", "--csr-out", &csr, "--key", &module.uri("issuing")]);
    let output = Command::new("openssl").args(["req", "-verify", "-noout", "-in", &csr]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(module.refusal(&["serve"]).contains("waits for its certificate"));
}

#[test]
#[ignore = "needs softhsm2-util"]
fn whatever_is_wrong_with_token_pin_or_module_is_told_with_their_names() {
    let module = Module::new();
    let refused = |uri: &str, told: &str| {
        let refusal = module.refusal(&["init", "--key", uri]);
        assert!(refusal.contains(told) && !refusal.contains("1234"), "{uri}: {refusal}");
    };
    let uri = module.uri("issuing");
    refused(&uri.replace("Crank%20CA", "Other"), "token `Other`, object `issuing`: the module has no such token");
    refused(&uri.replace(LIBRARY, "/nowhere.so"), "/nowhere.so: token `Crank CA`, object `issuing`: cannot load it");
    refused(uri.split('&').next().unwrap(), "expected pin-source=file:");
    refused(&uri.replace("/pin", "/nopin"), "nopin");
    module.pin("9999\n");
    refused(&uri, "pin is wrong");
    module.pin("1234\n");
    fs::set_permissions(module.path("pin"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&uri, "open to other users");
    module.pin("1234\n");
    module.succeeds(&["init", "--key", &uri]);
    // The certificate is of this key, and of no other.
    let other = module.path("other");
    fs::rename(module.path("ca"), &other).unwrap();
    module.succeeds(&["init", "--key", &module.uri("another")]);
    fs::copy(other.join("authority/issuing.uri"), module.path("ca/authority/issuing.uri")).unwrap();
    assert!(module.refusal(&["serve"]).contains("is not the key of the issuing certificate beside it"));
    assert!(Path::new(LIBRARY).exists());
}

const LIBRARY: &str = "/usr/lib/softhsm/libsofthsm2.so";
