//! Tests of the core without a network: policies that fail, keys that are reused, an issuer at its end.

use std::future::{pending, ready};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::sync::Barrier;

use super::issue::decided;
use super::*;
use crate::ca::state::Database;
use crate::ca::state::Reservation;
use crate::ca::token::TokenSecret;
use crate::ca::{CsrRefusal, initialize_controller_certificates};
use crate::clock::testing::TestClock;
use crate::config::Environment;
use crate::crypto::sha256;
use crate::identity::csr::generate_csr;
use crate::identity::{CertificateMetadata, KeyType, PrivateKey, RequestedIdentity, WorkerId};
use crate::policy::{
    Actor, Capabilities, Decision, DefaultPolicy, Policy, PolicyAnswer, PolicyError, RevocationReason, ValidityPeriod,
};
use crate::wire::CsrRequest;

/// A policy whose first hook does as told; the others are the default's.
struct Told(fn() -> PolicyAnswer<'static, Decision>);

impl Policy for Told {
    fn can_issue_certificate<'a>(&'a self, _: &'a WorkerId, _: &'a Capabilities) -> PolicyAnswer<'a, Decision> {
        (self.0)()
    }

    fn certificate_validity_period<'a>(
        &'a self,
        _: &'a WorkerId,
        _: &'a Capabilities,
    ) -> PolicyAnswer<'a, ValidityPeriod> {
        let period = Duration::from_hours(1);
        Box::pin(ready(Ok(ValidityPeriod { period, decision: Decision::allow("an hour") })))
    }

    fn should_renew_certificate<'a>(
        &'a self,
        _: &'a CertificateMetadata,
        _: OffsetDateTime,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(ready(Ok(Decision::deny("not asked here"))))
    }

    fn revoke_certificate<'a>(
        &'a self,
        _: &'a WorkerId,
        _: RevocationReason,
        _: &'a Actor,
    ) -> PolicyAnswer<'a, Decision> {
        Box::pin(ready(Ok(Decision::deny("not asked here"))))
    }
}

struct Fixture {
    _directory: TempDir,
    clock: Arc<TestClock>,
    manager: CertificateAuthorityManager,
}

impl Fixture {
    async fn new(policy: impl Policy) -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("ca");
        initialize_controller_certificates(&data, Environment::Development).unwrap();
        let clock = Arc::new(TestClock::at(OffsetDateTime::now_utc()));
        let (policy, shared) = (Box::new(policy), Arc::clone(&clock) as Arc<dyn crate::clock::Clock>);
        let manager =
            CertificateAuthorityManager::open(&data, &Database::Sqlite, policy, Environment::Development, shared)
                .await
                .unwrap();
        Self { _directory: directory, clock, manager }
    }

    fn identity(&self, worker: &str) -> RequestedIdentity {
        RequestedIdentity::new(WorkerId::new(worker).unwrap(), &self.manager.trust_domain(), [])
    }

    async fn token(&self, worker: &str) -> String {
        let worker = WorkerId::new(worker).unwrap();
        let created = self.manager.tokens().create(worker, Duration::from_mins(10), []).await.unwrap();
        created.secret.expose().to_owned()
    }

    async fn enrol(&self, token: &str, worker: &str) -> Result<IssuedCertificate, EnrolmentError> {
        self.enrol_with(token, worker, self.csr(worker)).await
    }

    async fn enrol_with(&self, token: &str, worker: &str, csr: String) -> Result<IssuedCertificate, EnrolmentError> {
        let body = serde_json::to_vec(&CsrRequest { csr, service_name: worker.to_owned() }).unwrap();
        let credentials = Credentials::Token(TokenSecret::from_client(token).unwrap());
        self.manager.enrol(credentials, Form::Json(&body), &context()).await
    }

    async fn renew_with(&self, leaf: &CertificateDer<'static>, csr: String) -> IssuedCertificate {
        let body = serde_json::to_vec(&CsrRequest { csr, service_name: "streaming".to_owned() }).unwrap();
        self.manager.enrol(Credentials::Certificate(leaf.clone()), Form::Json(&body), &context()).await.unwrap()
    }

    fn csr(&self, worker: &str) -> String {
        csr_of(&self.identity(worker), &PrivateKey::generate(KeyType::EcdsaP256).unwrap())
    }
}

