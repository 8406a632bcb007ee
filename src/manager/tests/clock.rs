//! Clocks that jump, suspends, and a CA whose clock is another.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_suspend_that_outlives_the_certificate_ends_in_a_valid_one() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.clock.suspend(HOUR * 16);
    let before = tokio::time::Instant::now();
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() <= SLICE + Duration::from_secs(1), "noticed within {SLICE:?}");
    assert_eq!(world.count(Event::Expired), 1);
    assert_eq!(world.count(Event::ClockStepped), 1);
    // The expired certificate was not used to ask.
    assert_eq!(*world.shared.by_certificate.lock().unwrap(), [false, false]);
}

#[tokio::test(start_paused = true)]
async fn it_stays_alive_and_recovers_when_the_credential_has_lapsed_too() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Credential));
    world.clock.suspend(HOUR * 16);
    world.until(Event::CsrFailed, 2).await;
    assert!(!world.task.is_finished());
    world.fail(None);
    assert!(world.handle.tell(Command::CredentialsChanged));
    let before = tokio::time::Instant::now();
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_clock_set_forward_by_years_does_not_cost_the_certificate() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    world.clock.step(time::Duration::days(3650));
    world.until(Event::Expired, 1).await;
    world.clock.step(time::Duration::days(-3650));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let status = world.handle.status().borrow().clone();
    assert!(status.certificate_valid(world.clock.now().wall));
    world.fail(None);
    let asked = world.shared.csrs.lock().unwrap().len();
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), asked, "not due, so not asked for");
}

#[tokio::test(start_paused = true)]
async fn a_ca_whose_clock_is_off_is_told_and_shown() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    assert_eq!(world.count(Event::ClockSkew), 0);
    *world.shared.skew.lock().unwrap() = -90.0;
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.count(Event::ClockSkew), 1);
    assert_eq!(world.handle.status().borrow().ca.clock_skew_seconds, Some(-90.0));
}
