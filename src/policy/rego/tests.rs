//! Tests of the engine: what is refused before it is in force, what bounds an evaluation, what a changed directory does.

use std::fs;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::input::Input;

/// Rules for all hooks, with `body` for the first one.
fn rules(body: &str) -> String {
    format!(
        "package crank\n\n{body}\n\ncertificate_validity_period := {{\"period\": \"1h\"}}\n\n\
         should_renew_certificate := {{\"allow\": false}}\n\nrevoke_certificate := {{\"allow\": false}}\n"
    )
}

fn files(policy: &str, data: &[(&str, &str)]) -> PolicyFiles {
    let file = |name: &str, text: &str| SourceFile { name: name.to_owned(), text: text.to_owned() };
    PolicyFiles {
        policies: vec![file("crank.rego", policy)],
        tests: Vec::new(),
        data: data.iter().map(|(name, text)| file(name, text)).collect(),
    }
}

fn compiled(body: &str) -> Result<Arc<RuleSet>, String> {
    RuleSet::compile(files(&rules(body), &[])).map(Arc::new).map_err(|error| error.to_string())
}

fn answer(body: &str) -> Result<Option<serde_json::Value>, String> {
    let input = Input::sample(Hook::CanIssueCertificate);
    compiled(body)?.answer(input, Duration::from_millis(200)).map_err(|error| error.reason)
}

#[test]
fn rules_see_the_question_and_the_data() {
    let body = "can_issue_certificate := {\"allow\": input.identity.worker_id in data.workers}";
    for (name, text) in [("data.json", "{\"workers\": [\"streaming\"]}"), ("data.yaml", "workers: [streaming]")] {
        let set = Arc::new(RuleSet::compile(files(&rules(body), &[(name, text)])).unwrap());
        let input = Input::sample(Hook::CanIssueCertificate);
        assert_eq!(set.answer(input, Duration::from_secs(1)), Ok(Some(json!({ "allow": true }))));
    }
}

#[test]
fn what_no_rule_answers_is_none_and_an_error_in_a_function_is_an_error() {
    assert_eq!(answer("can_issue_certificate := {\"allow\": true} if input.identity.worker_id == \"x\""), Ok(None));
    let error = answer("can_issue_certificate := {\"allow\": to_number(\"x\") > 1}").unwrap_err();
    assert!(error.starts_with("crank.rego:3:"), "{error}");
    let two = "can_issue_certificate := {\"allow\": true}\ncan_issue_certificate := {\"allow\": false}";
    assert!(answer(two).unwrap_err().contains("conflict"));
}

#[test]
fn the_clock_of_rules_is_that_of_the_question() {
    let same = "can_issue_certificate := {\"allow\": time.now_ns() == input.time_ns}";
    assert_eq!(answer(same), Ok(Some(json!({ "allow": true }))));
}

