//! When the CA is asked, with what, and how often.

use super::*;

#[tokio::test(start_paused = true)]
async fn renewal_is_by_certificate_and_keeps_the_old_one_until_then() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let first = world.handle.published().borrow().as_ref().unwrap().serial().to_owned();
    world.fail(Some(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 5).await;
    assert_eq!(world.handle.published().borrow().as_ref().unwrap().serial(), first);
    let status = world.handle.status().borrow().clone();
    assert_eq!(status.back_off.unwrap().failures, 5);
    world.fail(None);
    world.until(Event::CertRenewed, 1).await;
    assert_ne!(world.handle.published().borrow().as_ref().unwrap().serial(), first);
    assert!(world.handle.status().borrow().back_off.is_none());
    assert!(world.shared.by_certificate.lock().unwrap()[1..].iter().all(|by_certificate| *by_certificate));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_order_is_sent_again_with_the_same_key() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 3).await;
    world.fail(None);
    world.until(Event::CertIssued, 1).await;
    let csrs = world.shared.csrs.lock().unwrap().clone();
    assert!(csrs.len() >= 4 && csrs.iter().all(|csr| *csr == csrs[0]));
    assert_eq!(world.count(Event::CsrGenerated), 1);
    world.until(Event::CertRenewed, 1).await;
    assert_ne!(world.shared.csrs.lock().unwrap().last(), csrs.last(), "a fresh key for every certificate");
}

#[tokio::test(start_paused = true)]
async fn requests_to_renew_during_an_attempt_are_one_more_attempt() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.shared.silent.send_replace(true);
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CsrSubmitted, 2).await;
    let (first, outcome) = oneshot::channel();
    let (second, other_outcome) = oneshot::channel();
    for command in [Command::Renew(None), Command::Renew(Some(first)), Command::Renew(Some(second))] {
        assert!(world.handle.tell(command));
    }
    // However many there are of those that nobody waits for, there is room for the others.
    for _ in 0..1_000 {
        for command in [Command::Renew(None), Command::FilesChanged, Command::CredentialsChanged] {
            assert!(world.handle.tell(command));
        }
    }
    world.shared.silent.send_replace(false);
    let renewed = outcome.await.unwrap().unwrap();
    assert_eq!(other_outcome.await.unwrap().unwrap(), renewed);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!((world.orders(), world.count(Event::CertRenewed)), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn credentials_that_change_all_the_time_do_not_make_it_ask_all_the_time() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CsrFailed, 1).await;
    world.clock.suspend(HOUR * 11);
    let asked = world.orders();
    for _ in 0..5 * 600 {
        assert!(world.handle.tell(Command::CredentialsChanged));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let made = world.orders() - asked;
    assert!((30..=61).contains(&made), "{made} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_told() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.stop.cancel();
    assert!(world.task.await.unwrap().is_ok());
    assert!(!world.handle.tell(Command::Renew(None)));
}
