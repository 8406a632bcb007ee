//! Tests of who may revoke what, and of what this process learns of it.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::state::Database;
use crate::ca::{EnrolmentError, InitOptions};
use crate::clock::SystemClock;
use crate::clock::testing::TestClock;
use crate::config::Environment;
use crate::identity::csr::generate_csr;
use crate::identity::{CertificateMetadata, KeyType, PrivateKey, RequestedIdentity, SubjectAltName, TrustDomain};
use crate::policy::{Capabilities, DefaultPolicy, PolicyAnswer, ValidityPeriod};

/// The default rules, but for revocation.
#[derive(Clone, Copy)]
enum Rules {
    Deny,
    Fail,
    Default,
}

impl Policy for Rules {
    fn can_issue_certificate<'a>(
        &'a self,
        worker: &'a WorkerId,
        asked: &'a Capabilities,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async { DefaultPolicy::default().can_issue_certificate(worker, asked).await })
    }

    fn certificate_validity_period<'a>(
        &'a self,
        worker: &'a WorkerId,
        asked: &'a Capabilities,
    ) -> PolicyAnswer<'a, ValidityPeriod> {
        Box::pin(async { DefaultPolicy::default().certificate_validity_period(worker, asked).await })
    }

    fn should_renew_certificate<'a>(
        &'a self,
        _: &'a CertificateMetadata,
        _: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async { Ok(Decision::deny("not asked here")) })
    }

    fn revoke_certificate<'a>(
        &'a self,
        worker: &'a WorkerId,
        reason: RevocationReason,
        actor: &'a Actor,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(async move {
            match self {
                Self::Deny => Ok(Decision::deny("not on Sundays")),
                Self::Fail => Err(PolicyError { reason: "out of order".to_owned() }),
                Self::Default => DefaultPolicy::default().revoke_certificate(worker, reason, actor).await,
            }
        })
    }
}

struct Ca {
    _directory: TempDir,
    manager: CertificateAuthorityManager,
}

impl Ca {
    async fn with(rules: Rules) -> Self {
        Self::at(rules, Arc::new(SystemClock)).await
    }

    async fn at(rules: Rules, clock: Arc<dyn Clock>) -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("ca");
        let options = InitOptions::new(TrustDomain::new("crank.local").unwrap());
        CertificateAuthorityManager::generate_ca_certificate(&data, &options, &SystemClock).unwrap();
        let manager = CertificateAuthorityManager::open(
            &data,
            &Database::Sqlite,
            Box::new(rules),
            Environment::Production,
            clock,
        )
        .await
        .unwrap();
        manager.look().await.unwrap();
        Self { _directory: directory, manager }
    }

    async fn issue(&self, worker: &str, key: &PrivateKey) -> Result<String, EnrolmentError> {
        let worker = WorkerId::new(worker).unwrap();
        let names: [SubjectAltName; 0] = [];
        let identity = RequestedIdentity::new(worker, &TrustDomain::new("crank.local").unwrap(), names);
        let csr = generate_csr(&identity, key, KeyType::EcdsaP256).unwrap();
        Ok(self.manager.sign_worker_certificate(&csr, &identity, "req_1").await?.serial)
    }

    async fn fresh(&self, worker: &str) -> String {
        self.issue(worker, &key()).await.unwrap()
    }

    async fn revoke(
        &self,
        actor: &Actor,
        serial: &str,
        reason: RevocationReason,
    ) -> Result<RevokedCertificate, RevocationError> {
        self.manager.revoke(actor, serial, reason, &Context::local("req_1")).await
    }

    fn is_known_revoked(&self, serial: &str) -> bool {
        self.manager.standing.with(|known| known.revoked(serial).is_some())
    }
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcdsaP256).unwrap()
}

#[tokio::test]
async fn a_worker_revokes_its_own_an_admin_any_and_the_first_revocation_stays() {
    let ca = Ca::with(Rules::Default).await;
    let own = Actor::Worker(WorkerId::new("streaming").unwrap());
    let admin = Actor::Admin("ops".to_owned());
    let (mine, foreign) = (ca.fresh("streaming").await, ca.fresh("other").await);
    let refused = ca.revoke(&own, &foreign, RevocationReason::Superseded).await;
    assert!(matches!(refused, Err(RevocationError::NotPermitted)));
    assert!(!ca.is_known_revoked(&foreign));

    let first = ca.revoke(&own, &mine.to_uppercase(), RevocationReason::Superseded).await.unwrap();
    assert_eq!((&first.serial, first.reason), (&mine, RevocationReason::Superseded));
    assert!(ca.is_known_revoked(&mine));
    let again = ca.revoke(&admin, &mine, RevocationReason::KeyCompromise).await.unwrap();
    assert_eq!(again, first);
    ca.revoke(&admin, &foreign, RevocationReason::Unspecified).await.unwrap();
    assert!(ca.is_known_revoked(&foreign));
}

