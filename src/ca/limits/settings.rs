//! Owns the settings of the limits as an operator writes them.

use serde::{Deserialize, Serialize};

use super::{Budget, RequestLimits};
use crate::ca::config::CaProblem;

/// The limits as written. Every key may be left out; a rate of 0 turns its limit off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Units that each source address regains in a second.
    pub source_rate: u32,
    /// Units that each source address may spend at once.
    pub source_burst: u32,
    /// Units that each worker regains in a second.
    pub worker_rate: u32,
    /// Units that each worker may spend at once.
    pub worker_burst: u32,
    /// Units that a failure costs beside the request.
    pub failure_cost: u32,
    /// The most connections of one source at a time; half of all when left out.
    pub connections_per_source: Option<usize>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self::of(&RequestLimits::default())
    }
}

impl LimitSettings {
    /// The settings that give these limits.
    #[must_use]
    pub fn of(limits: &RequestLimits) -> Self {
        Self {
            source_rate: limits.source.rate,
            source_burst: limits.source.burst,
            worker_rate: limits.worker.rate,
            worker_burst: limits.worker.burst,
            failure_cost: limits.failure_cost,
            connections_per_source: limits.connections_per_source,
        }
    }

    /// The limits, checked.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn resolve(&self) -> Result<RequestLimits, Vec<CaProblem>> {
        let mut problems = Vec::new();
        for (key, value) in [("source_rate", self.source_rate), ("worker_rate", self.worker_rate)] {
            if value > HIGHEST_RATE {
                problems.push(CaProblem::unfit(key, &value, "0 (off) to 1000000"));
            }
        }
        for (key, value) in [("source_burst", self.source_burst), ("worker_burst", self.worker_burst)] {
            if !(1..=HIGHEST_RATE * 10).contains(&value) {
                problems.push(CaProblem::unfit(key, &value, "1 to 10000000"));
            }
        }
        if self.failure_cost > HIGHEST_FAILURE_COST {
            problems.push(CaProblem::unfit("failure_cost", &self.failure_cost, "0 to 1000"));
        }
        if self.connections_per_source == Some(0) {
            problems.push(CaProblem::unfit("connections_per_source", &0, "at least 1"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(RequestLimits {
            source: Budget { rate: self.source_rate, burst: self.source_burst },
            worker: Budget { rate: self.worker_rate, burst: self.worker_burst },
            failure_cost: self.failure_cost,
            connections_per_source: self.connections_per_source,
        })
    }
}

const HIGHEST_RATE: u32 = 1_000_000;

const HIGHEST_FAILURE_COST: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_written_gives_the_defaults() {
        let settings: LimitSettings = toml::from_str("").unwrap();
        assert_eq!(settings.resolve().unwrap(), RequestLimits::default());
    }

    #[test]
    fn every_setting_that_does_not_fit_is_told_at_once() {
        let text = "source_rate = 1000001\nworker_burst = 0\nfailure_cost = 1001\nconnections_per_source = 0";
        let settings: LimitSettings = toml::from_str(text).unwrap();
        let keys: Vec<String> = settings.resolve().unwrap_err().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["source_rate", "worker_burst", "failure_cost", "connections_per_source"]);
        assert!(toml::from_str::<LimitSettings>("source_rat = 1").is_err());
    }
}
