//! Owns what the default rules and an engine decide together: the rules first, and the engine only narrows them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::input::{Hook, Input};
use super::{
    Actor, Capabilities, Decision, DefaultPolicy, Policy, PolicyAnswer, PolicyError, PolicyStatus, RevocationReason,
    ValidityPeriod, answer,
};
use crate::clock::Clock;
use crate::config::Environment;
use crate::identity::{CertificateMetadata, WorkerId};

/// What evaluates rules that are not in this program's code.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The answer to `input`, whatever its shape. Dropped when it takes too long.
    fn ask(&self, input: Input) -> Asked<'_>;

    /// Which rules are in force.
    fn status(&self) -> PolicyStatus;
}

/// An answer on its way.
pub(crate) type Asked<'a> = Pin<Box<dyn Future<Output = Result<Answer, PolicyError>> + Send + 'a>>;

/// An engine's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// `None` where no rule answers.
    pub(crate) value: Option<Value>,
    /// What it rests on: [`Decision::basis`].
    pub(crate) basis: String,
}

/// The default rules with an engine after them.
pub(crate) struct Narrowed<E> {
    pub(crate) core: DefaultPolicy,
    pub(crate) engine: E,
    pub(crate) environment: Environment,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long the engine may take for one answer.
    pub(crate) timeout: Duration,
}

impl<E: Engine> Narrowed<E> {
    async fn ask(&self, input: Input) -> Result<Answer, PolicyError> {
        let hook = input.hook;
        let late = || PolicyError::new(&format!("no answer to {hook} within {} ms", self.timeout.as_millis()));
        tokio::time::timeout(self.timeout, self.engine.ask(input)).await.unwrap_or_else(|_| Err(late()))
    }

    /// The engine's decision where the rules allow, and else theirs.
    async fn narrow(&self, core: Decision, input: Input) -> Result<Decision, PolicyError> {
        if !core.is_allowed() {
            return Ok(core);
        }
        let Answer { value, basis } = self.ask(input).await?;
        answer::decision(value, &basis)
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now().wall
    }
}

