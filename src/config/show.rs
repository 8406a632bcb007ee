//! Owns how a resolved configuration is shown: as TOML that can be read back, and as JSON. Secrets are files, and only
//! their paths are settings, so that there is nothing to hide.

use serde_json::{Map, json};
use toml::Value;

use super::draft::Draft;
use super::place::{CERTIFICATE, Place};
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
            text.push_str(&self.line(setting, &self.draft, Place::default()));
        }
        self.repeated(&mut text, "", &self.draft, 0);
        for (number, draft) in &self.certificates {
            text.extend(["\n[[", CERTIFICATE, "]]\n"]);
            for setting in SETTINGS.iter().filter(|setting| !REPEATED.contains(&setting.table_and_name().0)) {
                let place = Place { certificate: *number, table: 0 };
                if self.origins.contains_key(&setting.key_at(place)) {
                    let name = if setting.table_and_name().0 == CERTIFICATE { "" } else { setting.table_and_name().0 };
                    text.extend([name, if name.is_empty() { "" } else { "." }]);
                    text.push_str(&self.line(setting, draft, place));
                }
            }
            self.repeated(&mut text, "certificate.", draft, *number);
        }
        text
    }

    /// The tables that may come several times; of a further certificate, those of its own.
    fn repeated(&self, text: &mut String, prefix: &str, draft: &Draft, certificate: usize) {
        for table in REPEATED {
            for number in draft.numbers(table) {
                let place = Place { certificate, table: number };
                let draft = Draft { number, ..draft.clone() };
                let rows: Vec<_> = SETTINGS.iter().filter(|setting| setting.table_and_name().0 == table).collect();
                if certificate > 0 && !rows.iter().any(|row| self.origins.contains_key(&row.key_at(place))) {
                    continue;
                }
                text.extend(["\n[[", prefix, table, "]]\n"]);
                text.extend(rows.into_iter().map(|row| self.line(row, &draft, place)));
            }
        }
    }

    fn line(&self, setting: &Setting, draft: &Draft, place: Place) -> String {
        let name = setting.table_and_name().1;
        match (setting.show)(draft) {
            Some(value) => format!("{name} = {value} # {}\n", self.origin(setting, place)),
            None => format!("# {name} is not set\n"),
        }
    }

    /// The configuration as a JSON object: `valid`, `file`, `settings` with `value` and `source` by key, `warnings`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut settings = Map::new();
        let drafts =
            [(0, &self.draft)].into_iter().chain(self.certificates.iter().map(|(number, draft)| (*number, draft)));
        for (certificate, draft) in drafts {
            for setting in &SETTINGS {
                for table in draft.numbers(setting.table_and_name().0) {
                    let place = Place { certificate, table };
                    let key = setting.key_at(place);
                    // Of a further certificate, what is its own.
                    let shown = if certificate == 0 {
                        setting.table_and_name().0 != CERTIFICATE
                    } else {
                        self.origins.contains_key(&key)
                    };
                    if shown {
                        let value: Option<Value> = (setting.show)(&Draft { number: table, ..draft.clone() });
                        settings.insert(key, json!({ "value": value, "source": self.origin(setting, place) }));
                    }
                }
            }
        }
        json!({ "valid": true, "file": self.file, "settings": settings, "warnings": self.warnings })
    }

    fn origin(&self, setting: &Setting, place: Place) -> String {
        printable(&self.origins.get(&setting.key_at(place)).unwrap_or(&Origin::Default).to_string(), 200)
    }
}

impl ConfigReport {
    /// The report as a JSON object: `valid`, `problems`, `left_out`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "valid": false, "problems": self.problems, "left_out": self.left_out })
    }
}
