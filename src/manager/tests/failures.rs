//! What each failure leads to, and what is told of it.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_order_has_another_key() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    for count in 1..=2 {
        assert!(world.handle.tell(Command::Renew(None)));
        world.until(Event::CsrFailed, count).await;
    }
    let csrs = world.shared.csrs.lock().unwrap().clone();
    assert!(csrs.len() == 3 && csrs[1] != csrs[2]);
    assert_eq!(world.count(Event::CsrGenerated), 3);
}

#[tokio::test(start_paused = true)]
async fn the_decision_of_the_policy_is_told_whether_it_allowed_or_refused() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CsrFailed, 1).await;
    let decision = |event| {
        let events = world.events.lock().unwrap();
        events.iter().find(|record| record.event == event).unwrap().decision_id.clone()
    };
    assert_eq!(decision(Event::CertIssued).as_deref(), Some("dec_1"));
    assert_eq!(decision(Event::CsrFailed).as_deref(), Some("dec_2"));
    assert_eq!(decision(Event::CsrSubmitted), None);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_asks_for_patience_gets_it() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::RateLimited(Some(Duration::from_mins(40)))));
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CaUnavailable, 1).await;
    let before = tokio::time::Instant::now();
    world.until(Event::CaUnavailable, 2).await;
    assert!((2400.0..2402.0).contains(&before.elapsed().as_secs_f64()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_told_with_its_kind_and_the_certificate_that_stays() {
    for (kind, label, event) in [
        (IssueErrorKind::Unavailable, "ca_unavailable", Event::CaUnavailable),
        (IssueErrorKind::RateLimited(None), "rate_limited", Event::CaUnavailable),
        (IssueErrorKind::Untrusted, "untrusted_ca", Event::CaUnavailable),
        (IssueErrorKind::Unauthenticated, "unauthenticated", Event::CsrFailed),
        (IssueErrorKind::Refused, "refused", Event::CsrFailed),
        (IssueErrorKind::BrokenReply, "broken_reply", Event::CsrFailed),
        (IssueErrorKind::Credential, "credential", Event::CsrFailed),
    ] {
        let world = World::start();
        world.until(Event::CertIssued, 1).await;
        world.fail(Some(kind));
        let (waiter, outcome) = oneshot::channel();
        assert!(world.handle.tell(Command::Renew(Some(waiter))));
        world.until(event, 1).await;
        let told = world.events.lock().unwrap().iter().rfind(|record| record.event == event).unwrap().clone();
        let serial = world.handle.published().borrow().as_ref().unwrap().serial().to_owned();
        assert_eq!(told.error.as_ref().unwrap().kind, label);
        assert_eq!(told.cert_metadata.unwrap().serial, serial);
        assert_eq!(outcome.await.unwrap().unwrap_err().kind, label);
        let last = world.handle.status().borrow().last_attempt.clone().unwrap();
        assert_eq!(last.error.unwrap().kind, label);
        assert_eq!(last.correlation_id, told.correlation_id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_differs_is_told_whether_the_ca_signs_or_not() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    assert_eq!(world.count(Event::ClockSkew), 0);
    for (count, skew) in [(1, -61.0), (2, 61.0)] {
        world.fail((count == 2).then_some(IssueErrorKind::Refused));
        *world.shared.skew.lock().unwrap() = skew;
        assert!(world.handle.tell(Command::Renew(None)));
        world.until(Event::ClockSkew, count).await;
        assert_eq!(world.handle.status().borrow().ca.clock_skew_seconds, Some(skew));
    }
}

#[tokio::test(start_paused = true)]
async fn even_without_time_to_wait_a_slow_ca_is_listened_to() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Arc::new(Shared { delay: Mutex::new(Duration::from_secs(3)), ..Shared::default() });
    let clock = Arc::new(TestClock::at(START));
    let at_once = |config: &mut Config| config.ca.startup_wait = Duration::ZERO;
    let world = World::begin(directory, at_once, clock, shared, Arc::default(), None);
    world.until(Event::CertIssued, 1).await;
}

#[tokio::test(start_paused = true)]
async fn every_check_lets_those_who_watch_the_status_look_again() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let mut status = world.handle.status();
    tokio::time::sleep(Duration::from_mins(1)).await;
    status.mark_unchanged();
    tokio::time::timeout(HOUR + SLICE, status.changed()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_back_is_tried_again_soon() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let key = world.directory.path().join("certs/client.key");
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    assert!(world.handle.tell(Command::FilesChanged));
    world.until(Event::PublishFailed, 2).await;
    std::fs::remove_dir(&key).unwrap();
    let before = tokio::time::Instant::now();
    world.until(Event::FilesHealed, 1).await;
    assert!(before.elapsed() <= SLICE + Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_generation_is_replaced_and_removed_in_its_time() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let certificates = world.directory.path().join("certs");
    // Nothing else is to be removed.
    tokio::time::sleep(Duration::from_mins(5)).await;
    let spoilt = std::fs::read_link(certificates.join("..data")).unwrap();
    std::fs::write(certificates.join("..data/client.crt"), "spoilt").unwrap();
    assert!(world.handle.tell(Command::FilesChanged));
    world.until(Event::FilesHealed, 1).await;
    assert!(certificates.join(&spoilt).exists());
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(!certificates.join(&spoilt).exists());
    assert_eq!(world.orders(), 1);
}
