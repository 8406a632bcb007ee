//! Owns whom an order is for: conditions that must all hold of a certificate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Subject;
use crate::ca::glob::Wildcards;
use crate::printable::{FOREIGN_TEXT_LIMIT, hex, printable};

/// Which certificates an order is for. Without conditions: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// The worker id, with `*` for any number of characters and `?` for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// SHA-256 of the issuing certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// Issued before this.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    issued_before: Option<OffsetDateTime>,
}

/// A condition that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("condition `{condition}`: expected {expected}")]
pub struct SelectorError {
    condition: String,
    expected: &'static str,
}

impl Selector {
    /// Those of which every condition holds: `worker=GLOB`, `issuer=SHA256`, `issued-before=TIME`, each at most once.
    ///
    /// # Errors
    /// When there is none, or one that is not known, does not parse, or comes twice.
    pub fn matching<T: AsRef<str>>(conditions: &[T]) -> Result<Self, SelectorError> {
        if conditions.is_empty() {
            return Err(SelectorError { condition: String::new(), expected: "at least one condition" });
        }
        let mut selector = Self::default();
        for condition in conditions {
            selector.add(condition.as_ref())?;
        }
        Ok(selector)
    }

    fn add(&mut self, condition: &str) -> Result<(), SelectorError> {
        let fail = |expected| SelectorError { condition: printable(condition, FOREIGN_TEXT_LIMIT), expected };
        let known = "worker=GLOB, issuer=SHA256 or issued-before=TIME";
        let (key, value) = condition.split_once('=').ok_or_else(|| fail(known))?;
        let again = match key {
            "worker" => {
                let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'*' | b'?');
                if value.is_empty() || value.len() > GLOB_LIMIT || !value.bytes().all(allowed) {
                    return Err(fail("a worker id, in which `*` and `?` stand for any characters"));
                }
                self.worker.replace(value.to_owned()).is_some()
            }
            "issuer" => {
                let digest = value.strip_prefix("sha256:").unwrap_or(value).to_ascii_lowercase();
                if digest.len() != 64 || !digest.bytes().all(|c| c.is_ascii_hexdigit()) {
                    return Err(fail("`sha256:` and 64 hexadecimal digits"));
                }
                self.issuer.replace(digest).is_some()
            }
            "issued-before" => {
                let time =
                    OffsetDateTime::parse(value, &Rfc3339).map_err(|_| fail("a time as 2026-08-20T12:00:00Z"))?;
                self.issued_before.replace(time).is_some()
            }
            _ => return Err(fail(known)),
        };
        if again { Err(fail("each condition once")) } else { Ok(()) }
    }

    /// Whether every condition holds.
    pub(crate) fn matches(&self, subject: &Subject) -> bool {
        let worker = self
            .worker
            .as_deref()
            .is_none_or(|pattern| Wildcards::Anything.matches(pattern, subject.worker_id.as_str()));
        let issuer = self.issuer.as_deref().is_none_or(|digest| digest == hex(&subject.issuer_digest));
        let in_time = self.issued_before.is_none_or(|time| subject.issued_at < time);
        worker && issuer && in_time
    }
}

/// One condition, as on the command line.
impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::matching(&[text])
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issued_before = self.issued_before.and_then(|time| time.format(&Rfc3339).ok());
        let conditions: Vec<String> =
            [("worker", &self.worker), ("issuer", &self.issuer), ("issued-before", &issued_before)]
                .into_iter()
                .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)))
                .collect();
        f.write_str(if conditions.is_empty() { "all" } else { "" })?;
        f.write_str(&conditions.join(" "))
    }
}

const GLOB_LIMIT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::WorkerId;

    const ISSUED: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

    fn subject(worker: &str) -> Subject {
        Subject {
            serial: "01".to_owned(),
            worker_id: WorkerId::new(worker).unwrap(),
            issuer_digest: [0xab; 32],
            not_before: ISSUED,
            not_after: ISSUED + time::Duration::DAY,
            issued_at: ISSUED,
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        let issuer = format!("issuer=sha256:{}", "AB".repeat(32));
        let conditions = ["worker=payments-*", &issuer, "issued-before=2026-08-20T12:00:01Z"];
        let selector = Selector::matching(&conditions).unwrap();
        assert!(selector.matches(&subject("payments-1")));
        assert!(!selector.matches(&subject("billing-1")));
        for other in [&format!("issuer={}", "ac".repeat(32)), "issued-before=2026-08-20T12:00:00Z"] {
            assert!(!Selector::matching(&[other]).unwrap().matches(&subject("payments-1")), "{other}");
        }
        assert!(Selector::default().matches(&subject("payments-1")));
    }

    #[test]
    fn what_is_no_condition_is_told() {
        for bad in ["", "worker", "worker=", "worker=a b", "name=x", "issuer=ab", "issued-before=yesterday", "worker=é"]
        {
            let error = Selector::matching(&[bad]).unwrap_err().to_string();
            assert!(error.starts_with("condition `") && error.contains("expected"), "{error}");
        }
        assert!(Selector::matching::<&str>(&[]).is_err());
        assert!(Selector::matching(&["worker=a", "worker=b"]).unwrap_err().to_string().contains("once"));
    }

    #[test]
    fn it_is_shown_as_it_was_asked_for_and_recorded_as_json() {
        let selector = Selector::matching(&["issued-before=2026-08-20T12:00:00Z", "worker=a?*"]).unwrap();
        assert_eq!(selector.to_string(), "worker=a?* issued-before=2026-08-20T12:00:00Z");
        assert_eq!(Selector::default().to_string(), "all");
        let text = serde_json::to_string(&selector).unwrap();
        assert_eq!(serde_json::from_str::<Selector>(&text).unwrap(), selector);
        assert_eq!(serde_json::from_str::<Selector>("{}").unwrap(), Selector::default());
    }
}
