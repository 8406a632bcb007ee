//! Owns who may ask beside those with a join token or a valid certificate, and how often anybody may.

use std::sync::Arc;
use std::time::Duration;

use super::CaConfig;
use super::anonymous::AnonymousRule;
use super::in_force::Before;
use super::limits::{Budget, Limits, RequestLimits};
use super::oidc::Issuers;
use crate::clock::Clock;

/// What one CA admits.
#[derive(Debug)]
pub(super) struct Admission {
    /// Whose tokens count.
    pub(super) issuers: Issuers,
    /// Who needs no credential.
    pub(super) anonymous: Vec<AnonymousRule>,
    /// How long after its end a certificate serves to renew itself.
    pub(super) renewal_grace: Duration,
    /// How often anybody may ask.
    pub(super) limits: Arc<Limits>,
}

impl Admission {
    /// Nobody else, as often as they like: for a CA that does not serve a network.
    pub(super) fn closed(clock: &Arc<dyn Clock>) -> Self {
        let off = Budget { rate: 0, burst: 1 };
        let limits = RequestLimits { source: off, worker: off, ..RequestLimits::default() };
        Self {
            issuers: Issuers::new(Vec::new(), clock, None),
            anonymous: Vec::new(),
            renewal_grace: Duration::ZERO,
            limits: Arc::new(Limits::new(&limits, 0, Arc::clone(clock))),
        }
    }

    /// Those of `config`. An issuer that was trusted before keeps its keys, and limits that are the same what was spent.
    pub(super) fn of(config: &CaConfig, clock: &Arc<dyn Clock>, before: Option<&Before<'_>>) -> Self {
        for rule in &config.anonymous {
            tracing::warn!(
                %rule,
                "certificates WITHOUT ANY CREDENTIAL: whoever sends from these networks can be any of these workers"
            );
        }
        let admission = before.map(|before| &before.in_force.admission);
        let limits = before.filter(|before| before.config.limits == config.limits);
        Self {
            issuers: Issuers::new(config.issuers.clone(), clock, admission.map(|admission| &admission.issuers)),
            anonymous: config.anonymous.clone(),
            renewal_grace: config.renewal_grace,
            limits: match limits {
                Some(before) => Arc::clone(&before.in_force.admission.limits),
                None => Arc::new(Limits::new(&config.limits, config.max_connections, Arc::clone(clock))),
            },
        }
    }
}

/// The longest grace after the end of a certificate.
pub(super) const LONGEST_GRACE: Duration = Duration::from_hours(7 * 24);
