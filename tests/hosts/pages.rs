//! The examples of the pages on systemd and on migration: units that systemd takes, warnings that old code prints.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::polling::until_within;
use crate::processes::{Ca, PATIENCE, Worker};

/// The blocks of a page in one language: the path in the first line, and the text.
pub(crate) fn blocks(page: &str, language: &str, comment: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let start = format!("\n```{language}\n");
    let blocks = text.split(&start).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let named = |block: &str| {
        let (first, _) = block.split_once('\n').unwrap();
        (first.strip_prefix(comment).unwrap_or_else(|| panic!("no path: {first}")).to_owned(), format!("{block}\n"))
    };
    blocks.map(named).collect()
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_takes_every_example_together_with_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let units = directory.path().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    for name in ["crank-agent.service", "crank-agent@.service", "crank-ca.service"] {
        let text = fs::read_to_string(shipped.join(name)).unwrap();
        let text = text.replace("/usr/bin/crank-agent ", &format!("{} ", env!("CARGO_BIN_EXE_crank-agent")));
        fs::write(
            units.join(name),
            text.replace("/usr/bin/crank-ca ", &format!("{} ", env!("CARGO_BIN_EXE_crank-ca"))),
        )
        .unwrap();
    }
    fs::write(units.join("streaming.service"), "[Service]\nExecStart=/bin/true\nExecReload=/bin/true\n").unwrap();
    let examples = blocks("docs/systemd.md", "ini", "# /");
    assert!(examples.len() >= 5);
    for (path, text) in &examples {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for unit in [
        "crank-ca.service",
        "crank-agent@streaming.service",
        "streaming.service",
        "streaming-certificate.path",
        "streaming-certificate.service",
    ] {
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no", unit])
            .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        let said: Vec<&str> =
            said.lines().filter(|line| line.contains("crank") || line.contains("streaming")).collect();
        assert_eq!(said, [""; 0], "{unit}");
    }
}

#[test]
#[ignore = "needs python3"]
fn old_modules_warn_and_the_thin_one_reads_what_the_agent_publishes() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let tree = tempfile::tempdir().unwrap();
    let modules = blocks("docs/migrating.md", "python", "# ");
    assert_eq!(modules.len(), 4);
    for (path, text) in &modules {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let python = |code: &str| {
        let programs = Path::new(env!("CARGO_BIN_EXE_crank-agent")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("python3");
        command.args(["-W", "always::DeprecationWarning", "-c", code]).envs(worker.environment()).env("PATH", path);
        let output = command.current_dir(tree.path()).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let thin = "from crank.worker_runtime.security import CertificateManager\n\
                print(CertificateManager(worker_id='streaming').ensure_certificates().to_uvicorn_config())";
    for (code, replacement) in [
        ("import services.security_config", "crank-agent keeps"),
        ("import crank_platform.security", "crank-agent init"),
    ] {
        let (success, said) = python(code);
        assert!(success && said.contains("DeprecationWarning") && said.contains(replacement), "{said}");
    }
    let (success, said) = python(thin);
    assert!(
        !success && said.contains("CertificateUnavailableError") && said.contains("does crank-agent run?"),
        "{said}"
    );
    let (success, said) =
        python("import runpy; runpy.run_path('scripts/initialize-certificates.py', run_name='__main__')");
    assert!(success && said.contains("is deprecated: call `crank-agent init`"), "{said}");
    until_within(PATIENCE, "a certificate", || worker.serial());
    let (success, said) = python(thin);
    assert!(
        success && said.contains("client.key") && said.contains("crank.worker_runtime.security is deprecated"),
        "{said}"
    );
}
