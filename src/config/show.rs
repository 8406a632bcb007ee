//! Owns how a resolved configuration is shown: as TOML that can be read back, and as JSON. Secrets are files, and only
//! their paths are settings, so that there is nothing to hide.

use serde_json::{Map, json};
use toml::Value;

use super::draft::Draft;
use super::report::{ConfigReport, Origin};
use super::resolve::Resolution;
use super::setting::{REPEATED, Setting};
use super::table::SETTINGS;
use crate::printable::printable;

impl Resolution {
    /// The configuration as TOML with the source of each value as a comment. Reading it gives the same configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for setting in SETTINGS.iter().filter(|setting| !setting.is_repeated()) {
            let (table, _) = setting.table_and_name();
            if table != open {
                text.extend(["\n[", table, "]\n"]);
                open = table;
            }
            text.push_str(&self.line(setting, &self.draft, 0));
        }
        for (table, number) in
            REPEATED.iter().flat_map(|table| self.draft.numbers(table).into_iter().map(move |n| (*table, n)))
        {
            text.extend(["\n[[", table, "]]\n"]);
            let draft = Draft { number, ..self.draft.clone() };
            for setting in SETTINGS.iter().filter(|setting| setting.table_and_name().0 == table) {
                text.push_str(&self.line(setting, &draft, number));
            }
        }
        text
    }

    fn line(&self, setting: &Setting, draft: &Draft, number: usize) -> String {
        let name = setting.table_and_name().1;
        match (setting.show)(draft) {
            Some(value) => format!("{name} = {value} # {}\n", self.origin(setting, number)),
            None => format!("# {name} is not set\n"),
        }
    }

    /// The configuration as a JSON object: `valid`, `file`, `settings` with `value` and `source` by key, `warnings`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let numbers = |setting: &Setting| self.draft.numbers(setting.table_and_name().0);
        let settings: Map<_, _> = SETTINGS
            .iter()
            .flat_map(|setting| numbers(setting).into_iter().map(move |number| (setting, number)))
            .map(|(setting, number)| {
                let value: Option<Value> = (setting.show)(&Draft { number, ..self.draft.clone() });
                (setting.key_of(number), json!({ "value": value, "source": self.origin(setting, number) }))
            })
            .collect();
        json!({ "valid": true, "file": self.file, "settings": settings, "warnings": self.warnings })
    }

    fn origin(&self, setting: &Setting, number: usize) -> String {
        printable(&self.origins.get(&setting.key_of(number)).unwrap_or(&Origin::Default).to_string(), 200)
    }
}

impl ConfigReport {
    /// The report as a JSON object: `valid`, `problems`, `left_out`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "valid": false, "problems": self.problems, "left_out": self.left_out })
    }
}
