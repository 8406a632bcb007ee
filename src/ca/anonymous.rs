//! Owns the rules by which a client without any credential may have a certificate all the same. There are none unless
//! an operator writes them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config::CaProblem;
use super::glob::Wildcards;
use crate::identity::WorkerId;

/// A rule as written: who may come from where, without proof. Whoever sends from there can be any of those workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousSettings {
    /// Networks, as `10.1.0.0/16`.
    pub sources: Vec<String>,
    /// Worker ids; `*` stands for any letters, digits and `-`.
    pub workers: Vec<String>,
}

/// A rule, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousRule {
    sources: Vec<IpNet>,
    workers: Vec<String>,
}

impl AnonymousSettings {
    /// The rule, checked.
    ///
    /// # Errors
    /// Every value that cannot be used.
    pub fn resolve(&self) -> Result<AnonymousRule, Vec<CaProblem>> {
        let mut problems = Vec::new();
        let mut sources = Vec::new();
        for text in &self.sources {
            match text.parse::<IpNet>() {
                Ok(network) if network == network.trunc() => sources.push(network),
                _ => problems.push(CaProblem::unfit("sources", text, "a network such as 10.1.0.0/16 or fd00:1::/32")),
            }
        }
        for text in &self.workers {
            if WorkerId::new(&text.replace('*', "a")).is_err() {
                problems.push(CaProblem::unfit("workers", text, "a worker id, with `*` for letters, digits and `-`"));
            }
        }
        for (key, values) in [("sources", &self.sources), ("workers", &self.workers)] {
            if values.is_empty() {
                problems.push(CaProblem::missing(key, "at least one"));
            }
        }
        if problems.is_empty() { Ok(AnonymousRule { sources, workers: self.workers.clone() }) } else { Err(problems) }
    }
}

impl AnonymousRule {
    /// The settings that give this rule.
    #[must_use]
    pub fn settings(&self) -> AnonymousSettings {
        let sources = self.sources.iter().map(ToString::to_string).collect();
        AnonymousSettings { sources, workers: self.workers.clone() }
    }

    /// Whether the rule is about clients at `address`.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.sources.iter().any(|network| network.contains(&address))
    }

    /// Whether the rule is about this worker.
    pub(super) fn names(&self, worker: &WorkerId) -> bool {
        self.workers.iter().any(|pattern| Wildcards::WithinLabel.matches(pattern, worker.as_str()))
    }
}

impl fmt::Display for AnonymousRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        write!(f, "{} from {}", self.workers.join(", "), sources.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(sources: &[&str], workers: &[&str]) -> Result<AnonymousRule, Vec<CaProblem>> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        AnonymousSettings { sources: texts(sources), workers: texts(workers) }.resolve()
    }

    #[test]
    fn a_rule_is_about_its_networks_and_its_workers_only() {
        let rule = rule(&["10.1.0.0/16", "fd00::/8", "192.0.2.7/32"], &["old-*", "legacy.streaming"]).unwrap();
        for (address, covered) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(rule.covers(address.parse().unwrap()), covered, "{address}");
        }
        for (worker, named) in [
            ("old-1", true),
            ("old-", false),
            ("old-a.b", false),
            ("an-old-1", false),
            ("legacy.streaming", true),
            ("legacy-streaming", false),
        ] {
            assert_eq!(WorkerId::new(worker).is_ok_and(|worker| rule.names(&worker)), named, "{worker}");
        }
        assert_eq!(rule.to_string(), "old-*, legacy.streaming from 10.1.0.0/16, fd00::/8, 192.0.2.7/32");
    }

    #[test]
    fn every_value_that_does_not_fit_is_told() {
        let problems = rule(&["10.1.0.1/16", "10.0.0.1", "x"], &["A", ""]).unwrap_err();
        let values: Vec<&str> = problems.iter().map(|problem| problem.value.as_deref().unwrap_or_default()).collect();
        assert_eq!(values, ["10.1.0.1/16", "10.0.0.1", "x", "A", ""]);
        assert_eq!(rule(&[], &[]).unwrap_err().len(), 2);
    }
}
