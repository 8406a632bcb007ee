//! `crank-ca policy` as it is called.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::rules;

fn policy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_crank-ca")).arg("policy").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn the_shipped_rules_pass_their_tests_and_their_cases() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy/cases.yaml");
    let (code, out, err) = policy(&["test", "--directory", &text(&rules()), "--cases", &text(&cases)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("pass  data.crank_test.test_own_names_are_allowed\n"), "{out}");
    assert!(out.contains(" passed; rules sha256:"), "{out}");
}

#[test]
fn a_failing_case_is_told_and_ends_with_1() {
    let directory = TempDir::new().unwrap();
    let cases = directory.path().join("cases.json");
    let case = r#"[{"name": "rsa", "hook": "can_issue_certificate", "input": {"request": {"key_type": "rsa-2048"}}, "expected": {"allow": true}}]"#;
    fs::write(&cases, case).unwrap();
    let (code, out, err) = policy(&["test", "--directory", &text(&rules()), "--cases", &text(&cases)]);
    assert_eq!(code, Some(1));
    let line = "FAIL  rsa: expected allowed, got denied (keys of type rsa-2048 are not for production)\n";
    assert!(out.contains(line) && err.contains("1 of 6 tests failed"), "{out}{err}");
}

#[test]
fn rules_that_do_not_compile_end_with_78_and_their_place() {
    let directory = TempDir::new().unwrap();
    let run = || policy(&["test", "--directory", &text(directory.path())]);
    fs::write(directory.path().join("crank.rego"), "package crank\n\nallow := {\n").unwrap();
    let (code, _, err) = run();
    assert_eq!(code, Some(78));
    assert!(err.starts_with("crank-ca: crank.rego:4:"), "{err}");
    fs::copy(rules().join("crank.rego"), directory.path().join("crank.rego")).unwrap();
    let (code, _, err) = run();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("there are no tests"), "{err}");
    assert_eq!(policy(&["test", "--directory", "/nowhere"]).0, Some(78));
}

#[test]
fn a_sample_can_be_asked() {
    let directory = TempDir::new().unwrap();
    let question = directory.path().join("question.json");
    for hook in
        ["can_issue_certificate", "certificate_validity_period", "should_renew_certificate", "revoke_certificate"]
    {
        let (code, out, _) = policy(&["sample", hook]);
        assert_eq!(code, Some(0));
        fs::write(&question, out).unwrap();
        let (code, out, err) = policy(&["eval", "--directory", &text(&rules()), "--input", &text(&question)]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("\"allow\": true") || out.contains("\"period\": \"24h\""), "{out}");
    }
    fs::write(&question, "{\"version\": 1}").unwrap();
    let (code, _, err) = policy(&["eval", "--directory", &text(&rules()), "--input", &text(&question)]);
    assert!(code == Some(78) && err.contains("missing field `hook`"), "{err}");
    assert_eq!(policy(&["sample", "anything"]).0, Some(2));
}
