//! Owns the decision whether a configuration that was read anew is to be put in force.

use crate::config::{Config, ConfigReport};

/// Remembers what was refused, so that it is told once and not tried again until it changes or an operator asks.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    refused: Option<Refused>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    /// It is wrong in itself.
    Report(ConfigReport),
    /// What it names cannot be had: a port in use, say.
    Config(Box<Config>),
}

/// Why the configuration was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Some watched file changed, or it is time to look.
    Look,
    /// An operator asked (SIGHUP).
    Operator,
}

/// What is to be done with what was read.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing.
    Stay,
    /// Put it in force.
    Apply(Box<Config>),
    /// Tell that it is wrong.
    Reject(ConfigReport),
}

impl Reloading {
    /// Decides on `read`, while `current` is in force.
    pub(super) fn decide(
        &mut self,
        read: Result<Config, ConfigReport>,
        current: &Config,
        occasion: Occasion,
    ) -> Verdict {
        let read = match read {
            Ok(next) if next == *current => {
                self.refused = None;
                return Verdict::Stay;
            }
            Ok(next) => Refused::Config(Box::new(next)),
            Err(report) => Refused::Report(report),
        };
        if occasion == Occasion::Look && self.refused.as_ref() == Some(&read) {
            return Verdict::Stay;
        }
        match read {
            Refused::Config(next) => {
                self.refused = None;
                Verdict::Apply(next)
            }
            Refused::Report(report) => {
                self.refused = Some(Refused::Report(report.clone()));
                Verdict::Reject(report)
            }
        }
    }

    /// `config` could not be put in force.
    pub(super) fn refuse(&mut self, config: Config) {
        self.refused = Some(Refused::Config(Box::new(config)));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Arguments, load};

    fn config(directory: &str) -> Config {
        crate::testing::config(Path::new(directory))
    }

    fn report(key: &str) -> ConfigReport {
        load(&Arguments::without_environment().with_flag("--set", key, "x")).unwrap_err()
    }

    #[test]
    fn what_cannot_be_put_in_force_is_tried_again_only_when_it_changes_or_an_operator_asks() {
        let (current, occupied, other) = (config("/a"), config("/b"), config("/c"));
        let mut reloading = Reloading::default();
        let mut decide = |read: &Config, occasion| {
            let verdict = reloading.decide(Ok(read.clone()), &current, occasion);
            let apply = verdict == Verdict::Apply(Box::new(read.clone()));
            if apply && *read == occupied {
                reloading.refuse(read.clone());
            }
            apply
        };
        assert!(!decide(&current, Occasion::Operator));
        assert!(decide(&occupied, Occasion::Look));
        assert!(!decide(&occupied, Occasion::Look));
        assert!(decide(&occupied, Occasion::Operator));
        assert!(decide(&other, Occasion::Look));
        assert!(decide(&occupied, Occasion::Look));
        // Taken back and made again, it is another change.
        assert!(!decide(&current, Occasion::Look));
        assert!(decide(&occupied, Occasion::Look));
    }

    #[test]
    fn a_wrong_configuration_is_told_once_until_it_changes_or_an_operator_asks() {
        let current = config("/a");
        let mut reloading = Reloading::default();
        let mut told =
            |key: &str, occasion| matches!(reloading.decide(Err(report(key)), &current, occasion), Verdict::Reject(_));
        assert!(told("ca.url", Occasion::Look));
        assert!(!told("ca.url", Occasion::Look));
        assert!(told("ca.url", Occasion::Operator));
        assert!(told("ca.timeout", Occasion::Look));
        assert!(!told("ca.timeout", Occasion::Look));
    }
}
