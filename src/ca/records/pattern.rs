//! Owns what workers and serials are looked for by: patterns that are compared whole and never become part of SQL.

use std::fmt;
use std::str::FromStr;

use crate::ca::glob::Wildcards;
use crate::identity::WorkerId;

/// A worker id in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPattern(String);

impl WorkerPattern {
    /// Whether the worker id matches.
    #[must_use]
    pub fn matches(&self, worker_id: &str) -> bool {
        Wildcards::Anything.matches(&self.0, worker_id)
    }

    /// Whether it matches one worker id only.
    pub(crate) fn is_exact(&self) -> bool {
        self.fixed().len() == self.0.len()
    }

    /// All that matches is at or after the first and before the second.
    pub(crate) fn range(&self) -> (String, String) {
        let from = self.fixed().to_owned();
        // After every character that a worker id may have.
        let to = format!("{from}\u{7f}");
        (from, to)
    }

    fn fixed(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or_default()
    }
}

impl From<&WorkerId> for WorkerPattern {
    fn from(worker_id: &WorkerId) -> Self {
        Self(worker_id.to_string())
    }
}

impl FromStr for WorkerPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sample: String = text.chars().map(|c| if matches!(c, '*' | '?') { 'a' } else { c }).collect();
        match WorkerId::new(&sample) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err("expected a worker id, in which `*` stands for any characters and `?` for one"),
        }
    }
}

/// The beginning of a serial, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPrefix(String);

impl SerialPrefix {
    /// In the form of the record: `4a:3b:2`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn matches(&self, serial: &str) -> bool {
        serial.starts_with(&self.0)
    }

    /// All that matches is at or after the first and before the second.
    pub(crate) fn range(&self) -> (String, String) {
        // After every character that a serial has.
        (self.0.clone(), format!("{}g", self.0))
    }
}

impl fmt::Display for SerialPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads hexadecimal digits of either case, with or without colons between pairs.
impl FromStr for SerialPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits.is_empty() || digits.len() > 2 * LONGEST || !hexadecimal {
            return Err("expected the beginning of a serial, as 4a:3b:2c or 4a3b2c");
        }
        let mut form = String::with_capacity(digits.len() * 3 / 2);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && index % 2 == 0 {
                form.push(':');
            }
            form.push(digit);
        }
        Ok(Self(form))
    }
}

/// The most octets of a serial (RFC 5280, section 4.1.2.2).
const LONGEST: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serials_are_read_in_every_form_and_nothing_else_is() {
        for (text, form) in [("4A3b2", "4a:3b:2"), ("4a:3b:2c", "4a:3b:2c"), ("4", "4"), (":4a", "4a")] {
            assert_eq!(text.parse::<SerialPrefix>().unwrap().as_str(), form);
        }
        for text in ["", "4g", "%", "4a;", &"4".repeat(41)] {
            assert!(text.parse::<SerialPrefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_worker_id_with_stars() {
        assert!("pay*-?".parse::<WorkerPattern>().is_ok());
        for text in ["", "a b", "../*", "a'"] {
            assert!(text.parse::<WorkerPattern>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_matches_is_within_the_range(pattern in "[ab?*]{1,6}", text in "[ab]{1,6}") {
            let pattern = WorkerPattern(pattern);
            let matches = pattern.matches(&text);
            let (from, to) = pattern.range();
            prop_assert!(!matches || (from <= text && text < to));
            prop_assert!(!pattern.is_exact() || (matches == (from == text)));
        }

        #[test]
        fn whatever_begins_so_is_within_the_range(prefix in "[0-9a-f]{1,6}", rest in "[0-9a-f]{0,6}") {
            let prefix_digits = prefix.clone();
            let prefix: SerialPrefix = prefix.parse().unwrap();
            let whole: SerialPrefix = format!("{prefix_digits}{rest}").parse().unwrap();
            prop_assert!(prefix.matches(whole.as_str()));
            let (from, to) = prefix.range();
            prop_assert!(from.as_str() <= whole.as_str() && whole.as_str() < to.as_str());
        }
    }
}
