//! Roots that the CA hands out: published, trusted from then on, and gone when the CA says so.

use super::*;

fn roots_of(world: &World) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    world.handle.published().borrow().as_ref().unwrap().roots().to_vec()
}

fn hand_out(world: &World, roots: &[rustls::pki_types::CertificateDer<'static>]) {
    *world.shared.handed_out.lock().unwrap() = Some(roots.to_vec());
}

/// A world whose CA has handed out a second root, which is published.
async fn with_a_second_root() -> (World, [rustls::pki_types::CertificateDer<'static>; 2]) {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let own = roots_of(&world).remove(0);
    let next = TestCa::new().roots().remove(0);
    *world.shared.roots.lock().unwrap() = Some(vec![own.clone()]);
    hand_out(&world, &[next.clone(), own.clone()]);
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!(roots_of(&world), [own.clone(), next.clone()], "those configured first");
    (world, [own, next])
}

#[tokio::test(start_paused = true)]
async fn a_new_root_of_the_ca_is_published_at_the_next_check_and_an_old_one_goes_with_the_next() {
    let (world, [own, next]) = with_a_second_root().await;
    assert_eq!(world.orders(), 1, "the certificate stays");
    // A CA that does not answer takes nothing away.
    world.fail(Some(IssueErrorKind::Unavailable));
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!(roots_of(&world), [own.clone(), next]);
    world.fail(None);
    hand_out(&world, std::slice::from_ref(&own));
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!(roots_of(&world), [own]);
    assert_eq!(world.count(Event::CertRenewed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_followed_root_outlives_a_restart_and_a_renewal() {
    let (world, roots) = with_a_second_root().await;
    world.stop.cancel();
    drop(world.task.await.unwrap().unwrap());
    let world = World::begin(world.directory, |_| {}, world.clock, world.shared, world.events, None);
    world.until(Event::CertAdopted, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(roots_of(&world), roots);
    // The CA of this run has another root again, which is not followed yet.
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::ValidationFailed, 1).await;
    assert_eq!(roots_of(&world), roots);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_below_a_root_that_is_followed_is_taken_and_the_old_root_goes_when_the_ca_says_so() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let issuing = roots_of(&world).remove(0);
    let configured = TestCa::new().roots();
    // Both are followed before the configuration knows but the other one.
    hand_out(&world, &[configured[0].clone(), issuing.clone()]);
    tokio::time::sleep(HOUR + SLICE).await;
    *world.shared.roots.lock().unwrap() = Some(configured.clone());
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(roots_of(&world), [configured[0].clone(), issuing]);
    // A CA that takes back the root of the certificate in force: another certificate is asked for at once.
    let asked = world.orders();
    hand_out(&world, &configured);
    world.until(Event::ValidationFailed, 1).await;
    assert!(world.orders() > asked);
    assert_eq!(roots_of(&world).len(), 2, "and the one in force stays whole");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_comes_along_with_the_first_certificate_of_it_vouches_for_nothing() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let own = roots_of(&world);
    *world.shared.roots.lock().unwrap() = Some(TestCa::new().roots());
    hand_out(&world, &own);
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::ValidationFailed, 1).await;
    let told = world.events.lock().unwrap().iter().rfind(|record| record.event == Event::ValidationFailed).cloned();
    assert_eq!(told.unwrap().error.unwrap().kind, "untrusted_chain");
}

#[tokio::test(start_paused = true)]
async fn roots_beside_a_certificate_of_other_tools_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let (ca, rogue) = (TestCa::new(), TestCa::new());
    let bundle = ca.bundle(&config.identity, START, HOUR * 12);
    std::fs::create_dir(&config.files.directory).unwrap();
    let write = |name: &str, text: &str| std::fs::write(config.files.directory.join(name), text).unwrap();
    write("client.crt", &bundle.chain_pem());
    write("client.key", &bundle.key_pem().unwrap());
    let roots = [ca.roots(), rogue.roots()].concat();
    write("ca.crt", &bundle.with_roots(roots).unwrap().roots_pem());
    let clock = Arc::new(TestClock::at(START));
    let shared =
        Shared { roots: Mutex::new(Some(ca.roots())), handed_out: Mutex::new(Some(ca.roots())), ..Shared::default() };
    let world = World::begin(directory, |_| {}, clock, Arc::new(shared), Arc::default(), None);
    world.until(Event::CertAdopted, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(roots_of(&world), ca.roots());
}

#[tokio::test(start_paused = true)]
async fn roots_that_do_not_fit_cost_nothing_once_they_fit_again() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let own = world.handle.published().borrow().as_ref().unwrap().roots().to_vec();
    let other = TestCa::new().roots();
    let set = |roots: &[rustls::pki_types::CertificateDer<'static>]| {
        *world.shared.roots.lock().unwrap() = Some(roots.to_vec());
        assert!(world.handle.tell(Command::CredentialsChanged));
    };
    let published = || world.handle.published().borrow().as_ref().unwrap().clone();
    let serial = published().serial().to_owned();
    // One more: published at once, without another certificate.
    set(&[own.clone(), other.clone()].concat());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(published().roots().len(), 2);
    assert_eq!(published().serial(), serial);
    // Another: a certificate of it is wanted, and the old one stays meanwhile.
    world.fail(Some(IssueErrorKind::Untrusted));
    set(&other);
    world.until(Event::CaUnavailable, 1).await;
    assert_eq!((published().roots().len(), published().serial()), (2, serial.as_str()));
    world.fail(None);
    set(&own);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!((published().roots().len(), published().serial()), (1, serial.as_str()));
    // On some file systems nobody tells: the next check finds out.
    *world.shared.roots.lock().unwrap() = Some([own, other].concat());
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!(published().roots().len(), 2);
}
