//! Owns the way from sources to a [`Config`]: later wins, every value is read, what must fit together is checked, and
//! every problem is reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::draft::Draft;
use super::facts::Facts;
use super::parse;
use super::place::{CERTIFICATE, Reach, find_placed};
use super::report::{ConfigReport, Origin, Problem};
use super::setting::{Fallback, REPEATED, Read, Setting};
use super::sources::{Arguments, Collected, Given, Input};
use super::table::SETTINGS;
use super::together::problems_together;
use super::{Config, FurtherCertificate};
use crate::unix_socket::PATH_LIMIT;

/// A configuration, and where it comes from.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The configuration.
    pub config: Config,
    /// What is odd without being wrong, a printable line each.
    pub warnings: Vec<String>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    pub(super) draft: Draft,
    pub(super) certificates: BTreeMap<usize, Draft>,
    pub(super) origins: Origins,
}

/// The source of each value that is in force, by key.
pub(super) type Origins = BTreeMap<String, Origin>;

/// Makes a configuration, reading the file anew.
///
/// # Errors
/// A report of all problems.
pub fn load(arguments: &Arguments) -> Result<Config, ConfigReport> {
    resolve(arguments).map(|resolution| resolution.config)
}

/// Like [`load`], with warnings and the source of each value.
///
/// # Errors
/// A report of all problems.
pub fn resolve(arguments: &Arguments) -> Result<Resolution, ConfigReport> {
    let reading = Reading::of(arguments);
    let mut problems = reading.problems.clone();
    problems.extend(problems_together(&reading.draft, &reading.certificates, &reading.origins));
    let first = reading.draft.clone().assemble();
    let assembled = first.and_then(|first| Ok(Config { certificates: reading.further_certificates()?, ..first }));
    if let Err(key) = &assembled
        && !reading.file_unusable
        && !problems.iter().any(|problem| problem.key.as_ref() == Some(key))
    {
        problems.push(missing(key));
    }
    match assembled {
        Ok(config) if problems.is_empty() => {
            let Reading { draft, certificates, origins, warnings, file, .. } = reading;
            Ok(Resolution { config, warnings, file, draft, certificates, origins })
        }
        _ => Err(ConfigReport::new(in_order(problems))),
    }
}

/// The path of the control socket alone; whatever else is wrong does not matter to the commands that only need it.
///
/// # Errors
/// A report of what is wrong with the settings that decide it.
pub fn control_socket(arguments: &Arguments) -> Result<PathBuf, ConfigReport> {
    const KEYS: [&str; 2] = ["control.socket", "files.directory"];
    let reading = Reading::of(arguments);
    let mut problems = reading.problems;
    problems.retain(|problem| problem.key.as_deref().is_none_or(|key| KEYS.contains(&key)));
    match reading.draft.control_socket {
        Some(socket) if problems.is_empty() => Ok(socket),
        _ if problems.is_empty() => Err(ConfigReport::new(vec![missing("files.directory")])),
        _ => Err(ConfigReport::new(problems)),
    }
}

/// All values, read one by one.
struct Reading {
    /// Of the agent and its first certificate.
    draft: Draft,
    /// Of the further ones, by their numbers.
    certificates: BTreeMap<usize, Draft>,
    origins: Origins,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    file: Option<PathBuf>,
    file_unusable: bool,
}

