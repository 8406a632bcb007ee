//! Owns the mesh that is measured: a CA on loopback, tokens, certificate directories, and the agents between them.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::process::{Idle, Process};

/// A running CA, and an agent to set against it.
pub(crate) struct Lab {
    agent: PathBuf,
    ca: PathBuf,
    ca_url: String,
    root: PathBuf,
    workers: AtomicUsize,
    // Before the directory it writes to, so that it ends first.
    _ca_process: Process,
    directory: TempDir,
}

/// One worker: what its agent finds.
struct Worker {
    certificates: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Lab {
    /// Makes a CA and starts it.
    pub(crate) fn start(agent: PathBuf, ca: PathBuf) -> Result<Self> {
        // Below the build directory, as /tmp may be in memory, where writing costs nothing.
        let directory = TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR"))?;
        let data = directory.path().join("ca");
        run(Command::new(&ca).arg("init").arg("--data-dir").arg(&data))?;
        let root = data.join("authority/root.crt");
        let port = free_port()?;
        let mut ca_process = Process::start(
            Command::new(&ca).arg("serve").arg("--data-dir").arg(&data).args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--dns",
                "localhost",
            ]),
            &directory.path().join("ca.log"),
        )?;
        ca_process.wait_for("the CA to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Self {
            agent,
            ca,
            ca_url: format!("https://localhost:{port}"),
            root,
            workers: AtomicUsize::new(0),
            _ca_process: ca_process,
            directory,
        })
    }

    /// The agent's program.
    pub(crate) fn agent(&self) -> &Path {
        &self.agent
    }

    /// The kind of file system that certificates are written to.
    pub(crate) fn filesystem(&self) -> String {
        let output = Command::new("df").arg("--output=fstype").arg(self.directory.path()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().nth(1).unwrap_or("unknown").trim().to_owned()
    }

    /// From starting `crank-agent init` in an empty directory to its end, with the files on disk.
    pub(crate) fn time_init(&self) -> Result<Duration> {
        let worker = self.new_worker()?;
        let mut command = worker.command(&self.agent, "init");
        let started = Instant::now();
        let output = command.output()?;
        let taken = started.elapsed();
        succeeded(&command, &output)?;
        worker.certificate()?;
        Ok(taken)
    }

    /// Starts `crank-agent run`, renews `rotations` times, then watches it do nothing.
    pub(crate) fn watch_idle_agent(&self, rotations: usize, watched: Duration) -> Result<Idle> {
        let worker = self.new_worker()?;
        let log = self.directory.path().join("agent.log");
        let mut agent = Process::start(&mut worker.command(&self.agent, "run"), &log)?;
        agent.wait_for("a first certificate", || worker.certificate().is_ok())?;
        for _ in 0..rotations {
            let before = worker.certificate()?;
            let mut last = String::new();
            agent
                .wait_for("a renewal", || {
                    // Refused while the last attempt is too recent.
                    last = run(&mut worker.command(&self.agent, "renew"))
                        .map_or_else(|e| e.to_string(), |()| String::new());
                    worker.certificate().is_ok_and(|now| now != before) || {
                        thread::sleep(Duration::from_millis(500));
                        false
                    }
                })
                .map_err(|error| format!("{last}\n{error}"))?;
        }
        Idle::watch(agent.id(), watched)
    }

    /// A worker with a token and an empty certificate directory.
    fn new_worker(&self) -> Result<Worker> {
        let id = format!("bench-{}", self.workers.fetch_add(1, Ordering::Relaxed));
        let home = self.directory.path().join(&id);
        let (certificates, token) = (home.join("certs"), home.join("token"));
        fs::create_dir_all(&certificates)?;
        run(Command::new(&self.ca)
            .args(["token", "create", "--data-dir"])
            .arg(self.directory.path().join("ca"))
            .args(["--worker", &id, "--ttl", "10m", "--out"])
            .arg(&token))?;
        let environment = vec![
            ("SERVICE_NAME", id.into()),
            ("CA_SERVICE_URL", self.ca_url.clone().into()),
            ("CERT_DIR", certificates.clone().into()),
            ("CRANK_CA_ROOT_FILE", self.root.clone().into()),
            ("CRANK_CA_TOKEN_FILE", token.into()),
            ("CRANK_SERVER_LISTEN", format!("127.0.0.1:{}", free_port()?).into()),
            ("CRANK_SCHEDULE_MIN_INTERVAL", "1s".into()),
            // Superseded generations are gone before it is watched: removing them is work, not idleness.
            ("CRANK_FILES_KEEP_GENERATIONS", "5s".into()),
            ("CRANK_CONTROL_SOCKET", socket_path().into()),
        ];
        Ok(Worker { certificates, environment })
    }
}

impl Worker {
    /// A command of the agent with this worker's environment and no other.
    fn command(&self, agent: &Path, command: &str) -> Command {
        let mut process = Command::new(agent);
        process.arg(command).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        process
    }

    /// The certificate on disk; all three files are there.
    fn certificate(&self) -> Result<String> {
        for file in ["client.key", "ca.crt"] {
            fs::metadata(self.certificates.join(file))?;
        }
        Ok(fs::read_to_string(self.certificates.join("client.crt"))?)
    }
}

/// Builds the agent as it is released. Fails where the target or its linker is missing.
pub(crate) fn build_static_agent() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--no-default-features", "--bin", "crank-agent", "--target", &target])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !built.success() {
        return Err(format!(
            "cannot build the static agent: run tests/lab/install, which adds {target} and its linker, or name a program \
             in CRANK_BENCH_AGENT"
        )
        .into());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no build directory")?;
    Ok(directory.join(target).join("release/crank-agent"))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Short, as a socket's path may have 107 bytes at most.
fn socket_path() -> PathBuf {
    std::env::temp_dir().join(format!("crank-bench-{}.sock", std::process::id()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    succeeded(command, &output)
}

fn succeeded(command: &Command, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&text)).into())
}
