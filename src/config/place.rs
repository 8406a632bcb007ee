//! Owns where a setting stands: in which of several tables, of which certificate; and how that is written.

use super::setting::{ENVIRONMENT_PREFIX, REPEATED, REPEATED_LIMIT, Setting, find};
use super::table::SETTINGS;

/// Of which certificate, and of which of its tables a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The further certificate, counted from 1; 0 for the one that every agent has.
    pub(super) certificate: usize,
    /// The table, counted from 1; 0 where there is but one of its name.
    pub(super) table: usize,
}

/// How far a setting reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The agent: no further certificate has one of its own.
    Agent,
    /// A certificate; those further have that of the first, unless they have one of their own.
    Inherited,
    /// One certificate.
    Own,
}

/// The table of a further certificate.
pub(super) const CERTIFICATE: &str = "certificate";

impl Setting {
    pub(super) fn reach(&self) -> Reach {
        match (self.table_and_name().0, self.key) {
            ("server" | "control" | "workload_api" | "log", _)
            | (_, "environment" | "https_only" | "require_mtls" | "verify_certificates") => Reach::Agent,
            (CERTIFICATE | "deliver" | "file", _)
            | (_, "files.directory" | "identity.names" | "identity.spiffe_id" | "identity.hint") => Reach::Own,
            _ => Reach::Inherited,
        }
    }

    /// The key with its place: `deliver.1.signal`, `certificate.2.files.directory`.
    pub(super) fn key_at(&self, place: Place) -> String {
        let (table, name) = self.table_and_name();
        let key = match place.table {
            _ if table == CERTIFICATE => name.to_owned(),
            0 => self.key.to_owned(),
            number => format!("{table}.{number}.{name}"),
        };
        match place.certificate {
            0 => key,
            certificate => format!("{CERTIFICATE}.{certificate}.{key}"),
        }
    }
}

/// The setting that has this key, and its place.
pub(super) fn find_placed(key: &str) -> Option<(&'static Setting, Place)> {
    match numbered(key, CERTIFICATE) {
        Some((certificate, "name")) => Some((find("certificate.name")?, Place { certificate, table: 0 })),
        Some((certificate, key)) => {
            let (setting, table) = find_numbered(key)?;
            (setting.reach() != Reach::Agent).then_some((setting, Place { certificate, table }))
        }
        None => find_numbered(key).map(|(setting, table)| (setting, Place { certificate: 0, table })),
    }
}

/// The setting with this name in the environment, where it has a number.
pub(super) fn find_placed_variable(name: &str) -> Option<(&'static Setting, Place)> {
    let name = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
    let certificate = name.strip_prefix(CERTIFICATE).and_then(|rest| rest.strip_prefix('_'));
    let Some((number, rest)) = certificate.and_then(|rest| rest.split_once('_')) else {
        return repeated_variable(&name).and_then(|key| find_placed(&key));
    };
    let key = match repeated_variable(rest) {
        Some(key) => key,
        None if rest == "name" => rest.to_owned(),
        None => SETTINGS.iter().find(|setting| setting.key.replace('.', "_") == rest)?.key.to_owned(),
    };
    find_placed(&format!("{CERTIFICATE}.{number}.{key}"))
}

/// The key of a setting in a table that may come several times, from what is left of a variable's name.
fn repeated_variable(name: &str) -> Option<String> {
    REPEATED.iter().find_map(|table| {
        let (number, name) = name.strip_prefix(table)?.strip_prefix('_')?.split_once('_')?;
        Some(format!("{table}.{number}.{name}"))
    })
}

/// The setting of this key, without a certificate, and the number of its table.
fn find_numbered(key: &str) -> Option<(&'static Setting, usize)> {
    let repeated = REPEATED.iter().find_map(|table| Some((*table, numbered(key, table)?)));
    if let Some((table, (number, name))) = repeated {
        let setting = SETTINGS.iter().find(|setting| setting.table_and_name() == (table, name))?;
        return Some((setting, number));
    }
    find(key).filter(|setting| !setting.is_repeated()).map(|setting| (setting, 0))
}

/// The number after the table, and what follows it.
fn numbered<'a>(key: &'a str, table: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = key.strip_prefix(table)?.strip_prefix('.')?.split_once('.')?;
    Some((table_number(number)?, rest))
}

/// A number of a table, as it is written without zeros before it.
fn table_number(text: &str) -> Option<usize> {
    let number = text.parse().ok().filter(|number| (1..=REPEATED_LIMIT).contains(number))?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_found_by_the_key_and_the_variable_of_its_place() {
        for setting in &SETTINGS {
            let table = if REPEATED.contains(&setting.table_and_name().0) { 3 } else { 0 };
            for certificate in [0, 2] {
                let place = Place { certificate, table };
                let key = setting.key_at(place);
                let expected = match (certificate, setting.reach(), setting.table_and_name().0) {
                    (0, _, CERTIFICATE) | (2, Reach::Agent, _) => None,
                    _ => Some((setting.key, place)),
                };
                let found = |found: Option<(&Setting, Place)>| found.map(|(setting, place)| (setting.key, place));
                assert_eq!(found(find_placed(&key)), expected, "{key}");
                if certificate > 0 || table > 0 {
                    let variable = format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "_").to_ascii_uppercase());
                    assert_eq!(found(find_placed_variable(&variable)), expected, "{variable}");
                }
            }
        }
    }
}
