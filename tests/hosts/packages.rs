//! The Debian packages: made, read by lintian, and installed, changed, upgraded and purged in a directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub(crate) struct Packages {
    pub(crate) directory: tempfile::TempDir,
    agent: PathBuf,
    ca: PathBuf,
}

impl Packages {
    /// Of the programs of this build; `options` are those of cargo-deb.
    pub(crate) fn make(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (agent, ca) = (env!("CARGO_BIN_EXE_crank-agent"), env!("CARGO_BIN_EXE_crank-ca"));
        succeed(
            Command::new(repository().join("deploy/deb"))
                .args([agent, ca, agent])
                .arg(directory.path())
                .args(["--offline", "--locked", "--fast"])
                .args(options),
        );
        let find = |name: &str| {
            let files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
            files.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap()
        };
        Self { agent: find("crank-agent_"), ca: find("crank-ca_"), directory }
    }

    fn both(&self) -> [&Path; 2] {
        [&self.agent, &self.ca]
    }
}

/// A root directory with a package database of its own.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "var/log"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for (file, text) in
            [("var/lib/dpkg/status", ""), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")]
        {
            fs::write(root.path().join(file), text).unwrap();
        }
        Self(root)
    }

    fn dpkg(&self, arguments: &[&str], packages: &[&Path]) {
        let mut dpkg = Command::new("dpkg");
        // Dependencies are those of the host, on which the scripts run.
        dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confold", "--root"]).arg(self.0.path());
        succeed(dpkg.args(arguments).args(packages));
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).permissions().mode() & 0o7777
    }
}

#[test]
#[ignore = "needs cargo-deb, lintian and dpkg"]
fn the_packages_hold_what_belongs_into_them_and_install_upgrade_and_go() {
    let packages = Packages::make(&[]);
    for package in packages.both() {
        let listed = succeed(Command::new("dpkg-deb").arg("--contents").arg(package));
        let modes: BTreeMap<&str, &str> = listed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .map(|words| (words[5], words[0]))
            .inspect(|(path, _)| assert!(path.starts_with("./"), "{path}"))
            .collect();
        assert!(listed.lines().all(|line| line.contains(" 0/0 ")), "{listed}");
        for (path, mode) in &modes {
            let expected = match path {
                path if path.ends_with('/') => "drwxr-xr-x",
                path if path.starts_with("./usr/bin/") => "-rwxr-xr-x",
                _ => "-rw-r--r--",
            };
            assert_eq!(*mode, expected, "{path}");
        }
        let lintian = run(Command::new("lintian")
            // The address is for whoever publishes the packages to set.
            .args(["--allow-root", "--fail-on", "error", "--suppress-tags"])
            .arg("bogus-mail-host,bogus-mail-host-in-debian-changelog")
            .arg(package));
        assert!(lintian.status.success(), "{}", String::from_utf8_lossy(&lintian.stdout));
    }

    let root = Root::new();
    root.dpkg(&["--install"], &packages.both());
    for (path, mode) in [
        ("usr/bin/crank-agent", 0o755),
        ("usr/bin/crank-ca", 0o755),
        ("usr/lib/systemd/system/crank-agent@.service", 0o644),
        ("usr/share/man/man1/crank-agent-run.1.gz", 0o644),
        ("usr/share/man/man1/crank-ca-token-create.1.gz", 0o644),
        ("usr/share/bash-completion/completions/crank-ca", 0o644),
        ("etc/crank-ca/config.toml", 0o644),
        // Made by the scripts.
        ("etc/crank-agent", 0o755),
        ("etc/crank-agent/tokens", 0o700),
        ("var/lib/crank-ca", 0o700),
    ] {
        assert_eq!(root.mode(path), mode, "{path}");
    }
    assert!(!root.path("usr/share/man/man1/crank-agent-dev.1.gz").exists(), "the released agent has no such command");
    let (users, groups) = (root.text("etc/passwd"), root.text("etc/group"));
    assert!(users.contains("\ncrank-agent:") && users.contains("\ncrank-ca:"), "{users}");
    assert!(groups.contains("\ncrank-certs:"), "{groups}");
    succeed(Command::new(root.path("usr/bin/crank-agent")).arg("--version"));
    let described = |package| succeed(Command::new("dpkg-deb").args(["--field"]).arg(package).arg("Description"));
    let [agent, ca] = packages.both().map(described);
    assert!(agent.starts_with(concat!(env!("CARGO_PKG_DESCRIPTION"), "\n ")), "{agent}");
    assert!(ca.starts_with("Certificate authority of a Crank mesh\n "), "{ca}");
    let page = succeed(Command::new("gzip").arg("-dc").arg(root.path("usr/share/man/man1/crank-agent.1.gz")));
    assert!(page.contains("check\\-config") && !page.contains("man\\-pages"), "{page}");

    // What an operator has changed survives an upgrade, and the CA's keys anything.
    let changed = root.text("etc/crank-ca/config.toml") + "\nlifetime = \"24h\"\n";
    fs::write(root.path("etc/crank-ca/config.toml"), &changed).unwrap();
    fs::write(root.path("var/lib/crank-ca/key"), "irreplaceable").unwrap();
    fs::write(root.path("etc/crank-agent/tokens/worker"), "secret").unwrap();
    let newer = Packages::make(&["--deb-version", "9.9.9-1"]);
    root.dpkg(&["--install"], &newer.both());
    assert_eq!(root.text("etc/crank-ca/config.toml"), changed);
    assert!(root.text("var/lib/dpkg/status").contains("Version: 9.9.9-1"));
    assert!(root.path("etc/crank-agent/tokens/worker").exists());
    root.dpkg(&["--purge", "crank-agent", "crank-ca"], &[]);
    for gone in ["usr/bin/crank-agent", "usr/bin/crank-ca", "etc/crank-ca/config.toml", "etc/crank-agent/tokens"] {
        assert!(!root.path(gone).exists(), "{gone}");
    }
    assert_eq!(root.text("var/lib/crank-ca/key"), "irreplaceable");
    drop((packages.directory, newer.directory));
}
