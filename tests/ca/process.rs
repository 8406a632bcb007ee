//! The binary as a process: its commands, its exit codes, its state after a kill.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::{Reply, client_config, client_with_config, identity, key_and_csr, send};

pub(crate) fn crank_ca(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crank-ca")).args(arguments).env_clear().output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) struct Directory {
    directory: TempDir,
}

impl Directory {
    /// A directory with a CA made by `crank-ca init`.
    pub(crate) fn with_ca() -> Self {
        let directory = Self { directory: TempDir::new().unwrap() };
        let output = crank_ca(&["init", "--data-dir", &directory.data()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        directory
    }

    pub(crate) fn data(&self) -> String {
        self.path("ca").display().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root_pem(&self) -> String {
        fs::read_to_string(self.path("ca/authority/root.crt")).unwrap()
    }

    pub(crate) fn token(&self, worker: &str) -> String {
        let output = crank_ca(&["token", "create", "--data-dir", &self.data(), "--worker", worker, "--ttl", "10m"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }
}

/// A serving process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
    pub(crate) log: std::sync::mpsc::Receiver<String>,
}

impl Process {
    pub(crate) fn start(directory: &Directory) -> Self {
        Self::start_with(&["--data-dir", &directory.data()])
    }

    /// With these arguments beside those for where it listens.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_crank-ca")), arguments)
    }

    /// By a program that takes the command to run as its further arguments, and becomes it.
    pub(crate) fn start_under(program: &[&str], directory: &Directory) -> Self {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_crank-ca"));
        Self::start_by(command, &["--data-dir", &directory.data()])
    }

    fn start_by(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--dns", "localhost"]).args(arguments).env_clear();
        Self::of(command)
    }

    /// Starts `command`, which serves.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        // Killed by its drop from here on, whatever it says.
        let mut process = Self { child, port: 0, log };
        while process.port == 0 {
            let line = process.log.recv_timeout(Duration::from_secs(30)).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            let port = line["address"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
            process.port = port.unwrap_or(0);
        }
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not stop within 5 s");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) async fn enrol(&self, client: &reqwest::Client, token: Option<&str>, csr: &str) -> Reply {
        let url = format!("https://localhost:{}/certificates/csr", self.port);
        let body = json!({ "csr": csr, "service_name": "streaming" }).to_string();
        send(client, Method::POST, &url, token, body).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn init_tells_root_fingerprint_and_next_step_and_overwrites_nothing() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("deep/ca").display().to_string();
    let arguments = ["init", "--data-dir", &data, "--key-type", "ecdsa-p384", "--trust-domain", "example.mesh"];
    let output = crank_ca(&arguments);
    let said = text(&output.stdout);
    assert!(output.status.success());
    assert!(said.contains("authority/root.crt\n") && said.contains("sha256:") && said.contains("crank-ca serve"));
    let root = fs::read(Path::new(&data).join("authority/root.crt")).unwrap();
    let again = crank_ca(&arguments);
    assert_eq!(again.status.code(), Some(73));
    assert!(text(&again.stderr).contains("never overwritten"));
    assert_eq!(fs::read(Path::new(&data).join("authority/root.crt")).unwrap(), root);
}

#[test]
fn init_if_missing_leaves_a_ca_as_it_is_and_hands_out_its_roots() {
    let directory = Directory { directory: TempDir::new().unwrap() };
    let (data, out) = (directory.data(), directory.path("roots.crt"));
    let init = |out: &Path| {
        crank_ca(&["init", "--data-dir", &data, "--if-missing", "--roots-out", &out.display().to_string()])
    };
    assert!(init(&out).status.success());
    let root = directory.root_pem();
    assert_eq!(fs::read_to_string(&out).unwrap(), root);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o644);

    fs::remove_file(&out).unwrap();
    let again = init(&out);
    assert!(again.status.success() && text(&again.stdout).contains("nothing was changed"), "{}", text(&again.stderr));
    assert_eq!((directory.root_pem(), fs::read_to_string(&out).unwrap()), (root.clone(), root.clone()));

    // The next root is handed out before it signs.
    assert!(crank_ca(&["root", "rotate", "--data-dir", &data]).status.success());
    assert!(init(&out).status.success());
    let roots = fs::read_to_string(&out).unwrap();
    assert!(roots.starts_with(&root) && roots.matches("BEGIN CERTIFICATE").count() == 2, "{roots}");

    let failed = init(&directory.path("missing/roots.crt"));
    assert_eq!(failed.status.code(), Some(73));
    assert!(text(&failed.stderr).contains("cannot write the roots to"), "{}", text(&failed.stderr));
}

#[test]
fn health_tells_whether_this_ca_serves() {
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let address = format!("0.0.0.0:{}", process.port);
    let health = |directory: &Directory| {
        crank_ca(&["health", "--data-dir", &directory.data(), "--listen", &address, "--dns", "localhost"])
    };
    let output = health(&directory);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "healthy\n");

    // Another CA is none of its business.
    let output = health(&Directory::with_ca());
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("no answer of this CA"), "{}", text(&output.stderr));

    process.end(Signal::TERM);
    assert_eq!(health(&directory).status.code(), Some(69));
    assert_eq!(crank_ca(&["health", "--data-dir", "/nowhere"]).status.code(), Some(78));
}

#[test]
fn an_init_that_is_killed_leaves_a_whole_ca_or_none_that_counts() {
    let begun = Instant::now();
    Directory::with_ca();
    let run = begun.elapsed();
    let mut whole = 0;
    for step in 0..60 {
        let directory = Directory { directory: TempDir::new().unwrap() };
        let mut child = Command::new(env!("CARGO_BIN_EXE_crank-ca"))
            .args(["init", "--data-dir", &directory.data()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the run of the command; where exactly each one hits does not matter.
        std::thread::sleep(run * step / 50);
        child.kill().unwrap();
        child.wait().unwrap();
        if directory.path("ca/authority").exists() {
            whole += 1;
        } else {
            assert_eq!(crank_ca(&["init", "--data-dir", &directory.data()]).status.code(), Some(0));
        }
        // Loads and checks every part.
        assert_eq!(crank_ca(&["token", "list", "--data-dir", &directory.data()]).status.code(), Some(0), "{step}");
    }
    println!("{whole} of 60 were whole");
}

#[tokio::test]
async fn what_it_has_issued_and_used_up_survives_a_kill() {
    let directory = Directory::with_ca();
    let mut process = Process::start(&directory);
    let token = directory.token("streaming");
    let unused = directory.token("streaming");
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let chain = process.enrol(&client, Some(&token), &csr).await.chain();
    process.end(Signal::KILL);

    let mut process = Process::start(&directory);
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let worker = client_with_config(client_config(&directory.root_pem(), Some((chain, key.to_rustls()))));
    assert_eq!(process.enrol(&worker, None, &csr).await.status, 200);
    let again = process.enrol(&client, Some(&token), &csr).await;
    assert_eq!(again.status, 401);
    assert!(again.detail().contains("has been used"));
    assert_eq!(process.enrol(&client, Some(&unused), &csr).await.status, 200);
    assert_eq!(process.end(Signal::TERM).code(), Some(0));

    let lines: Vec<String> = process.log.try_iter().collect();
    let log = lines.join("\n");
    assert!(!log.contains(&token) && !log.contains(&unused), "a token is in the log");
    let audit: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["target"] == "crank::audit")
        .collect();
    let facts: Vec<(&str, &str)> = audit
        .iter()
        .map(|line| (line["decision"].as_str().unwrap(), line["authentication"].as_str().unwrap()))
        .collect();
    assert_eq!(facts, [("issued", "certificate"), ("refused", "token"), ("issued", "token")]);
    assert!(audit.iter().all(|line| line["worker_id"] == "streaming" && line["correlation_id"] != ""));
    assert!(audit.iter().all(|line| (line["decision"] == "issued") == (line["serial"] != "")));
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let directory = Directory::with_ca();
    assert_eq!(Process::start(&directory).end(Signal::INT).code(), Some(0));
}

#[test]
fn a_token_file_is_private_and_replaced_whole() {
    let directory = Directory::with_ca();
    let path = directory.path("streaming.token");
    fs::write(&path, "old").unwrap();
    let out = path.display().to_string();
    let data = directory.data();
    let output = crank_ca(&["token", "create", "--data-dir", &data, "--worker", "streaming", "--out", &out]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let token = fs::read_to_string(&path).unwrap();
    assert!(token.starts_with("crank_") && token.ends_with('\n'));
    assert!(!text(&output.stdout).contains(token.trim()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // One that can't be written is revoked, since nobody has it.
    let nowhere = directory.path("missing/token").display().to_string();
    let output = crank_ca(&["token", "create", "--data-dir", &data, "--worker", "other", "--out", &nowhere]);
    assert_eq!(output.status.code(), Some(73));
    let list = text(&crank_ca(&["token", "list", "--data-dir", &data]).stdout);
    let state = |worker: &str| {
        let line = list.lines().find(|line| line.ends_with(worker)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((state("streaming"), state("other")), ("good".to_owned(), "revoked".to_owned()));
    let id = list.lines().find(|line| line.ends_with("streaming")).unwrap().split(' ').next().unwrap();
    assert_eq!(crank_ca(&["token", "revoke", "--data-dir", &data, id]).status.code(), Some(0));
    assert_eq!(crank_ca(&["token", "revoke", "--data-dir", &data, id]).status.code(), Some(78));
}

#[test]
fn exit_codes_tell_usage_configuration_and_availability_apart() {
    let empty = TempDir::new().unwrap();
    let nothing = empty.path().display().to_string();
    let output = crank_ca(&["serve", "--data-dir", &nothing, "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("crank-ca init --data-dir"), "{}", text(&output.stderr));
    assert_eq!(crank_ca(&["token", "create", "--data-dir", &nothing, "--worker", "a"]).status.code(), Some(78));
    assert_eq!(crank_ca(&["token", "create", "--data-dir", &nothing, "--worker", "../a"]).status.code(), Some(2));
    assert_eq!(crank_ca(&["serve", "--data-dir", &nothing, "--lifetime", "10"]).status.code(), Some(2));
    assert_eq!(crank_ca(&["no-such-command"]).status.code(), Some(2));

    let directory = Directory::with_ca();
    let data = directory.data();
    let serve = |further: &[&str]| {
        let arguments: Vec<&str> = ["serve", "--data-dir", &data].into_iter().chain(further.iter().copied()).collect();
        crank_ca(&arguments)
    };
    let listen = ["--listen", "127.0.0.1:0"];
    assert_eq!(serve(&[&listen[..], &["--lifetime", "59s"]].concat()).status.code(), Some(78));
    assert_eq!(serve(&[&listen[..], &["--log", "=="]].concat()).status.code(), Some(78));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(serve(&["--listen", &taken.local_addr().unwrap().to_string()]).status.code(), Some(69));
    let key = directory.path("ca/authority/issuing.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = serve(&listen);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("chmod 600"), "{}", text(&output.stderr));
}

#[test]
fn help_has_examples_and_completions_are_printed() {
    assert!(text(&crank_ca(&["--help"]).stdout).contains("crank-ca token create --data-dir"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&crank_ca(&["completions", shell]).stdout).contains("crank-ca"));
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_verifies_the_chain_and_reads_the_names() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let reply = process.enrol(&client, Some(&directory.token("streaming")), &csr).await;
    let chain = directory.path("chain.pem");
    fs::write(&chain, reply.body["certificate"].as_str().unwrap()).unwrap();
    for purpose in ["sslclient", "sslserver"] {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", "streaming", "-CAfile"])
            .arg(directory.path("ca/authority/root.crt"))
            .arg("-untrusted")
            .args([&chain, &chain])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let names = Command::new("openssl").args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(&chain).output();
    let names = text(&names.unwrap().stdout);
    assert!(names.contains("DNS:localhost, DNS:streaming, URI:spiffe://crank.local/worker/streaming"), "{names}");
}
