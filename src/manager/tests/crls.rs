//! The CRLs beside the certificate.

use super::*;
use crate::identity::crl::crls_from_pem;

impl World {
    fn sign_crl(&self, number: u64, life: Duration, revoked: Vec<Arc<CertificateBundle>>) {
        let now = self.clock.now().wall;
        *self.shared.crl.lock().unwrap() = Some(CrlOfNow { number, validity: now..now + life, revoked });
    }

    /// The number of the CRL that readers find.
    fn crl_number(&self) -> Option<String> {
        let pem = std::fs::read(self.directory.path().join("certs/ca.crl")).ok()?;
        Some(crls_from_pem(&pem).unwrap()[0].number().to_string())
    }

    fn serial(&self) -> String {
        self.handle.published().borrow().as_ref().unwrap().serial().to_owned()
    }
}

fn stopped() -> (tempfile::TempDir, Arc<TestClock>, Arc<Shared>) {
    (tempfile::tempdir().unwrap(), Arc::new(TestClock::at(START)), Arc::default())
}

/// A world whose CA has CRL number 5, for a day.
fn world_with_crl(change: impl FnOnce(&mut Config)) -> World {
    let (directory, clock, shared) = stopped();
    *shared.crl.lock().unwrap() = Some(CrlOfNow { number: 5, validity: START..START + HOUR * 24, revoked: Vec::new() });
    World::begin(directory, change, clock, shared, Arc::default(), None)
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_comes_with_the_crl() {
    let world = world_with_crl(|_| {});
    let mut published = world.handle.published();
    published.wait_for(Option::is_some).await.unwrap();
    assert_eq!(world.crl_number().as_deref(), Some("5"));
    assert_eq!(published.borrow().as_ref().unwrap().crls().len(), 1);
    let status = world.handle.status().borrow().crl.clone().unwrap();
    assert_eq!((status.numbers, status.next_update), (vec!["5".to_owned()], START + HOUR * 24));
}

#[tokio::test(start_paused = true)]
async fn another_crl_is_another_generation_with_the_same_certificate() {
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    let (serial, generation) = (world.serial(), std::fs::read_link(world.directory.path().join("certs/..data")));
    world.sign_crl(6, HOUR * 24, Vec::new());
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!((world.crl_number().as_deref(), world.serial()), (Some("6"), serial));
    assert_ne!(generation.unwrap(), std::fs::read_link(world.directory.path().join("certs/..data")).unwrap());
    // A renewal keeps it, and readers never miss it.
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.crl_number().as_deref(), Some("6"));
    assert_eq!((world.count(Event::FilesChanged), world.count(Event::CrlRejected)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn news_of_another_crl_has_it_fetched_within_seconds() {
    let world = world_with_crl(|config| config.ca.push = true);
    let hint = |tag: &str| {
        let (etag, crl) = (Some(tag.to_owned()), Some(tag.to_owned()));
        world.shared.info.send_replace(Some(RenewalInfo { etag, crl, ..RenewalInfo::default() }));
    };
    hint("5");
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(HOUR / 60).await;
    world.sign_crl(6, HOUR * 24, Vec::new());
    hint("6");
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(world.crl_number().as_deref(), Some("6"));
}

#[tokio::test(start_paused = true)]
async fn a_crl_that_is_not_fit_is_told_and_the_one_before_stays() {
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    let own = world.handle.published().borrow().clone().unwrap();
    for (case, spoil) in [
        ("an older one", |crl: &mut CrlOfNow| crl.number = 4),
        ("one that has run out", |crl: &mut CrlOfNow| crl.validity.end = START + Duration::from_secs(1)),
        ("one of tomorrow", |crl: &mut CrlOfNow| {
            crl.validity = crl.validity.start + HOUR * 24..crl.validity.end + HOUR * 48;
        }),
    ] as [(&str, fn(&mut CrlOfNow)); 3]
    {
        let told = world.count(Event::CrlRejected);
        // That it would revoke the worker's own certificate counts for nothing.
        let mut crl = CrlOfNow { number: 9, validity: START..START + HOUR * 24, revoked: vec![Arc::clone(&own)] };
        spoil(&mut crl);
        *world.shared.crl.lock().unwrap() = Some(crl);
        world.until(Event::CrlRejected, told + 1).await;
        assert_eq!(world.crl_number().as_deref(), Some("5"), "{case}");
        *world.shared.crl.lock().unwrap() =
            Some(CrlOfNow { number: 5, validity: START..START + HOUR * 24, revoked: Vec::new() });
        tokio::time::sleep(HOUR + SLICE).await;
    }
    assert_eq!(world.count(Event::Revoked), 0);
}

#[tokio::test(start_paused = true)]
async fn the_own_serial_on_the_crl_is_a_revocation() {
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    let (own, serial) = (world.handle.published().borrow().clone().unwrap(), world.serial());
    world.sign_crl(6, HOUR * 24, vec![own]);
    world.until(Event::Revoked, 1).await;
    world.until(Event::CertIssued, 2).await;
    assert_ne!(world.serial(), serial);
    assert_eq!(world.crl_number().as_deref(), Some("6"));
}

#[tokio::test(start_paused = true)]
async fn a_crl_that_runs_out_is_told_once_and_stays() {
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(HOUR * 23).await;
    assert_eq!(world.count(Event::CrlExpired), 0);
    tokio::time::sleep(HOUR * 3).await;
    assert_eq!((world.count(Event::CrlExpired), world.crl_number().as_deref()), (1, Some("5")));
    world.sign_crl(6, HOUR * 24, Vec::new());
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!((world.count(Event::CrlExpired), world.crl_number().as_deref()), (1, Some("6")));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_crl_where_the_ca_has_none_or_none_is_wanted() {
    let world = world_with_crl(|config| config.ca.crl_limit = None);
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(HOUR * 2).await;
    assert_eq!((world.crl_number(), *world.shared.crl_questions.lock().unwrap()), (None, 0));
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    *world.shared.crl.lock().unwrap() = None;
    tokio::time::sleep(HOUR + SLICE).await;
    // Not so much as a link to nothing.
    assert!(world.directory.path().join("certs/ca.crl").symlink_metadata().is_err());
    assert_eq!(world.count(Event::FilesChanged), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crl_removed_by_someone_is_put_back() {
    let world = world_with_crl(|_| {});
    world.until(Event::CertIssued, 1).await;
    std::fs::remove_file(world.directory.path().join("certs/ca.crl")).unwrap();
    assert!(world.handle.tell(Command::FilesChanged));
    world.until(Event::FilesHealed, 1).await;
    assert_eq!(world.crl_number().as_deref(), Some("5"));
    let spoilt = world.directory.path().join("certs/..data/ca.crl");
    std::fs::write(&spoilt, "nothing").unwrap();
    assert!(world.handle.tell(Command::FilesChanged));
    world.until(Event::FilesHealed, 2).await;
    assert_eq!(world.crl_number().as_deref(), Some("5"));
}
