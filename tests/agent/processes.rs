//! Owns the real processes of the end-to-end tests: a crank-ca and crank-agents, each ended when its value is dropped.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crank_agent::control::client::{self, ClientError};
use serde_json::Value;

use crate::polling::until_within;

/// How long anything that should happen may take. Generous, as the machine may be busy; nothing waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A crank-ca with its own data directory and a port that stays the same over restarts.
pub(crate) struct Ca {
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    lifetime: String,
    database: Option<String>,
    environment: BTreeMap<String, String>,
    process: Option<Child>,
}

impl Ca {
    /// Makes a CA and starts it; `lifetime` is that of its certificates.
    pub(crate) fn start(lifetime: &str) -> Self {
        let mut ca = Self::stopped(lifetime);
        ca.restart();
        ca
    }

    /// Makes a CA without starting it.
    pub(crate) fn stopped(lifetime: &str) -> Self {
        let ca = Self::without_keys(lifetime);
        let output = ca.command(&["init"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        ca
    }

    fn without_keys(lifetime: &str) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            address: free_address(),
            lifetime: lifetime.to_owned(),
            database: None,
            environment: BTreeMap::new(),
            process: None,
        }
    }

    /// Makes a CA whose record is in the database at `url`, without starting it.
    pub(crate) fn on_database(lifetime: &str, url: &str) -> Self {
        let mut ca = Self::stopped(lifetime);
        ca.database = Some(url.to_owned());
        ca
    }

    /// Another process of the same CA, with the same keys and database, not started.
    pub(crate) fn replica(&self) -> Self {
        let mut replica = Self::without_keys(&self.lifetime);
        replica.database.clone_from(&self.database);
        let output = Command::new("cp").arg("-a").arg(self.data_directory()).arg(replica.data_directory()).output();
        assert!(output.unwrap().status.success());
        replica
    }

