//! Owns the reading of the configuration file: TOML within limits, each value with the line it stands on.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::place::{CERTIFICATE, Place, Reach};
use super::report::{Origin, Problem};
use super::setting::{REPEATED, REPEATED_LIMIT, Read, Setting};
use super::sources::{Collected, Given, Input, SHOWN_LIMIT, VALUE_LIMIT, shown_text, unknown_key};
use super::table::SETTINGS;
use crate::printable::printable;

/// Adds what the file at `path` sets. A file that nobody named (`named_by` is the default) need not exist.
pub(super) fn read(path: &Path, named_by: &Origin, collected: &mut Collected) {
    let text = match content(path) {
        Ok((text, writable_by_all)) => {
            if writable_by_all {
                let path = Origin::File(path.to_owned(), None);
                collected.warnings.push(format!("{path} can be changed by every user of this machine"));
            }
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && *named_by == Origin::Default => return,
        Err(error) => {
            collected.file_unusable = true;
            collected.problems.push(Problem {
                key: None,
                source: Some(if path.as_os_str().is_empty() {
                    named_by.clone()
                } else {
                    Origin::File(path.to_owned(), None)
                }),
                value: None,
                expected: format!("a readable file of at most {} KiB of TOML: {error}", SIZE_LIMIT / 1024),
                advice: match named_by {
                    Origin::Default => "mend the file or remove it".to_owned(),
                    named_by => format!("mend the file, or correct {named_by}"),
                },
            });
            return;
        }
    };
    collected.file = Some(path.to_owned());
    let document = Document { path, text: &text };
    let (table, errors) = DeTable::parse_recoverable(&text);
    if errors.is_empty() {
        document.settings(0, table.get_ref(), collected);
        return;
    }
    collected.file_unusable = true;
    let mut last = None;
    for problem in errors.iter().take(SYNTAX_ERROR_LIMIT).map(|error| document.syntax_error(error)) {
        // What follows on the same line is mostly the first error once more.
        if last.as_ref() != Some(&problem.source) {
            last = Some(problem.source.clone());
            collected.problems.push(problem);
        }
    }
}

/// The text of a regular file, and whether every user may change it.
fn content(path: &Path) -> io::Result<(String, bool)> {
    // Non-blocking, since opening a pipe would otherwise wait for somebody to write.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::other("too large"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        io::Error::other(format!(
            "not UTF-8 text on line {}",
            line_at(error.as_bytes(), error.utf8_error().valid_up_to())
        ))
    })?;
    Ok((text, metadata.mode() & 0o002 != 0))
}

/// A file while it is being read.
struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    /// The settings of the first certificate and the agent, or with a number those of a further certificate.
    fn settings(&self, certificate: usize, table: &DeTable<'_>, collected: &mut Collected) {
        for (key, value) in table {
            let (name, start) = (key.get_ref().as_ref(), key.span().start);
            let place = Place { certificate, table: 0 };
            if name == CERTIFICATE && certificate == 0 {
                for (index, entries) in self.tables(name, start, value.get_ref(), collected).into_iter().enumerate() {
                    self.settings(index + 1, entries, collected);
                }
                continue;
            }
            if REPEATED.contains(&name) {
                for (index, entries) in self.tables(name, start, value.get_ref(), collected).into_iter().enumerate() {
                    self.table(name, Place { certificate, table: index + 1 }, entries, collected);
                }
                continue;
            }
            let is_table = SETTINGS.iter().any(|setting| setting.table_and_name().0 == name);
            match value.get_ref() {
                DeValue::Table(inner) if is_table => self.table(name, place, inner, collected),
                _ if is_table => collected.problems.push(Problem {
                    key: Some(name.to_owned()),
                    source: Some(self.origin(start)),
                    value: None,
                    expected: format!("a table `[{name}]`, not a value"),
                    advice: format!("write `[{name}]` on a line of its own, its keys below"),
                }),
                _ => self.entry("", place, name, start, value, collected),
            }
        }
    }

    /// The tables of a name that may come several times.
    fn tables<'v, 'i>(
        &self,
        table: &str,
        start: usize,
        value: &'v DeValue<'i>,
        collected: &mut Collected,
    ) -> Vec<&'v DeTable<'i>> {
        let tables: Option<Vec<_>> = match value {
            DeValue::Array(elements) => elements.iter().map(|element| element.get_ref().as_table()).collect(),
            _ => None,
        };
        // One without a key would be passed over, and those after it have other numbers than they seem to.
        let fits = |tables: &Vec<&DeTable<'_>>| {
            tables.len() <= REPEATED_LIMIT && !tables.iter().any(|entries| entries.is_empty())
        };
        tables.filter(fits).unwrap_or_else(|| {
            collected.problems.push(Problem {
                key: Some(table.to_owned()),
                source: Some(self.origin(start)),
                value: None,
                expected: format!("tables `[[{table}]]`, at most {REPEATED_LIMIT} of them, none empty"),
                advice: format!("write `[[{table}]]` on a line of its own for each, its keys below"),
            });
            Vec::new()
        })
    }

    fn table(&self, table: &str, place: Place, entries: &DeTable<'_>, collected: &mut Collected) {
        for (key, value) in entries {
            self.entry(table, place, key.get_ref().as_ref(), key.span().start, value, collected);
        }
    }

    fn entry(
        &self,
        table: &str,
        place: Place,
        name: &str,
        start: usize,
        value: &Spanned<DeValue<'_>>,
        collected: &mut Collected,
    ) {
        let origin = self.origin(start);
        let table = if (table, place.certificate > 0, name) == ("", true, "name") { CERTIFICATE } else { table };
        // By its parts: a quoted name that contains a dot is not the key that it looks like.
        let found = SETTINGS.iter().find(|setting| setting.table_and_name() == (table, name));
        let key = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
        match found {
            Some(setting) if place.certificate > 0 && setting.reach() == Reach::Agent => {
                collected.problems.push(Problem {
                    advice: format!("remove it from {origin}, or set `{key}` outside of `[[{CERTIFICATE}]]`"),
                    key: Some(setting.key_at(place)),
                    source: Some(origin),
                    value: None,
                    expected: "a setting of a certificate; this is one of the whole agent".to_owned(),
                });
            }
            Some(setting) => collected.given.push(Given {
                setting,
                place,
                origin,
                input: input(setting, value.get_ref()),
                shown: shown(setting, value.get_ref()),
            }),
            None => collected.problems.push(unknown_key(&key, origin)),
        }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> Problem {
        let start = error.span().map_or(0, |span| span.start);
        let before = self.text.get(..start).unwrap_or(self.text);
        let column = 1 + before.chars().rev().take_while(|character| *character != '\n').count();
        Problem {
            key: None,
            source: Some(self.origin(start)),
            value: None,
            expected: format!("TOML; at column {column}: {}", printable(error.message(), 200)),
            advice: "mend the file".to_owned(),
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File(self.path.to_owned(), Some(line_at(self.text.as_bytes(), offset)))
    }
}

/// The line on which the byte at `offset` stands, counted from 1.
fn line_at(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).fold(1, |line, byte| line + usize::from(*byte == b'\n'))
}

