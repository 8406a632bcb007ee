//! Owns the settings of the policy: section `[policy]` of the CA's settings file, and the policy that they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::engine::Narrowed;
use super::opa::{OpaAddress, OpaEngine, OpaError, OpaIdentity};
use super::rego::{RegoEngine, RegoError};
use super::{DefaultPolicy, Policy};
use crate::clock::Clock;
use crate::config::{Environment, HttpsUrl};
use crate::duration::{format_duration, parse_duration};

/// The section as it is written. Every key is optional, an unknown one is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// `policy.engine`: `default`, `rego` or `opa`.
    pub engine: EngineName,
    /// `policy.timeout`: how long the engine may take for one answer.
    pub timeout: Option<String>,
    /// `policy.directory`: the rules, for `rego`.
    pub directory: Option<PathBuf>,
    /// `policy.url`: for `opa`, as `https://opa.example:8181`.
    pub url: Option<String>,
    /// `policy.root_file`: the roots that OPA's certificate must reach.
    pub root_file: Option<PathBuf>,
    /// `policy.certificate_file`: the CA's own certificate towards OPA.
    pub certificate_file: Option<PathBuf>,
    /// `policy.key_file`: the key of that.
    pub key_file: Option<PathBuf>,
    /// `policy.socket`: for `opa`, in place of the URL.
    pub socket: Option<PathBuf>,
}

/// What narrows the default rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// Nothing.
    #[default]
    Default,
    /// Rego in this process.
    Rego,
    /// A remote OPA.
    Opa,
}

/// One thing that is wrong with the section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The key, as `policy.url`.
    pub key: &'static str,
    /// The value, where there is one.
    pub value: Option<String>,
    /// What was expected.
    pub expected: &'static str,
}

/// Settings that fit each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PolicyConfig {
    /// The default rules alone.
    #[default]
    Default,
    /// Narrowed by Rego in this process.
    Rego {
        /// Where the rules are.
        directory: PathBuf,
        /// How long one answer may take.
        timeout: Duration,
    },
    /// Narrowed by an OPA.
    Opa {
        /// Where it is.
        address: OpaAddress,
        /// How long one answer may take.
        timeout: Duration,
    },
}

/// A policy that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PolicySetupError {
    /// The rules.
    #[error("the policy rules are not usable")]
    Rego(#[from] RegoError),
    /// The way to OPA.
    #[error("OPA cannot be asked")]
    Opa(#[from] OpaError),
}

impl PolicySettings {
    /// What the settings say.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn resolve(&self) -> Result<PolicyConfig, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let timeout = self.timeout(&mut problems);
        self.refuse_useless(&mut problems);
        let config = match self.engine {
            EngineName::Default => Some(PolicyConfig::Default),
            EngineName::Rego => {
                let directory = self.directory.clone();
                if directory.is_none() {
                    problems.push(missing("policy.directory", "expected the directory of the rules"));
                }
                directory.map(|directory| PolicyConfig::Rego { directory, timeout })
            }
            EngineName::Opa => self.address(&mut problems).map(|address| PolicyConfig::Opa { address, timeout }),
        };
        config.filter(|_| problems.is_empty()).ok_or(problems)
    }

    fn timeout(&self, problems: &mut Vec<PolicyProblem>) -> Duration {
        let Some(text) = &self.timeout else { return DEFAULT_TIMEOUT };
        match parse_duration(text) {
            Ok(timeout) if (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout) => return timeout,
            _ => problems.push(PolicyProblem {
                key: "policy.timeout",
                value: Some(text.clone()),
                expected: "expected 10ms to 4s",
            }),
        }
        DEFAULT_TIMEOUT
    }

    /// A key that nothing would read is a mistake.
    fn refuse_useless(&self, problems: &mut Vec<PolicyProblem>) {
        let (rego, opa) = (self.engine == EngineName::Rego, self.engine == EngineName::Opa);
        let https = opa && self.socket.is_none();
        let own = "is of use only with engine = \"opa\" and policy.url: set these, or remove this";
        for (key, is_set, of_use, expected) in [
            ("policy.timeout", self.timeout.is_some(), rego || opa, "is of use only with engine = \"rego\" or \"opa\""),
            ("policy.directory", self.directory.is_some(), rego, "is of use only with engine = \"rego\""),
            ("policy.url", self.url.is_some(), https, own),
            ("policy.root_file", self.root_file.is_some(), https, own),
            ("policy.certificate_file", self.certificate_file.is_some(), https, own),
            ("policy.key_file", self.key_file.is_some(), https, own),
            ("policy.socket", self.socket.is_some(), opa, "is of use only with engine = \"opa\""),
        ] {
            if is_set && !of_use {
                problems.push(missing(key, expected));
            }
        }
    }

    fn address(&self, problems: &mut Vec<PolicyProblem>) -> Option<OpaAddress> {
        if let Some(socket) = &self.socket {
            return Some(OpaAddress::Socket(socket.clone()));
        }
        let Some(text) = &self.url else {
            problems.push(missing("policy.url", "expected policy.url or policy.socket, for engine = \"opa\""));
            return None;
        };
        let url = HttpsUrl::new(text);
        let url = url.map_err(|expected| {
            problems.push(PolicyProblem { key: "policy.url", value: Some(text.clone()), expected });
        });
        if self.root_file.is_none() {
            problems.push(missing("policy.root_file", "expected the roots that OPA's certificate must reach"));
        }
        let identity = match (&self.certificate_file, &self.key_file) {
            (Some(certificate_file), Some(key_file)) => {
                Some(OpaIdentity { certificate_file: certificate_file.clone(), key_file: key_file.clone() })
            }
            (None, None) => None,
            (Some(_), None) => {
                problems.push(missing("policy.key_file", "expected the key of policy.certificate_file"));
                None
            }
            (None, Some(_)) => {
                problems.push(missing("policy.certificate_file", "expected the certificate of policy.key_file"));
                None
            }
        };
        Some(OpaAddress::Https { url: url.ok()?, root_file: self.root_file.clone()?, identity })
    }
}