impl Reading {
    fn of(arguments: &Arguments) -> Self {
        let Collected { given, problems, warnings, file, file_unusable } = arguments.collect();
        let (draft, certificates, origins) = (Draft::default(), BTreeMap::new(), Origins::new());
        let mut reading = Self { draft, certificates, origins, problems, warnings, file, file_unusable };
        let facts = &arguments.facts;
        let first: Vec<&Given> = given.iter().filter(|given| given.place.certificate == 0).collect();
        let mut draft = reading.settings(&first, facts);
        reading.compute_defaults(&mut draft, &first, facts);
        reading.draft = draft;
        let further: BTreeSet<usize> = given.iter().map(|given| given.place.certificate).collect();
        for number in further.into_iter().filter(|number| *number > 0) {
            let own: Vec<&Given> = given.iter().filter(|given| given.place.certificate == number).collect();
            let has = |whole: &str| own.iter().any(|given| given.setting.key.starts_with(whole));
            let wholes: Vec<&str> = WHOLES.into_iter().filter(|whole| has(whole)).collect();
            let inherited = first.iter().filter(|given| {
                let own = wholes.iter().any(|whole| given.setting.key.starts_with(whole));
                given.setting.reach() != Reach::Own && !own
            });
            let all: Vec<&Given> = inherited.chain(&own).copied().collect();
            let mut draft = reading.settings(&all, facts);
            default_key_mode(&mut draft, &all);
            draft.control_socket.clone_from(&reading.draft.control_socket);
            reading.certificates.insert(number, draft);
        }
        reading
    }

    /// Reads every setting of one certificate.
    fn settings(&mut self, given: &[&Given], facts: &Facts) -> Draft {
        let mut draft = Draft::default();
        for setting in &SETTINGS {
            for number in numbers(setting, given) {
                let of_it = |given: &&Given| given.setting.key == setting.key && given.place.table == number;
                self.setting(&mut draft, (setting, number), given.iter().copied().filter(of_it), facts);
            }
        }
        draft
    }

