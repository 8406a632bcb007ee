//! A change of the configuration: one manager goes on where another stopped.

use super::*;

fn further_name(config: &mut Config) {
    config.identity.names.insert("further".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_configuration_loses_no_order_and_no_certificate() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 2).await;
    let world = world.reconfigured(|config| config.allowed_skew = Duration::from_secs(7)).await;
    world.fail(None);
    world.until(Event::CertIssued, 1).await;
    let csrs = world.shared.csrs.lock().unwrap().clone();
    assert!(csrs.len() >= 3 && csrs.iter().all(|csr| *csr == csrs[0]), "the same order, sent again");
    // Issued, and not on disk.
    let obstacle = world.obstruct();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 1).await;
    let asked = world.orders();
    let world = world.reconfigured(|config| config.allowed_skew = Duration::from_secs(8)).await;
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.orders(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_configuration_is_no_news_and_no_end() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let world = world.reconfigured(|config| config.allowed_skew = Duration::from_secs(7)).await;
    world.fail(Some(IssueErrorKind::Refused));
    world.until(Event::Expired, 1).await;
    let failed = world.count(Event::CsrFailed);
    let world = world.reconfigured(|config| config.allowed_skew = Duration::from_secs(8)).await;
    // What failed may now be granted: the next attempt does not wait its time.
    let before = tokio::time::Instant::now();
    world.until(Event::CsrFailed, failed + 1).await;
    assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    tokio::time::sleep(HOUR).await;
    assert!(!world.task.is_finished());
    assert_eq!((world.count(Event::Expired), world.count(Event::ExpiringSoon)), (1, 1));
    assert_eq!((world.count(Event::CertAdopted), world.count(Event::ValidationFailed)), (0, 0));
    world.fail(None);
    world.until(Event::CertRenewed, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_operators_wish_outlives_a_change_of_configuration() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.stop.cancel();
    assert!(world.handle.tell(Command::Renew(None)));
    let world = world.reconfigured(|config| config.allowed_skew = Duration::from_secs(7)).await;
    let before = tokio::time::Instant::now();
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn other_names_are_asked_for_at_once_and_the_old_ones_serve_meanwhile() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Unavailable));
    let before = tokio::time::Instant::now();
    let world = world.reconfigured(further_name).await;
    world.until(Event::CaUnavailable, 1).await;
    assert!(world.handle.status().borrow().certificate_valid(world.clock.now().wall));
    world.fail(None);
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() < Duration::from_mins(2), "{:?}", before.elapsed());
    let names = world.handle.status().borrow().certificate.as_ref().unwrap().names.clone();
    assert!(names.contains(&"DNS:further".to_owned()), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn another_directory_gets_the_certificate_even_if_it_cannot_be_written_at_first() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let elsewhere = world.directory.path().join("elsewhere");
    let obstacle = elsewhere.join("..data_tmp");
    std::fs::create_dir_all(&obstacle).unwrap();
    let serial = world.handle.published().borrow().as_ref().unwrap().serial().to_owned();
    *world.shared.roots.lock().unwrap() = Some(world.handle.published().borrow().as_ref().unwrap().roots().to_vec());
    let world = world.reconfigured(|config| config.files.directory.clone_from(&elsewhere)).await;
    world.until(Event::PublishFailed, 2).await;
    // A check does not forget it.
    assert!(world.handle.tell(Command::FilesChanged));
    let before = tokio::time::Instant::now();
    world.until(Event::PublishFailed, 4).await;
    assert!(before.elapsed() < Duration::from_mins(3), "{:?}", before.elapsed());
    assert_eq!(world.handle.published().borrow().as_ref().unwrap().serial(), serial);
    std::fs::remove_dir(&obstacle).unwrap();
    let published = || crate::store::read_bundle(&elsewhere).is_ok_and(|bundle| bundle.serial() == serial);
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(published());
    assert_eq!(world.orders(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_worker_inherits_nothing_but_the_life() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    let other = |config: &mut Config| config.identity = crate::testing::identity("other");
    let world = world.reconfigured(other).await;
    world.until(Event::CsrFailed, 1).await;
    assert_eq!(world.shared.by_certificate.lock().unwrap().last(), Some(&false));
    assert!(world.handle.published().borrow().is_none());
    tokio::time::sleep(HOUR).await;
    assert!(!world.task.is_finished());
    world.fail(None);
    world.until(Event::CertRenewed, 1).await;
    let subject = world.handle.status().borrow().certificate.as_ref().unwrap().subject.clone();
    assert!(subject.starts_with("CN=other,"), "{subject}");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_no_longer_fits_is_not_sent_again() {
    let changes: [fn(&mut Config); 2] = [|config| config.key_type = KeyType::EcdsaP384, further_name];
    for change in changes {
        let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
        world.until(Event::CaUnavailable, 1).await;
        let world = world.reconfigured(change).await;
        world.fail(None);
        world.until(Event::CertIssued, 1).await;
        let csrs = world.shared.csrs.lock().unwrap().clone();
        assert_ne!(csrs.first(), csrs.last());
        assert_eq!(world.count(Event::ValidationFailed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_other_names_that_waited_for_the_disk_is_not_written() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.obstruct();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 1).await;
    let asked = world.orders();
    let world = world.reconfigured(further_name).await;
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.orders(), asked + 1);
    let names = world.handle.status().borrow().certificate.as_ref().unwrap().names.clone();
    assert!(names.contains(&"DNS:further".to_owned()), "{names:?}");
}
