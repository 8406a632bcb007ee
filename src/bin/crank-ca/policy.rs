//! Owns `crank-ca policy`: the rules of a directory, tried without a CA.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use crank_agent::bounded::read_file;
use crank_agent::policy::rego::{CaseReport, Cases, PolicyFiles, RuleSet, run_test_rules};
use crank_agent::policy::{Hook, Input};
use crank_agent::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};

use super::failure::{CONFIGURATION, Failure, INTERNAL};
use super::say;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Compile the rules of a directory and run their tests: `*_test.rego`, and cases from files
    Test {
        #[command(flatten)]
        rules: Rules,
        /// A file of cases (YAML or JSON); may be repeated
        #[arg(long, value_name = "FILE")]
        cases: Vec<PathBuf>,
    },
    /// Ask the rules one question and print their answer
    Eval {
        #[command(flatten)]
        rules: Rules,
        /// The question, a whole document as `sample` prints one (JSON)
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
    },
    /// Print a question as the CA asks it
    Sample {
        #[arg(help = format!("One of {}", Hook::ALL.map(Hook::name).join(", ")), value_parser = hook)]
        hook: Hook,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// The directory of the rules, as `policy.directory` of the settings
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(policy: Policy) -> Result<(), Failure> {
    match policy {
        Policy::Test { rules, cases } => test(&rules.directory, &cases),
        Policy::Eval { rules, input } => evaluate(&rules.directory, &input),
        Policy::Sample { hook } => say(&format!("{}\n", pretty(&Input::sample(hook))?)),
    }
}

fn test(directory: &Path, cases: &[PathBuf]) -> Result<(), Failure> {
    let files = PolicyFiles::read(directory).map_err(|error| fault(&error))?;
    let rules = Arc::new(RuleSet::compile(files.clone()).map_err(|error| fault(&error))?);
    let mut reports = run_test_rules(&files).map_err(|error| fault(&error))?;
    for path in cases {
        reports.extend(Cases::read(path).map_err(|error| fault(&error))?.run(&rules));
    }
    let lines = reports.iter().map(|CaseReport { name, failure }| match failure {
        None => format!("pass  {name}\n"),
        Some(failure) => format!("FAIL  {name}: {failure}\n"),
    });
    say(&lines.collect::<Vec<_>>().concat())?;
    let failed = reports.iter().filter(|report| report.failure.is_some()).count();
    match (reports.len(), failed) {
        (0, _) => {
            Err(Failure { code: TEST_FAILED, message: "there are no tests: give *_test.rego or --cases".to_owned() })
        }
        (all, 0) => say(&format!("{all} passed; rules {}\n", rules.revision())),
        (all, failed) => Err(Failure { code: TEST_FAILED, message: format!("{failed} of {all} tests failed") }),
    }
}

fn evaluate(directory: &Path, input: &Path) -> Result<(), Failure> {
    let rules = Arc::new(RuleSet::load(directory).map_err(|error| fault(&error))?);
    let text = read_file(input, INPUT_LIMIT).map_err(|error| fault(&error))?;
    let input: Input = serde_json::from_slice(&text).map_err(|error| Failure {
        code: CONFIGURATION,
        message: format!("{}: {}", input.display(), printable(&error.to_string(), FOREIGN_TEXT_LIMIT)),
    })?;
    let hook = input.hook;
    match rules.answer(input, LIMIT).map_err(|error| fault(&error))? {
        Some(answer) => say(&format!("{}\n", pretty(&answer)?)),
        None => say(&format!("no rule answers {hook}: denied\n")),
    }
}

fn hook(name: &str) -> Result<Hook, String> {
    let known = || Hook::ALL.map(Hook::name).join(", ");
    Hook::ALL.into_iter().find(|hook| hook.name() == name).ok_or_else(|| format!("expected one of {}", known()))
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::new(INTERNAL, &error))
}

fn fault(error: &dyn std::error::Error) -> Failure {
    Failure { code: CONFIGURATION, message: error_chain(error) }
}

/// As other test runners have it.
const TEST_FAILED: u8 = 1;

/// For one question; the CA itself gives less.
const LIMIT: Duration = Duration::from_secs(5);

const INPUT_LIMIT: u64 = 1024 * 1024;
