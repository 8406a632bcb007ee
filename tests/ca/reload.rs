//! SIGHUP to a serving process: a good change is in force, of a bad one nothing is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use reqwest::Client;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::harness::{client_config, client_with_config, identity, key_and_csr};
use super::issuer::TestIssuer;
use super::process::{Directory, Process};

/// A process with a settings file that a test changes, and an issuer of tokens that it may trust.
struct World {
    directory: Directory,
    issuer: TestIssuer,
    process: Process,
    client: Client,
}

impl World {
    fn start(settings: &str) -> Self {
        let directory = Directory::with_ca();
        let file = directory.path("crank-ca.toml");
        let whole = format!("data_dir = '{}'\n{settings}", directory.data());
        fs::write(&file, whole).unwrap();
        let process = Process::start_with(&["--config", &file.display().to_string()]);
        let client = client_with_config(client_config(&directory.root_pem(), None));
        Self { directory, issuer: TestIssuer::new("https://issuer.example"), process, client }
    }

    /// Changes the file, sends the signal, and waits for what the process says of it.
    fn reload(&self, settings: &str) -> Value {
        let file = self.directory.path("crank-ca.toml");
        fs::write(file, format!("data_dir = '{}'\n{settings}", self.directory.data())).unwrap();
        self.process.signal(Signal::HUP);
        self.told(|line| line.starts_with("settings, policies") || line.starts_with("the settings are refused"))
    }

    /// The first line from here on whose message is one of these.
    fn told(&self, is_it: impl Fn(&str) -> bool) -> Value {
        loop {
            let line = self.process.log.recv_timeout(Duration::from_secs(30)).expect("it is told");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"].as_str().is_some_and(&is_it) {
                return line;
            }
        }
    }

    fn trust(&self) -> String {
        let file = self.issuer.keys_file().display().to_string();
        let url = self.issuer.url;
        format!("[[issuers]]\nissuer = '{url}'\naudience = 'crank-ca'\njwks_file = '{file}'\nidentity = '{{sub}}'\n")
    }

    /// The status of an enrolment by a token of the issuer, and the life of the certificate in minutes.
    async fn enrol(&self) -> (u16, Option<i64>) {
        let token = self.issuer.token("ES256", &self.issuer.claims("streaming"));
        let (_, csr) = key_and_csr(&identity("streaming", &[]));
        let reply = self.process.enrol(&self.client, Some(&token), &csr).await;
        (reply.status, (reply.status == 200).then(|| minutes(&reply.chain()[0])))
    }
}

fn minutes(leaf: &CertificateDer<'_>) -> i64 {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    (leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()) / 60
}

fn is_refused(told: &Value, because: &str) -> bool {
    told["level"] == "ERROR" && told["error"].as_str().unwrap().contains(because)
}

#[tokio::test]
async fn a_good_change_is_in_force_and_of_a_bad_one_nothing_is() {
    let world = World::start("lifetime = '2h'\n");
    assert_eq!(world.enrol().await.0, 401, "nobody trusts the issuer yet");
    let trusting = format!("lifetime = '1h'\n{}", world.trust());
    assert_eq!(world.reload(&trusting)["level"], "INFO");
    let in_force = world.enrol().await;
    assert!(in_force.0 == 200 && in_force.1.is_some_and(|minutes| (60..=65).contains(&minutes)), "{in_force:?}");

    // Each would lengthen lives and trust nobody.
    let issuing = world.directory.path("ca/authority/issuing.key");
    let mode = |mode| fs::set_permissions(&issuing, fs::Permissions::from_mode(mode)).unwrap();
    for (settings, because) in [
        ("lifetime = '2h'\nretentoin = '500d'\n", "retentoin"),
        ("lifetime = '2h'\nrenewal_grace = '8d'\n[crl]\nlifetime = '1s'\n", "crl.lifetime"),
        ("lifetime = '2h'\nmax_connections = 99\n", "max_connections: is read at the start only"),
        ("lifetime = '2h'\n[policy]\nengine = 'rego'\ndirectory = '/nowhere'\n", "/nowhere"),
    ] {
        let told = world.reload(settings);
        assert!(is_refused(&told, because), "{told}");
        assert_eq!(world.enrol().await, in_force, "{settings}");
    }
    mode(0o644);
    let told = world.reload("lifetime = '2h'\n");
    mode(0o600);
    assert!(is_refused(&told, "issuing.key"), "{told}");
    assert_eq!(world.enrol().await, in_force);

    assert_eq!(world.reload("lifetime = '2h'\n")["level"], "INFO");
    assert_eq!(world.enrol().await.0, 401, "nobody trusts the issuer any longer");
}

#[tokio::test]
async fn keys_of_issuers_are_read_at_once_and_the_last_good_ones_stay() {
    let world = World::start("");
    let trusting = world.trust();
    assert_eq!(world.reload(&trusting)["level"], "INFO");
    assert_eq!(world.enrol().await.0, 200);
    world.issuer.write_keys_text("{");
    world.process.signal(Signal::HUP);
    let told = world.told(|line| line.starts_with("cannot read an issuer's keys"));
    assert_eq!(told["issuer"], world.issuer.url);
    world.told(|line| line.starts_with("settings, policies"));
    assert_eq!(world.enrol().await.0, 200);
}

#[tokio::test]
async fn what_somebody_has_spent_is_not_forgiven_by_a_signal() {
    // One failure is paid back in five minutes, and does not cost the connection.
    const LIMITS: &str = "[limits]\nsource_rate = 1\nsource_burst = 600\nfailure_cost = 900\n";
    let world = World::start(LIMITS);
    assert_eq!((world.enrol().await.0, world.enrol().await.0), (401, 429));
    assert_eq!(world.reload(LIMITS)["level"], "INFO");
    assert_eq!(world.enrol().await.0, 429);
    assert_eq!(world.reload("")["level"], "INFO");
    assert_eq!(world.enrol().await.0, 401);
}
