//! Owns the one table of settings; file, environment, flags, `check-config` and the documentation all follow it.

mod certificate;
mod deliver;
mod federate;
mod file;
mod once;

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::parse;
use super::setting::Setting;
use crate::duration::format_duration;

/// Every setting, in the order of the documentation.
pub static SETTINGS: [Setting; COUNT] = {
    let tables: [&[Setting]; 5] = [&once::ROWS, &file::ROWS, &federate::ROWS, &deliver::ROWS, &certificate::ROWS];
    let mut all = [once::ROWS[0]; COUNT];
    let (mut table, mut count) = (0, 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            all[count] = tables[table][row];
            row += 1;
            count += 1;
        }
        table += 1;
    }
    all
};

const COUNT: usize =
    once::ROWS.len() + file::ROWS.len() + federate::ROWS.len() + deliver::ROWS.len() + certificate::ROWS.len();

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Keeps what was read, or says what was expected without the word that the report says itself.
fn put<T, E: AsRef<str>>(slot: &mut Option<T>, read: Result<T, E>) -> Result<(), String> {
    *slot = Some(read.map_err(|reason| parse::plain(reason.as_ref()))?);
    Ok(())
}

fn duration(value: Option<Duration>) -> Option<Value> {
    value.map(|duration| Value::from(format_duration(duration)))
}

fn path(value: Option<&PathBuf>) -> Option<Value> {
    value.map(|path| Value::from(path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::draft::Draft;
    use crate::config::facts::Facts;
    use crate::config::setting::{Fallback, Read};

    #[test]
    fn every_default_is_valid_and_shown_as_it_is_written() {
        let facts = Facts::read();
        for setting in &SETTINGS {
            let Fallback::Text(text) = setting.default else { continue };
            let mut draft = Draft::default();
            let elements: Vec<&str> = text.split(',').filter(|element| !element.is_empty()).collect();
            match setting.read {
                Read::Text(read)
                | Read::Switch(read)
                | Read::Boolean(read)
                | Read::Account(read)
                | Read::Number(read) => read(&mut draft, text, &facts),
                Read::Texts(read) | Read::Numbers(read) => read(&mut draft, &elements),
            }
            .unwrap();
            let shown = match (setting.show)(&draft).unwrap() {
                Value::Array(elements) => {
                    elements.iter().map(|element| element.to_string().replace('"', "")).collect::<Vec<_>>().join(",")
                }
                value => value.to_string().replace('"', ""),
            };
            // The same length of time, though a minute may be called 1m or 60s.
            let same_time = crate::duration::parse_duration(text).is_ok()
                && crate::duration::parse_duration(text) == crate::duration::parse_duration(&shown);
            assert!(shown == text || same_time, "{}: {text} is shown as {shown}", setting.key);
        }
    }
}
