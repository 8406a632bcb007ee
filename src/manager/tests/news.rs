//! What the CA says of a certificate, asked or by itself.

use super::*;
use crate::config::RevokedFiles;
use crate::policy::RevocationReason;
use crate::schedule::{Revocation, Window};

const MINUTE: Duration = Duration::from_mins(1);

fn with_push(config: &mut Config) {
    config.ca.push = true;
}

fn withdraw(config: &mut Config) {
    with_push(config);
    config.revoked_files = RevokedFiles::Withdraw;
}

/// A world whose certificate was revoked and withdrawn, and whose CA refuses another.
async fn withdrawn() -> World {
    let world = World::with(withdraw, None);
    world.say(info("0"));
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    world.revoke();
    world.until(Event::CsrFailed, 1).await;
    world
}

fn info(tag: &str) -> RenewalInfo {
    RenewalInfo { etag: Some(tag.to_owned()), ..RenewalInfo::default() }
}

impl World {
    fn say(&self, info: RenewalInfo) {
        self.shared.info.send_replace(Some(info));
    }

    fn revoke(&self) {
        let serial = self.handle.published().borrow().as_ref().unwrap().serial().to_owned();
        self.shared.revoked.lock().unwrap().push(serial);
        let revocation = Revocation { at: START, reason: RevocationReason::KeyCompromise };
        self.say(RenewalInfo { revoked: Some(revocation), ..info("revoked") });
    }

    fn window(&self, from: Duration, to: Duration) -> Window {
        let now = self.clock.now().wall;
        Window::new(now + from, now + to).unwrap()
    }

    async fn again(self, change: impl FnOnce(&mut Config)) -> Self {
        self.stop.cancel();
        drop(self.task.await.unwrap().unwrap());
        Self::begin(self.directory, change, self.clock, self.shared, self.events, None)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("certs").join(name)
    }

