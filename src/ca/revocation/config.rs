//! Owns the settings of revocation and renewal information.

use std::time::Duration;

use serde::Deserialize;

use crate::ca::admin::Admins;
use crate::ca::config::{CaProblem, Text};
use crate::ca::crl::{DEFAULT_CRL_LIFETIME, LONGEST_CRL_LIFETIME, SHORTEST_CRL_LIFETIME};
use crate::duration::format_duration;

/// The settings of revocation and renewal information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationConfig {
    /// The life of a CRL: 1 minute to 30 days. The next one is signed when half of it is over.
    pub crl_lifetime: Duration,
    /// Who may revoke any certificate, and ask about it.
    pub admins: Admins,
    /// The most who wait for news at a time, fewer than there are connections; three quarters of those where none is
    /// set. Further ones are answered at once.
    pub max_waiting: Option<usize>,
    /// A page that tells more of orders to renew, `https://…`.
    pub explanation_url: Option<String>,
}

/// `[crl]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrlSection {
    /// `crl.lifetime`: how long a CRL is good for.
    pub lifetime: Option<Text<Duration>>,
}

/// `[admin]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// `admin.identities`: SPIFFE ids and DNS names of those who may revoke any certificate.
    pub identities: Vec<String>,
}

/// `[renewal]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenewalSection {
    /// `renewal.max_waiting`: the most who wait for news at a time.
    pub max_waiting: Option<usize>,
    /// `renewal.explanation_url`: a page that tells more of orders to renew.
    pub explanation_url: Option<String>,
}

impl Default for RevocationConfig {
    /// CRLs of 24 hours, and no admins.
    fn default() -> Self {
        Self { crl_lifetime: DEFAULT_CRL_LIFETIME, admins: Admins::default(), max_waiting: None, explanation_url: None }
    }
}

impl RevocationConfig {
    /// Takes what the file says, and tells every problem of it.
    pub(crate) fn resolve(
        (crl, admin, renewal): (CrlSection, AdminSection, RenewalSection),
        max_connections: usize,
        problems: &mut Vec<CaProblem>,
    ) -> Self {
        let admins = Admins::new(&admin.identities).unwrap_or_else(|refused| {
            let problem = |(identity, expected): &(String, &'static str)| {
                CaProblem::new("admin.identities", Some(identity), *expected)
            };
            problems.extend(refused.iter().map(problem));
            Admins::default()
        });
        let config = Self {
            crl_lifetime: crl.lifetime.map_or(DEFAULT_CRL_LIFETIME, |Text(lifetime)| lifetime),
            admins,
            max_waiting: renewal.max_waiting,
            explanation_url: renewal.explanation_url,
        };
        problems.extend(config.problems(max_connections));
        config
    }

    /// What cannot be used.
    pub(crate) fn problems(&self, max_connections: usize) -> Vec<CaProblem> {
        let mut problems = Vec::new();
        if !(SHORTEST_CRL_LIFETIME..=LONGEST_CRL_LIFETIME).contains(&self.crl_lifetime) {
            let value = format_duration(self.crl_lifetime);
            problems.push(CaProblem::new("crl.lifetime", Some(&value), "expected 1m to 30d"));
        }
        if let Some(waiting) = self.max_waiting.filter(|waiting| *waiting >= max_connections) {
            let expected = "expected fewer than max_connections: who enrols needs one";
            problems.push(CaProblem::new("renewal.max_waiting", Some(&waiting.to_string()), expected));
        }
        if let Some(url) = self.explanation_url.as_deref().filter(|url| !is_https(url)) {
            problems.push(CaProblem::new("renewal.explanation_url", Some(url), "expected a URL as https://host/page"));
        }
        problems
    }
}

/// Good enough for what agents show and do not follow.
fn is_https(url: &str) -> bool {
    let host = url.strip_prefix("https://").unwrap_or_default();
    url.len() <= 2048 && !host.is_empty() && url.bytes().all(|c| c.is_ascii_graphic())
}
