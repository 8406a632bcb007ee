//! Certificates to publish, directories to publish them in, and child processes of this test program.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crank_agent::clock::{Clock, Now, SystemClock};
use crank_agent::config::FilesConfig;
use crank_agent::identity::{CertificateBundle, Crl, PrivateKey};
use crank_agent::policy::RevocationReason;
use crank_agent::schedule::{Jitter, RenewalRecord, Revocation};
use crank_agent::store::GenerationRecord;
use rcgen::{BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair};
use time::OffsetDateTime;

pub(crate) const HOUR: time::Duration = time::Duration::HOUR;

/// The environment variable by which a child process knows its directory.
pub(crate) const CHILD_DIRECTORY: &str = "PUBLICATION_TEST_DIRECTORY";

/// A self-signed root and what it signs.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A fresh key and a certificate for it, valid for an hour either way.
    pub(crate) fn bundle(&self) -> CertificateBundle {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["worker".to_owned()]).unwrap();
        params.not_before = OffsetDateTime::now_utc() - HOUR;
        params.not_after = OffsetDateTime::now_utc() + HOUR;
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
        CertificateBundle::new(vec![leaf.der().clone()], key, vec![self.certificate.der().clone()]).unwrap()
    }

    /// A CRL for an hour that revokes nobody.
    fn crl(&self) -> Crl {
        let params = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc(),
            next_update: OffsetDateTime::now_utc() + HOUR,
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Crl::from_der(params.signed_by(&self.issuer).unwrap().der().clone()).unwrap()
    }
}

pub(crate) const REVOCATION: Revocation =
    Revocation { at: OffsetDateTime::UNIX_EPOCH, reason: RevocationReason::KeyCompromise };

pub(crate) fn bundle_and_crls() -> (CertificateBundle, Vec<Crl>) {
    let ca = TestCa::new();
    (ca.bundle(), vec![ca.crl()])
}

pub(crate) fn bundle() -> CertificateBundle {
    TestCa::new().bundle()
}

pub(crate) fn config(directory: &Path) -> FilesConfig {
    FilesConfig {
        directory: directory.to_owned(),
        owner: None,
        group: None,
        key_mode: 0o600,
        keep_generations: Duration::from_mins(1),
        further: Vec::new(),
    }
}

pub(crate) fn now() -> Now {
    SystemClock.now()
}

/// The time `seconds` after `start`, on both scales.
pub(crate) fn after(start: Now, seconds: u64) -> Now {
    let passed = Duration::from_secs(seconds);
    Now { wall: start.wall + passed, boot: start.boot + passed, running: start.running + passed }
}

pub(crate) fn record() -> GenerationRecord {
    RenewalRecord::new(Jitter::new(0.25).unwrap(), OffsetDateTime::UNIX_EPOCH).into()
}

/// The plain files of the tools before this one.
pub(crate) fn write_plain_files(directory: &Path, bundle: &CertificateBundle) {
    fs::write(directory.join("client.crt"), bundle.chain_pem()).unwrap();
    fs::write(directory.join("client.key"), bundle.key_pem().unwrap().as_bytes()).unwrap();
    fs::write(directory.join("ca.crt"), bundle.roots_pem()).unwrap();
}

/// The names in `directory`, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The generation directories, sorted.
pub(crate) fn generations(directory: &Path) -> Vec<String> {
    names(directory)
        .into_iter()
        .filter(|name| name.starts_with("..") && fs::symlink_metadata(directory.join(name)).unwrap().is_dir())
        .collect()
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

pub(crate) fn current(directory: &Path) -> Option<PathBuf> {
    fs::read_link(directory.join("..data")).ok()
}

/// This test program again, running only `test` with `directory` in its environment.
pub(crate) fn child(test: &str, directory: &Path) -> Command {
    child_of(&std::env::current_exe().unwrap(), test, directory)
}

/// The same with a copy of this program, for a user who may not pass to where it was built.
pub(crate) fn child_of(program: &Path, test: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The directory, in a child process.
pub(crate) fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(PathBuf::from)
}

/// Waits until `condition` holds; fails after 30 s.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
