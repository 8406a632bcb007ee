//! What is in the images, and how they run.

use std::fs::File;
use std::process::Command;

use serde_json::Value;

use crate::engine::{Engine, all_of};

const MIB: u64 = 1024 * 1024;

#[test]
#[ignore = "needs Docker"]
fn an_image_holds_one_static_program_and_nothing_else() {
    let engine = Engine::start();
    for (image, limit) in [("crank-agent", 12 * MIB), ("crank-ca", 24 * MIB)] {
        let facts = inspect(&engine, image);
        let size = facts["Size"].as_u64().unwrap();
        assert!(size <= limit, "{image}: {size} bytes, more than {limit}");
        assert_eq!(files_in(&engine, image), [format!("usr/local/bin/{image}")]);

        let config = &facts["Config"];
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"], serde_json::json!([image]));
        assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", image, "health"]));
        let label =
            |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap().to_owned();
        assert_eq!(label("title"), image);
        assert!(!label("description").is_empty());
        assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
        assert_eq!(
            [label("version"), label("revision"), label("created")],
            ["1.2.3", "0123abc", "2026-08-20T12:00:00Z"]
        );

        // Neither a shell nor a place for one to come to.
        let shell = engine.try_docker(&["run", "--rm", "--entrypoint", "sh", image, "-c", "true"]);
        assert_eq!(shell.status.code(), Some(127), "{}", all_of(&shell));
        let version = engine.docker(&[
            "run",
            "--rm",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--network",
            "none",
            image,
            "--version",
        ]);
        assert_eq!(version, format!("{image} {}\n", env!("CARGO_PKG_VERSION")));
    }
    // Nothing runs there to be healthy.
    let health = engine.try_docker(&["run", "--rm", "-e", "SERVICE_NAME=x", "crank-agent", "health"]);
    assert_eq!(health.status.code(), Some(69), "{}", all_of(&health));
}

#[test]
#[ignore = "needs Docker"]
fn a_new_volume_belongs_to_the_user_of_the_image() {
    let engine = Engine::start();
    let agent = ["/etc/certs", "/shared/ca-certs", "/run/secrets"];
    let ca = ["/var/lib/crank-ca", "/shared/ca-certs", "/run/secrets"];
    for (image, directories) in [("crank-agent", agent), ("crank-ca", ca)] {
        for directory in directories {
            // The first to mount it gives it its owner.
            engine.docker(&["run", "--rm", "-v", &format!("owned:{directory}"), image, "--version"]);
            let seen =
                ["run", "--rm", "-v", "owned:/seen", "python:3.13-slim", "stat", "--format", "%u:%g %a", "/seen"];
            assert_eq!(engine.docker(&seen), "65532:65532 755\n", "{image}: {directory}");
            engine.docker(&["volume", "rm", "owned"]);
        }
    }
}

fn inspect(engine: &Engine, image: &str) -> Value {
    let facts: Vec<Value> = serde_json::from_str(&engine.docker(&["image", "inspect", image])).unwrap();
    facts.into_iter().next().unwrap()
}

/// The files in an image, without what the engine itself puts into a container.
fn files_in(engine: &Engine, image: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("image.tar");
    let container = engine.docker(&["create", image]);
    engine.docker(&["export", "--output", archive.to_str().unwrap(), container.trim()]);
    engine.docker(&["rm", container.trim()]);
    let listed = Command::new("tar").arg("-t").stdin(File::open(archive).unwrap()).output().unwrap();
    assert!(listed.status.success(), "{}", all_of(&listed));
    let engines = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files = listed.lines().filter(|path| !path.ends_with('/') && !engines.contains(path));
    files.map(str::to_owned).collect()
}