    /// Reads a setting: the last value is in force. Those before it are read to tell that they are wrong: a warning,
    /// except for the switches, which no source may set to anything but true.
    fn setting<'a>(
        &mut self,
        draft: &mut Draft,
        (setting, number): (&'static Setting, usize),
        given: impl Iterator<Item = &'a Given>,
        facts: &Facts,
    ) {
        let mut given = given.peekable();
        draft.number = number;
        if given.peek().is_none() {
            if let Fallback::Text(text) = setting.default {
                let elements = text.split(',').filter(|element| !element.is_empty()).map(str::to_owned);
                let input = match setting.read {
                    Read::Texts(_) | Read::Numbers(_) => Input::List(elements.collect()),
                    _ => Input::Text(text.to_owned()),
                };
                // A test reads every default.
                let _ = apply(setting, draft, &input, facts);
            }
            return;
        }
        while let Some(one) = given.next() {
            let winner = given.peek().is_none();
            let mut aside = Draft { number, ..Draft::default() };
            let draft = if winner { &mut *draft } else { &mut aside };
            let result = one.input.clone().and_then(|input| apply(setting, draft, &input, facts));
            let key = setting.key_at(one.place);
            if winner {
                self.origins.insert(key.clone(), one.origin.clone());
            }
            let Err(expected) = result else { continue };
            if winner || setting.is_switch() {
                let problem = problem(&key, &one.origin, one.shown.clone(), expected);
                // What a further certificate has of the first is told once.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            } else {
                let value = one.shown.as_deref().unwrap_or("its value");
                let origin = &one.origin;
                let warning = format!("{origin}: {key} = {value} is overridden, but wrong: expected {expected}");
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
    }

    /// Defaults that follow from other values or from the machine.
    fn compute_defaults(&mut self, draft: &mut Draft, given: &[&Given], facts: &Facts) {
        if !is_given(given, "files.directory") {
            draft.directory = facts.default_directory();
        }
        default_key_mode(draft, given);
        if let (false, Some(directory)) = (is_given(given, "control.socket"), &draft.directory) {
            let socket = directory.join(SOCKET_NAME);
            let length = socket.as_os_str().len();
            if length > PATH_LIMIT {
                self.problems.push(Problem {
                    key: Some("control.socket".to_owned()),
                    source: Some(Origin::Default),
                    value: Some("`.crank-agent.sock` in files.directory".to_owned()),
                    expected: parse::socket_path_too_long(length),
                    advice: "set `control.socket` to a shorter path, or use a shorter certificate directory".to_owned(),
                });
            } else {
                draft.control_socket = Some(socket);
            }
        }
    }

    /// The further certificates, or the key of the first value that is missing.
    fn further_certificates(&self) -> Result<Vec<FurtherCertificate>, String> {
        let one = |(number, draft): (&usize, &Draft)| {
            let key = |key: &str| format!("{CERTIFICATE}.{number}.{key}");
            let name = draft.certificate_name.clone().ok_or_else(|| key("name"))?;
            let config = draft.clone().assemble().map_err(|missing| key(&missing))?;
            Ok(FurtherCertificate { name, config: Config { server: None, workload_api: None, ..config } })
        };
        self.certificates.iter().map(one).collect()
    }
}

fn default_key_mode(draft: &mut Draft, given: &[&Given]) {
    if !is_given(given, "files.key_mode") {
        draft.key_mode = Some(if draft.group.is_some() { 0o640 } else { 0o600 });
    }
}

fn is_given(given: &[&Given], key: &str) -> bool {
    given.iter().any(|given| given.setting.key == key)
}

/// The numbers of the tables of this setting that anything is said of; 0 for one that is not repeated.
fn numbers(setting: &Setting, given: &[&Given]) -> BTreeSet<usize> {
    let table = setting.table_and_name().0;
    if !REPEATED.contains(&table) {
        return BTreeSet::from([0]);
    }
    let same_table = |given: &&&Given| given.setting.table_and_name().0 == table;
    given.iter().filter(same_table).map(|given| given.place.table).collect()
}

fn apply(setting: &Setting, draft: &mut Draft, input: &Input, facts: &Facts) -> Result<(), String> {
    match (setting.read, input) {
        (
            Read::Text(read) | Read::Switch(read) | Read::Boolean(read) | Read::Account(read) | Read::Number(read),
            Input::Text(text),
        ) => read(draft, text, facts),
        (Read::Texts(read) | Read::Numbers(read), Input::List(elements)) => {
            if elements.len() > ELEMENT_LIMIT {
                return Err(format!("at most {ELEMENT_LIMIT} elements"));
            }
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            read(draft, &elements)
        }
        (_, Input::List(_)) => Err("one value".to_owned()),
        (_, Input::Text(_)) => Err("a list".to_owned()),
    }
}

fn problem(key: &str, origin: &Origin, value: Option<String>, expected: String) -> Problem {
    Problem { key: Some(key.to_owned()), source: Some(origin.clone()), value, expected, advice: origin.advice(key) }
}

/// The problem of a setting that nobody set and that has no default.
fn missing(key: &str) -> Problem {
    let (expected, advice) = match key {
        "worker_id" => (
            "the worker's name: lower-case letters, digits, `-` and `.`, at most 64 characters",
            "set SERVICE_NAME in the environment, `worker_id` in the file, or --worker-id".to_owned(),
        ),
        "files.directory" => (
            "a directory for the certificate files; there is neither a writable /etc/certs nor a home directory",
            "set CERT_DIR in the environment, `files.directory` in the file, or --cert-dir".to_owned(),
        ),
        "ca.socket" => (
            "the socket of the Workload API, as `unix:///run/spire/sockets/agent.sock`",
            "set SPIFFE_ENDPOINT_SOCKET in the environment, or `ca.socket` in the file".to_owned(),
        ),
        key => ("a value", Origin::Default.advice(key)),
    };
    Problem { key: Some(key.to_owned()), source: None, value: None, expected: expected.to_owned(), advice }
}

fn of_setting(setting: &Setting, key: &str) -> bool {
    setting.key == key || find_placed(key).is_some_and(|(found, _)| found.key == setting.key)
}

/// Problems in the order of the documentation; files first, unknown keys after them.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    let place = |problem: &Problem| match problem.key.as_deref() {
        None => 0,
        Some(key) => SETTINGS.iter().position(|setting| of_setting(setting, key)).map_or(1, |position| position + 2),
    };
    problems.sort_by_key(place);
    problems
}

/// Of settings that begin so, a further certificate that has one of its own has none of the first.
const WHOLES: [&str; 2] = ["federate.", "ca.root_"];

const SOCKET_NAME: &str = ".crank-agent.sock";

/// The most elements of a list: more names than that no CA takes.
const ELEMENT_LIMIT: usize = 100;