fn csr_of(identity: &RequestedIdentity, key: &PrivateKey) -> String {
    generate_csr(identity, key, KeyType::EcdsaP256).unwrap()
}

fn context() -> Context {
    Context::local("req_1")
}

#[tokio::test]
async fn a_policy_that_denies_is_heard_with_its_reason_and_the_token_stays_good() {
    let fixture = Fixture::new(Told(|| Box::pin(ready(Ok(Decision::deny("not on Fridays")))))).await;
    let token = fixture.token("streaming").await;
    for _ in 0..2 {
        let error = fixture.enrol(&token, "streaming").await.unwrap_err();
        assert!(error.to_string().starts_with("denied by policy: not on Fridays (decision dec_"), "{error}");
        let EnrolmentError::Denied(decision) = error else { panic!("{error}") };
        let record = fixture.manager.state.decision(&decision.id).await.unwrap().unwrap();
        assert_eq!((record.hook.as_str(), record.outcome), ("can_issue_certificate", decision.outcome));
        assert_eq!((record.reason.as_str(), record.correlation_id.as_str()), ("not on Fridays", "req_1"));
    }
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_policy_that_fails_denies() {
    let fail =
        || -> PolicyAnswer<'static, Decision> { Box::pin(ready(Err(PolicyError { reason: "no rules".to_owned() }))) };
    let fixture = Fixture::new(Told(fail)).await;
    let token = fixture.token("streaming").await;
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::Policy(_))));
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_policy_that_never_answers_denies_after_its_deadline() {
    let answer: PolicyAnswer<'static, Decision> = Box::pin(pending());
    tokio::time::pause();
    assert!(matches!(decided(answer).await, Err(EnrolmentError::Policy(_))));
}

#[tokio::test]
async fn a_policy_that_allows_is_on_record_with_its_decision() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let issued = fixture.enrol(&token, "streaming").await.unwrap();
    assert!(issued.decision_id.starts_with("dec_"));
    assert_eq!(issued.names, fixture.identity("streaming").names);
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::TokenUsed)));
}

#[tokio::test]
async fn a_refused_request_leaves_the_token_good() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    assert!(matches!(fixture.enrol(&token, "other").await, Err(EnrolmentError::OtherWorker { .. })));
    let credentials = || Credentials::Token(TokenSecret::from_client(&token).unwrap());
    let body = br#"{"csr":"x","service_name":"streaming"}"#;
    let malformed = fixture.manager.enrol(credentials(), Form::Json(body), &context()).await;
    assert!(matches!(malformed, Err(EnrolmentError::Csr(CsrRefusal::Malformed(_)))));
    assert!(fixture.enrol(&token, "streaming").await.is_ok());
}

#[tokio::test]
async fn a_token_lapses_by_the_cas_clock() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    fixture.clock.step(time::Duration::minutes(11));
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::TokenExpired)));
}

#[tokio::test]
async fn a_revoked_token_is_told_so() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let tokens = fixture.manager.tokens();
    let id = tokens.list().await.unwrap().remove(0).id;
    assert!(tokens.revoke(&id).await.unwrap());
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::TokenRevoked)));
}

#[tokio::test]
async fn a_key_that_another_worker_or_the_ca_has_is_refused() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let sign = async |worker: &str, key: &PrivateKey| {
        let identity = fixture.identity(worker);
        fixture.manager.sign_worker_certificate(&csr_of(&identity, key), &identity, "req_1").await
    };
    assert!(sign("streaming", &key).await.is_ok());
    assert!(sign("streaming", &key).await.is_ok());
    assert!(matches!(sign("other", &key).await, Err(EnrolmentError::KeyOfAnother)));
    let authority = fixture.manager.authority();
    let issuer_key = authority.issuer_key().local().unwrap();
    assert!(matches!(sign("streaming", issuer_key).await, Err(EnrolmentError::KeyOfAnother)));
}

#[tokio::test]
async fn an_identity_of_another_trust_domain_is_refused_even_from_a_caller() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let worker = WorkerId::new("streaming").unwrap();
    let foreign = RequestedIdentity::new(worker, &"other.local".parse().unwrap(), []);
    let csr = csr_of(&foreign, &PrivateKey::generate(KeyType::EcdsaP256).unwrap());
    let result = fixture.manager.sign_worker_certificate(&csr, &foreign, "req_1").await;
    assert!(matches!(result, Err(EnrolmentError::NamesNotPermitted { .. })));
}

