//! The change of issuers and roots on disk: what is handed out when, and who can verify what.

use super::*;
use crate::ca::sign::{CertifiableKey, LeafPlan, Serial, Subject, sign};
use crate::identity::{PrivateKey, RequestedIdentity, WorkerId, verify_certificate_chain};

fn rotate(data: &Path) -> Rotated {
    let options = RotateOptions {
        key_type: KeyType::EcdsaP256,
        name: None,
        keys: KeySettings::default(),
        key_uri: None,
        root_key: None,
    };
    Authority::rotate(data, &options, OffsetDateTime::now_utc()).unwrap()
}

fn activate(data: &Path) -> String {
    Authority::activate(data, None, &KeySettings::default()).unwrap()
}

/// A worker's certificate with the chain that is sent with it.
fn issued(authority: &Authority) -> Vec<CertificateDer<'static>> {
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let worker = WorkerId::new("streaming").unwrap();
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let plan = LeafPlan {
        serial: Serial::random().unwrap(),
        subject: Subject::Worker(worker.clone()),
        names: RequestedIdentity::new(worker, authority.trust_domain(), []).names,
        key: CertifiableKey::new(&key.public_key_der(), KeyType::EcdsaP256).unwrap(),
        not_before: now,
        not_after: now + time::Duration::HOUR,
    };
    [sign(authority, &plan).unwrap()].into_iter().chain(authority.chain().iter().cloned()).collect()
}

fn verifies(chain: &[CertificateDer<'static>], root: &CertificateDer<'static>) -> bool {
    verify_certificate_chain(chain, std::slice::from_ref(root), OffsetDateTime::now_utc()).is_ok()
}

#[test]
fn from_rotate_to_retire_both_roots_verify_what_either_issuer_signs() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    let old = load(&data).unwrap().roots()[0].clone();

    let rotated = rotate(&data);
    assert!(rotated.cross_certified);
    let authority = load(&data).unwrap();
    let new = authority.roots()[1].clone();
    assert_eq!(authority.roots()[0], old, "the root of the issuer that signs comes first");
    assert_eq!(fingerprint(&new), rotated.root_fingerprint);
    assert_eq!(authority.public().roots_pem, certificates_to_pem(&[old.clone(), new.clone()]));
    let before = issued(&authority);
    assert!(verifies(&before, &old) && verifies(&before, &new), "the old one is certified by the new one");

    assert_eq!(activate(&data), rotated.id);
    let authority = load(&data).unwrap();
    assert_eq!(authority.roots(), [new.clone(), old.clone()]);
    let after = issued(&authority);
    assert!(verifies(&after, &old) && verifies(&after, &new), "the new one is certified by the old one");
    assert_ne!(after[1], before[1]);
    // Whoever asks again for what the old issuer signed gets its chain.
    let digest = crate::crypto::sha256(&before[1]);
    assert_eq!(authority.chain_of(&digest).unwrap(), &before[1..]);

    let former = Authority::retirable(&data, None).unwrap();
    Authority::retire(&data, &former.id).unwrap();
    let authority = load(&data).unwrap();
    assert_eq!(authority.roots(), std::slice::from_ref(&new));
    assert_eq!(authority.chain().len(), 1, "no cross-certificate by a root that is gone");
    assert_eq!(authority.chain_of(&digest), None);
    assert!(!data.join("authority/former").exists());
}

