//! The start without a certificate: how long it waits, and what ends it.

use super::*;

#[tokio::test(start_paused = true)]
async fn without_certificate_and_ca_it_ends_after_the_wait() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "ca_unavailable");
    assert!((60.0..62.0).contains(&before.elapsed().as_secs_f64()), "{:?}", before.elapsed());
    assert!(error.to_string().contains("attempts: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_certificate_a_refusal_ends_it_at_once() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Refused));
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "refused");
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_never_answers_does_not_prolong_the_start() {
    let world = World::with(|config| config.ca.startup_wait = HOUR / 60, None);
    world.shared.silent.send_replace(true);
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "ca_unavailable");
    assert!((60.0..67.0).contains(&before.elapsed().as_secs_f64()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_time_to_wait_there_is_one_attempt() {
    let at_once = |config: &mut Config| config.ca.startup_wait = Duration::ZERO;
    let world = World::with(at_once, None);
    world.until(Event::CertIssued, 1).await;
    let world = World::with(at_once, Some(IssueErrorKind::Unavailable));
    let error = world.task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("attempts: 1"), "{error}");
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
}
