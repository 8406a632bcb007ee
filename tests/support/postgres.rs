//! Owns a `PostgreSQL` server of the tests' own, in a directory of its own, reached by a Unix socket or by verified TLS.

#![allow(dead_code, reason = "each test program uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running server, stopped when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    directory: TempDir,
    programs: PathBuf,
    port: u16,
    /// The network namespace that it is in, if not in that of the tests.
    namespace: Option<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Makes a cluster and starts it. Its superuser is `crank`, with the password [`PASSWORD`] over the network.
    pub(crate) fn start() -> Self {
        Self::start_with(None, None)
    }

    /// The same, with the certificate and key that it shows on the network.
    pub(crate) fn start_with_tls(certificate: &str, key: &str) -> Self {
        Self::start_with(None, Some((certificate, key)))
    }

    /// The same at an address in a network namespace, for whoever reaches it.
    pub(crate) fn start_in(network: (&str, Ipv4Addr), certificate: &str, key: &str) -> Self {
        Self::start_with(Some(network), Some((certificate, key)))
    }

    fn start_with(network: Option<(&str, Ipv4Addr)>, tls: Option<(&str, &str)>) -> Self {
        let directory = TempDir::new().unwrap();
        give_away(directory.path());
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = network.map_or_else(free, |_| 5432);
        let mut server = Self { directory, programs: programs(), port, namespace: None, child: None };
        server.namespace = network.map(|(namespace, _)| namespace.to_owned());
        let address = network.map_or(Ipv4Addr::LOCALHOST, |(_, address)| address);
        let data = server.path("data");
        let password = server.path("password");
        fs::write(&password, PASSWORD).unwrap();
        give_away(&password);
        let mut initdb = server.command("initdb");
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["--username=crank", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        initdb.args(["--encoding=UTF8", "--locale=C"]);
        succeed(&mut initdb);
        let mut settings = format!(
            "port = {port}\nlisten_addresses = '{address}'\nunix_socket_directories = '{}'\n",
            server.directory.path().display()
        );
        if let Some((certificate, key)) = tls {
            for (name, content) in [("server.crt", certificate), ("server.key", key)] {
                let path = data.join(name);
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                give_away(&path);
            }
            settings.push_str("ssl = on\n");
        }
        if network.is_some() {
            let mut access = fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf")).unwrap();
            writeln!(access, "hostssl all all all scram-sha-256").unwrap();
        }
        let path = data.join("postgresql.auto.conf");
        fs::write(&path, settings).unwrap();
        server.resume();
        server
    }

    /// Starts it again after [`kill`](Self::kill).
    pub(crate) fn resume(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.path("data")).stdout(Stdio::null()).stderr(log);
        self.child = Some(postgres.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_mins(1);
        while !self.psql("postgres", "SELECT 1").0 {
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends every process of it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SIGQUIT: the server ends its processes without a shutdown, and recovers at the next start.
        kill_process(Pid::from_child(&child), Signal::QUIT).unwrap();
        child.wait().unwrap();
    }

    /// An empty database of this name.
    pub(crate) fn create_database(&self, name: &str) {
        let (done, text) = self.psql("postgres", &format!("CREATE DATABASE {name}"));
        assert!(done, "{text}");
    }

    /// Runs a statement. Whether it succeeded, and what came out, fields separated by `|`.
    pub(crate) fn psql(&self, database: &str, statement: &str) -> (bool, String) {
        let mut psql = self.command("psql");
        psql.arg("--host").arg(self.directory.path()).args(["--port", &self.port.to_string()]);
        psql.args(["--username=crank", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname", database]);
        let output = psql.args(["--command", statement]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.trim().to_owned())
    }

    /// Runs one of its programs on a database, with standard input and output as given.
    pub(crate) fn run(&self, program: &str, database: &str, arguments: &[&str], input: Stdio, output: Stdio) {
        let mut command = self.command(program);
        command.arg("--host").arg(self.directory.path()).args(["--port", &self.port.to_string()]);
        command.args(["--username=crank", "--dbname", database]).args(arguments).stdin(input).stdout(output);
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    /// The URL of a database by the Unix socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let host = self.directory.path().display();
        format!("postgres:///{database}?host={host}&port={}&user=crank", self.port)
    }

    /// The URL of a database by the network.
    pub(crate) fn network_url(&self, database: &str) -> String {
        format!("postgres://crank@localhost:{}/{database}", self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One of its programs, as another user where this one is root, whom `PostgreSQL` refuses.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                let user = NOBODY.to_string();
                command.arg(format!("--net=/run/netns/{namespace}")).args(["--setgid", &user, "--setuid", &user]);
                command.arg(program);
                command
            }
        };
        command.current_dir(self.directory.path()).env_clear().env("LC_ALL", "C");
        if rustix::process::geteuid().is_root() && self.namespace.is_none() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
        let _ = child.wait();
    }
}

/// Where `postgres` on the path really is, with the other programs beside it.
pub(crate) fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("postgres")).find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("needs postgres on the PATH; tests/lab/install puts it there"));
    found.canonicalize().unwrap().parent().unwrap().to_owned()
}

fn give_away(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) const NOBODY: u32 = 65534;

/// The superuser's password over the network.
pub(crate) const PASSWORD: &str = "swordfish";