/// The value in the form that its setting reads, if its TOML type fits.
fn input(setting: &Setting, value: &DeValue<'_>) -> Result<Input, String> {
    let one = |text: &str| match text.len() {
        0 => Err("a value, or none at all (this one is empty)".to_owned()),
        1..=VALUE_LIMIT => Ok(Input::Text(text.to_owned())),
        _ => Err(format!("at most {VALUE_LIMIT} bytes")),
    };
    match (&setting.read, value) {
        (Read::Text(_) | Read::Account(_), DeValue::String(text)) => one(text),
        (Read::Account(_) | Read::Number(_), DeValue::Integer(number)) => one(&number.to_string()),
        // Other types are passed on as text that is not valid, so that one message serves all sources.
        (Read::Switch(_) | Read::Boolean(_), DeValue::Boolean(value)) => one(&value.to_string()),
        (Read::Switch(_), DeValue::String(_)) => Err("only `true`, without quotes".to_owned()),
        (Read::Switch(_), _) => one("false"),
        (Read::Texts(_), DeValue::Array(elements)) => {
            let texts = elements.iter().map(|element| element.get_ref().as_str().map(str::to_owned));
            list(texts.collect()).ok_or_else(|| "strings only, such as [\"one\", \"two\"]".to_owned())
        }
        (Read::Numbers(_), DeValue::Array(elements)) => {
            let numbers = elements.iter().map(|element| match element.get_ref() {
                DeValue::Float(number) => Some(number.to_string()),
                DeValue::Integer(number) => Some(number.to_string()),
                _ => None,
            });
            list(numbers.collect()).ok_or_else(|| "numbers only, such as [0.5, 0.7]".to_owned())
        }
        (Read::Texts(_), _) => Err("an array of strings, such as [\"one\", \"two\"]".to_owned()),
        (Read::Numbers(_), _) => Err("an array of numbers, such as [0.5, 0.7]".to_owned()),
        (Read::Boolean(_), _) => Err("`true` or `false`, without quotes".to_owned()),
        (Read::Number(_), other) => Err(format!("a number without quotes, not a TOML {}", other.type_str())),
        (Read::Account(_), other) => Err(format!("a string or an integer, not a TOML {}", other.type_str())),
        (Read::Text(_), other) => Err(format!("a string in quotes, not a TOML {}", other.type_str())),
    }
}

fn list(elements: Option<Vec<String>>) -> Option<Input> {
    elements.map(Input::List)
}

/// The value for the report.
fn shown(setting: &Setting, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(shown_text(setting, text)),
        DeValue::Integer(number) => Some(printable(&number.to_string(), SHOWN_LIMIT)),
        DeValue::Float(number) => Some(printable(&number.to_string(), SHOWN_LIMIT)),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Array(elements) => {
            let texts: Vec<String> =
                elements.iter().take(SHOWN_LIMIT).filter_map(|element| shown(setting, element.get_ref())).collect();
            Some(printable(&format!("[{}]", texts.join(", ")), SHOWN_LIMIT))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// The most of a file that is read, in bytes.
const SIZE_LIMIT: u64 = 1024 * 1024;

/// The most syntax errors that are reported.
const SYNTAX_ERROR_LIMIT: usize = 10;
