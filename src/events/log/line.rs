//! Owns the two forms of a log line: JSON for machines, text for people. Foreign text is cleaned here, whatever wrote
//! it.

use std::fmt::{self, Write};
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer, format};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::EVENT_TARGET;
use crate::clock::Clock;
use crate::printable::{is_unprintable, printable};

/// A line that is one JSON object: an event's record as it is, anything else in the form of tracing-subscriber.
#[derive(Debug)]
pub(super) struct JsonLine {
    other: Format<Json, ClockTime>,
}

impl JsonLine {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let other = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
        Self { other: other.with_timer(ClockTime(clock)) }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        match EventFields::of(event).filter(|fields| !fields.record.is_empty()) {
            Some(fields) => line = fields.record,
            None => self.other.format_event(context, Writer::new(&mut line), event)?,
        }
        writeln!(writer, "{}", escape_json(line.trim_end_matches('\n')))
    }
}

/// A line as `2030-01-01T00:00:00Z  INFO CERT_ISSUED streaming serial=…`.
#[derive(Debug)]
pub(super) struct PrettyLine {
    clock: Arc<dyn Clock>,
    colored: bool,
    other: Format<Full, ()>,
}

impl PrettyLine {
    pub(super) fn new(clock: Arc<dyn Clock>, colored: bool) -> Self {
        Self { clock, colored, other: format().with_ansi(false).with_level(false).without_time() }
    }
}

impl<S, N> FormatEvent<S, N> for PrettyLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        match EventFields::of(event) {
            Some(fields) => text = fields.message,
            None => self.other.format_event(context, Writer::new(&mut text), event)?,
        }
        let text = printable(text.trim_end_matches('\n'), LINE_LIMIT);
        let time = rfc3339(self.clock.now().wall);
        let level = *event.metadata().level();
        match color(level).filter(|_| self.colored) {
            Some(color) => writeln!(writer, "{time} \u{1b}[{color}m{level:>5}\u{1b}[0m {text}"),
            None => writeln!(writer, "{time} {level:>5} {text}"),
        }
    }
}

/// `at` in RFC 3339, to the second.
pub(super) fn rfc3339(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    // Years past 9999 do not fit RFC 3339.
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.unix_timestamp().to_string())
}

/// The fields that [`log_event`](super::log_event) sets.
#[derive(Default)]
struct EventFields {
    record: String,
    message: String,
}

impl EventFields {
    /// `None` for what is no lifecycle event.
    fn of(event: &Event<'_>) -> Option<Self> {
        if event.metadata().target() != EVENT_TARGET {
            return None;
        }
        let mut fields = Self::default();
        event.record(&mut fields);
        Some(fields)
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "record" {
            value.clone_into(&mut self.record);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl FormatTime for ClockTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let text = self.0.now().wall.format(&Rfc3339).map_err(|_| fmt::Error)?;
        writer.write_str(&text)
    }
}

/// JSON with the characters escaped that JSON allows but a terminal acts on (`\u009b`, `\u202e`). Outside its strings
/// compact JSON has none, so the value stays the same.
fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unprintable(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// The ANSI colour of a level, where it has one.
fn color(level: Level) -> Option<&'static str> {
    match level {
        Level::ERROR => Some("31"),
        Level::WARN => Some("33"),
        Level::INFO => Some("32"),
        _ => None,
    }
}

/// The longest line for people, in characters.
const LINE_LIMIT: usize = 8_192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escaped_json_is_one_line_with_the_same_value(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!escaped.chars().any(is_unprintable));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