#[test]
fn a_set_that_cannot_be_evaluated_safely_is_refused_with_its_place() {
    for (body, expected) in [
        ("can_issue_certificate := {", "crank.rego:"),
        ("can_issue_certificate := {\"allow\": nobody}", "crank.rego:3:36: Undefined variable: 'nobody'"),
        ("can_issue_certificate := {\"allow\": surely(1)}", "crank.rego:3:42: Unknown function: 'surely'"),
        ("can_issue_certificate := {\"allow\": http.send({}).ok}", "Unknown function: 'http.send'"),
        ("can_issue_certificate := {\"allow\": opa.runtime().ok}", "Unknown function: 'opa.runtime'"),
        ("can_issue_certificate := {\"allow\": count(numbers.range(1, 1000000000000000)) > 1}", "`numbers.range`"),
        ("can_issue_certificate := {\"allow\": net.cidr_expand(\"::/0\") == []}", "`net.cidr_expand`"),
        ("can_issue_certificate := {\"allow\": bits.lsh(1, 1000000000) > 1}", "`bits.lsh`"),
        ("can_issue_certificate := {\"allow\": rand.intn(\"x\", 2) == 1}", "`rand.intn`"),
        // These would overflow the stack and end the process.
        ("f(x) := f(x + 1)\ncan_issue_certificate := {\"allow\": f(1)}", "recursive: data.crank.f calls data.crank.f"),
        (
            "f(x) := g(x)\ng(x) := data.crank.f(x) if x > 0\ncan_issue_certificate := {\"allow\": f(1)}",
            "recursive: data.crank.f calls data.crank.g calls data.crank.f",
        ),
        ("f(x) := [y | y := f(x)]\ncan_issue_certificate := {\"allow\": f(1) == []}", "recursive"),
        ("f(x) := r if x > 0\nr := f(1)\ncan_issue_certificate := {\"allow\": f(1)}", "recursive"),
        ("f(x) := 1 if { every y in [1] { f(y) == 1 } }\ncan_issue_certificate := {\"allow\": f(1)}", "recursive"),
        ("f(x) := 2 if { x == 1 } else := f(1)\ncan_issue_certificate := {\"allow\": f(1)}", "recursive"),
        ("can_issue := {\"allow\": true}", "the rule `can_issue_certificate`"),
        ("can_issue_certificate.allow := true", "the rule `can_issue_certificate`"),
        ("default can_issue_certificate := {\"allow\": true}", "a default alone is none"),
    ] {
        let error = compiled(body).unwrap_err();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn data_in_the_place_of_the_hooks_is_refused() {
    let body = "can_issue_certificate := {\"allow\": false}";
    for (data, expected) in [
        ("{\"crank\": {\"can_issue_certificate\": {\"allow\": true}}}", "`crank`"),
        ("[1]", "expected an object"),
        ("{\"a\": 1,}", "line 1"),
    ] {
        let error = RuleSet::compile(files(&rules(body), &[("data.json", data)])).unwrap_err().to_string();
        assert!(error.starts_with("data.json: ") && error.contains(expected), "{error}");
    }
    let twice = [("a.yaml", "a: 1"), ("b.json", "{\"a\": 2}")];
    assert!(RuleSet::compile(files(&rules(body), &twice)).is_err());
}

#[test]
fn an_endless_comprehension_is_cut_off() {
    let digits = "digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n";
    let loops = (0..12).map(|n| format!("some d{n} in digits; ")).collect::<Vec<_>>().concat();
    let body = format!("{digits}can_issue_certificate := {{\"allow\": count([1 | {loops}d0 == d1]) > 0}}");
    let begun = Instant::now();
    let error = answer(&body).unwrap_err();
    assert!(error.contains("time limit"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn the_longest_chain_of_rules_with_deep_expressions_fits_the_stack() {
    let nested = |inner: &str| (0..6).fold(inner.to_owned(), |text, n| format!("[x{n} | some x{n} in [{text}]][0]"));
    let rule = |n: usize| format!("v{n} := {} + 1\n", nested(&format!("v{}", n - 1)));
    let chain: String = (1..250).map(rule).collect();
    let body = format!("v0 := 0\n{chain}can_issue_certificate := {{\"allow\": v249 == 249}}");
    let set = compiled(&body).unwrap();
    let answer = set.answer(Input::sample(Hook::CanIssueCertificate), Duration::from_mins(1));
    assert_eq!(answer, Ok(Some(json!({ "allow": true }))));
    let more: String = (250..260).map(rule).collect();
    let body = format!("v0 := 0\n{chain}{more}can_issue_certificate := {{\"allow\": v259 == 259}}");
    assert!(compiled(&body).unwrap_err().contains("more than 256"));
}

#[tokio::test]
async fn evaluations_beyond_the_places_wait_for_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.rego"), rules("can_issue_certificate := {\"allow\": true}")).unwrap();
    let engine = RegoEngine::start(directory.path(), Duration::from_secs(1)).unwrap();
    let all = u32::try_from(engine.threads.places.available_permits()).unwrap();
    let taken = Arc::clone(&engine.threads.places).acquire_many_owned(all).await.unwrap();
    let mut asked = engine.ask(Input::sample(Hook::CanIssueCertificate));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut asked).await.is_err());
    drop(taken);
    assert_eq!(asked.await.unwrap().value, Some(json!({ "allow": true })));
}

/// Waits until the rules allow or not, as told.
async fn until(engine: &RegoEngine, what: impl Fn(&RegoEngine, bool) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = engine.ask(Input::sample(Hook::CanIssueCertificate)).await.unwrap();
        if what(engine, answer.value == Some(json!({ "allow": true }))) {
            return;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {:?}", engine.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_changed_directory_takes_over_whole_and_a_bad_one_leaves_the_last_good_rules() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rego");
    let set = |allow: bool| rules(&format!("can_issue_certificate := {{\"allow\": {allow}}}"));
    fs::write(&path, set(true)).unwrap();
    let engine = RegoEngine::start(directory.path(), Duration::from_secs(1)).unwrap();
    let first = engine.status();
    until(&engine, |_, allows| allows).await;
    fs::write(&path, set(false)).unwrap();
    until(&engine, |_, allows| !allows).await;
    assert_ne!(engine.status().revision, first.revision);
    // A file more that does not parse: nothing of it counts, and the operator can see that.
    fs::write(directory.path().join("b.rego"), "package crank\nallow :=").unwrap();
    until(&engine, |engine, _| engine.status().problem.is_some()).await;
    until(&engine, |_, allows| !allows).await;
    let problem = engine.status().problem.unwrap();
    assert!(problem.starts_with("b.rego:2:"), "{problem}");
    fs::remove_file(directory.path().join("b.rego")).unwrap();
    until(&engine, |engine, _| engine.status().problem.is_none()).await;
    // The directory is gone, and comes back changed.
    fs::remove_dir_all(directory.path()).unwrap();
    until(&engine, |engine, allows| engine.status().problem.is_some() && !allows).await;
    fs::create_dir(directory.path()).unwrap();
    fs::write(&path, set(true)).unwrap();
    until(&engine, |engine, allows| allows && engine.status() == first).await;
}

#[tokio::test]
async fn a_swap_as_the_kubelet_makes_it_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let publish = |number: u32, allow: bool| {
        let generation = directory.path().join(format!("..{number}"));
        fs::create_dir(&generation).unwrap();
        let text = rules(&format!("can_issue_certificate := {{\"allow\": {allow}}}"));
        fs::write(generation.join("a.rego"), text).unwrap();
        std::os::unix::fs::symlink(format!("..{number}"), directory.path().join("..data_tmp")).unwrap();
        fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).unwrap();
    };
    publish(0, false);
    std::os::unix::fs::symlink("..data/a.rego", directory.path().join("a.rego")).unwrap();
    let engine = RegoEngine::start(directory.path(), Duration::from_secs(1)).unwrap();
    for number in 1..4 {
        publish(number, number % 2 == 1);
        until(&engine, |_, allows| allows == (number % 2 == 1)).await;
    }
}

