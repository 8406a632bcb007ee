//! Owns the log: where lines go, what they look like, and the line of each event.
//!
//! JSON lines go to standard output, the convention of containers; lines for people go to standard error. In either
//! form one line is one event or message, and no text from outside can break it or reach a terminal as a control
//! sequence. Lines pass through a bounded queue and are dropped when their reader stalls, so logging never blocks.

mod line;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use serde::Serialize;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

use super::{EventRecord, Severity};
use crate::clock::Clock;
use crate::config::{LogConfig, LogFormat};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use line::{JsonLine, PrettyLine};

/// Keeps the log open; what is queued is written when it is dropped, for at most a second or so.
#[must_use = "the log ends when the guard is dropped"]
#[derive(Debug)]
pub struct LogGuard {
    dropped: ErrorCounter,
    control: LogControl,
    _worker: WorkerGuard,
}

/// Changes what the log of the process admits while it runs.
#[derive(Debug, Clone)]
pub struct LogControl {
    format: LogFormat,
    filter: reload::Handle<Targets, Registry>,
}

impl LogGuard {
    /// How many lines were dropped since the start because their reader stalled.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// Changes what this log admits.
    #[must_use]
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }
}

impl LogControl {
    /// Puts the filter of `config` in force. Another format needs a new start, and is said to.
    ///
    /// # Errors
    /// When the filter does not parse; the old one stays.
    pub fn apply(&self, config: &LogConfig) -> Result<(), LogError> {
        // An error would mean that the log is closed: then there is nothing to change.
        let _ = self.filter.reload(parse_filter(&config.filter)?);
        if config.format != self.format {
            tracing::warn!("log.format has changed; it is in force from the next start");
        }
        Ok(())
    }
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter `{filter}`: expected directives such as `info` or `crank_agent=debug`")]
    Filter {
        /// The filter, made printable.
        filter: String,
        /// Where it goes wrong.
        #[source]
        source: ParseError,
    },
    /// The process has a log already.
    #[error("the process has a tracing subscriber already")]
    AlreadyOpen,
}

/// Opens the log of the process. For programs: a library leaves the global subscriber to the program that uses it.
///
/// Events are in the log when the filter admits the target `crank_agent::event` at their level.
///
/// # Errors
/// When the filter does not parse, or the process has a log already.
pub fn init(config: &LogConfig, clock: Arc<dyn Clock>) -> Result<LogGuard, LogError> {
    let filter = parse_filter(&config.filter)?;
    let terminal = io::stderr().is_terminal();
    let (style, output): (Style, Box<dyn Write + Send>) = match config.format {
        LogFormat::Json => (Style::Json, Box::new(io::stdout())),
        LogFormat::Auto if !terminal => (Style::Json, Box::new(io::stdout())),
        LogFormat::Auto | LogFormat::Pretty if terminal && !no_color() => (Style::Colored, Box::new(io::stderr())),
        LogFormat::Auto | LogFormat::Pretty => (Style::Plain, Box::new(io::stderr())),
    };
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).lossy(true).thread_name("log");
    let (writer, worker) = queue.finish(output);
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(filter);
    let control = LogControl { format: config.format, filter: handle };
    let dispatch = dispatch(style, filter, clock, writer);
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::AlreadyOpen)?;
    Ok(LogGuard { dropped, control, _worker: worker })
}

/// Checks a filter without using it.
///
/// # Errors
/// When the filter does not parse.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

/// Logs one event; to be subscribed to an [`EventBus`](super::EventBus).
///
/// In JSON the line is the record itself with a `level` added. Other subscribers see a readable message and the JSON
/// text in the field `record`.
pub fn log_event(record: &EventRecord) {
    let message = summary(record);
    let level = match record.severity {
        Severity::Info => "INFO",
        Severity::Warning => "WARN",
        Severity::Error | Severity::Critical => "ERROR",
    };
    // Serialising strings, numbers and times does not fail; were it to, the message would still say it all.
    let json = serde_json::to_string(&Leveled { level, record }).unwrap_or_default();
    let json = json.as_str();
    match record.severity {
        Severity::Info => tracing::info!(target: EVENT_TARGET, record = json, "{message}"),
        Severity::Warning => tracing::warn!(target: EVENT_TARGET, record = json, "{message}"),
        Severity::Error | Severity::Critical => tracing::error!(target: EVENT_TARGET, record = json, "{message}"),
    }
}

/// The `tracing` target of events. Below the crate's own name, so that a filter `crank_agent=…` covers it.
pub const EVENT_TARGET: &str = "crank_agent::event";

/// The most lines that wait for their reader.
const QUEUE_LINES: usize = 1_024;

/// The form of lines, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Colored,
}

#[derive(Serialize)]
struct Leveled<'a> {
    level: &'static str,
    #[serde(flatten)]
    record: &'a EventRecord,
}

fn dispatch<W>(style: Style, filter: reload::Layer<Targets, Registry>, clock: Arc<dyn Clock>, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The lines add their own colour, after foreign text is cleaned. A failed write has nowhere to be reported: the
    // layer's own way would panic when standard error is closed.
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    match style {
        Style::Json => {
            Dispatch::new(registry.with(layer.fmt_fields(JsonFields::new()).event_format(JsonLine::new(clock))))
        }
        Style::Plain | Style::Colored => {
            let line = PrettyLine::new(clock, style == Style::Colored);
            Dispatch::new(registry.with(layer.fmt_fields(DefaultFields::new()).event_format(line)))
        }
    }
}

/// By target and level; `info` of whatever is not named. Filters by span and field would bring an engine for regular
/// expressions.
fn parse_filter(filter: &str) -> Result<Targets, LogError> {
    let parsed: Targets =
        filter.parse().map_err(|source| LogError::Filter { filter: printable(filter, 200), source })?;
    let default = parsed.default_level().unwrap_or(LevelFilter::INFO);
    Ok(parsed.with_default(default))
}

/// Whether the user asks for no colour (<https://no-color.org>).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The event in one line for people.
fn summary(record: &EventRecord) -> String {
    let mut parts = vec![record.event.to_string(), record.worker_id.to_string()];
    if let Some(certificate) = &record.cert_metadata {
        parts.push(format!("serial={}", certificate.serial));
        parts.push(format!("days={}", certificate.days_remaining));
        parts.push(format!("expires={}", line::rfc3339(certificate.expires_at)));
    }
    if let Some(error) = &record.error {
        parts.push(format!("error={}: {}", error.kind, error.message));
    }
    if let Some(detail) = &record.detail {
        parts.push(format!("({detail})"));
    }
    parts.push(format!("[{}]", record.correlation_id));
    printable(&parts.join(" "), 4 * FOREIGN_TEXT_LIMIT)
}

#[cfg(test)]
mod tests;
