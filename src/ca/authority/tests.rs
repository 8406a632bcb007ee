//! Tests of making and loading a CA on a real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

mod import;
mod rotation;

fn options() -> InitOptions {
    InitOptions::new(TrustDomain::new("crank.local").unwrap())
}

fn load(data_dir: &Path) -> Result<Authority, AuthorityError> {
    Authority::load(data_dir, &KeySettings::default())
}

fn generate(directory: &TempDir) -> Result<CaCertificate, AuthorityError> {
    Authority::generate(&directory.path().join("data"), &options(), OffsetDateTime::now_utc())
}

#[test]
fn a_generated_ca_loads_with_the_facts_that_were_told() {
    let directory = TempDir::new().unwrap();
    let told = generate(&directory).unwrap();
    let authority = load(&directory.path().join("data")).unwrap();
    assert_eq!(authority.public(), &told);
    assert_eq!(authority.trust_domain().as_str(), "crank.local");
    assert!(told.root_fingerprint.starts_with("sha256:") && told.root_fingerprint.len() == 71);
    assert_eq!(fs::read_to_string(&told.root_path).unwrap(), told.root_pem);
    let (_, issuer) = X509Certificate::from_der(authority.issuer()).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert_eq!(issuer.raw_serial().len(), 17);
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let mode = |name: &str| {
        let path = directory.path().join("data").join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("authority"), 0o700);
    assert_eq!(mode("authority/root.key"), 0o600);
    assert_eq!(mode("authority/issuing.key"), 0o600);
}

#[test]
fn a_second_init_overwrites_nothing() {
    let directory = TempDir::new().unwrap();
    let first = generate(&directory).unwrap();
    assert!(matches!(generate(&directory), Err(AuthorityError::Exists(_))));
    assert_eq!(fs::read_to_string(&first.root_path).unwrap(), first.root_pem);
}

#[test]
fn what_a_crash_left_is_no_ca_and_does_not_hinder_the_next_init() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let staging = data.join(".authority.new");
    fs::create_dir_all(&staging).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(staging.join("root.key"), "half").unwrap();
    assert!(matches!(load(&data), Err(AuthorityError::Missing(_))));
    generate(&directory).unwrap();
    assert!(!staging.exists());
}

#[test]
fn keys_open_to_others_are_refused_with_the_fix() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    for name in ["authority/issuing.key", "authority/root.key"] {
        let path = data.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = load(&data).unwrap_err().to_string();
        assert!(message.contains("(mode 0640): run `chmod 600 "), "{message}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(load(&data), Err(AuthorityError::Exposed { .. })));
}

#[test]
fn the_root_key_may_be_elsewhere() {
    let directory = TempDir::new().unwrap();
    generate(&directory).unwrap();
    let data = directory.path().join("data");
    fs::remove_file(data.join("authority/root.key")).unwrap();
    assert!(load(&data).is_ok());
}

#[test]
fn parts_of_two_cas_do_not_load_together() {
    let one = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    generate(&one).unwrap();
    generate(&other).unwrap();
    for name in ["root.crt", "issuing.crt", "issuing.key"] {
        let path = one.path().join("data/authority").join(name);
        let kept = fs::read(&path).unwrap();
        fs::write(&path, fs::read(other.path().join("data/authority").join(name)).unwrap()).unwrap();
        assert!(matches!(load(&one.path().join("data")), Err(AuthorityError::Invalid { .. })), "{name}");
        fs::write(&path, kept).unwrap();
    }
}

#[test]
fn key_types_and_names_that_do_not_fit_are_refused() {
    let directory = TempDir::new().unwrap();
    for options in [
        InitOptions { key_type: KeyType::Rsa2048, ..options() },
        InitOptions { name: String::new(), ..options() },
        InitOptions { name: "a\nb".to_owned(), ..options() },
        InitOptions { name: "x".repeat(49), ..options() },
    ] {
        let result = Authority::generate(&directory.path().join("data"), &options, OffsetDateTime::now_utc());
        assert!(matches!(result, Err(AuthorityError::Option { .. })));
    }
    assert!(!directory.path().join("data").exists());
}
