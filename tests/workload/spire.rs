//! A real SPIRE, server and agent, as the issuer: the agent beside it writes files, tells the worker, proves, and serves on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use crank_agent::identity::CertificateBundle;
use crank_agent::store::read_bundle;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::foreign::Program;
use crate::processes::{Agent, Worker, free_address, until};
use crate::{client, eventually};

const ID: &str = "spiffe://example.org/streaming";

/// A trust domain of its own, whose agent attests this process by its user.
struct Spire {
    directory: tempfile::TempDir,
    server: Child,
    agent: Option<Child>,
}

impl Spire {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("spire").tempdir().unwrap();
        let path = directory.path();
        let (address, shown) = (free_address(), path.display());
        let server = format!(
            r#"server {{
                bind_address = "{}"
                bind_port = "{}"
                socket_path = "{shown}/server.sock"
                trust_domain = "example.org"
                data_dir = "{shown}"
                log_level = "WARN"
            }}
            plugins {{
                DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{shown}/server.sqlite3" }} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
            }}"#,
            address.ip(),
            address.port()
        );
        let agent = format!(
            r#"agent {{
                data_dir = "{shown}"
                log_level = "WARN"
                server_address = "{}"
                server_port = "{}"
                socket_path = "{shown}/agent.sock"
                trust_bundle_path = "{shown}/bootstrap.pem"
                trust_domain = "example.org"
                experimental {{ sync_interval = "1s" }}
            }}
            plugins {{
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "disk" {{ plugin_data {{ directory = "{shown}" }} }}
                WorkloadAttestor "unix" {{ plugin_data {{}} }}
            }}"#,
            address.ip(),
            address.port()
        );
        fs::write(path.join("server.conf"), server).unwrap();
        fs::write(path.join("agent.conf"), agent).unwrap();
        let log = fs::File::create(path.join("spire.log")).unwrap();
        let mut server = Command::new("spire-server");
        server.arg("run").arg("-config").arg(path.join("server.conf")).stdout(log.try_clone().unwrap()).stderr(log);
        let server = server.spawn().unwrap();
        let mut spire = Self { directory, server, agent: None };
        until("the server of SPIRE is up", || spire.try_server(&["healthcheck"]).status.success().then_some(()));
        fs::write(spire.path("bootstrap.pem"), spire.server(&["bundle", "show"])).unwrap();
        let token = spire.server(&["token", "generate", "-spiffeID", "spiffe://example.org/node", "-output", "json"]);
        let token: Value = serde_json::from_str(&token).unwrap();
        spire.start_agent(&["-joinToken", token["value"].as_str().unwrap()]);
        spire
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start_agent(&mut self, further: &[&str]) {
        let mut command = Command::new("spire-agent");
        command.arg("run").arg("-config").arg(self.path("agent.conf")).args(further);
        let log = fs::OpenOptions::new().append(true).open(self.path("spire.log")).unwrap();
        self.agent = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let socket = self.path("agent.sock");
        until("the agent of SPIRE is up", || {
            let mut check = Command::new("spire-agent");
            check.arg("healthcheck").arg("-socketPath").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
            check.status().unwrap().success().then_some(())
        });
    }

    fn stop_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let id = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        agent.wait().unwrap();
    }

    fn try_server(&self, arguments: &[&str]) -> Output {
        Command::new("spire-server").args(arguments).arg("-socketPath").arg(self.path("server.sock")).output().unwrap()
    }

    /// What a command of the server says.
    fn server(&self, arguments: &[&str]) -> String {
        let output = self.try_server(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Registers this process as `id`. Tells the id of the entry.
    fn register(&self, id: &str, further: &[&str]) -> String {
        let selector = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
        let parent = "spiffe://example.org/node";
        let fixed =
            ["entry", "create", "-output", "json", "-parentID", parent, "-spiffeID", id, "-selector", &selector];
        let said: Value = serde_json::from_str(&self.server(&[&fixed[..], further].concat())).unwrap();
        said["results"][0]["entry"]["id"].as_str().unwrap().to_owned()
    }

    fn forget(&self, entry: &str) {
        self.server(&["entry", "delete", "-entryID", entry]);
    }

    /// The id of an authority that a command of the server tells of.
    fn authority(&self, command: &[&str], which: &str) -> String {
        let fixed: &[&str] = &["localauthority", "x509"];
        let said: Value = serde_json::from_str(&self.server(&[fixed, command, &["-output", "json"]].concat())).unwrap();
        said[which]["authority_id"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// A worker whose certificates come from here.
    fn worker(&self) -> Worker {
        let mut worker = Worker::at("streaming", "https://localhost:1", Path::new("/nonexistent"));
        for name in ["CA_SERVICE_URL", "CRANK_CA_ROOT_FILE", "CRANK_CA_TOKEN_FILE"] {
            worker.unset(name);
        }
        worker
            .with("CRANK_CA_KIND", "spiffe-workload-api")
            .with("SPIFFE_ENDPOINT_SOCKET", &format!("unix://{}", self.path("agent.sock").display()))
            .with("CRANK_SCHEDULE_MIN_INTERVAL", "1s")
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        for process in self.agent.iter_mut().chain([&mut self.server]) {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            println!("the log of SPIRE:\n{}", fs::read_to_string(self.path("spire.log")).unwrap_or_default());
        }
    }
}

/// A worker and its running agent, which has a certificate by the entry.
fn registered(spire: &Spire, further: &[&str]) -> (Worker, Agent, String) {
    let entry = spire.register(ID, further);
    let worker = spire.worker();
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    (worker, agent, entry)
}

fn published(worker: &Worker) -> CertificateBundle {
    read_bundle(&worker.certificates()).unwrap()
}

/// An nginx with the certificate of `worker`, and the settings of a delivery to it.
fn nginx(worker: &Worker, address: SocketAddr) -> (Program, String) {
    let directory = worker.certificates().with_file_name("nginx");
    fs::create_dir(&directory).unwrap();
    let (shown, files) = (directory.display(), worker.certificates());
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {shown}/{kind};"));
    let config = format!(
        "daemon off; pid {shown}/nginx.pid; error_log stderr; events {{}}
         http {{ access_log off; {}
           server {{ listen {address} ssl; ssl_certificate {files}/client.crt; ssl_certificate_key {files}/client.key; return 204; }} }}",
        temporary.concat(),
        files = files.display(),
    );
    fs::write(directory.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf"));
    let delivery = format!(
        "[[deliver]]\nname = \"nginx\"\nsignal = \"HUP\"\npid_file = \"{shown}/nginx.pid\"\nprobe = \"{address}\"\nprobe_interval = \"1s\"\n"
    );
    (Program::start(&mut command), delivery)
}

/// The leaf that is presented at `address` to who trusts the roots of `worker`.
async fn served(worker: &Worker, address: SocketAddr) -> Option<Vec<u8>> {
    let own = published(worker);
    let mut roots = RootCertStore::empty();
    own.roots().iter().for_each(|root| roots.add(root.clone()).unwrap());
    let config = client(own.chain().to_vec(), &own.key().to_rustls(), roots);
    let tcp = TcpStream::connect(address).await.ok()?;
    let name = ServerName::try_from("streaming").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs spire-server, spire-agent, nginx"]
async fn rotations_of_spire_are_published_and_proven_to_be_served() {
    let spire = Spire::start();
    spire.register(ID, &["-x509SVIDTTL", "20", "-dns", "streaming"]);
    let worker = spire.worker();
    // nginx needs files to start with.
    assert!(worker.run_once(&["init"]).status.success());
    let address = free_address();
    let (_nginx, delivery) = nginx(&worker, address);
    fs::write(worker.config_file(), delivery).unwrap();
    let agent = worker.start();
    agent.event("CERT_ADOPTED", 1);
    for rotation in 1..=3 {
        agent.event("CERT_RENEWED", rotation);
        let delivered = agent.event("CERT_DELIVERED", rotation + 1);
        let serial = delivered["cert_metadata"]["serial"].as_str().unwrap();
        let leaf = eventually("nginx serves what is published", async || {
            served(&worker, address).await.filter(|leaf| *leaf == published(&worker).chain()[0].as_ref())
        });
        leaf.await;
        assert!(agent.log().contains(serial));
    }
    assert_eq!(agent.count("CERT_NOT_SERVED") + agent.count("CA_UNAVAILABLE") + agent.count("CERT_EXPIRING_SOON"), 0);
    let status = worker.run_once(&["status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&format!("SPIFFE id     {ID}")) && status.contains("CA            unix://"), "{status}");
}

#[test]
#[ignore = "needs spire-server, spire-agent"]
fn who_is_not_registered_waits_and_learns_what_to_do() {
    let spire = Spire::start();
    let worker = spire.worker();
    let once = worker.command(&["init"]).env("CRANK_CA_STARTUP_WAIT", "1s").output().unwrap();
    assert_eq!(once.status.code(), Some(77), "{once:?}");
    let said = String::from_utf8_lossy(&once.stderr).into_owned() + &String::from_utf8_lossy(&once.stdout);
    assert!(said.contains("spire-server entry create") && said.contains("-selector unix:uid:"), "{said}");

    let agent = worker.start();
    let failed = agent.event("CSR_FAILED", 2);
    assert_eq!(failed["error"]["kind"], "not_registered");
    let entry = spire.register(ID, &[]);
    agent.event("CERT_ISSUED", 1);
    let first = published(&worker);

    // Taken out of the register, it keeps what it has.
    let failures = agent.count("CSR_FAILED");
    spire.forget(&entry);
    let failed = agent.event("CSR_FAILED", failures + 2);
    assert_eq!(failed["error"]["kind"], "not_registered");
    assert_eq!(published(&worker).serial(), first.serial());
    spire.register(ID, &[]);
    agent.event("CERT_RENEWED", 1);
    assert_ne!(published(&worker).serial(), first.serial());
}

#[test]
#[ignore = "needs spire-server, spire-agent"]
fn what_is_published_stays_while_spire_is_away_and_goes_on_when_it_is_back() {
    let mut spire = Spire::start();
    let (worker, agent, _) = registered(&spire, &["-x509SVIDTTL", "20"]);
    spire.stop_agent();
    let unavailable = agent.event("CA_UNAVAILABLE", 2);
    assert_eq!(unavailable["error"]["kind"], "ca_unavailable");
    assert_eq!(published(&worker).serial(), unavailable["cert_metadata"]["serial"].as_str().unwrap());
    // Away for long enough, it is warned of what comes, and then told.
    agent.event("CERT_EXPIRING_SOON", 1);
    agent.event("CERT_EXPIRED", 1);
    spire.start_agent(&[]);
    agent.event("CERT_RENEWED", 1);
    crate::processes::assert_healthy(&worker);
}

#[test]
#[ignore = "needs spire-server, spire-agent"]
fn of_several_identities_one_is_chosen_by_its_id_or_its_hint() {
    let spire = Spire::start();
    spire.register(ID, &["-hint", "outside"]);
    spire.register("spiffe://example.org/other", &["-hint", "inside"]);
    let once = |worker: Worker| {
        let output = worker.run_once(&["init"]);
        let names =
            read_bundle(&worker.certificates()).map(|bundle| bundle.metadata(time::OffsetDateTime::UNIX_EPOCH).names);
        (output, names.unwrap_or_default())
    };
    until("both are known", || {
        let (output, _) = once(spire.worker().with("CRANK_CA_STARTUP_WAIT", "0s"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let both =
            said.contains("spiffe://example.org/other (hint inside)") && said.contains(&format!("{ID} (hint outside)"));
        (both && said.contains("set identity.spiffe_id or identity.hint") && output.status.code() == Some(77))
            .then_some(())
    });
    let (_, names) = once(spire.worker().with("CRANK_IDENTITY_SPIFFE_ID", "spiffe://example.org/other"));
    assert_eq!(names, ["URI:spiffe://example.org/other"]);
    let (_, names) = once(spire.worker().with("CRANK_IDENTITY_HINT", "outside"));
    assert_eq!(names, [format!("URI:{ID}")]);
    let third = spire
        .worker()
        .with("CRANK_IDENTITY_SPIFFE_ID", "spiffe://example.org/third")
        .with("CRANK_CA_STARTUP_WAIT", "0s");
    let (output, names) = once(third);
    assert!(names.is_empty() && output.status.code() == Some(77), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("has none that fits identity.spiffe_id"), "{output:?}");
}

#[test]
#[ignore = "needs spire-server, spire-agent, workload-client"]
fn other_roots_are_published_without_another_certificate_and_both_are_served_on() {
    let spire = Spire::start();
    spire.register(ID, &[]);
    let mut worker = spire.worker();
    let socket = worker.certificates().with_file_name("workload.sock");
    worker.set("CRANK_WORKLOAD_API_SOCKET", socket.to_str().unwrap());
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let first = published(&worker);
    let mut program = Command::new("workload-client");
    let program = Program::start(program.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display())));
    let says = |bundle: &CertificateBundle| {
        let serial = bundle.serial().trim_start_matches("00:").replace(':', "");
        // Of a number, Go writes no zero before it.
        program.says(&format!("certificate {} of {ID}", serial.trim_start_matches('0')));
        program.says(&format!("mutual TLS {serial}"));
    };
    says(&first);

    let old = spire.authority(&["show"], "active");
    let next = spire.authority(&["prepare"], "prepared_authority");
    until("both roots are published", || (published(&worker).roots().len() == 2).then_some(()));
    assert_eq!(published(&worker).serial(), first.serial());
    spire.authority(&["activate", "-authorityID", &next], "activated_authority");
    spire.authority(&["taint", "-authorityID", &old], "tainted_authority");
    agent.event("CERT_RENEWED", 1);
    says(&published(&worker));
    spire.authority(&["revoke", "-authorityID", &old], "revoked_authority");
    until("the old root is gone", || (published(&worker).roots().len() == 1).then_some(()));
    assert_ne!(published(&worker).roots()[0], first.roots()[0]);
    assert_eq!(agent.count("CERT_VALIDATION_FAILED") + agent.count("CA_UNAVAILABLE"), 0, "{}", agent.log());
}
