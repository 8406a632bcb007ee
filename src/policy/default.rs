//! Owns the default policy: own names only, validity capped, renewal in the last part of the life, revocation of the
//! own certificate and by those who run the CA.

use std::future::ready;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Actor, Capabilities, Decision, Policy, PolicyAnswer, RevocationReason, ValidityPeriod};
use crate::identity::{CertificateMetadata, WorkerId};

/// The rules in force where no others are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultPolicy {
    lifetime: Duration,
}

impl DefaultPolicy {
    /// The default rules with certificates of `lifetime`.
    ///
    /// # Errors
    /// When `lifetime` is under [`SHORTEST_LIFETIME`] or over [`LONGEST_LIFETIME`]; the text says what was expected.
    pub fn new(lifetime: Duration) -> Result<Self, &'static str> {
        if lifetime < SHORTEST_LIFETIME {
            return Err("expected at least 60s");
        }
        if lifetime > LONGEST_LIFETIME {
            return Err("expected at most 365d");
        }
        Ok(Self { lifetime })
    }

    fn decide_issuance(capabilities: &Capabilities) -> Decision {
        let foreign: Vec<String> =
            capabilities.names.difference(&capabilities.permitted).map(ToString::to_string).collect();
        if foreign.is_empty() {
            Decision::allow("own names only")
        } else {
            Decision::deny(&format!("names not permitted: {}", foreign.join(", ")))
        }
    }

    /// One's own, or any for those who run the CA.
    fn decide_revocation(worker_id: &WorkerId, actor: &Actor) -> Decision {
        match actor {
            Actor::Worker(own) if own == worker_id => Decision::allow("the worker's own certificate"),
            Actor::Worker(_) => Decision::deny("a worker may revoke its own certificate only"),
            Actor::Admin(_) | Actor::Operator => Decision::allow("by those who run the CA"),
        }
    }

    /// Under a week left; for lives of 30 days and less, under 30 % left.
    fn decide_renewal(metadata: &CertificateMetadata, now: OffsetDateTime) -> Decision {
        let life = metadata.expires_at - metadata.not_before;
        let left = metadata.expires_at - now;
        if left <= renewal_part(life) {
            Decision::allow("within the renewal window")
        } else {
            Decision::deny("not yet due")
        }
    }
}

impl Default for DefaultPolicy {
    fn default() -> Self {
        Self { lifetime: LONGEST_LIFETIME }
    }
}

impl Policy for DefaultPolicy {
    fn can_issue_certificate<'a>(&'a self, _: &'a WorkerId, asked: &'a Capabilities) -> PolicyAnswer<'a, Decision> {
        Box::pin(ready(Ok(Self::decide_issuance(asked))))
    }

    fn certificate_validity_period<'a>(
        &'a self,
        _: &'a WorkerId,
        _: &'a Capabilities,
    ) -> PolicyAnswer<'a, ValidityPeriod> {
        Box::pin(ready(Ok(ValidityPeriod { period: self.lifetime, decision: Decision::allow("default lifetime") })))
    }

    fn should_renew_certificate<'a>(
        &'a self,
        cert_metadata: &'a CertificateMetadata,
        now: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(ready(Ok(Self::decide_renewal(cert_metadata, now))))
    }

    fn revoke_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        _: RevocationReason,
        actor: &'a Actor,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(ready(Ok(Self::decide_revocation(worker_id, actor))))
    }
}

/// The last part of a certificate's life, in which it is renewed.
pub(crate) fn renewal_part(life: time::Duration) -> time::Duration {
    if life > time::Duration::days(30) { time::Duration::days(7) } else { life * 3 / 10 }
}

/// The shortest life of a worker's certificate.
pub const SHORTEST_LIFETIME: Duration = Duration::from_mins(1);

/// The longest life of a worker's certificate, and the default.
pub const LONGEST_LIFETIME: Duration = Duration::from_hours(365 * 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::input::testing::capabilities;

    #[tokio::test]
    async fn own_names_are_allowed_and_foreign_ones_are_listed() {
        let worker = WorkerId::new("streaming").unwrap();
        let policy = DefaultPolicy::default();
        let own = capabilities(&["streaming"], &["streaming", "localhost"]);
        assert!(policy.can_issue_certificate(&worker, &own).await.unwrap().is_allowed());
        let foreign = capabilities(&["streaming", "other"], &["streaming", "localhost"]);
        let decision = policy.can_issue_certificate(&worker, &foreign).await.unwrap();
        assert!(!decision.is_allowed());
        assert_eq!(decision.reason, "names not permitted: DNS:other");
    }

    #[tokio::test]
    async fn a_worker_revokes_its_own_certificate_and_those_who_run_the_ca_any() {
        let worker = WorkerId::new("streaming").unwrap();
        for (actor, allowed) in [
            (Actor::Worker(worker.clone()), true),
            (Actor::Worker(WorkerId::new("other").unwrap()), false),
            (Actor::Admin("alice".to_owned()), true),
            (Actor::Operator, true),
        ] {
            let policy = DefaultPolicy::default();
            let answer = policy.revoke_certificate(&worker, RevocationReason::KeyCompromise, &actor).await;
            assert_eq!(answer.unwrap().is_allowed(), allowed, "{actor}");
        }
    }

    #[test]
    fn lifetimes_are_between_a_minute_and_a_year() {
        for bad in [0, 59, 365 * 86_400 + 1] {
            assert!(DefaultPolicy::new(Duration::from_secs(bad)).is_err(), "{bad}");
        }
        assert!(DefaultPolicy::new(SHORTEST_LIFETIME).is_ok() && DefaultPolicy::new(LONGEST_LIFETIME).is_ok());
    }

    proptest! {
        #[test]
        fn renewal_once_due_stays_due(life in 60_i64..34_560_000, at in 0_i64..34_560_000, later in 0_i64..1_000_000) {
            let start = OffsetDateTime::UNIX_EPOCH;
            let metadata = CertificateMetadata {
                expires_at: start + time::Duration::seconds(life),
                days_remaining: 0,
                serial: String::new(),
                issuer: String::new(),
                subject: String::new(),
                not_before: start,
                names: Vec::new(),
            };
            let due = |at| DefaultPolicy::decide_renewal(&metadata, start + time::Duration::seconds(at)).is_allowed();
            prop_assert!(!due(0));
            prop_assert!(due(life));
            prop_assert!(!due(at) || due(at + later));
        }
    }
}
