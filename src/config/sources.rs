//! Owns where settings come from: [`Arguments`] holds flags, environment and the path of the file, and lays them out in
//! the order in which later wins.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use super::facts::Facts;
use super::file;
use super::place::{Place, find_placed, find_placed_variable};
use super::report::{NAME_LIMIT, Origin, Problem};
use super::setting::{ENVIRONMENT_PREFIX, Read, Setting, find, similar_key};
use super::table::SETTINGS;
use crate::printable::printable;

/// Everything that a configuration is made from except the content of the file: a snapshot, taken once at start. A
/// reload resolves the same arguments again, and so follows the file only.
#[derive(Clone)]
pub struct Arguments {
    pub(super) facts: Facts,
    environment: BTreeMap<OsString, OsString>,
    defaults: Vec<(&'static str, String)>,
    flags: Vec<Flag>,
    file: PathBuf,
    file_origin: Origin,
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flag {
    name: String,
    key: String,
    value: String,
}

/// One value from one source.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) place: Place,
    pub(super) origin: Origin,
    /// The value, or what was expected where it cannot even be passed on.
    pub(super) input: Result<Input, String>,
    /// The value for the report.
    pub(super) shown: Option<String>,
}

/// A value in the form of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    List(Vec<String>),
}

/// All values, lowest source first, and what was wrong or odd on the way.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) given: Vec<Given>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// The file is there, or should be, and cannot be used: what it would have set is not known.
    pub(super) file_unusable: bool,
}

impl Arguments {
    /// Arguments of these environment variables, on a machine of these facts. Keeps only variables that concern this
    /// program.
    #[must_use]
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>, facts: Facts) -> Self {
        let ours = |name: &OsStr| {
            let prefixed = name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX);
            prefixed || SETTINGS.iter().any(|setting| setting.aliases.iter().any(|alias| name == *alias))
        };
        let environment: BTreeMap<_, _> = environment.into_iter().filter(|(name, _)| ours(name)).collect();
        let (file, file_origin) = match environment.get(OsStr::new(FILE_VARIABLE)) {
            Some(path) => (PathBuf::from(path), Origin::Environment(FILE_VARIABLE.to_owned())),
            None => (PathBuf::from(DEFAULT_FILE), Origin::Default),
        };
        Self { facts, environment, defaults: Vec::new(), flags: Vec::new(), file, file_origin }
    }

    /// The arguments of this process, without flags.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os(), Facts::read())
    }

    /// No arguments at all, on this machine.
    #[must_use]
    pub fn without_environment() -> Self {
        Self::new([], Facts::read())
    }

    /// The same with this configuration file, which must exist.
    #[must_use]
    pub fn with_file(mut self, path: PathBuf) -> Self {
        self.file = path;
        self.file_origin = Origin::Flag("--config".to_owned());
        self
    }

    /// The same with one more value from the command line, which wins over those before it. `flag` is what the user
    /// wrote, as `--set` or `--worker-id`.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags.push(Flag { name: flag.to_owned(), key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// The same with another default for `key`, which every source wins over. A key that does not exist is ignored.
    #[must_use]
    pub fn with_default(mut self, key: &'static str, value: &str) -> Self {
        self.defaults.push((key, value.to_owned()));
        self
    }

    /// The same with this configuration file, unless another was named.
    #[must_use]
    pub fn with_default_file(self, path: PathBuf) -> Self {
        if self.file_origin == Origin::Default { self.with_file(path) } else { self }
    }

    /// The path of the configuration file, for watching. There may be none at it.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.file
    }

    /// Reads the file and lays all values out, lowest source first.
    pub(super) fn collect(&self) -> Collected {
        let mut collected = Collected::default();
        let defaults = self.defaults.iter().filter_map(|(key, value)| Some((find(key)?, value)));
        collected
            .given
            .extend(defaults.map(|(setting, value)| from_text(setting, Place::default(), Origin::Default, value)));
        file::read(&self.file, &self.file_origin, &mut collected);
        self.collect_environment(&mut collected);
        self.collect_flags(&mut collected);
        collected
    }

    fn collect_environment(&self, collected: &mut Collected) {
        for setting in SETTINGS.iter().filter(|setting| !setting.is_repeated()) {
            let own = setting.environment_name();
            for name in setting.aliases.iter().copied().chain([own.as_str()]) {
                if let Some(value) = self.environment.get(OsStr::new(name)) {
                    collected.given.push(from_variable(setting, Place::default(), name, value));
                }
            }
        }
        for (name, value) in &self.environment {
            let name = name.to_string_lossy();
            if let Some((setting, place)) = find_placed_variable(&name) {
                collected.given.push(from_variable(setting, place, &name, value));
            }
        }
        self.warn_of_unknown_variables(collected);
    }

    /// Names beginning with `CRANK_` that are no setting are worth a word, but no failure: orchestrators make
    /// variables of service names.
    fn warn_of_unknown_variables(&self, collected: &mut Collected) {
        let known: Vec<String> =
            SETTINGS.iter().filter(|setting| !setting.is_repeated()).map(Setting::environment_name).collect();
        let unknown = self.environment.keys().map(|name| name.to_string_lossy()).filter(|name| {
            let prefixed = name.starts_with(ENVIRONMENT_PREFIX) && name != FILE_VARIABLE;
            let known = known.iter().any(|known| known == name) || find_placed_variable(name).is_some();
            prefixed && !known && !is_service_link(name)
        });
        for name in unknown.take(WARNING_LIMIT) {
            let key = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
            let meant = similar_key(&key).and_then(find).map(Setting::environment_name);
            let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            let name = printable(&name, NAME_LIMIT);
            collected.warnings.push(format!("environment variable {name} is no setting and is ignored{hint}"));
        }
    }

    fn collect_flags(&self, collected: &mut Collected) {
        for flag in &self.flags {
            let origin = Origin::Flag(match flag.name.as_str() {
                "--set" => format!("--set {}", flag.key),
                name => name.to_owned(),
            });
            match find_placed(&flag.key) {
                Some((setting, place)) => collected.given.push(from_text(setting, place, origin, &flag.value)),
                None => collected.problems.push(unknown_key(&flag.key, origin)),
            }
        }
    }
}

