//! Watches real directories.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn watcher(paths: &[&Path]) -> FileWatcher {
    FileWatcher::new(&paths.iter().map(|path| path.to_path_buf()).collect()).unwrap()
}

async fn told(watcher: &mut FileWatcher) {
    tokio::time::timeout(Duration::from_secs(10), watcher.changed()).await.expect("a change is told").unwrap();
}

fn write(path: &Path) {
    fs::write(path, "x").unwrap();
}

#[tokio::test]
async fn a_file_that_comes_changes_and_goes_is_told() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("token");
    let mut watcher = watcher(&[&path]);
    write(&path);
    told(&mut watcher).await;
    write(&path);
    told(&mut watcher).await;
    write(&root.path().join("new"));
    fs::rename(root.path().join("new"), &path).unwrap();
    told(&mut watcher).await;
    fs::remove_file(&path).unwrap();
    told(&mut watcher).await;
}

#[tokio::test]
async fn every_swap_of_data_is_told_and_changes_behind_it_too() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("client.crt");
    symlink("..data/client.crt", &path).unwrap();
    let mut watcher = watcher(&[&path]);
    for number in 0..4 {
        let generation = root.path().join(format!("..{number}"));
        fs::create_dir(&generation).unwrap();
        write(&generation.join("client.crt"));
        symlink(format!("..{number}"), root.path().join("..data_tmp")).unwrap();
        fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
        told(&mut watcher).await;
        write(&generation.join("client.crt"));
        told(&mut watcher).await;
    }
    assert!(watcher.watched.len() <= 2, "{:?}", watcher.watched);
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_anew_is_watched_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("certs");
    let path = directory.join("file");
    let mut watcher = watcher(&[&path]);
    for _ in 0..3 {
        fs::create_dir(&directory).unwrap();
        told(&mut watcher).await;
        write(&path);
        told(&mut watcher).await;
        fs::remove_dir_all(&directory).unwrap();
        told(&mut watcher).await;
    }
    for number in 0..3 {
        fs::create_dir(&directory).unwrap();
        write(&path);
        told(&mut watcher).await;
        fs::rename(&directory, root.path().join(format!("moved{number}"))).unwrap();
        told(&mut watcher).await;
    }
}

#[tokio::test]
async fn a_wait_that_is_cancelled_loses_no_change() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    let mut watcher = watcher(&[&path]);
    write(&path);
    // Each wait is shorter than the debounce; together they are longer.
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::time::timeout(DEBOUNCE / 4, watcher.changed()).await.is_err() {
        assert!(Instant::now() < deadline, "the change is lost");
    }
}

#[test]
fn changes_next_to_a_path_and_mere_reading_are_not_told() {
    let mut shared = Shared {
        points: [PathBuf::from("/a/file")].into(),
        directories: [PathBuf::from("/a")].into(),
        ..Shared::default()
    };
    let event = |kind, path: &str| Ok(Event::new(kind).add_path(path.into()));
    let modify = EventKind::Modify(ModifyKind::Any);
    let remove = EventKind::Remove(notify::event::RemoveKind::Folder);
    let read = EventKind::Access(notify::event::AccessKind::Any);
    assert!(shared.concerns(&event(modify, "/a/file")));
    assert!(!shared.concerns(&event(modify, "/a/other")));
    assert!(!shared.concerns(&event(read, "/a/file")));
    assert!(shared.lost.is_empty());
    assert!(shared.concerns(&event(remove, "/a")));
    assert_eq!(shared.lost, [PathBuf::from("/a")].into());
}

#[tokio::test]
async fn rearming_what_is_armed_watches_nothing_anew() {
    let root = tempfile::tempdir().unwrap();
    let mut watcher = watcher(&[&root.path().join("a/b")]);
    assert!(!watcher.rearm().unwrap());
    fs::create_dir(root.path().join("a")).unwrap();
    assert!(watcher.rearm().unwrap());
}