#[tokio::test]
async fn near_the_issuers_end_leaves_are_cut_and_then_refused() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let end = fixture.manager.certificate().issuer_not_after;
    let now = crate::clock::Clock::now(&*fixture.clock).wall;
    fixture.clock.step(end - now - time::Duration::hours(1));
    let token = fixture.token("streaming").await;
    assert_eq!(fixture.enrol(&token, "streaming").await.unwrap().not_after, end);
    fixture.clock.step(time::Duration::minutes(59) + time::Duration::seconds(30));
    let token = fixture.token("streaming").await;
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::IssuerEnding)));
}

#[tokio::test]
async fn a_certificate_serves_for_renewal_until_it_expires_and_for_its_own_worker_only() {
    use rustls::pki_types::pem::PemObject;
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let issued = fixture.enrol(&token, "streaming").await.unwrap();
    let leaf = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let renew = async |worker: &str, leaf: &CertificateDer<'static>| {
        let request = CsrRequest { csr: fixture.csr(worker), service_name: worker.to_owned() };
        let body = serde_json::to_vec(&request).unwrap();
        fixture.manager.enrol(Credentials::Certificate(leaf.clone()), Form::Json(&body), &context()).await
    };
    assert_eq!(renew("streaming", &leaf).await.unwrap().names, issued.names);
    assert!(matches!(renew("other", &leaf).await, Err(EnrolmentError::OtherWorker { .. })));
    // The CA's own listener is no worker, and a leaf with one bit changed is no certificate of ours.
    let names = BTreeSet::from(["cert-authority".parse().unwrap()]);
    let (server, ..) = fixture
        .manager
        .issue_server_certificate(&fixture.manager.authority(), &names, Duration::from_hours(1))
        .await
        .unwrap();
    assert!(matches!(renew("streaming", &server[0]).await, Err(EnrolmentError::CertificateUnknown)));
    let mut changed = leaf.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(renew("streaming", &changed.into()).await, Err(EnrolmentError::CertificateUnknown)));
    fixture.clock.step(time::Duration::days(366));
    assert!(matches!(renew("streaming", &leaf).await, Err(EnrolmentError::CertificateExpired)));
}

#[tokio::test]
async fn a_used_token_gets_the_same_certificate_again_for_the_same_key_and_nothing_for_another() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let csr = || csr_of(&fixture.identity("streaming"), &key);
    let first = fixture.enrol_with(&token, "streaming", csr()).await.unwrap();
    // Another CSR for the same key is the same request; the life that is left is that of then.
    fixture.clock.step(time::Duration::minutes(9));
    assert_eq!(fixture.enrol_with(&token, "streaming", csr()).await.unwrap(), first);
    assert!(matches!(fixture.enrol(&token, "streaming").await, Err(EnrolmentError::TokenUsed)));
    // The same key with fewer names is another request.
    let mut fewer = fixture.identity("streaming");
    fewer.names.pop_first();
    let fewer = csr_of(&fewer, &key);
    assert!(matches!(fixture.enrol_with(&token, "streaming", fewer).await, Err(EnrolmentError::TokenUsed)));
    assert!(matches!(fixture.enrol(&token, "other").await, Err(EnrolmentError::OtherWorker { .. })));
    fixture.clock.step(time::Duration::minutes(1));
    assert!(matches!(fixture.enrol_with(&token, "streaming", csr()).await, Err(EnrolmentError::TokenUsed)));
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_not_sent_again() {
    let fixture = Fixture::new(DefaultPolicy::new(Duration::from_mins(1)).unwrap()).await;
    let token = fixture.token("streaming").await;
    let csr = fixture.csr("streaming");
    fixture.enrol_with(&token, "streaming", csr.clone()).await.unwrap();
    fixture.clock.step(time::Duration::seconds(61));
    assert!(matches!(fixture.enrol_with(&token, "streaming", csr).await, Err(EnrolmentError::TokenUsed)));
}