impl PolicyConfig {
    /// The policy: `core`, narrowed by the engine. Blocks on the file system; needs a tokio runtime, on which changed
    /// rules are looked for until the policy is dropped.
    ///
    /// # Errors
    /// When the rules or the credentials are not usable. An OPA that is not there is none: until it is, it denies.
    pub fn build(
        &self,
        core: DefaultPolicy,
        environment: Environment,
        clock: Arc<dyn Clock>,
    ) -> Result<Box<dyn Policy>, PolicySetupError> {
        Ok(match self {
            Self::Default => Box::new(core),
            Self::Rego { directory, timeout } => {
                let engine = RegoEngine::start(directory, *timeout)?;
                Box::new(Narrowed { core, engine, environment, clock, timeout: *timeout })
            }
            Self::Opa { address, timeout } => {
                let engine = OpaEngine::new(address.clone(), *timeout, Arc::clone(&clock))?;
                Box::new(Narrowed { core, engine, environment, clock, timeout: *timeout })
            }
        })
    }

    /// Key and value of each setting that gives this, without `policy.`; as they stand in the file.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Default => Vec::new(),
            Self::Rego { directory, timeout } => vec![
                ("engine", "rego".to_owned()),
                ("timeout", format_duration(*timeout)),
                ("directory", path(directory)),
            ],
            Self::Opa { address, timeout } => {
                let mut settings = vec![("engine", "opa".to_owned()), ("timeout", format_duration(*timeout))];
                match address {
                    OpaAddress::Socket(socket) => settings.push(("socket", path(socket))),
                    OpaAddress::Https { url, root_file, identity } => {
                        settings.push(("url", url.as_str().to_owned()));
                        settings.push(("root_file", path(root_file)));
                        if let Some(OpaIdentity { certificate_file, key_file }) = identity {
                            settings.push(("certificate_file", path(certificate_file)));
                            settings.push(("key_file", path(key_file)));
                        }
                    }
                }
                settings
            }
        }
    }
}

impl PolicySetupError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rego(_) => "policy_rules",
            Self::Opa(_) => "policy_opa",
        }
    }
}

fn missing(key: &'static str, expected: &'static str) -> PolicyProblem {
    PolicyProblem { key, value: None, expected }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// Within what a request may wait for its policy.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<PolicyConfig, Vec<&'static str>> {
        let settings: PolicySettings = toml::from_str(text).unwrap();
        settings.resolve().map_err(|problems| problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn each_engine_has_its_settings_and_they_can_be_written_back() {
        for text in [
            "",
            "engine = 'default'",
            "engine = 'rego'\ndirectory = '/etc/crank-ca/policy'",
            "engine = 'rego'\ndirectory = '/p'\ntimeout = '50ms'",
            "engine = 'opa'\nsocket = '/run/opa.sock'\ntimeout = '2s'",
            "engine = 'opa'\nurl = 'https://opa.example:8181'\nroot_file = '/r'",
            "engine = 'opa'\nurl = 'https://opa.example/x'\nroot_file = '/r'\ncertificate_file = '/c'\nkey_file = '/k'",
        ] {
            let config = resolve(text).unwrap();
            let lines = config.settings().into_iter().map(|(key, value)| format!("{key} = '{value}'\n"));
            assert_eq!(resolve(&lines.collect::<Vec<_>>().concat()), Ok(config), "{text}");
        }
    }

    #[test]
    fn every_problem_is_told() {
        for (text, keys) in [
            ("engine = 'rego'\ntimeout = '1h'", vec!["policy.timeout", "policy.directory"]),
            ("engine = 'opa'", vec!["policy.url"]),
            ("engine = 'opa'\nurl = 'http://opa.example:8181'", vec!["policy.url", "policy.root_file"]),
            (
                "engine = 'opa'\nurl = 'https://o'\nroot_file = '/r'\nkey_file = '/k'\ndirectory = '/d'",
                vec!["policy.directory", "policy.certificate_file"],
            ),
            (
                "engine = 'opa'\nsocket = '/s'\nurl = 'https://o'\nroot_file = '/r'",
                vec!["policy.url", "policy.root_file"],
            ),
            ("directory = '/d'\ntimeout = '1s'", vec!["policy.timeout", "policy.directory"]),
        ] {
            assert_eq!(resolve(text).unwrap_err(), keys, "{text}");
        }
        assert!(toml::from_str::<PolicySettings>("verify = false").is_err());
        assert!(toml::from_str::<PolicySettings>("engine = 'none'").is_err());
    }
}
