//! Owns how a resolved configuration is shown: as TOML that can be read back, and as JSON. Secrets are files, and only
//! their paths are settings, so that there is nothing to hide.

use serde_json::{Map, json};
use toml::Value;

use super::report::{ConfigReport, Origin};
use super::resolve::Resolution;
use super::setting::Setting;
use super::table::SETTINGS;
use crate::printable::printable;

impl Resolution {
    /// The configuration as TOML with the source of each value as a comment. Reading it gives the same configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for setting in &SETTINGS {
            let (table, name) = setting.table_and_name();
            if table != open {
                text.extend(["\n[", table, "]\n"]);
                open = table;
            }
            let line = match (setting.show)(&self.draft) {
                Some(value) => format!("{name} = {value} # {}\n", self.origin(setting)),
                None => format!("# {name} is not set\n"),
            };
            text.push_str(&line);
        }
        text
    }

    /// The configuration as a JSON object: `valid`, `file`, `settings` with `value` and `source` by key, `warnings`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let settings: Map<_, _> = SETTINGS
            .iter()
            .map(|setting| {
                let value: Option<Value> = (setting.show)(&self.draft);
                (setting.key.to_owned(), json!({ "value": value, "source": self.origin(setting) }))
            })
            .collect();
        json!({ "valid": true, "file": self.file, "settings": settings, "warnings": self.warnings })
    }

    fn origin(&self, setting: &Setting) -> String {
        printable(&self.origins.get(setting.key).unwrap_or(&Origin::Default).to_string(), 200)
    }
}

impl ConfigReport {
    /// The report as a JSON object: `valid`, `problems`, `left_out`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "valid": false, "problems": self.problems, "left_out": self.left_out })
    }
}
