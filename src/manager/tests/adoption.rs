//! What is on disk at the start.

use super::*;

/// A new run over the same directory.
async fn again(world: World) -> World {
    world.stop.cancel();
    drop(world.task.await.unwrap().unwrap());
    World::begin(world.directory, |_| {}, world.clock, world.shared, world.events, None)
}

#[tokio::test(start_paused = true)]
async fn plain_files_become_a_generation_without_asking_the_ca() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let bundle = TestCa::new().bundle(&config.identity, START, HOUR * 12);
    std::fs::create_dir(&config.files.directory).unwrap();
    let write = |name: &str, text: &str| std::fs::write(config.files.directory.join(name), text).unwrap();
    write("client.crt", &bundle.chain_pem());
    write("client.key", &bundle.key_pem().unwrap());
    write("ca.crt", &bundle.roots_pem());
    let clock = Arc::new(TestClock::at(START));
    let world = World::begin(directory, |_| {}, clock, Arc::default(), Arc::default(), None);
    world.until(Event::CertAdopted, 1).await;
    assert_eq!(world.handle.published().borrow().as_ref().unwrap().serial(), bundle.serial());
    assert!(config.files.directory.join("..data/credential-bundle.pem").exists());
    assert_eq!((world.orders(), world.count(Event::FilesChanged)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_is_made_anew_and_a_kept_one_decides_on_the_renewal() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let renewal = world.handle.status().borrow().next_renewal.unwrap();
    let world = again(world).await;
    world.until(Event::CertAdopted, 1).await;
    assert_eq!(world.handle.status().borrow().next_renewal.unwrap(), renewal);
    let record = world.directory.path().join("certs/..data/.renewal.json");
    std::fs::remove_file(&record).unwrap();
    let world = again(world).await;
    world.until(Event::CertAdopted, 2).await;
    assert!(record.exists());
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_on_disk_is_told_and_replaced() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.clock.suspend(HOUR * 13);
    world.stop.cancel();
    let world = again(world).await;
    world.until(Event::CertRenewed, 1).await;
    assert_eq!((world.count(Event::Expired), world.count(Event::CertIssued)), (1, 1));
    // It proves nothing any longer.
    assert_eq!(world.shared.by_certificate.lock().unwrap().last(), Some(&false));
}
