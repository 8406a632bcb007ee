//! Owns what may change while a CA serves. It is exchanged as a whole, and who has begun with one goes on with it.

use std::sync::Arc;

use super::CaConfig;
use super::admin::Admins;
use super::admission::Admission;
use super::crl::DEFAULT_CRL_LIFETIME;
use super::renewal_info::Waiters;
use crate::clock::Clock;
use crate::policy::Policy;

/// The settings in force.
pub(super) struct InForce {
    pub(super) policy: Arc<dyn Policy>,
    /// Who may ask, and how often.
    pub(super) admission: Admission,
    /// Who may revoke any certificate.
    pub(super) admins: Admins,
    /// The life of a CRL.
    pub(super) crl_lifetime: time::Duration,
    /// The places for those who wait for news.
    pub(super) waiters: Arc<Waiters>,
    /// A page that tells more of orders to renew.
    pub(super) explanation_url: Option<String>,
}

/// What was in force until now, and the settings that made it.
pub(super) struct Before<'a> {
    pub(super) config: &'a CaConfig,
    pub(super) in_force: &'a InForce,
}

impl InForce {
    /// For a CA that does not serve a network.
    pub(super) fn closed(policy: Arc<dyn Policy>, clock: &Arc<dyn Clock>) -> Self {
        Self {
            policy,
            admission: Admission::closed(clock),
            admins: Admins::default(),
            crl_lifetime: days(DEFAULT_CRL_LIFETIME),
            waiters: Arc::new(Waiters::new(0)),
            explanation_url: None,
        }
    }

    /// By `config`. What somebody has spent, who waits, and the keys of token issuers are taken over from `before`, where
    /// the settings of these are the same.
    pub(super) fn of(
        config: &CaConfig,
        policy: Arc<dyn Policy>,
        clock: &Arc<dyn Clock>,
        before: Option<&Before<'_>>,
    ) -> Self {
        let revocation = &config.revocation;
        let waiters = before.filter(|before| before.config.revocation.max_waiting == revocation.max_waiting);
        let waiters = match waiters {
            Some(before) => Arc::clone(&before.in_force.waiters),
            // Not all of them: nobody could enrol while all wait.
            None => Arc::new(Waiters::new(revocation.max_waiting.unwrap_or(config.max_connections / 4 * 3))),
        };
        Self {
            policy,
            admission: Admission::of(config, clock, before),
            admins: revocation.admins.clone(),
            crl_lifetime: days(revocation.crl_lifetime),
            waiters,
            explanation_url: revocation.explanation_url.clone(),
        }
    }
}

/// In the scale of calendars; a day where it would not fit, which settings do not allow.
fn days(length: std::time::Duration) -> time::Duration {
    time::Duration::try_from(length).unwrap_or(time::Duration::DAY)
}
