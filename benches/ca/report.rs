//! Owns what is printed: a row for each server and workload, medians with the least and the greatest of all runs.

use std::time::Duration;

use crate::Workload;
use crate::limit::Limit;
use crate::server::Kind;

/// What one run came to. Times are seconds of processor time for one certificate.
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) authority: f64,
    pub(crate) database: f64,
    pub(crate) clients: f64,
    pub(crate) resident: u64,
}

/// All runs.
pub(crate) struct Table {
    limit: Limit,
    runs: Vec<(Kind, Workload, Figures)>,
}

impl Figures {
    /// The latency in milliseconds that this part of the requests did not exceed.
    fn percentile(&self, part: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within the list")]
        let place = (crate::count_of(sorted.len()) * part) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

impl Table {
    pub(crate) fn new(limit: Limit) -> Self {
        Self { limit, runs: Vec::new() }
    }

    pub(crate) fn add(&mut self, kind: Kind, workload: Workload, figures: Figures) {
        self.runs.push((kind, workload, figures));
    }

    /// One run in a line.
    pub(crate) fn line(&self, kind: Kind, workload: Workload, figures: &Figures) -> String {
        self.row(kind, workload, &[figures])
    }

    pub(crate) fn print(&self) {
        println!(
            "\n| server | load | issued a second | p50 ms | p99 ms | server CPU µs | database CPU µs | clients CPU µs | \
             limit µs | limit / server | resident MiB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        );
        for kind in Kind::ALL {
            for workload in crate::WORKLOADS {
                let of_it = self.runs.iter().filter(|(is, does, _)| (*is, *does) == (kind, workload));
                let figures: Vec<&Figures> = of_it.map(|(_, _, figures)| figures).collect();
                if !figures.is_empty() {
                    println!("{}", self.row(kind, workload, &figures));
                }
            }
        }
        self.print_ratios();
    }

    fn row(&self, kind: Kind, workload: Workload, figures: &[&Figures]) -> String {
        let rates = spread(figures, |figures| figures.rate);
        let micro = |of: fn(&Figures) -> f64| spread(figures, |figures| of(figures) * 1e6).median;
        let limit = self.limit.time(workload.connections, workload.shown).as_secs_f64() * 1e6;
        let (authority, database) = (micro(|figures| figures.authority), micro(|figures| figures.database));
        #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
        let resident = spread(figures, |figures| figures.resident as f64 / (1024.0 * 1024.0)).median;
        format!(
            "| {} | {} | {:.0} ({:.0} to {:.0}) | {:.1} | {:.1} | {authority:.0} | {database:.0} | {:.0} | {limit:.0} | \
             {:.2} | {resident:.1} |",
            kind.name(),
            workload.name(),
            rates.median,
            rates.least,
            rates.greatest,
            spread(figures, |figures| figures.percentile(0.5)).median,
            spread(figures, |figures| figures.percentile(0.99)).median,
            micro(|figures| figures.clients),
            limit / (authority + database),
        )
    }

    /// How many times the certificates of step-ca, run by run.
    fn print_ratios(&self) {
        for workload in crate::WORKLOADS {
            let of = |kind: Kind| -> Vec<&Figures> {
                let of_it = self.runs.iter().filter(|(is, does, _)| (*is, *does) == (kind, workload));
                of_it.map(|(_, _, figures)| figures).collect()
            };
            let step = of(Kind::Step);
            for kind in [Kind::Sqlite, Kind::Postgres] {
                let ours = of(kind);
                if ours.is_empty() || ours.len() != step.len() {
                    continue;
                }
                let pairs: Vec<(&Figures, &Figures)> = ours.into_iter().zip(step.iter().copied()).collect();
                let rate = spread(&pairs, |(ours, step)| ours.rate / step.rate);
                let time = spread(&pairs, |(ours, step)| step.authority / (ours.authority + ours.database));
                println!(
                    "{}, {}: {:.1} times the rate of step-ca ({:.1} to {:.1}), {:.1} times by processor time of the servers \
                     ({:.1} to {:.1})",
                    kind.name(),
                    workload.name(),
                    rate.median,
                    rate.least,
                    rate.greatest,
                    time.median,
                    time.least,
                    time.greatest
                );
            }
        }
    }
}

struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

/// Of at least one.
fn spread<T>(runs: &[T], value: impl Fn(&T) -> f64) -> Spread {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
    Spread { least: values[0], median, greatest: values[values.len() - 1] }
}
