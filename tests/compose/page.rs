//! Every command of docs/compose.md, in the order they stand.

use std::fs;

use crate::engine::{Engine, all_of, root};

#[test]
#[ignore = "needs Docker"]
fn the_commands_of_the_page_work() {
    let engine = Engine::start();
    let page = fs::read_to_string(root().join("docs/compose.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 7, "{}", blocks.len());
    let directory = tempfile::tempdir().unwrap();
    let session = blocks.join("\n").replace("/tmp/", &format!("{}/", directory.path().display()));
    let output = engine.command("sh").args(["-eu", "-c", &session]).output().unwrap();
    let said = all_of(&output);
    assert!(output.status.success(), "{said}");
    for part in ["\"answer\": \"hello client\"", "\nready         yes\n", "\nrenewed: serial "] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    let roots = fs::read_to_string(directory.path().join("mesh-roots.crt")).unwrap();
    assert!(roots.starts_with("-----BEGIN CERTIFICATE-----"), "{roots}");
    let down = "docker compose --project-directory deploy/compose down --volumes --timeout 5";
    let output = engine.command("sh").args(["-c", down]).output().unwrap();
    assert!(output.status.success(), "{}", all_of(&output));
}