    /// Runs an operator's command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    pub(crate) fn command(&self, names: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crank-ca"));
        command.env_clear().args(names).arg("--data-dir").arg(self.data_directory());
        if let Some(url) = &self.database {
            command.env("CRANK_CA_DATABASE_URL", url);
        }
        command
    }

    pub(crate) fn data_directory(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    /// Settings, read at the next start where there are any.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.path().join("crank-ca.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("ca.log")
    }

    /// What it has logged, the audit trail among it.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        self.data_directory().join("authority/root.crt")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// One more environment variable, from the next start on.
    #[allow(dead_code, reason = "for the tests of hosts")]
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    #[allow(dead_code, reason = "for the tests of hosts")]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(self.process.as_ref().unwrap());
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Starts it again, on the same address, and waits until it accepts.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        until("the CA accepts connections", || TcpStream::connect(self.address).ok());
    }

    /// Starts it again, on the same address.
    pub(crate) fn spawn(&mut self) {
        self.kill();
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let config = self.config_file().exists().then(|| self.config_file());
        let child = self
            .command(&["serve"])
            .envs(&self.environment)
            .args(config.iter().flat_map(|path| [Path::new("--config"), path]))
            .args(["--listen", &self.address.to_string(), "--dns", "localhost", "--lifetime", &self.lifetime])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// A fresh token for `worker`.
    pub(crate) fn token(&self, worker: &str) -> String {
        let output = self.command(&["token", "create"]).args(["--worker", worker, "--ttl", "10m"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One worker's directory, and the environment of its agent.
pub(crate) struct Worker {
    directory: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Worker {
    /// A worker of `ca` with a token that was not used yet.
    pub(crate) fn of(ca: &Ca, name: &str) -> Self {
        let worker = Self::at(name, &ca.url(), &ca.root_file());
        worker.write_token(&ca.token(name));
        worker
    }

    /// A worker of whatever is at `url`. It has no token.
    pub(crate) fn at(name: &str, url: &str, root_file: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let environment = BTreeMap::from([
            ("SERVICE_NAME".to_owned(), name.to_owned()),
            ("CA_SERVICE_URL".to_owned(), url.to_owned()),
            ("CERT_DIR".to_owned(), file("certs")),
            ("CRANK_CA_ROOT_FILE".to_owned(), root_file.display().to_string()),
            ("CRANK_CA_TOKEN_FILE".to_owned(), file("token")),
            ("CRANK_SERVER_LISTEN".to_owned(), "off".to_owned()),
            ("CRANK_LOG_FORMAT".to_owned(), "json".to_owned()),
            ("CRANK_CONFIG".to_owned(), file("config.toml")),
        ]);
        std::fs::write(directory.path().join("config.toml"), "").unwrap();
        Self { directory, environment }
    }

    /// The same with one more environment variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// The environment of its agent.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    pub(crate) fn certificates(&self) -> PathBuf {
        self.directory.path().join("certs")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.certificates().join(".crank-agent.sock")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// Replaces the configuration file in one step.
    pub(crate) fn configure(&self, text: &str) {
        let temporary = self.config_file().with_extension("new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.config_file()).unwrap();
    }

    /// Replaces the token file in one step, as a projected volume does.
    pub(crate) fn write_token(&self, token: &str) {
        let temporary = self.directory.path().join("token.new");
        std::fs::write(&temporary, token).unwrap();
        std::fs::rename(temporary, self.directory.path().join("token")).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crank-agent"));
        command.env_clear().envs(&self.environment).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run_once(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts `crank-agent run`.
    pub(crate) fn start(&self) -> Agent {
        let mut process = self.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Lines::default());
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for stream in streams {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    lines.push(line);
                }
            });
        }
        Agent { process, lines }
    }

    /// The serial of the certificate that is published, by the library's reader.
    pub(crate) fn serial(&self) -> Option<String> {
        crank_agent::store::read_bundle(&self.certificates()).ok().map(|bundle| bundle.serial().to_owned())
    }
}

/// A running `crank-agent run` and what it has logged.
pub(crate) struct Agent {
    process: Child,
    lines: Arc<Lines>,
}

impl Agent {
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the `count`th event of this name and returns it.
    pub(crate) fn event(&self, name: &str, count: usize) -> Value {
        let matching = |lines: &[String]| {
            let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.filter(|line| line["event"] == name).nth(count - 1)
        };
        self.lines.wait_for(matching, &format!("event {name} number {count}"))
    }

    /// How many events of this name there were.
    pub(crate) fn count(&self, name: &str) -> usize {
        let lines = self.lines.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|line| line["event"] == name).count()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.lines.kept.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the agent ends", || self.process.try_wait().unwrap())
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            println!("the agent's log:\n{}", self.log());
        }
    }
}

#[derive(Default)]
struct Lines {
    kept: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    fn push(&self, line: String) {
        self.kept.lock().unwrap().push(line);
        self.more.notify_all();
    }

    fn wait_for<T>(&self, find: impl Fn(&[String]) -> Option<T>, what: &str) -> T {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut kept = self.kept.lock().unwrap();
        loop {
            if let Some(found) = find(&kept) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; the log:\n{}", kept.join("\n"));
            kept = self.more.wait_timeout(kept, left).unwrap().0;
        }
    }
}

/// Has the running agent renew, one time after the other, until `enough` says so of a new serial or a renewal fails.
pub(crate) fn renew_until(worker: &Worker, mut enough: impl FnMut(String) -> bool) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        while !enough(client::renew(&worker.control_socket(), PATIENCE).await?.serial) {}
        Ok(())
    })
}

/// The running agent answers, and is ready.
pub(crate) fn assert_healthy(worker: &Worker) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let readiness = runtime.block_on(client::health(&worker.control_socket())).unwrap();
    assert!(readiness.ready, "{readiness:?}");
}

/// Polls until `find` finds something.
pub(crate) fn until<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, find)
}

/// A worker of `ca` whose agent has a certificate and serves probes at the address.
pub(crate) fn listening(ca: &Ca) -> (Worker, SocketAddr, Agent) {
    let address = free_address();
    let worker = Worker::of(ca, "streaming").with("CRANK_SERVER_LISTEN", &address.to_string());
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    (worker, address, agent)
}

/// An address on loopback that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
