//! Owns what a CA says of a certificate that it issued: when to renew it, whether it is revoked, which CRL there is.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::roots::KnownRoots;
use crate::identity::CertificateBundle;
use crate::policy::RevocationReason;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::schedule::{Revocation, Window};
use crate::wire::RenewalInfoReply;

/// What is asked.
#[derive(Debug)]
pub struct RenewalQuestion<'a> {
    /// The certificate, which also says who asks.
    pub current: &'a CertificateBundle,
    /// The entity tag of the last answer.
    pub tag: Option<&'a str>,
    /// How long the CA may wait with its answer until there is another.
    pub wait: Option<Duration>,
    /// Goes along with the request.
    pub correlation_id: &'a str,
    /// The roots on disk, and which of them the CA has handed out.
    pub known: &'a KnownRoots,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct RenewalAnswer {
    /// What it says.
    pub news: RenewalNews,
    /// When the CA wants to be asked again.
    pub retry_after: Option<Duration>,
    /// The CA did wait (`Preference-Applied`, RFC 7240).
    pub waited: bool,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq)]
pub enum RenewalNews {
    /// This CA says nothing about renewal.
    NotOffered,
    /// What is known.
    Same,
    /// This.
    Info(Box<RenewalInfo>),
}

/// What a CA says of a certificate. Of nonsense it is empty, and says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenewalInfo {
    /// Tells this from what the CA says another time.
    pub etag: Option<String>,
    /// When to renew.
    pub window: Option<Window>,
    /// Why, for people; printable.
    pub explanation: Option<String>,
    /// Whether it is revoked.
    pub revoked: Option<Revocation>,
    /// Tells the CRL of now from another.
    pub crl: Option<String>,
    /// What of it made no sense; printable.
    pub nonsense: Vec<String>,
}

/// The CRLs of a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrlAnswer {
    /// This CA has none.
    NotOffered,
    /// Those that are known.
    Same,
    /// These, as PEM, undecided whether they are fit to be published.
    Crls {
        /// One block or several.
        pem: Vec<u8>,
        /// Tells them from those of another time.
        etag: Option<String>,
    },
}

impl RenewalInfo {
    /// Reads a reply; `now` is taken for times that it should have and has not.
    #[must_use]
    pub fn of_reply(reply: RenewalInfoReply, etag: Option<String>, now: OffsetDateTime) -> Self {
        let mut info = Self { etag, ..Self::default() };
        if !reply.suggested_window.is_null() {
            match window(reply.suggested_window) {
                Ok(window) => info.window = Some(window),
                Err(reason) => info.nonsense.push(format!("suggestedWindow: {reason}")),
            }
        }
        let texts = [&reply.explanation, &reply.explanation_url].map(|text| text.as_str().unwrap_or_default().trim());
        let explanation: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        if !explanation.is_empty() {
            info.explanation = Some(printable(&explanation.join(" "), FOREIGN_TEXT_LIMIT));
        }
        // Whatever else stands there: not null means revoked.
        if !reply.revoked.is_null() {
            info.revoked = Some(revocation(reply.revoked, now));
        }
        if !reply.crl.is_null() {
            info.crl = Some(printable(&reply.crl.to_string(), FOREIGN_TEXT_LIMIT));
        }
        info
    }
}

fn window(value: Value) -> Result<Window, String> {
    #[derive(Deserialize)]
    struct Ends {
        #[serde(with = "time::serde::rfc3339")]
        start: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339")]
        end: OffsetDateTime,
    }
    let Ends { start, end } = serde_json::from_value(value).map_err(|error| printable(&error.to_string(), 200))?;
    Window::new(start, end).map_err(|error| error.to_string())
}

fn revocation(mut value: Value, now: OffsetDateTime) -> Revocation {
    let at = value["at"].as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let reason = serde_json::from_value(value["reason"].take());
    Revocation { at: at.unwrap_or(now), reason: reason.unwrap_or(RevocationReason::Unspecified) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn read(json: &str) -> RenewalInfo {
        RenewalInfo::of_reply(serde_json::from_str(json).unwrap(), None, NOW)
    }

    #[test]
    fn all_that_a_ca_says_is_read() {
        let info = read(
            r#"{"suggestedWindow":{"start":"2026-01-02T00:00:00Z","end":"2026-01-03T00:00:00+00:00"},
                "explanation":"a new key\n","explanationURL":"https://example.org/why","serial":"4a",
                "revoked":{"at":"2025-12-31T00:00:00Z","reason":"keyCompromise"},"crl":{"number":7,"etag":"\"x\""}}"#,
        );
        assert_eq!(info.window, Window::new(datetime!(2026-01-02 00:00 UTC), datetime!(2026-01-03 00:00 UTC)).ok());
        assert_eq!(info.explanation.unwrap(), "a new key https://example.org/why");
        let revoked = Revocation { at: datetime!(2025-12-31 00:00 UTC), reason: RevocationReason::KeyCompromise };
        assert_eq!(info.revoked, Some(revoked));
        assert!(info.crl.is_some() && info.nonsense.is_empty());
    }

    #[test]
    fn nonsense_is_named_and_keeps_nothing_else_from_counting() {
        for window in [
            r#"{"start":"2026-01-03T00:00:00Z","end":"2026-01-02T00:00:00Z"}"#,
            r#"{"start":"2026-01-02T00:00:00Z","end":"2026-01-02T00:00:00Z"}"#,
            r#"{"start":"0001-01-02T00:00:00Z","end":"9999-01-02T00:00:00Z"}"#,
            r#"{"start":"soon","end":"later"}"#,
            r#"{"start":"2026-01-02T00:00:00Z"}"#,
            "7",
        ] {
            let info = read(&format!(r#"{{"suggestedWindow":{window},"revoked":{{"reason":"certificateHold"}}}}"#));
            assert_eq!((info.window, info.nonsense.len()), (None, 1), "{window}");
            let revoked = Revocation { at: NOW, reason: RevocationReason::Unspecified };
            assert_eq!(info.revoked, Some(revoked));
        }
        assert_eq!(read("{}"), RenewalInfo::default());
    }

    proptest! {
        #[test]
        fn what_people_read_is_one_printable_line(explanation: String, crl: String) {
            let reply = serde_json::json!({ "explanation": explanation, "crl": crl, "suggestedWindow": crl });
            let info = read(&reply.to_string());
            for text in info.explanation.iter().chain(&info.crl).chain(&info.nonsense) {
                prop_assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
            }
        }
    }
}