#[tokio::test]
async fn a_renewal_asked_for_again_within_ten_minutes_gets_the_same_certificate() {
    use rustls::pki_types::pem::PemObject;
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let leaf = |issued: &IssuedCertificate| CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let first = leaf(&fixture.enrol(&token, "streaming").await.unwrap());
    let csr = fixture.csr("streaming");
    let renewed = fixture.renew_with(&first, csr.clone()).await;
    fixture.clock.step(time::Duration::minutes(9));
    assert_eq!(fixture.renew_with(&first, csr.clone()).await, renewed);
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 2);
    // With another key, or with the new certificate, it is another renewal.
    assert_ne!(fixture.renew_with(&first, fixture.csr("streaming")).await.serial, renewed.serial);
    assert_ne!(fixture.renew_with(&leaf(&renewed), csr.clone()).await.serial, renewed.serial);
    fixture.clock.step(time::Duration::minutes(1));
    assert_ne!(fixture.renew_with(&first, csr).await.serial, renewed.serial);
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 5);
}

#[tokio::test]
async fn of_two_requests_at_once_for_the_same_key_the_second_gets_the_certificate_of_the_first() {
    use rustls::pki_types::pem::PemObject;
    static BOTH: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    // Neither is decided before the other has come as far.
    let together = || -> PolicyAnswer<'static, Decision> {
        Box::pin(async {
            BOTH.wait().await;
            Ok(Decision::allow("both are here"))
        })
    };
    let fixture = Fixture::new(Told(together)).await;
    let token = fixture.token("streaming").await;
    let csr = fixture.csr("streaming");
    let enrol = || fixture.enrol_with(&token, "streaming", csr.clone());
    let (one, other) = tokio::join!(enrol(), enrol());
    let first = one.unwrap();
    assert_eq!(first, other.unwrap());
    let leaf = CertificateDer::from_pem_slice(first.certificate_pem.as_bytes()).unwrap();
    let csr = fixture.csr("streaming");
    let (one, other) = tokio::join!(fixture.renew_with(&leaf, csr.clone()), fixture.renew_with(&leaf, csr.clone()));
    assert_eq!(one, other);
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 2);
}

#[tokio::test]
async fn a_serial_reserved_before_a_crash_does_not_block_token_or_key() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let now = crate::clock::Clock::now(&*fixture.clock).wall;
    let reservation = Reservation {
        serial: "40:00".to_owned(),
        worker_id: Some(WorkerId::new("streaming").unwrap()),
        names: fixture.identity("streaming").names,
        not_before: now,
        not_after: now + time::Duration::days(1),
        key_digest: sha256(&key.public_key_der()),
        issuer_digest: sha256(fixture.manager.authority().issuer()),
        authentication: "token",
        credential: fixture.manager.tokens().list().await.unwrap().remove(0).id,
        source: String::new(),
        decision_id: "dec_1".to_owned(),
        decisions: Vec::new(),
        correlation_id: "req_1".to_owned(),
        at: now,
    };
    fixture.manager.state.reserve(reservation.clone()).await.unwrap();
    let csr = csr_of(&fixture.identity("streaming"), &key);
    let issued = fixture.enrol_with(&token, "streaming", csr).await.unwrap();
    assert_ne!(issued.serial, reservation.serial);
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 1);
}

#[tokio::test]
async fn an_allowed_decision_is_recorded_with_its_certificate() {
    let fixture = Fixture::new(DefaultPolicy::default()).await;
    let token = fixture.token("streaming").await;
    let issued = fixture.enrol(&token, "streaming").await.unwrap();
    let record = fixture.manager.state.decision(&issued.decision_id).await.unwrap().unwrap();
    assert_eq!((record.worker_id.as_str(), record.reason.as_str()), ("streaming", "own names only"));
}

#[tokio::test]
async fn a_decision_that_cannot_be_recorded_gives_no_certificate_and_no_word_of_the_policy() {
    fn same() -> PolicyAnswer<'static, Decision> {
        static ONCE: LazyLock<Decision> = LazyLock::new(|| Decision::allow("always the same id"));
        Box::pin(ready(Ok(ONCE.clone())))
    }
    let fixture = Fixture::new(Told(same)).await;
    let first = fixture.token("streaming").await;
    let second = fixture.token("streaming").await;
    fixture.enrol(&first, "streaming").await.unwrap();
    // The record has a decision of this id already.
    assert!(matches!(fixture.enrol(&second, "streaming").await, Err(EnrolmentError::State(_))));
    assert_eq!(fixture.manager.issued_count().await.unwrap(), 1);
}
