//! Owns the tests of a set: rules whose names begin with `test_`, as `opa test` runs them, and cases from files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;

use super::directory::PolicyFiles;
use super::rules::{RuleSet, ask, compile, engine, prepared};
use super::{RegoError, on_large_stack};
use crate::bounded::{ReadError, read_file};
use crate::duration::format_duration;
use crate::policy::answer;
use crate::policy::input::{Hook, Input};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// Cases from a file: a list of questions with the answers that are expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Cases(Vec<Case>);

/// A file of cases that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] ReadError),
    /// It is not what is expected.
    #[error("{file}: {reason}")]
    Form {
        /// The file.
        file: String,
        /// What is wrong; printable.
        reason: String,
    },
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// Why it failed; `None` when it passed. One printable line.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    hook: Hook,
    /// Laid over [`Input::sample`]; `null` takes a field away.
    #[serde(default)]
    input: Json,
    expected: Expected,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    allow: bool,
    reason: Option<String>,
    period: Option<String>,
}

impl Cases {
    /// Reads a YAML or JSON file of at most 1 MiB.
    ///
    /// # Errors
    /// When it cannot be read, or is no list of cases; the text says where.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        let content = read_file(path, CASES_LIMIT)?;
        let form = |reason: &str| {
            let reason = printable(reason.trim(), FOREIGN_TEXT_LIMIT);
            CaseError::Form { file: path.display().to_string(), reason }
        };
        let text = std::str::from_utf8(&content).map_err(|error| form(&error.to_string()))?;
        // Every JSON text is YAML.
        let cases: Vec<Case> = serde_saphyr::from_str(text).map_err(|error| form(&error.to_string()))?;
        for case in &cases {
            case.question().map_err(|reason| form(&format!("case `{}`: {reason}", case.name)))?;
        }
        Ok(Self(cases))
    }

    /// The questions: for each its name, and the whole document.
    ///
    /// # Errors
    /// When one is not of the form of [`Input`]; none of those that [`read`](Self::read) has taken.
    pub fn questions(&self) -> Result<Vec<(String, Input)>, String> {
        self.0.iter().map(|case| Ok((case.name.clone(), case.question()?))).collect()
    }

    /// Asks `rules` each question. Blocks.
    #[must_use]
    pub fn run(&self, rules: &Arc<RuleSet>) -> Vec<CaseReport> {
        let run = |case: &Case| CaseReport { name: printable(&case.name, 200), failure: case.run(rules).err() };
        self.0.iter().map(run).collect()
    }
}

impl Case {
    fn question(&self) -> Result<Input, String> {
        let mut document = serde_json::to_value(Input::sample(self.hook)).map_err(|error| error.to_string())?;
        merge(&mut document, &self.input);
        serde_json::from_value(document).map_err(|error| error.to_string())
    }

    fn run(&self, rules: &Arc<RuleSet>) -> Result<(), String> {
        let found = outcome(rules.answer(self.question()?, LIMIT).map_err(|error| error.reason)?, self.hook)?;
        let Expected { allow, reason, period } = &self.expected;
        let same = found.allow == *allow
            && (reason.is_none() || found.reason == *reason)
            && (period.is_none() || found.period == *period);
        if same { Ok(()) } else { Err(format!("expected {}, got {}", self.expected.text(), found.text())) }
    }
}

impl Expected {
    fn text(&self) -> String {
        let verdict = if self.allow { "allowed" } else { "denied" };
        let period = self.period.as_ref().map(|period| format!(" for {period}")).unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        printable(&format!("{verdict}{period}{reason}"), FOREIGN_TEXT_LIMIT)
    }
}

/// What the CA makes of an answer.
fn outcome(answer: Option<Json>, hook: Hook) -> Result<Expected, String> {
    if hook == Hook::CertificateValidityPeriod {
        let found = answer::validity_period(answer, "").map_err(|error| error.reason)?;
        let allow = found.decision.is_allowed();
        let period = allow.then(|| format_duration(found.period));
        return Ok(Expected { allow, reason: Some(found.decision.reason), period });
    }
    let found = answer::decision(answer, "").map_err(|error| error.reason)?;
    Ok(Expected { allow: found.is_allowed(), reason: Some(found.reason), period: None })
}

/// Runs every rule of `files` whose name begins with `test_`, in the order of their paths. One passes that is true. Blocks.
///
/// # Errors
/// When the files do not parse.
pub fn run_test_rules(files: &PolicyFiles) -> Result<Vec<CaseReport>, RegoError> {
    let all = PolicyFiles { policies: [&files.policies[..], &files.tests].concat(), ..files.clone() };
    let ran = on_large_stack(move || {
        let mut engine = engine(&all)?;
        let policy = compile(&mut engine)?;
        let tests = policy.get_rules().keys().map(ToString::to_string);
        let tests = tests.filter(|path| path.rsplit('.').next().is_some_and(|name| name.starts_with("test_")));
        Ok(tests.map(|path| CaseReport { failure: test_rule(&engine, &path).err(), name: path }).collect())
    })?;
    ran.join().unwrap_or_else(|_| Err(RegoError::Rules("the evaluation of the tests panicked".to_owned())))
}

fn test_rule(engine: &regorus::Engine, path: &str) -> Result<(), String> {
    let now = Input::sample(Hook::CanIssueCertificate).time_ns;
    let mut engine = prepared(engine, LIMIT, now).map_err(|error| error.reason)?;
    match ask(&mut engine, path).map_err(|error| error.reason)? {
        Some(Json::Bool(true)) => Ok(()),
        Some(other) => Err(printable(&format!("is {other}"), FOREIGN_TEXT_LIMIT)),
        None => Err("does not hold".to_owned()),
    }
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Json, patch: &Json) {
    let Json::Object(patch) = patch else {
        if !patch.is_null() {
            target.clone_from(patch);
        }
        return;
    };
    if !target.is_object() {
        *target = Json::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Json::Null), value);
        }
    }
}

/// The longest time for one test.
const LIMIT: Duration = Duration::from_secs(5);

const CASES_LIMIT: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_takes_away_what_is_null() {
        let mut document = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge(&mut document, &json!({ "a": { "b": null, "e": { "f": 3 } }, "d": [] }));
        assert_eq!(document, json!({ "a": { "c": 2, "e": { "f": 3 } }, "d": [] }));
    }

    #[test]
    fn a_case_with_a_field_that_the_document_does_not_have_is_told_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cases.yaml");
        let text = "- name: typo\n  hook: can_issue_certificate\n  input: {identity: {worker: x}}\n  expected: {allow: true}\n";
        std::fs::write(&path, text).unwrap();
        let error = Cases::read(&path).unwrap_err().to_string();
        assert!(error.contains("case `typo`: unknown field `worker`"), "{error}");
    }
}
