//! The state that is served, from its sources to the messages, field by field.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rustls::pki_types::CertificateRevocationListDer;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::sync::watch;
use tonic::Code;

use super::envoy::{Secret, SpiffeValidator, secrets};
use super::messages::{X509BundlesResponse, X509SvidResponse};
use super::state::{Feed, Snapshot, Sources, Standing};
use crate::config::RevokedFiles;
use crate::identity::{CertificateBundle, TrustDomain, WorkerId};
use crate::policy::RevocationReason;
use crate::schedule::Revocation;
use crate::status::{AgentStatus, CaStatus};
use crate::testing::{TestCa, identity};

const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const DAY: Duration = Duration::from_hours(24);
const ID: &str = "spiffe://crank.local/worker/streaming";
const DOMAIN: &str = "spiffe://crank.local";

struct World {
    ca: TestCa,
    published: watch::Sender<Option<Arc<CertificateBundle>>>,
    status: watch::Sender<AgentStatus>,
    feed: Feed,
    snapshots: watch::Receiver<Snapshot>,
}

impl World {
    fn with(revoked: RevokedFiles) -> Self {
        let (published, published_receiver) = watch::channel(None);
        let (status, status_receiver) = watch::channel(status());
        let feed = Feed::new(vec![Sources {
            published: published_receiver,
            status: status_receiver,
            revoked,
            hint: "streaming".to_owned(),
        }]);
        let snapshots = feed.snapshots();
        Self { ca: TestCa::new(), published, status, feed, snapshots }
    }

    /// A world that has a certificate.
    async fn serving(revoked: RevokedFiles) -> Self {
        let mut world = Self::with(revoked);
        let bundle = world.ca.bundle(&identity("streaming"), NOW, DAY);
        world.publish(bundle).await;
        world
    }

    async fn publish(&mut self, bundle: CertificateBundle) {
        self.published.send_replace(Some(Arc::new(bundle)));
        self.settle().await;
    }

    async fn revoke(&mut self, revoked: bool) {
        let revocation = Revocation { at: NOW, reason: RevocationReason::KeyCompromise };
        self.status.send_modify(|status| status.revoked = revoked.then_some(revocation));
        self.settle().await;
    }

    /// Lets the feed take note of what has changed.
    async fn settle(&mut self) {
        tokio::time::timeout(DAY, self.feed.follow()).await.unwrap_err();
    }

    fn bundle(&self) -> Arc<CertificateBundle> {
        self.published.borrow().clone().unwrap()
    }

    /// Whether there was a change that streams are told of.
    fn changed(&mut self) -> bool {
        let changed = self.snapshots.has_changed().unwrap();
        self.snapshots.borrow_and_update();
        changed
    }

    fn svid(&self) -> X509SvidResponse {
        X509SvidResponse::decode(message(&self.snapshots.borrow().svid).as_slice()).unwrap()
    }

    fn bundles(&self) -> X509BundlesResponse {
        X509BundlesResponse::decode(message(&self.snapshots.borrow().bundles).as_slice()).unwrap()
    }

    fn secrets(&self, names: &[&str]) -> Result<Option<Vec<Secret>>, tonic::Status> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let found = secrets(&names, &self.snapshots.borrow())?;
        Ok(found.map(|found| found.iter().map(|any| Secret::decode(any.value()).unwrap()).collect()))
    }
}

fn status() -> AgentStatus {
    let worker_id = WorkerId::new("streaming").unwrap();
    AgentStatus {
        certificates: Vec::new(),
        version: String::new(),
        spiffe_id: Some(TrustDomain::new("crank.local").unwrap().worker(&worker_id)),
        worker_id,
        directory: String::new(),
        started_at: NOW,
        certificate: None,
        revoked: None,
        crl: None,
        next_renewal: None,
        renewal_request: None,
        last_attempt: None,
        back_off: None,
        ca: CaStatus { url: String::new(), last_answer: None, clock_skew_seconds: None },
        deliveries: Vec::new(),
    }
}

