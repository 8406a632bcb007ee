//! Owns the container engine of a test: one at a time on this machine, with the images of the programs as they are now.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::polling::until_within;

/// A running engine. Ended when this is dropped, with every container that a test has left.
pub(crate) struct Engine {
    environment: BTreeMap<String, String>,
    _lock: File,
}

impl Engine {
    /// Starts it, and makes the images of both programs.
    pub(crate) fn start() -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
        let lock =
            File::create(cache.join("crank-agent-ci/lab/docker/lock")).expect("tests/lab/docker install makes it");
        lock.lock().unwrap();
        let started = lab("start");
        assert!(started.status.success(), "{}", all_of(&started));
        let lines = String::from_utf8(started.stdout).unwrap();
        let environment = lines.lines().filter_map(|line| line.split_once('='));
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let engine = Self { environment, _lock: lock };
        engine.build("crank-agent", &[]);
        engine.build("crank-ca", &["--target", "ca"]);
        engine
    }

    /// Builds the image `name` of programs that are compiled already; the whole build takes longer than a test may.
    fn build(&self, name: &str, further: &[&str]) {
        assert_fresh(name);
        let mut arguments = vec!["buildx", "build", "--tag", name, "--build-arg", "PROGRAMS=prebuilt"];
        let labels = ["VERSION=1.2.3", "REVISION=0123abc", "CREATED=2026-08-20T12:00:00Z"];
        arguments.extend(labels.iter().flat_map(|label| ["--build-arg", label]));
        arguments.extend(further);
        arguments.push(".");
        self.docker(&arguments);
    }

    /// Runs `docker` in the repository, and returns what it wrote to standard output.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}:\n{}", all_of(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, whatever becomes of it.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Output {
        self.command("docker").args(arguments).output().unwrap()
    }

    /// A command in the repository that speaks to this engine.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Looked for on the engine's PATH, not on that of the test.
        let mut command = Command::new("/usr/bin/env");
        command.envs(&self.environment).arg(program).current_dir(root());
        command
    }

    /// A command in the network that the engine publishes ports to.
    pub(crate) fn on_host(&self, program: &str) -> Command {
        let mut command = self.command("nsenter");
        command.arg(format!("--net={}", self.environment["CRANK_LAB_NAMESPACE"])).arg(program);
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.try_docker(&["ps", "--all", "--quiet"]);
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        let left: Vec<&str> = left.split_whitespace().collect();
        if !left.is_empty() {
            self.try_docker(&[&["rm", "--force", "--volumes"][..], &left].concat());
        }
        self.try_docker(&["volume", "prune", "--force"]);
        self.try_docker(&["network", "prune", "--force"]);
        let stopped = lab("stop");
        if !std::thread::panicking() {
            assert!(stopped.status.success(), "{}", all_of(&stopped));
        }
    }
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that a program wrote.
pub(crate) fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Polls until `find` finds something.
pub(crate) fn until<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, find)
}

/// How long anything may take. Generous, as the machine may be busy; nothing waits it out.
const PATIENCE: Duration = Duration::from_mins(3);

fn lab(what: &str) -> Output {
    Command::new(root().join("tests/lab/docker")).arg(what).output().unwrap()
}

/// What is tested must be what the sources are now.
fn assert_fresh(program: &str) {
    static NEWEST: OnceLock<SystemTime> = OnceLock::new();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let path = format!("dist/linux-{architecture}/{program}");
    let how = format!("make it: deploy/image/toolchain build {program} dist/linux-{architecture}");
    let made =
        fs::metadata(root().join(&path)).unwrap_or_else(|_| panic!("there is no {path}; {how}")).modified().unwrap();
    let newest = NEWEST.get_or_init(|| newest_below(&root().join("src")));
    assert!(made >= *newest, "{path} is older than src; {how}");
}

fn newest_below(directory: &Path) -> SystemTime {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let times = entries.map(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() { newest_below(&entry.path()) } else { entry.metadata().unwrap().modified().unwrap() }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
