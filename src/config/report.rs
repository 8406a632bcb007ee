//! Owns what is said when a configuration cannot be used: every [`Problem`] of it, in one [`ConfigReport`].

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::printable::printable;

/// Why a configuration cannot be used. Its `Display` is several lines for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigReport {
    /// At most [`MAX_PROBLEMS`](Self::MAX_PROBLEMS), in the order of the documentation.
    pub problems: Vec<Problem>,
    /// How many more there were.
    pub left_out: usize,
}

/// One thing that is wrong, and what to do about it. All text is printable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, as `ca.url`; absent when a file as a whole is at fault.
    pub key: Option<String>,
    /// Where the value comes from; absent when there is no value.
    pub source: Option<Origin>,
    /// The value, shortened, and hidden where it may be a secret.
    pub value: Option<String>,
    /// What was expected, or what is wrong.
    pub expected: String,
    /// What to do.
    pub advice: String,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file, counted from 1, or the file as a whole.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Environment(String),
    /// A command-line flag, as `--set` or `--worker-id`.
    Flag(String),
}

impl ConfigReport {
    /// The most problems that one report lists.
    pub const MAX_PROBLEMS: usize = 50;

    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        let left_out = problems.len().saturating_sub(Self::MAX_PROBLEMS);
        problems.truncate(Self::MAX_PROBLEMS);
        Self { problems, left_out }
    }

    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "configuration"
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len() + self.left_out;
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "the configuration has {count} problem{plural}:")?;
        for problem in &self.problems {
            write!(f, "\n\n{problem}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n\n  and {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.value, &self.source) {
            (Some(key), Some(value), Some(source)) => write!(f, "  {key} = {value}\n    source:   {source}")?,
            (Some(key), None, Some(source)) => write!(f, "  {key}\n    source:   {source}")?,
            (Some(key), _, None) => write!(f, "  {key} is not set")?,
            (None, _, Some(source)) => write!(f, "  {source}")?,
            (None, _, None) => write!(f, "  configuration")?,
        }
        write!(f, "\n    expected: {}\n    to do:    {}", self.expected, self.advice)
    }
}

impl Origin {
    /// What to do about a wrong value from here.
    pub(crate) fn advice(&self, key: &str) -> String {
        match self {
            Self::Default => format!("set `{key}`"),
            Self::File(..) => format!("correct `{key}` in {self}"),
            Self::Environment(name) => format!("correct {} or unset it", printable(name, NAME_LIMIT)),
            Self::Flag(_) => format!("correct {self}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => {
                f.write_str(&printable(&path.to_string_lossy(), PATH_LIMIT))?;
                line.map_or(Ok(()), |line| write!(f, ":{line}"))
            }
            Self::Environment(name) => write!(f, "environment variable {}", printable(name, NAME_LIMIT)),
            Self::Flag(name) => f.write_str(&printable(name, NAME_LIMIT)),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The most characters of a key or variable name that a report shows.
pub(crate) const NAME_LIMIT: usize = 80;

/// The most characters of a path that a report shows.
const PATH_LIMIT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        let origin = Origin::Environment("HTTPS_ONLY".to_owned());
        Problem {
            key: Some("https_only".to_owned()),
            advice: origin.advice("https_only"),
            source: Some(origin),
            value: Some("\"no\"".to_owned()),
            expected: "only `true`".to_owned(),
        }
    }

    #[test]
    fn a_problem_says_key_value_source_expectation_and_remedy() {
        let text = ConfigReport::new(vec![problem()]).to_string();
        let expected = "the configuration has 1 problem:\n\n  https_only = \"no\"\n    source:   environment variable \
                        HTTPS_ONLY\n    expected: only `true`\n    to do:    correct HTTPS_ONLY or unset it";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_report_is_cut_and_says_so() {
        let report = ConfigReport::new(vec![problem(); 70]);
        assert_eq!(report.problems.len(), ConfigReport::MAX_PROBLEMS);
        let text = report.to_string();
        assert!(text.starts_with("the configuration has 70 problems:"), "{text}");
        assert!(text.ends_with("and 20 more"), "{text}");
    }

    #[test]
    fn a_path_cannot_inject_lines() {
        let origin = Origin::File(PathBuf::from("/etc/a\nb"), Some(3));
        assert_eq!(origin.to_string(), "/etc/a\\nb:3");
    }
}
