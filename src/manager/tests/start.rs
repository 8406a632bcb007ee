//! The start without a certificate: how long it waits, and what ends it.

use super::world::FakeIssuer;
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

#[tokio::test(start_paused = true)]
async fn a_worker_that_keeps_its_own_certificate_hears_of_the_events_it_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (config, clock) = (config(directory.path()), Arc::new(TestClock::at(START)));
    let issuer = FakeIssuer { ca: TestCa::new(), clock: Arc::clone(&clock), shared: Arc::default() };
    let store = Arc::new(Store::open(&config.files).unwrap());
    let (mut manager, handle) =
        CertificateManager::new(&config, issuer, store, Arc::<TestClock>::clone(&clock), EventBus::default());
    let heard = Arc::<Mutex<Vec<Event>>>::default();
    for event in [Event::CertIssued, Event::CertRenewed] {
        let heard = Arc::clone(&heard);
        manager.on_event(event, move |record| heard.lock().unwrap().push(record.event));
    }
    let bundle = manager.ensure_certificates().await.unwrap();
    assert_eq!(*heard.lock().unwrap(), [Event::CertIssued]);
    let again = manager.ensure_certificates().await.unwrap();
    assert_eq!(again.serial(), bundle.serial(), "the one on disk");
    let running = tokio::spawn(manager.run(CancellationToken::new()));
    assert!(handle.tell(Command::Renew(None)));
    handle.published().wait_for(|now| now.as_ref().is_some_and(|now| now.serial() != bundle.serial())).await.unwrap();
    running.abort();
    assert_eq!(*heard.lock().unwrap(), [Event::CertIssued, Event::CertRenewed]);
}