    fn last_came_with_certificate(&self) -> bool {
        *self.shared.by_certificate.lock().unwrap().last().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_that_the_ca_suggests_is_told_kept_and_followed() {
    let world = World::with(with_push, None);
    world.until(Event::CertIssued, 1).await;
    let window = world.window(HOUR, HOUR + 10 * MINUTE);
    world.say(RenewalInfo { window: Some(window), explanation: Some("a new issuer".to_owned()), ..info("1") });
    // It was not offered before, and is asked for within the hour and a quarter.
    world.until(Event::RenewalRequested, 1).await;
    let status = world.handle.status().borrow().clone();
    let request = status.renewal_request.unwrap();
    assert_eq!(request.explanation.as_deref(), Some("a new issuer"));
    assert!(window.start() <= request.at && request.at <= window.end());
    assert_eq!(status.next_renewal, Some(request.at));
    let world = world.again(|_| {}).await;
    world.until(Event::CertAdopted, 1).await;
    assert_eq!(world.handle.status().borrow().next_renewal, Some(request.at));
    world.until(Event::CertRenewed, 1).await;
    let renewed = world.handle.status().borrow().clone();
    assert!(renewed.last_attempt.unwrap().at - request.at < time::Duration::seconds(31));
    assert!(world.last_came_with_certificate() && renewed.renewal_request.is_none());
    assert_eq!(world.count(Event::RenewalRequested), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_pushed_and_another_certificate_is_there_at_once() {
    let world = World::with(with_push, None);
    world.say(info("0"));
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(MINUTE).await;
    let first = world.handle.published().borrow().as_ref().unwrap().serial().to_owned();
    world.revoke();
    let before = tokio::time::Instant::now();
    world.until(Event::CertIssued, 2).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert_ne!(world.handle.published().borrow().as_ref().unwrap().serial(), first);
    assert_eq!((world.count(Event::Revoked), world.count(Event::CertRenewed)), (1, 0));
    assert!(!world.last_came_with_certificate(), "a revoked certificate proves nothing");
    let csrs = world.shared.csrs.lock().unwrap().clone();
    assert_ne!(csrs[0], csrs[1], "another key");
}

#[tokio::test(start_paused = true)]
async fn without_push_it_is_found_at_the_next_check() {
    let world = World::with(|config| config.timing.check_interval = MINUTE, None);
    world.until(Event::CertIssued, 1).await;
    world.shared.info.send_replace(Some(info("0")));
    // Not offered before: asked again within the hour.
    tokio::time::sleep(HOUR).await;
    world.revoke();
    let before = tokio::time::Instant::now();
    world.until(Event::Revoked, 1).await;
    assert!(before.elapsed() <= MINUTE + SLICE, "{:?}", before.elapsed());
    world.until(Event::CertIssued, 2).await;
    assert!(world.shared.questions.lock().unwrap().iter().all(|wait| !wait));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_the_ca_tells_only_at_the_door_counts_too() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    *world.shared.revoked_at_the_door.lock().unwrap() = true;
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertIssued, 2).await;
    assert_eq!((world.count(Event::Revoked), world.count(Event::CsrFailed)), (1, 0));
    assert!(!world.last_came_with_certificate());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_worker_that_is_refused_is_not_ready_also_after_a_restart() {
    let world = World::with(with_push, None);
    world.say(info("0"));
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    world.revoke();
    world.until(Event::CsrFailed, 2).await;
    let revoked = world.handle.status().borrow().revoked.unwrap();
    assert_eq!(revoked.reason, RevocationReason::KeyCompromise);
    assert!(world.file("client.key").exists(), "kept unless configured otherwise");
    let world = world.again(with_push).await;
    world.until(Event::CertAdopted, 1).await;
    assert_eq!(world.handle.status().borrow().revoked, Some(revoked));
    let asked = world.orders();
    world.until(Event::CsrFailed, 4).await;
    assert!(world.orders() > asked && !world.last_came_with_certificate());
    assert_eq!(world.count(Event::Revoked), 1);
    world.fail(None);
    assert!(world.handle.tell(Command::CredentialsChanged));
    world.until(Event::CertIssued, 2).await;
    assert_eq!(world.handle.status().borrow().revoked, None);
}

#[tokio::test(start_paused = true)]
async fn key_and_certificate_are_withdrawn_where_that_is_configured() {
    let world = withdrawn().await;
    let files = ["client.key", "client.crt", "credential-bundle.pem"];
    assert!(files.iter().all(|file| !world.file(file).exists()) && world.file("ca.crt").exists());
    // Nothing puts them back: no check, no other configuration.
    tokio::time::sleep(HOUR * 2).await;
    let world = world.reconfigured(withdraw).await;
    tokio::time::sleep(HOUR * 2).await;
    assert!(files.iter().all(|file| !world.file(file).exists()) && world.file("ca.crt").exists());
    assert_eq!((world.count(Event::FilesChanged), world.count(Event::Revoked)), (0, 1));
    world.fail(None);
    world.until(Event::CertIssued, 2).await;
    assert!(files.iter().all(|file| world.file(file).exists()));
}

#[tokio::test(start_paused = true)]
async fn what_was_withdrawn_is_no_damage_to_the_next_run() {
    let world = withdrawn().await;
    world.fail(None);
    let world = world.again(withdraw).await;
    world.until(Event::CertIssued, 2).await;
    assert_eq!((world.count(Event::ValidationFailed), world.count(Event::CertAdopted)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_says_nothing_is_asked_about_once_an_hour() {
    for push in [false, true] {
        let world = World::with(|config| config.ca.push = push, None);
        world.until(Event::CertIssued, 1).await;
        tokio::time::sleep(HOUR * 5).await;
        let questions = world.shared.questions.lock().unwrap().len();
        assert!((4..=14).contains(&questions), "{questions}, with push {push}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_ca_waits_there_are_few_questions() {
    let world = World::with(with_push, None);
    world.say(info("0"));
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(HOUR).await;
    let questions = world.shared.questions.lock().unwrap().clone();
    assert!((14..=18).contains(&questions.len()), "{}", questions.len());
    assert!(questions.iter().filter(|wait| !**wait).count() <= 1);
}
