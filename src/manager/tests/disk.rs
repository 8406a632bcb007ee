//! What the disk does not take, and what others do to the files.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_disk_does_not_take_is_written_later_without_asking_again() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.obstruct();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 3).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_ca_is_not_asked_for_what_the_disk_would_not_take() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    // A directory where a link belongs: it is not removed, and no publication gets through.
    let obstacle = world.directory.path().join("certs/client.key");
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 5).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_expires_before_the_disk_takes_it_is_not_written() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.obstruct();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 1).await;
    world.clock.suspend(HOUR * 13);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert!(world.handle.status().borrow().certificate_valid(world.clock.now().wall));
    assert_eq!(world.orders(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_takes_no_certificate_is_noticed_before_the_ca_is_asked() {
    let obstruct = |config: &mut Config| {
        std::fs::create_dir_all(config.files.directory.join("client.crt")).unwrap();
    };
    let world = World::with(obstruct, None);
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "obstructed");
    assert!(error.to_string().contains("client.crt is a directory"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_waits_for_a_volume_that_takes_it() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.directory.path().join("certs/client.crt");
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 3).await;
    assert_eq!(world.orders(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.orders(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_removed_by_someone_is_put_back_at_the_next_check() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let key = world.directory.path().join("certs/client.key");
    std::fs::remove_file(&key).unwrap();
    world.until(Event::FilesHealed, 1).await;
    assert!(key.exists());
    assert_eq!(world.count(Event::FilesChanged), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_the_files_is_a_slow_one() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let key = world.directory.path().join("certs/client.key");
    for _ in 0..20 * 60 {
        let _ = std::fs::remove_file(&key);
        assert!(world.handle.tell(Command::FilesChanged));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let healed = world.count(Event::FilesHealed);
    assert!((10..40).contains(&healed), "{healed} in ten minutes");
    // And when it is over, one loss is put right at once.
    tokio::time::sleep(Duration::from_mins(3)).await;
    let healed = world.count(Event::FilesHealed);
    for loss in 1..=2 {
        std::fs::remove_file(&key).unwrap();
        assert!(world.handle.tell(Command::FilesChanged));
        let before = tokio::time::Instant::now();
        world.until(Event::FilesHealed, healed + loss).await;
        assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn earlier_generations_are_removed_after_their_time() {
    let world = World::with(|config| config.files.keep_generations = Duration::from_secs(5), None);
    world.until(Event::CertIssued, 1).await;
    let generations = || {
        let entries = std::fs::read_dir(world.directory.path().join("certs")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..2")).count()
    };
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(generations(), 2);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(generations(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_is_removed() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    world.stop.cancel();
    drop(world.task.await.unwrap().unwrap());
    let world = World::begin(world.directory, |_| {}, world.clock, world.shared, world.events, None);
    world.until(Event::CertAdopted, 1).await;
    tokio::time::sleep(Duration::from_secs(62)).await;
    let entries = std::fs::read_dir(world.directory.path().join("certs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("..2")).count(), 1);
}