/// The message of a frame, whose head must fit it.
fn message(standing: &Standing) -> Vec<u8> {
    let Standing::Served(served) = standing else { panic!("nothing is served") };
    let (head, message) = served.frame.split_at(5);
    assert_eq!(head[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize, message.len());
    message.to_vec()
}

fn refused(standing: &Standing) -> bool {
    matches!(standing, Standing::Refused(_))
}

fn text(source: Option<&super::envoy::DataSource>) -> &str {
    std::str::from_utf8(&source.unwrap().inline_bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_sent_with_key_chain_and_roots() {
    let world = World::serving(RevokedFiles::Keep).await;
    let (bundle, response) = (world.bundle(), world.svid());
    assert_eq!((response.svids.len(), response.crl.len()), (1, 0));
    let svid = &response.svids[0];
    assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), (ID, "streaming"));
    assert_eq!(svid.chain, bundle.chain()[0].to_vec());
    assert_eq!(svid.key, *bundle.key().to_pkcs8_der().unwrap());
    assert_eq!(svid.bundle, bundle.roots()[0].to_vec());
    let bundles = world.bundles().bundles;
    assert_eq!(bundles.into_iter().collect::<Vec<_>>(), [(DOMAIN.to_owned(), bundle.roots()[0].to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn several_certificates_are_one_behind_the_other() {
    let mut world = World::serving(RevokedFiles::Keep).await;
    let roots = [world.ca.roots(), TestCa::named("Other").roots()].concat();
    let bundle = world.bundle().with_roots(roots.clone()).unwrap();
    world.publish(bundle).await;
    assert_eq!(world.svid().svids[0].bundle, [roots[0].as_ref(), roots[1].as_ref()].concat());
}

#[tokio::test(start_paused = true)]
async fn the_roots_of_other_trust_domains_are_sent_each_for_itself() {
    let mut world = World::serving(RevokedFiles::Keep).await;
    let roots = TestCa::named("Other").roots();
    let federated = [(TrustDomain::new("other.example").unwrap(), roots.clone())].into();
    let bundle = world.bundle().try_clone().unwrap().with_federated(federated);
    world.publish(bundle).await;
    let sent = [("spiffe://other.example".to_owned(), roots[0].to_vec())];
    assert_eq!(world.svid().federated_bundles.clone().into_iter().collect::<Vec<_>>(), sent);
    assert_eq!(world.svid().svids[0].bundle, world.ca.roots()[0].to_vec());
    let own = (DOMAIN.to_owned(), world.ca.roots()[0].to_vec());
    assert_eq!(world.bundles().bundles.into_iter().collect::<Vec<_>>(), [vec![own], sent.to_vec()].concat());
    let pem = crate::identity::bundle::certificates_to_pem(&roots);
    let secret = world.secrets(&["spiffe://other.example"]).unwrap().unwrap().remove(0);
    assert_eq!(text(secret.validation_context.as_ref().unwrap().trusted_ca.as_ref()), pem);
    let all = world.secrets(&["ALL"]).unwrap().unwrap().remove(0);
    let validator = all.validation_context.as_ref().unwrap().custom_validator_config.as_ref().unwrap();
    let validator = SpiffeValidator::decode(validator.typed_config.as_ref().unwrap().value()).unwrap();
    let names: Vec<&str> = validator.trust_domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["crank.local", "other.example"]);
    assert_eq!(text(validator.trust_domains[1].trust_bundle.as_ref()), pem);
}

#[tokio::test(start_paused = true)]
async fn crls_are_sent_where_there_are_any_unless_clients_would_choke() {
    let mut world = World::serving(RevokedFiles::Keep).await;
    let crl = world.ca.crl(1, NOW..NOW + DAY, &[]);
    let bundle = world.bundle().try_clone().unwrap().with_crls(vec![crl.clone()]);
    world.publish(bundle).await;
    let der: &CertificateRevocationListDer<'_> = crl.der();
    assert_eq!(world.svid().crl, [der.to_vec()]);
    assert_eq!(world.bundles().crl, [der.to_vec()]);
    let roots = world.secrets(&["ROOTCA"]).unwrap().unwrap().remove(0);
    let context = roots.validation_context.as_ref().unwrap();
    assert!(context.only_verify_leaf_cert_crl && text(context.crl.as_ref()).starts_with("-----BEGIN X509 CRL"));

    let many = vec![crl.clone(); 2 * 1024 * 1024 / der.len() + 1];
    let bundle = world.bundle().try_clone().unwrap().with_crls(many);
    world.publish(bundle).await;
    assert!(world.svid().crl.is_empty() && world.bundles().crl.is_empty());
    let roots = world.secrets(&["ROOTCA"]).unwrap().unwrap().remove(0);
    assert!(roots.validation_context.as_ref().unwrap().crl.is_none());
}

#[tokio::test(start_paused = true)]
async fn several_certificates_of_an_agent_are_served_together_and_withdrawn_alone() {
    let ca = TestCa::new();
    let channels = || (watch::Sender::new(None::<Arc<CertificateBundle>>), watch::Sender::new(status()));
    let (first, further) = (channels(), channels());
    let of = |channels: &(watch::Sender<_>, watch::Sender<_>), hint: &str| Sources {
        published: channels.0.subscribe(),
        status: channels.1.subscribe(),
        revoked: RevokedFiles::Withdraw,
        hint: hint.to_owned(),
    };
    let mut feed = Feed::new(vec![of(&first, "streaming"), of(&further, "admin")]);
    let snapshots = feed.snapshots();
    let partner = TrustDomain::new("partner.example").unwrap();
    let roots = TestCa::new().bundle(&identity("x"), NOW, DAY).roots().to_vec();
    let one = ca.bundle(&identity("streaming"), NOW, DAY);
    let other = ca.bundle(&identity("admin"), NOW, DAY).with_federated([(partner, roots)].into());
    first.0.send_replace(Some(Arc::new(one)));
    tokio::time::timeout(DAY, feed.follow()).await.unwrap_err();
    let svids = || X509SvidResponse::decode(message(&snapshots.borrow().svid).as_slice()).unwrap();
    assert_eq!(svids().svids.len(), 1, "one is served while the other is not there");
    further.0.send_replace(Some(Arc::new(other)));
    tokio::time::timeout(DAY, feed.follow()).await.unwrap_err();

    let found: Vec<_> = svids().svids.iter().map(|svid| (svid.hint.clone(), svid.spiffe_id.clone())).collect();
    let id = |name: &str| format!("{DOMAIN}/worker/{name}");
    assert_eq!(found, [("streaming".to_owned(), id("streaming")), ("admin".to_owned(), id("admin"))]);
    assert_eq!(svids().federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://partner.example"]);
    let bundles = X509BundlesResponse::decode(message(&snapshots.borrow().bundles).as_slice()).unwrap();
    assert_eq!(bundles.bundles.keys().collect::<Vec<_>>(), [DOMAIN, "spiffe://partner.example"]);
    let ask = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        secrets(&names, &snapshots.borrow()).map(|found| found.unwrap().len())
    };
    assert_eq!(ask(&[]).unwrap(), 3, "two certificates, and the roots of their domain");
    assert_eq!(ask(&["admin", &id("streaming"), "spiffe://partner.example"]).unwrap(), 3);

    let revocation = Revocation { at: NOW, reason: RevocationReason::KeyCompromise };
    further.1.send_modify(|status| status.revoked = Some(revocation));
    tokio::time::timeout(DAY, feed.follow()).await.unwrap_err();
    assert_eq!(svids().svids.len(), 1);
    assert_eq!(ask(&["admin"]).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ask(&["default"]).unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_are_told_of_what_is_new_to_them_and_of_nothing_else() {
    let mut world = World::with(RevokedFiles::Withdraw);
    assert!(matches!(world.snapshots.borrow().svid, Standing::Waiting));
    assert!(world.secrets(&["default"]).unwrap().is_none());
    let bundle = world.ca.bundle(&identity("streaming"), NOW, DAY);
    world.publish(bundle).await;
    assert!(world.changed());
    let number = |snapshots: &watch::Receiver<Snapshot>| match (&snapshots.borrow().svid, &snapshots.borrow().bundles) {
        (Standing::Served(svid), Standing::Served(bundles)) => (svid.number, bundles.number),
        _ => panic!("nothing is served"),
    };
    let before = number(&world.snapshots);
    // The same once more, and a status that says something else.
    let again = world.bundle().try_clone().unwrap();
    world.publish(again).await;
    world.status.send_modify(|status| status.version = "another".to_owned());
    world.settle().await;
    assert!(!world.changed());
    // Another certificate under the same roots.
    let bundle = world.ca.bundle(&identity("streaming"), NOW, DAY);
    world.publish(bundle).await;
    assert!(world.changed());
    let after = number(&world.snapshots);
    assert!(after.0 != before.0 && after.1 == before.1, "{before:?} {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_is_withdrawn_where_its_files_are() {
    let mut world = World::serving(RevokedFiles::Withdraw).await;
    world.revoke(true).await;
    assert!(world.changed());
    assert!(refused(&world.snapshots.borrow().svid) && !refused(&world.snapshots.borrow().bundles));
    assert_eq!(world.secrets(&["default"]).err().unwrap().code(), Code::PermissionDenied);
    assert!(world.secrets(&["ROOTCA"]).unwrap().is_some());
    // The next one.
    let bundle = world.ca.bundle(&identity("streaming"), NOW, DAY);
    world.publish(bundle).await;
    world.revoke(false).await;
    assert_eq!(world.svid().svids[0].chain, world.bundle().chain()[0].to_vec());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_stays_where_its_files_do() {
    let mut world = World::serving(RevokedFiles::Keep).await;
    world.changed();
    world.revoke(true).await;
    assert!(!world.changed());
    assert_eq!(world.svid().svids.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn envoy_has_its_secrets_by_the_names_that_spire_gives_them() {
    let world = World::serving(RevokedFiles::Keep).await;
    let bundle = world.bundle();
    for name in ["default", ID] {
        let secret = world.secrets(&[name]).unwrap().unwrap().remove(0);
        let certificate = secret.tls_certificate.as_ref().unwrap();
        assert_eq!((secret.name.as_str(), secret.validation_context.is_some()), (name, false));
        assert_eq!(text(certificate.certificate_chain.as_ref()), bundle.chain_pem());
        assert_eq!(text(certificate.private_key.as_ref()), bundle.key_pem().unwrap().as_str());
    }
    for name in ["ROOTCA", DOMAIN] {
        let secret = world.secrets(&[name]).unwrap().unwrap().remove(0);
        let context = secret.validation_context.as_ref().unwrap();
        assert_eq!((secret.name.as_str(), secret.tls_certificate.is_some()), (name, false));
        assert_eq!(text(context.trusted_ca.as_ref()), bundle.roots_pem());
        assert!(context.crl.is_none() && !context.only_verify_leaf_cert_crl);
    }
    let all = world.secrets(&["ALL"]).unwrap().unwrap().remove(0);
    let validator = all.validation_context.as_ref().unwrap().custom_validator_config.as_ref().unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let validator = SpiffeValidator::decode(validator.typed_config.as_ref().unwrap().value()).unwrap();
    assert_eq!(validator.trust_domains[0].name, "crank.local");
    assert_eq!(text(validator.trust_domains[0].trust_bundle.as_ref()), bundle.roots_pem());
}

#[tokio::test(start_paused = true)]
async fn without_a_name_envoy_has_all_and_by_an_unknown_one_nothing() {
    let world = World::serving(RevokedFiles::Keep).await;
    let all = world.secrets(&[]).unwrap().unwrap();
    let names: Vec<&str> = all.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, [DOMAIN, ID]);
    let error = world.secrets(&["default", "spiffe://crank.local/worker/another\n"]).err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("there is no secret `spiffe://crank.local/worker/another\\n`"), "{error}");
}