#[test]
fn without_the_old_roots_key_there_is_no_way_from_the_old_root_to_the_new_one() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    let kept = directory.path().join("safe.key");
    fs::rename(data.join("authority/root.key"), &kept).unwrap();
    let old = load(&data).unwrap().roots()[0].clone();
    assert!(!rotate(&data).cross_certified);
    let before = issued(&load(&data).unwrap());
    assert!(verifies(&before, &old) && verifies(&before, &load(&data).unwrap().roots()[1]));
    activate(&data);
    assert!(!verifies(&issued(&load(&data).unwrap()), &old));

    // From the safe it serves, and no other does.
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    let root_key = data.join("authority/root.key");
    let options = |path: &Path| RotateOptions {
        key_type: KeyType::EcdsaP384,
        name: Some("Other".to_owned()),
        keys: KeySettings::default(),
        key_uri: None,
        root_key: Some(path.to_owned()),
    };
    let error = Authority::rotate(&data, &options(&kept), OffsetDateTime::now_utc()).unwrap_err().to_string();
    assert!(error.contains("is not the key of the root in force"), "{error}");
    fs::rename(&root_key, &kept).unwrap();
    assert!(Authority::rotate(&data, &options(&kept), OffsetDateTime::now_utc()).unwrap().cross_certified);
}

#[test]
fn issuers_change_back_and_in_any_number() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    let states =
        || -> Vec<IssuerState> { Authority::issuers(&data).unwrap().into_iter().map(|issuer| issuer.state).collect() };
    let first = Authority::issuers(&data).unwrap()[0].id.clone();
    let second = rotate(&data).id;
    let third = rotate(&data).id;
    assert_eq!(states(), [IssuerState::Issuing, IssuerState::Next, IssuerState::Next]);
    let error = Authority::activate(&data, None, &KeySettings::default()).unwrap_err().to_string();
    assert!(error.contains("there are several"), "{error}");
    Authority::activate(&data, Some(&third), &KeySettings::default()).unwrap();
    Authority::activate(&data, Some(&first), &KeySettings::default()).unwrap();
    assert_eq!(Authority::issuers(&data).unwrap()[0].id, first);
    let error = Authority::activate(&data, Some(&first), &KeySettings::default()).unwrap_err().to_string();
    assert!(error.ends_with("signs already"), "{error}");
    assert!(Authority::retirable(&data, Some(&first)).is_err(), "the one that signs");
    // One that never signed can be taken back too.
    Authority::retire(&data, &second).unwrap();
    assert_eq!(states(), [IssuerState::Issuing, IssuerState::Former]);
    assert!(matches!(Authority::retire(&data, &first), Err(AuthorityError::Issuer { .. })));
    assert!(matches!(Authority::retire(&data, "../../etc"), Err(AuthorityError::Issuer { .. })));
}

#[test]
fn what_others_put_beside_the_keys_stays_and_modes_are_kept() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    fs::write(data.join("authority/README"), "ours").unwrap();
    rotate(&data);
    activate(&data);
    assert_eq!(fs::read_to_string(data.join("authority/README")).unwrap(), "ours");
    let mut keys = 0;
    for path in files_below(&data.join("authority")) {
        if path.extension().is_some_and(|extension| extension == "key") {
            keys += 1;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }
    assert_eq!(keys, 4);
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn readers_see_one_state_or_the_next_while_issuers_change() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    rotate(&data);
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(load(&data).unwrap().roots().len(), 2);
                read += 1;
            }
            read
        });
        for _ in 0..50 {
            let other = Authority::issuers(&data).unwrap()[1].id.clone();
            Authority::activate(&data, Some(&other), &KeySettings::default()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(read > 10, "{read}");
}

#[test]
fn a_crash_between_two_renames_is_mended_by_whoever_comes_next() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    fs::rename(data.join("authority"), data.join(".authority.old")).unwrap();
    assert!(Authority::exists(&data));
    assert!(matches!(generate(&directory), Err(AuthorityError::Exists(_))));
    assert!(load(&data).is_ok());
    fs::rename(data.join("authority"), data.join(".authority.old")).unwrap();
    rotate(&data);
    assert!(!data.join(".authority.old").exists());
}

#[test]
fn a_directory_of_before_there_were_several_issuers_serves_as_it_is() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    fs::write(data.join("authority/settings.json"), "{\"trust_domain\": \"crank.local\"}").unwrap();
    rotate(&data);
    let issuers = Authority::issuers(&data).unwrap();
    assert_eq!(issuers[1].subject, "CN=Crank Issuing CA G2, O=Crank Platform");
}