#[tokio::test]
async fn the_watching_ends_with_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.rego"), rules("can_issue_certificate := {\"allow\": true}")).unwrap();
    let engine = RegoEngine::start(directory.path(), Duration::from_secs(1)).unwrap();
    let watched = engine.current.clone();
    drop(engine);
    let ended = async {
        let mut watched = watched;
        while watched.changed().await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[test]
fn test_rules_pass_that_are_true_and_others_tell_why_not() {
    let test = "package crank_test\n\nimport data.crank\n\n\
                test_yes if crank.can_issue_certificate.allow with input as {\"ok\": true}\n\n\
                test_no if crank.can_issue_certificate.allow with input as {\"ok\": false}\n\n\
                test_false := false\n\ntest_error if to_number(\"x\") == 1\n\ntodo_test_later if false\n\nhelper := 1\n";
    let mut files = files(&rules("can_issue_certificate := {\"allow\": input.ok}"), &[]);
    files.tests = vec![SourceFile { name: "crank_test.rego".to_owned(), text: test.to_owned() }];
    let reports = run_test_rules(&files).unwrap();
    let passed = |name: &str| {
        let path = format!("data.crank_test.{name}");
        reports.iter().find(|report| report.name == path).map(|report| report.failure.clone())
    };
    assert_eq!(passed("test_yes"), Some(None));
    assert_eq!(passed("test_no"), Some(Some("does not hold".to_owned())));
    assert_eq!(passed("test_false"), Some(Some("is false".to_owned())));
    assert!(passed("test_error").unwrap().unwrap().starts_with("crank_test.rego:"));
    assert_eq!(reports.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is in the directory, a set is in force or an error is told.
    #[test]
    fn no_text_of_a_policy_does_harm(text in "[a-z{}()\\[\\]:=\"., \n]{0,80}", data in "[a-z{}\\[\\]:\"&*, \n-]{0,40}") {
        let _ = RuleSet::compile(files(&rules(&text), &[("data.yaml", &data)]));
    }
}
