//! Owns a compiled set of rules, and one evaluation of it.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{CompiledPolicy, Engine, Value};
use serde_json::Value as Json;

use super::check::check;
use super::directory::{PolicyFiles, SourceFile};
use super::message::one_line;
use super::{RegoError, on_large_stack};
use crate::policy::PolicyError;
use crate::policy::input::{Hook, Input};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// A whole set, compiled and checked. It does not change; a clone of its engine serves each evaluation, which shares
/// what is compiled.
pub struct RuleSet {
    engine: Engine,
    revision: String,
}

impl RuleSet {
    /// Reads and compiles the set under `directory`. Blocks.
    ///
    /// # Errors
    /// When a file or the set is not fit; the text says which file, and which line where that is known.
    pub fn load(directory: &Path) -> Result<Self, RegoError> {
        Self::compile(PolicyFiles::read(directory)?)
    }

    /// Compiles `files`. Blocks.
    ///
    /// # Errors
    /// When the set is not fit.
    pub fn compile(files: PolicyFiles) -> Result<Self, RegoError> {
        let compiled = on_large_stack(move || Self::compile_here(&files))?.join();
        compiled.unwrap_or_else(|_| Err(RegoError::Rules("the compiler of the rules panicked".to_owned())))
    }

    fn compile_here(files: &PolicyFiles) -> Result<Self, RegoError> {
        let mut engine = engine(files)?;
        let policy = compile(&mut engine)?;
        check(&policy)?;
        Ok(Self { engine, revision: files.digest() })
    }

    /// The digest of its files: `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What the rule of the input's hook says; `None` where it says nothing. Blocks, for not much longer than `limit`.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn answer(self: &Arc<Self>, input: Input, limit: Duration) -> Result<Option<Json>, PolicyError> {
        let set = Arc::clone(self);
        let evaluated = on_large_stack(move || set.evaluate(&input, limit));
        let evaluated = evaluated.map_err(|error| PolicyError::new(&error.to_string()))?.join();
        evaluated.unwrap_or_else(|_| Err(PolicyError::new("the evaluation of the rules panicked")))
    }

    /// The same in place. It uses much of the stack.
    pub(super) fn evaluate(&self, input: &Input, limit: Duration) -> Result<Option<Json>, PolicyError> {
        let mut engine = prepared(&self.engine, limit, input.time_ns)?;
        let document = serde_json::to_value(input).map_err(|error| PolicyError::new(&error.to_string()))?;
        engine.set_input(document.into());
        ask(&mut engine, input.hook.query())
    }
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleSet").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The policies and data of `files`, parsed.
pub(super) fn engine(files: &PolicyFiles) -> Result<Engine, RegoError> {
    let mut engine = Engine::new();
    // What rules print goes nowhere.
    engine.set_gather_prints(true);
    // An error in a function is an error of the policy, not a rule that does not apply.
    engine.set_strict_builtin_errors(true);
    for SourceFile { name, text } in &files.policies {
        engine.add_policy(name.clone(), text.clone()).map_err(|error| rules(&error))?;
    }
    for file in &files.data {
        engine.add_data(data(file)?.into()).map_err(|error| fail(file, &one_line(&error.to_string())))?;
    }
    Ok(engine)
}

/// Compiles what has been added; the clones share it.
pub(super) fn compile(engine: &mut Engine) -> Result<CompiledPolicy, RegoError> {
    let entry = Hook::CanIssueCertificate;
    engine.compile_with_entrypoint(&entry.query().into()).map_err(|error| match error.to_string().as_str() {
        "not a valid rule path" => RegoError::NoRule(entry),
        _ => rules(&error),
    })
}

/// A clone that evaluates no longer than `limit`, and for which it is `time_ns` now.
pub(super) fn prepared(engine: &Engine, limit: Duration, time_ns: i64) -> Result<Engine, PolicyError> {
    let mut engine = engine.clone();
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
    let now = move |_: Vec<Value>| Ok(Value::from(time_ns));
    let added = engine.add_extension("time.now_ns".to_owned(), 0, Box::new(now));
    added.map_err(|error| PolicyError::new(&error.to_string()))?;
    Ok(engine)
}

/// The value of a rule, as JSON.
pub(super) fn ask(engine: &mut Engine, rule: &str) -> Result<Option<Json>, PolicyError> {
    let value = engine.eval_rule(rule.to_owned()).map_err(|error| PolicyError::new(&one_line(&error.to_string())))?;
    if value == Value::Undefined {
        return Ok(None);
    }
    serde_json::to_value(&value).map(Some).map_err(|error| PolicyError::new(&error.to_string()))
}

/// One data file.
fn data(file: &SourceFile) -> Result<Json, RegoError> {
    let data: Json = if Path::new(&file.name).extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&file.text).map_err(|error| fail(file, &error.to_string()))?
    } else {
        serde_saphyr::from_str(&file.text).map_err(|error| fail(file, &error.to_string()))?
    };
    let Some(object) = data.as_object() else {
        return Err(fail(file, "expected an object, which is merged into data"));
    };
    // It would answer the hooks in place of the rules.
    if object.contains_key("crank") {
        return Err(fail(file, "has the key `crank`, which belongs to the hooks"));
    }
    Ok(data)
}

fn fail(file: &SourceFile, reason: &str) -> RegoError {
    RegoError::Data { name: file.name.clone(), reason: printable(reason.trim(), FOREIGN_TEXT_LIMIT) }
}

fn rules(error: &impl std::fmt::Display) -> RegoError {
    RegoError::Rules(one_line(&error.to_string()))
}

/// In steps of the interpreter: often enough for a millisecond, seldom enough not to matter.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
