//! Owns the tests of the log: every line whole, nothing from outside in control.

use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::clock::Now;
use crate::events::{CertificateEvent, EventBus, EventError};
use crate::identity::{CertificateMetadata, WorkerId};
use crate::printable::is_unprintable;

const NOW: OffsetDateTime = time::macros::datetime!(2030-01-01 00:00 UTC);

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Now {
        Now { wall: NOW, boot: std::time::Duration::ZERO, running: std::time::Duration::ZERO }
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `act` logs.
fn logged(style: Style, filter: &str, act: impl FnOnce()) -> String {
    let sink = Sink::default();
    let for_writer = sink.clone();
    let (filter, _handle) = reload::Layer::new(parse_filter(filter).unwrap());
    let dispatch = dispatch(style, filter, Arc::new(FixedClock), move || for_writer.clone());
    tracing::dispatcher::with_default(&dispatch, act);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn record(event: CertificateEvent, foreign: &str) -> EventRecord {
    EventRecord {
        certificate: None,
        event,
        severity: event.severity(),
        correlation_id: "req_1".to_owned(),
        worker_id: WorkerId::new("streaming").unwrap(),
        timestamp: NOW,
        cert_metadata: Some(CertificateMetadata {
            expires_at: NOW + time::Duration::days(3),
            days_remaining: 3,
            serial: "4a:3b".to_owned(),
            issuer: foreign.to_owned(),
            subject: foreign.to_owned(),
            not_before: NOW,
            names: vec![foreign.to_owned()],
        }),
        // Not through `EventError::new`: the log must hold even if someone forgets to clean.
        error: Some(EventError { kind: "refused".to_owned(), message: foreign.to_owned() }),
        decision_id: None,
        detail: Some(foreign.to_owned()),
    }
}

#[test]
fn an_event_is_one_json_object_with_the_fields_of_the_contract() {
    let record = record(CertificateEvent::ExpiringSoon, "no");
    let bus = EventBus::default();
    bus.subscribe(log_event);
    let text = logged(Style::Json, "info", || bus.emit(&record));
    let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line.as_object_mut().unwrap().remove("level").unwrap(), "WARN");
    assert_eq!(line, serde_json::to_value(&record).unwrap());
}

#[test]
fn a_critical_event_is_an_error_that_says_critical() {
    let text = logged(Style::Json, "info", || log_event(&record(CertificateEvent::Expired, "no")));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["level"], &line["severity"]), (&"ERROR".into(), &"CRITICAL".into()));
}

#[test]
fn another_message_is_one_json_object_with_its_fields_at_the_top() {
    let text = logged(Style::Json, "info", || tracing::info!(attempt = 3, error = "a\nb\u{9b}31m", "CA\nis down"));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({
        "timestamp": "2030-01-01T00:00:00Z", "level": "INFO", "target": "crank_agent::events::log::tests",
        "message": "CA\nis down", "attempt": 3, "error": "a\nb\u{9b}31m",
    });
    assert_eq!(line, expected);
    assert!(!text.trim_end().chars().any(is_unprintable), "{text:?}");
}

#[test]
fn people_get_one_readable_line() {
    let text = logged(Style::Plain, "info", || {
        log_event(&record(CertificateEvent::CsrFailed, "no"));
        tracing::warn!(attempt = 3, "CA is down");
    });
    let expected = "2030-01-01T00:00:00Z ERROR CSR_FAILED streaming serial=4a:3b days=3 expires=2030-01-04T00:00:00Z \
         error=refused: no (no) [req_1]\n\
         2030-01-01T00:00:00Z  WARN crank_agent::events::log::tests: CA is down attempt=3\n";
    assert_eq!(text, expected);
}

#[test]
fn only_the_level_is_coloured() {
    let text = logged(Style::Colored, "info", || tracing::error!(error = "\u{1b}[2J", "\u{1b}[31mred"));
    assert!(text.starts_with("2030-01-01T00:00:00Z \u{1b}[31mERROR\u{1b}[0m "), "{text:?}");
    assert_eq!(text.matches('\u{1b}').count(), 2, "{text:?}");
}

#[test]
fn a_filter_for_the_crate_covers_its_events() {
    let act = || log_event(&record(CertificateEvent::CertIssued, "no"));
    assert_eq!(logged(Style::Json, "crank_agent=debug", act).lines().count(), 1);
    assert_eq!(logged(Style::Json, "warn", act).lines().count(), 0);
}

#[test]
fn what_a_filter_does_not_name_is_logged_from_info_on() {
    let say = || {
        tracing::info!(target: "elsewhere", "said");
        tracing::debug!(target: "elsewhere", "whispered");
    };
    for filter in ["crank_agent=debug", "info"] {
        let text = logged(Style::Json, filter, say);
        assert!(text.contains("said") && !text.contains("whispered"), "{filter}: {text}");
    }
    assert_eq!(logged(Style::Json, "error,crank_agent=debug", say), "");
}

#[test]
fn a_bad_filter_is_refused_printably() {
    let error = check_filter("crank_agent=lo\u{1b}ud").unwrap_err().to_string();
    assert_eq!(
        error,
        "log filter `crank_agent=lo\\u{1b}ud`: expected directives such as `info` or `crank_agent=debug`"
    );
    assert!(check_filter("info,crank_agent::serve=trace").is_ok());
}

proptest! {
    #[test]
    fn hostile_text_never_makes_a_second_line_or_a_control_sequence(foreign in hostile()) {
        let act = || {
            log_event(&record(CertificateEvent::ValidationFailed, &foreign));
            tracing::info!(client = %foreign, other = ?foreign, text = foreign.as_str(), "{foreign}");
            tracing::info_span!("request", path = %foreign).in_scope(|| tracing::warn!("in a span"));
        };
        let json = logged(Style::Json, "trace", act);
        prop_assert_eq!(json.matches('\n').count(), 3);
        for line in json.lines() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(line).unwrap().is_object());
            prop_assert!(!line.chars().any(is_unprintable), "{:?}", line);
        }
        let record_line: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        prop_assert_eq!(record_line["error"]["message"].as_str(), Some(foreign.as_str()));
        let pretty = logged(Style::Plain, "trace", act);
        prop_assert_eq!(pretty.matches('\n').count(), 3, "{:?}", pretty);
        prop_assert!(!pretty.lines().any(|line| line.chars().any(is_unprintable)), "{:?}", pretty);
    }
}

/// Any text, with what breaks lines, terminals and JSON over-represented.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        prop::sample::select(vec!["\n", "\r\n", "\u{1b}[2J", "\u{9b}1m", "\u{202e}", "\u{2028}", "\"}", "\\", "\0"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

#[test]
fn another_filter_is_in_force_at_once_and_a_bad_one_changes_nothing() {
    let sink = Sink::default();
    let for_writer = sink.clone();
    let (filter, handle) = reload::Layer::new(parse_filter("info").unwrap());
    let dispatch = dispatch(Style::Plain, filter, Arc::new(FixedClock), move || for_writer.clone());
    let control = LogControl { format: LogFormat::Pretty, filter: handle };
    let config = |filter: &str| LogConfig { format: LogFormat::Pretty, filter: filter.to_owned() };
    tracing::dispatcher::with_default(&dispatch, || {
        let say = |word: &str| tracing::debug!("{word}");
        say("first");
        control.apply(&config("debug")).unwrap();
        say("second");
        assert!(control.apply(&config("a=b=c")).is_err());
        say("third");
        control.apply(&config("warn")).unwrap();
        say("fourth");
    });
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let words: Vec<&str> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(words, ["second", "third"]);
}