#[tokio::test]
async fn what_is_no_certificate_of_a_worker_is_unknown() {
    let ca = Ca::with(Rules::Default).await;
    for serial in ["41:02", "", "x", "'; DROP TABLE revocations"] {
        let result = ca.revoke(&Actor::Operator, serial, RevocationReason::Unspecified).await;
        assert!(matches!(result, Err(RevocationError::UnknownSerial)), "{serial}");
    }
}

#[tokio::test]
async fn no_decision_and_a_denial_revoke_nothing() {
    for rules in [Rules::Deny, Rules::Fail] {
        let ca = Ca::with(rules).await;
        let serial = ca.fresh("streaming").await;
        let refused = ca.revoke(&Actor::Operator, &serial, RevocationReason::Unspecified).await.unwrap_err();
        match rules {
            Rules::Deny => assert!(matches!(refused, RevocationError::Denied(_))),
            _ => assert!(matches!(refused, RevocationError::Policy(_))),
        }
        assert!(!ca.is_known_revoked(&serial));
        assert!(ca.manager.state.issued(&serial).await.unwrap().unwrap().revoked_at.is_none());
    }
}

#[tokio::test]
async fn a_revoked_key_is_certified_for_nobody_again() {
    let ca = Ca::with(Rules::Default).await;
    let key = key();
    let serial = ca.issue("streaming", &key).await.unwrap();
    assert!(ca.issue("streaming", &key).await.is_ok());
    ca.revoke(&Actor::Operator, &serial, RevocationReason::KeyCompromise).await.unwrap();
    for worker in ["streaming", "other"] {
        assert!(matches!(ca.issue(worker, &key).await, Err(EnrolmentError::KeyOfAnother)));
    }
    assert!(!ca.fresh("streaming").await.is_empty());
}

#[tokio::test]
async fn every_revocation_is_on_the_next_crl_and_numbers_grow() {
    let ca = Ca::with(Rules::Default).await;
    assert!(ca.manager.sign_due_crls().await.unwrap());
    assert!(!ca.manager.sign_due_crls().await.unwrap(), "there was no need");
    let number = || ca.manager.standing.with(|known| known.crls.current().unwrap().number);
    let first = number();
    let serial = ca.fresh("streaming").await;
    ca.revoke(&Actor::Operator, &serial, RevocationReason::Unspecified).await.unwrap();
    assert!(ca.manager.sign_due_crls().await.unwrap());
    assert!(number() > first);
    assert!(!ca.manager.sign_due_crls().await.unwrap());
}

#[tokio::test]
async fn a_crl_is_signed_at_half_of_its_life_and_again_when_it_has_run_out() {
    let clock = Arc::new(TestClock::at(OffsetDateTime::now_utc()));
    let ca = Ca::at(Rules::Default, Arc::clone(&clock) as Arc<dyn Clock>).await;
    let mut signed = Vec::new();
    // Half of a day is over with the second step; the CA is down for a month before the last.
    for hours in [0, 11, 1, 11, 1, 720] {
        clock.step(time::Duration::hours(hours));
        signed.push(ca.manager.sign_due_crls().await.unwrap());
        let next_update = ca.manager.standing.with(|known| known.crls.current().unwrap().next_update);
        assert!(next_update - clock.now().wall >= time::Duration::hours(12));
    }
    assert_eq!(signed, [true, false, true, false, true, true]);
}

#[tokio::test]
async fn what_was_known_stays_known_while_the_record_fails() {
    let ca = Ca::with(Rules::Default).await;
    let serial = ca.fresh("streaming").await;
    ca.revoke(&Actor::Operator, &serial, RevocationReason::Unspecified).await.unwrap();
    ca.manager.state.close().await;
    assert!(ca.manager.look().await.is_err());
    assert!(ca.manager.sign_due_crls().await.is_err());
    assert!(ca.is_known_revoked(&serial));
}