impl<E: Engine> Policy for Narrowed<E> {
    fn can_issue_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        capabilities: &'a Capabilities,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async move {
            let core = self.core.can_issue_certificate(worker_id, capabilities).await?;
            let input = Input::issuance(Hook::CanIssueCertificate, worker_id, capabilities, self.now());
            self.narrow(core, input).await
        })
    }

    /// The shorter of the two lives.
    fn certificate_validity_period<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        capabilities: &'a Capabilities,
    ) -> PolicyAnswer<'a, ValidityPeriod> {
        Box::pin(async move {
            let core = self.core.certificate_validity_period(worker_id, capabilities).await?;
            if !core.decision.is_allowed() {
                return Ok(core);
            }
            let input = Input::issuance(Hook::CertificateValidityPeriod, worker_id, capabilities, self.now());
            let Answer { value, basis } = self.ask(input).await?;
            let narrowed = answer::validity_period(value, &basis)?;
            Ok(ValidityPeriod { period: narrowed.period.min(core.period), ..narrowed })
        })
    }

    /// The engine's answer alone: this hook permits nothing, and a wish to renew early or late is no wider than another.
    fn should_renew_certificate<'a>(
        &'a self,
        cert_metadata: &'a CertificateMetadata,
        now: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async move {
            let Answer { value, basis } = self.ask(Input::renewal(cert_metadata, self.environment, now)).await?;
            answer::decision(value, &basis)
        })
    }

    fn revoke_certificate<'a>(
        &'a self,
        worker_id: &'a WorkerId,
        reason: RevocationReason,
        actor: &'a Actor,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async move {
            let core = self.core.revoke_certificate(worker_id, reason, actor).await?;
            let input = Input::revocation(worker_id, reason, actor, self.environment, self.now());
            self.narrow(core, input).await
        })
    }

    fn status(&self) -> PolicyStatus {
        self.engine.status()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::clock::SystemClock;
    use crate::policy::input::testing::capabilities;

    /// Says what it is told to, never when told nothing, and notes what it was asked.
    struct Told {
        answer: Option<Result<Option<Value>, PolicyError>>,
        asked: Mutex<Vec<Hook>>,
    }

    impl Engine for Told {
        fn ask(&self, input: Input) -> Asked<'_> {
            self.asked.lock().unwrap().push(input.hook);
            Box::pin(async move {
                match self.answer.clone() {
                    Some(answer) => answer.map(|value| Answer { value, basis: "told".to_owned() }),
                    None => std::future::pending().await,
                }
            })
        }

        fn status(&self) -> PolicyStatus {
            PolicyStatus { engine: "told", revision: None, problem: None }
        }
    }

    fn told(answer: Option<Result<Option<Value>, PolicyError>>) -> Narrowed<Told> {
        Narrowed {
            core: DefaultPolicy::new(Duration::from_hours(24)).unwrap(),
            engine: Told { answer, asked: Mutex::default() },
            environment: Environment::Production,
            clock: Arc::new(SystemClock),
            timeout: Duration::from_secs(1),
        }
    }

    fn says(answer: Value) -> Narrowed<Told> {
        told(Some(Ok(Some(answer))))
    }

    fn streaming() -> WorkerId {
        WorkerId::new("streaming").unwrap()
    }

    #[tokio::test]
    async fn an_engine_that_allows_all_does_not_widen_the_default_rules() {
        let policy = says(json!({ "allow": true }));
        let foreign = capabilities(&["other"], &["streaming"]);
        assert!(!policy.can_issue_certificate(&streaming(), &foreign).await.unwrap().is_allowed());
        let other = Actor::Worker(WorkerId::new("other").unwrap());
        let reason = RevocationReason::Superseded;
        assert!(!policy.revoke_certificate(&streaming(), reason, &other).await.unwrap().is_allowed());
        // What the rules deny, the engine is not even asked.
        assert!(policy.engine.asked.lock().unwrap().is_empty());
        let own = capabilities(&["streaming"], &["streaming"]);
        let decision = policy.can_issue_certificate(&streaming(), &own).await.unwrap();
        assert_eq!((decision.is_allowed(), decision.basis.as_deref()), (true, Some("told")));
    }

    #[tokio::test]
    async fn an_engine_that_denies_is_heard() {
        let policy = says(json!({ "allow": false, "reason": "not on Fridays" }));
        let own = capabilities(&["streaming"], &["streaming"]);
        let decision = policy.can_issue_certificate(&streaming(), &own).await.unwrap();
        assert_eq!((decision.is_allowed(), decision.reason.as_str()), (false, "not on Fridays"));
        let revocation = policy.revoke_certificate(&streaming(), RevocationReason::Superseded, &Actor::Operator).await;
        assert!(!revocation.unwrap().is_allowed());
    }

    #[tokio::test]
    async fn the_shorter_life_counts() {
        let own = capabilities(&["streaming"], &["streaming"]);
        for (period, expected) in [("1h", 1), ("24h", 24), ("365d", 24)] {
            let policy = says(json!({ "period": period }));
            let answer = policy.certificate_validity_period(&streaming(), &own).await.unwrap();
            assert_eq!(answer.period, Duration::from_hours(expected), "{period}");
        }
    }

    #[tokio::test]
    async fn no_answer_a_wrong_one_and_a_late_one_deny() {
        tokio::time::pause();
        let own = capabilities(&["streaming"], &["streaming"]);
        for answer in [Some(Err(PolicyError::new("down"))), Some(Ok(Some(json!("yes")))), None] {
            let policy = told(answer.clone());
            assert!(policy.can_issue_certificate(&streaming(), &own).await.is_err(), "{answer:?}");
            assert!(policy.certificate_validity_period(&streaming(), &own).await.is_err(), "{answer:?}");
            let reason = RevocationReason::Superseded;
            assert!(policy.revoke_certificate(&streaming(), reason, &Actor::Operator).await.is_err(), "{answer:?}");
        }
        let undefined = told(Some(Ok(None)));
        assert!(!undefined.can_issue_certificate(&streaming(), &own).await.unwrap().is_allowed());
    }
}