/// Shows no values: a variable of another product may hold a secret.
impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.keys().collect();
        let flags: Vec<_> = self.flags.iter().map(|flag| (&flag.name, &flag.key)).collect();
        let mut shown = f.debug_struct("Arguments");
        shown.field("file", &self.file).field("environment", &names).field("flags", &flags).finish_non_exhaustive()
    }
}

/// The configuration file where none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/crank-agent/config.toml";

/// The environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "CRANK_CONFIG";

fn from_variable(setting: &'static Setting, place: Place, name: &str, value: &OsStr) -> Given {
    let origin = Origin::Environment(name.to_owned());
    match value.to_str() {
        Some(text) => from_text(setting, place, origin, text),
        None => Given {
            setting,
            place,
            origin,
            input: Err("UTF-8 text".to_owned()),
            shown: Some(shown_text(setting, &value.to_string_lossy())),
        },
    }
}

/// A value as environment and flags have it. An empty one is refused: it is mostly a variable that was not filled in.
fn from_text(setting: &'static Setting, place: Place, origin: Origin, text: &str) -> Given {
    let shown = Some(shown_text(setting, text));
    let input = match () {
        () if text.is_empty() => Err("a value, or none at all (this one is empty)".to_owned()),
        () if text.len() > VALUE_LIMIT => Err(format!("at most {VALUE_LIMIT} bytes")),
        () if matches!(setting.read, Read::Texts(_) | Read::Numbers(_)) => {
            Ok(Input::List(text.split(',').map(|element| element.trim().to_owned()).collect()))
        }
        () => Ok(Input::Text(text.to_owned())),
    };
    Given { setting, place, origin, input, shown }
}

/// The problem of a key that does not exist. Its value is not shown: a misplaced secret is a likely one.
pub(super) fn unknown_key(key: &str, origin: Origin) -> Problem {
    let key = printable(key, NAME_LIMIT);
    let (expected, advice) = match similar_key(&key) {
        Some(meant) => (format!("a known key; did you mean `{meant}`?"), origin.advice(meant)),
        None => ("a known key (all are listed in the documentation)".to_owned(), format!("remove it from {origin}")),
    };
    Problem { key: Some(key), source: Some(origin), value: None, expected, advice }
}

/// A value for the report: quoted, on one line, shortened. What may be a secret that got into the wrong place is hidden.
pub(super) fn shown_text(setting: &Setting, text: &str) -> String {
    if setting.key == "ca.token_file" && !text.starts_with('/') && !text.is_empty() {
        return "(hidden; it may be a token instead of a path)".to_owned();
    }
    if setting.key == "ca.url" && text.contains('@') {
        return "(hidden; it may hold a password)".to_owned();
    }
    format!("\"{}\"", printable(text, SHOWN_LIMIT))
}

/// Whether a variable is one of those that Docker links and Kubernetes make for each service:
/// `CRANK_CA_SERVICE_HOST`, `CRANK_CA_PORT_9090_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    name.ends_with("_SERVICE_HOST")
        || name.split_once("_SERVICE_PORT").is_some_and(|(_, rest)| port(rest))
        || name.split_once("_PORT").is_some_and(|(_, rest)| rest.is_empty() || is_link_port(rest))
}

/// `_9090_TCP`, `_9090_TCP_ADDR` and the like.
fn is_link_port(rest: &str) -> bool {
    let digits = rest.trim_start_matches('_').split('_').next().unwrap_or("");
    rest.starts_with('_') && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The longest value of one setting, in bytes.
pub(super) const VALUE_LIMIT: usize = 16 * 1024;

/// The most characters of a value that a report shows.
pub(super) const SHOWN_LIMIT: usize = 80;

/// The most warnings about variables.
const WARNING_LIMIT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_recognised() {
        for name in [
            "CRANK_AGENT_PORT",
            "CRANK_CA_SERVICE_HOST",
            "CRANK_CA_SERVICE_PORT",
            "CRANK_CA_SERVICE_PORT_HTTPS",
            "CRANK_CA_PORT_9090_TCP",
            "CRANK_CA_PORT_9090_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["CRANK_WORKR_ID", "CRANK_PORTAL", "CRANK_CA_PORT_", "CRANK_CA_PORT_NAME", "CRANK_SERVICE_PORTS"] {
            assert!(!is_service_link(name), "{name}");
        }
    }

    #[test]
    fn nothing_of_the_environment_shows_in_debug() {
        let environment = [("CRANK_SECRET", "hunter2"), ("OTHER", "hunter3")];
        let environment = environment.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let arguments = Arguments::new(environment, Facts::read()).with_flag("--set", "a", "hunter4");
        let text = format!("{arguments:?}");
        assert!(text.contains("CRANK_SECRET") && !text.contains("hunter") && !text.contains("OTHER"), "{text}");
    }
}
