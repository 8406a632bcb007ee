//! The packages on a host with systemd, set up as the page says: readiness, reload, watchdog, renewal, and their end.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;

use crate::booted::{Host, PATIENCE};
use crate::packages::Packages;
use crate::pages::blocks;
use crate::polling::until_within;

const AGENT: &str = "crank-agent@streaming";
const CA: &str = "crank-ca";

/// A host with both packages, where everything was done that docs/systemd.md tells a new user.
struct Mesh {
    host: Host,
    packages: Packages,
}

impl Mesh {
    fn set_up() -> Self {
        let packages = Packages::make(&[]);
        let mesh = Self { host: Host::boot(packages.directory.path()), packages };
        mesh.follow("cd /mnt\n", "apt install ./crank-ca_");
        mesh.follow("", "crank-ca init");
        assert!(mesh.host.run("systemctl status --no-pager crank-ca").contains("Status: \"serving on 0.0.0.0:9090\""));
        mesh.follow("", "token create");
        mesh.follow("", "systemctl enable --now crank-agent@streaming");
        mesh
    }

    /// Runs the commands of the page's block that has `part` in it, after `first`.
    fn follow(&self, first: &str, part: &str) {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd.md")).unwrap();
        let blocks: Vec<&str> =
            page.split("\n```text\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
        let found: Vec<&&str> = blocks.iter().filter(|block| block.contains(part)).collect();
        let [block] = found[..] else { panic!("{part}: in {} blocks", found.len()) };
        // What comes before was built and packed already.
        let commands = &block[block.find(part).filter(|_| part.starts_with("apt ")).unwrap_or_default()..];
        self.host.run(&format!("{first}{}", commands.replace("ca.example.org", "localhost")));
    }

    fn serial(&self) -> String {
        let said = self.host.run("crank-agent status --json --cert-dir /var/lib/crank-agent/streaming");
        let status: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        status["certificate"]["serial"].as_str().unwrap().to_owned()
    }

    fn renew(&self) {
        self.host.run("crank-agent renew --cert-dir /var/lib/crank-agent/streaming");
    }

    fn main_process(&self, unit: &str) -> String {
        self.host.property(unit, "MainPID")
    }

    fn assert_active(&self, unit: &str) {
        assert_eq!(self.host.property(unit, "ActiveState"), "active", "{unit}");
        assert_eq!(self.host.property(unit, "SubState"), "running", "{unit}");
    }
}

#[test]
#[ignore = "needs root, to boot systemd"]
fn services_start_by_notification_reload_survive_a_hang_and_end_clean() {
    let mesh = Mesh::set_up();
    let host = &mesh.host;
    for unit in [CA, AGENT] {
        mesh.assert_active(unit);
        assert_eq!(host.property(unit, "Type"), "notify");
        assert_eq!(host.property(unit, "NRestarts"), "0");
    }
    let status = host.run("crank-agent status --cert-dir /var/lib/crank-agent/streaming");
    assert!(status.lines().any(|line| line.split_whitespace().eq(["ready", "yes"])), "{status}");
    assert!(
        host.property(AGENT, "StatusText").starts_with(&format!("streaming has certificate {} until", mesh.serial()))
    );

    // A reload applies, and a bad one is survived.
    let pids = [CA, AGENT].map(|unit| mesh.main_process(unit));
    host.run("echo 'lifetime = \"5h\"' >> /etc/crank-ca/config.toml; systemctl reload crank-ca");
    host.run("echo 'schedule.check_interval = \"30m\"' > /etc/crank-agent/config.toml; systemctl reload crank-agent@streaming");
    assert!(host.run("journalctl --no-pager --unit crank-agent@streaming").contains("CONFIG_RELOADED"));
    mesh.renew();
    let status = host.run("crank-agent status --cert-dir /var/lib/crank-agent/streaming");
    assert!(status.contains("(4h5"), "the CA's lifetime is five hours: {status}");
    let serial = mesh.serial();
    for (unit, file) in [(CA, "/etc/crank-ca/config.toml"), (AGENT, "/etc/crank-agent/config.toml")] {
        host.run(&format!(
            "cp {file} /root/good; echo nonsense >> {file}; systemctl reload {unit}; cp /root/good {file}"
        ));
        mesh.assert_active(unit);
    }
    assert_eq!([CA, AGENT].map(|unit| mesh.main_process(unit)), pids);
    assert_eq!(mesh.serial(), serial);

    // One that hangs is ended and started anew, with the certificate it had.
    host.write("/etc/systemd/system/crank-agent@.service.d/test.conf", "[Service]\nWatchdogSec=1s\nRestartSec=100ms");
    host.run("systemctl daemon-reload; systemctl restart crank-agent@streaming");
    let hanging = mesh.main_process(AGENT);
    host.run(&format!("kill -STOP {hanging}"));
    host.until(AGENT, "NRestarts", "1");
    host.until(AGENT, "ActiveState", "active");
    assert!(host.run("journalctl --no-pager --unit crank-agent@streaming").contains("Watchdog timeout (limit 1s)!"));
    assert_ne!(mesh.main_process(AGENT), hanging);
    assert_eq!(mesh.serial(), serial);

    // Installing anew restarts what runs.
    let pids = [CA, AGENT].map(|unit| mesh.main_process(unit));
    host.run("dpkg --install /mnt/*.deb");
    for (unit, before) in [CA, AGENT].iter().zip(pids) {
        mesh.assert_active(unit);
        assert_ne!(mesh.main_process(unit), before, "{unit}");
    }

    host.run("systemctl stop crank-agent@streaming crank-ca");
    for unit in [AGENT, CA] {
        assert_eq!(host.property(unit, "ActiveState"), "inactive", "{unit}");
        assert_eq!(host.property(unit, "Result"), "success", "{unit}");
        assert_eq!(host.property(unit, "ExecMainStatus"), "0", "{unit}");
    }

    host.run("systemctl start crank-ca crank-agent@streaming; dpkg --purge crank-agent crank-ca");
    let left = host.run("find /etc/systemd/system -type l -name 'crank*'; ls -d /var/lib/crank-agent 2>&- || true; pidof crank-agent crank-ca || true");
    assert_eq!(left, "", "of links, keys and processes");
    host.run("test -s /var/lib/crank-ca/authority/issuing.key");
    drop(mesh.packages);
}

#[test]
#[ignore = "needs root, to boot systemd"]
fn services_can_do_no_more_than_the_units_say() {
    let mesh = Mesh::set_up();
    let host = &mesh.host;
    for (unit, user, state) in
        [(CA, "crank-ca", "/var/lib/crank-ca"), (AGENT, "crank-agent", "/var/lib/crank-agent/streaming")]
    {
        for (property, value) in [
            ("User", user),
            ("CapabilityBoundingSet", ""),
            ("AmbientCapabilities", ""),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("MemoryDenyWriteExecute", "yes"),
        ] {
            assert_eq!(host.property(unit, property), value, "{unit}: {property}");
        }
        // What the kernel says of the process, and what is refused to one in its place.
        let process = mesh.main_process(unit);
        let kernel = host.run(&format!("cat /proc/{process}/status"));
        let line = |name: &str| kernel.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert!(!line("Uid:").split_whitespace().any(|id| id == "0"), "{kernel}");
        let sets: Vec<&str> = kernel.lines().filter_map(|line| line.strip_prefix("Cap")).collect();
        assert!(sets.len() == 5 && sets.iter().all(|set| set.ends_with(":\t0000000000000000")), "{unit}: {kernel}");
        assert_eq!([line("NoNewPrivs:"), line("Seccomp:")], ["1", "2"], "{unit}");
        let inside = |script: &str| host.attempt(&format!("nsenter --target {process} --mount sh -ec '{script}'"));
        for place in ["/usr/x", "/etc/x", "/var/lib/x"] {
            let (written, said) = inside(&format!("echo > {place}"));
            assert!(!written && said.contains("Read-only file system"), "{unit}: {place}: {said}");
        }
        let (written, said) = inside(&format!("echo > {state}/x; rm {state}/x"));
        assert!(written, "{unit}: {said}");
        assert!(!inside("ls /root/.profile").0, "{unit} sees homes");
    }
    // The token is for the agent alone, and is not the file that root keeps.
    let process = mesh.main_process(AGENT);
    let seen = host.run(&format!(
        "nsenter --target {process} --mount stat --format '%U %a' /run/credentials/{AGENT}.service/token"
    ));
    assert_eq!(seen, "crank-agent 400\n");
    drop(mesh.packages);
}

#[test]
#[ignore = "needs root, to boot systemd, and strace"]
fn a_worker_starts_with_its_certificate_and_is_reloaded_once_with_each_new_one() {
    let mesh = Mesh::set_up();
    let host = &mesh.host;
    for (path, text) in blocks("docs/systemd.md", "ini", "# /") {
        if path.contains("/streaming") {
            host.write(&format!("/{path}"), &text);
        }
    }
    // It reads the key as the page says that it can, and counts what it is told.
    host.write(
        "/etc/systemd/system/streaming.service",
        "[Service]\nUser=nobody\nRuntimeDirectory=streaming\n\
         ExecStart=/bin/sh -c 'cat /var/lib/crank-agent/streaming/client.key > /dev/null && exec sleep infinity'\n\
         ExecReload=/bin/sh -c 'readlink /var/lib/crank-agent/streaming/..data >> /run/streaming/told'",
    );
    mesh.follow("", "systemctl enable --now streaming-certificate.path");
    mesh.assert_active("streaming");
    // On a disk that takes its time: the steps of a publication are seen one by one.
    let slow = SlowDisk::under(host, &mesh.main_process(AGENT));
    for number in 1..=2 {
        mesh.renew();
        let generation = host.run("readlink /var/lib/crank-agent/streaming/..data");
        until_within(PATIENCE, "the worker is told", || {
            let told = host.attempt("cat /run/streaming/told").1;
            told.ends_with(&generation).then_some(())
        });
        assert_eq!(host.run("cat /run/streaming/told").lines().count(), number);
    }
    assert_eq!(host.property("streaming-certificate.path", "ActiveState"), "active");
    drop(slow);
    drop(mesh.packages);
}

/// Makes a process on a host wait for each thing that it wants on the disk.
struct SlowDisk(Child);

impl SlowDisk {
    fn under(host: &Host, process: &str) -> Self {
        let process = host.process_here(process);
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "--trace=fsync", "--inject=fsync:delay_enter=100000", "--output=/dev/null"]);
        let slow = Self(command.args(["--attach", &process]).spawn().unwrap());
        until_within(PATIENCE, "it is traced", || {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        slow
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
