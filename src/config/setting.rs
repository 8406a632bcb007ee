//! Owns the form of one setting: its names, its default, how it is read and shown; and finding one by name.

use toml::Value;

use super::draft::Draft;
use super::facts::Facts;
use super::place::{CERTIFICATE, Place};
use super::table::SETTINGS;

/// One setting: a row of [`SETTINGS`].
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The key in the file, as `ca.url`: a table and a name, or a name alone. Tables of [`REPEATED`] come any number of
    /// times, and elsewhere than in the file are told apart by a number: `deliver.1.signal`.
    pub key: &'static str,
    /// Older environment names that serve too; the name made of the key wins over them.
    pub aliases: &'static [&'static str],
    /// The value when nobody sets it.
    pub default: Fallback,
    /// What it means, in Markdown, in one line.
    pub help: &'static str,
    pub(super) read: Read,
    pub(super) show: fn(&Draft) -> Option<Value>,
}

/// The value of a setting that nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This text, as the environment would have it.
    Text(&'static str),
    /// A value that follows from others; the text says how.
    Computed(&'static str),
    /// None: the setting is off.
    Unset,
    /// None: somebody has to set it.
    Required,
}

/// How a setting is read. Says what TOML types it takes; from environment and flags all is text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    /// A TOML string.
    Text(ReadOne),
    /// A TOML boolean. Of these, a value that a later source overrides must be valid, too.
    Switch(ReadOne),
    /// A TOML boolean.
    Boolean(ReadOne),
    /// A TOML string or integer.
    Account(ReadOne),
    /// A TOML integer.
    Number(ReadOne),
    /// A TOML array of strings; elsewhere separated by commas.
    Texts(ReadMany),
    /// A TOML array of numbers; elsewhere separated by commas.
    Numbers(ReadMany),
}

type ReadOne = fn(&mut Draft, &str, &Facts) -> Result<(), String>;
type ReadMany = fn(&mut Draft, &[&str]) -> Result<(), String>;

impl Setting {
    pub(super) const fn new(
        key: &'static str,
        default: Fallback,
        help: &'static str,
        read: Read,
        show: fn(&Draft) -> Option<Value>,
    ) -> Self {
        Self { key, aliases: &[], default, help, read, show }
    }

    pub(super) const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// The name in the environment: `ca.url` is `CRANK_CA_URL`. Of a repeated one, that of the first.
    #[must_use]
    pub fn environment_name(&self) -> String {
        let certificate = usize::from(self.table_and_name().0 == CERTIFICATE);
        let place = Place { certificate, table: usize::from(certificate == 0 && self.is_repeated()) };
        format!("{ENVIRONMENT_PREFIX}{}", self.key_at(place).replace('.', "_").to_ascii_uppercase())
    }

    /// Whether its table may come several times.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        let table = self.table_and_name().0;
        table == CERTIFICATE || REPEATED.contains(&table)
    }

    /// The TOML table, empty at the top level, and the name in it.
    #[must_use]
    pub fn table_and_name(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }

    /// Whether values that are overridden must be valid as well.
    pub(super) fn is_switch(&self) -> bool {
        matches!(self.read, Read::Switch(_))
    }
}

/// What the name of every setting begins with in the environment.
pub const ENVIRONMENT_PREFIX: &str = "CRANK_";

/// The tables of a certificate that may come several times, as `[[deliver]]`, in the order of the documentation.
pub const REPEATED: [&str; 3] = ["file", "federate", "deliver"];

/// The most tables of one name.
pub(super) const REPEATED_LIMIT: usize = 20;

/// The setting that has this key, without a number.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The key that someone who wrote `key` may have meant: the same name in another table, an environment name in lower
/// case, or one that differs in a few letters.
#[must_use]
pub fn similar_key(key: &str) -> Option<&'static str> {
    // A long text resembles no key, and comparing takes time in proportion.
    if key.len() > 60 {
        return None;
    }
    let name = key.rsplit('.').next().unwrap_or(key);
    let same_name = |setting: &&Setting| {
        let alias = |alias: &&str| alias.eq_ignore_ascii_case(name);
        setting.table_and_name().1 == name || setting.key.replace('.', "_") == name || setting.aliases.iter().any(alias)
    };
    if let Some(setting) = SETTINGS.iter().find(same_name) {
        return Some(setting.key);
    }
    let likeness = |setting: &Setting| {
        strsim::jaro_winkler(setting.key, key).max(strsim::jaro_winkler(setting.table_and_name().1, name))
    };
    let nearest = SETTINGS.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(nearest) > 0.85).then_some(nearest.key)
}

/// The settings as a Markdown table, for the documentation.
#[must_use]
pub fn settings_markdown() -> String {
    let mut text = String::from("| Key | Environment | Default | Meaning |\n| --- | --- | --- | --- |\n");
    for setting in &SETTINGS {
        let own = format!("`{}`", setting.environment_name());
        let names: Vec<String> = setting.aliases.iter().map(|name| format!("`{name}`")).chain([own]).collect();
        let default = match setting.default {
            Fallback::Text("") => "empty".to_owned(),
            Fallback::Text(text) => format!("`{text}`"),
            Fallback::Computed(text) => text.to_owned(),
            Fallback::Unset => "not set".to_owned(),
            Fallback::Required => "**required**".to_owned(),
        };
        let row = [format!("`{}`", setting.key), names.join(", "), default, setting.help.to_owned()];
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.extend(["| ", &cells.join(" | "), " |\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_key_or_an_environment_name() {
        let keys: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
        let own = SETTINGS.iter().map(Setting::environment_name);
        let aliases = SETTINGS.iter().flat_map(|setting| setting.aliases.iter().map(ToString::to_string));
        let names: Vec<String> = own.chain(aliases).collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn near_misses_are_recognised() {
        for (written, meant) in [
            ("workr_id", Some("worker_id")),
            ("service_name", Some("worker_id")),
            ("url", Some("ca.url")),
            ("ca_url", Some("ca.url")),
            ("cert_dir", Some("files.directory")),
            ("files.token_file", Some("ca.token_file")),
            ("ca.fingerprint", Some("ca.root_fingerprint")),
            ("schedule.check_intervall", Some("schedule.check_interval")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(similar_key(written), meant, "{written}");
        }
    }

    #[test]
    fn the_markdown_table_has_a_row_for_each_setting() {
        let table = settings_markdown();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(table.contains("| `ca.url` | `CA_SERVICE_URL`, `CRANK_CA_URL` | `https://cert-authority:9090` |"));
        assert!(table.lines().all(|line| line.matches(" | ").count() == 3), "{table}");
    }
}
