//! Owns what is printed: figures with their limits, and the machine they hold for.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Result;

/// One figure, in its unit.
pub(crate) struct Figure {
    name: String,
    unit: Unit,
    value: f64,
    /// The least and the greatest of several measurements.
    range: Option<(f64, f64)>,
    limit: Option<f64>,
}

#[derive(Clone, Copy)]
enum Unit {
    Mebibytes,
    Milliseconds,
    PerMinute,
}

impl Figure {
    /// A size.
    pub(crate) fn bytes(name: &str, bytes: u64) -> Self {
        Self::new(name, Unit::Mebibytes, mebibytes(bytes))
    }

    /// A rate.
    pub(crate) fn per_minute(name: &str, rate: f64) -> Self {
        Self::new(name, Unit::PerMinute, rate)
    }

    /// The median of `times`, which are not none.
    pub(crate) fn milliseconds(name: &str, times: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        match sorted.as_slice() {
            [least, .., greatest] => Self {
                range: Some((*least, *greatest)),
                ..Self::new(&format!("{name}, median of {}", sorted.len()), Unit::Milliseconds, median)
            },
            _ => Self::new(name, Unit::Milliseconds, median),
        }
    }

    /// Sets the limit, in bytes for a size and in the figure's own unit otherwise.
    pub(crate) fn at_most<L: Limit>(mut self, limit: L) -> Self {
        self.limit = Some(limit.in_unit());
        self
    }

    /// Whether the limit, if there is one, holds.
    pub(crate) fn is_within_limit(&self) -> bool {
        self.limit.is_none_or(|limit| self.value <= limit)
    }

    /// The first two cells of a table row.
    pub(crate) fn row(&self) -> String {
        let unit = self.unit;
        let range = self.range.map(|(least, greatest)| format!(" ({least:.1} to {greatest:.1})")).unwrap_or_default();
        format!("| {} | {:.1} {unit}{range} |", self.name, self.value)
    }

    fn new(name: &str, unit: Unit, value: f64) -> Self {
        Self { name: name.to_owned(), unit, value, range: None, limit: None }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exceeded = if self.is_within_limit() { "" } else { " **exceeded**" };
        match self.limit {
            Some(limit) => write!(f, "{} {limit:.0} {}{exceeded} |", self.row(), self.unit),
            None => write!(f, "{} |", self.row()),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mebibytes => "MiB",
            Self::Milliseconds => "ms",
            Self::PerMinute => "/min",
        })
    }
}

/// A limit as it is written down: whole bytes, or a number in the figure's unit.
pub(crate) trait Limit {
    fn in_unit(self) -> f64;
}

impl Limit for u64 {
    fn in_unit(self) -> f64 {
        mebibytes(self)
    }
}

impl Limit for f64 {
    fn in_unit(self) -> f64 {
        self
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Whether the program is static: an ELF file that names no interpreter (`PT_INTERP`).
pub(crate) fn linking(program: &Path) -> Result<&'static str> {
    let bytes = fs::read(program)?;
    // The interpreter's path, as `/lib64/ld-linux-x86-64.so.2`, stands near the start of the file.
    let head = &bytes[..bytes.len().min(4096)];
    let dynamic = head.windows(8).any(|window| window.starts_with(b"/ld-linu") || window.starts_with(b"/ld-musl"));
    Ok(if dynamic { "dynamic" } else { "static" })
}
