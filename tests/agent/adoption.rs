//! Starting on what others left in the certificate directory: the files of older tools, usable or not, and volumes that
//! take no changes.

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
    RsaKeySize,
};
use rustls::pki_types::PrivateKeyDer;
use time::OffsetDateTime;

use crate::liar::Authority;
use crate::processes::{Ca, Worker, until};

/// The authority of the older tools, which is not the one configured now.
struct Older {
    root: Authority,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Older {
    fn new() -> Self {
        let root = Authority::new("Older CA");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Older issuing CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root.issuer).unwrap();
        Self { root, intermediate }
    }

    /// Leaves what the older tools did: leaf and intermediate, leaf first, by DNS names only; key; root. Returns the
    /// serial.
    fn leave(&self, worker: &Worker, name: &str, key: &KeyPair, key_pem: &str, life: time::Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new([name.to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = now - time::Duration::DAY;
        params.not_after = now + life;
        params.serial_number = Some(vec![0x12, 0x34].into());
        let leaf = params.signed_by(key, &self.intermediate).unwrap();
        fs::create_dir(worker.certificates()).unwrap();
        let write = |file: &str, text: &str| fs::write(worker.certificates().join(file), text).unwrap();
        write("client.crt", &(leaf.pem() + &self.intermediate.pem()));
        write("client.key", key_pem);
        write("ca.crt", &self.root.root.pem());
        "12:34".to_owned()
    }
}

/// A key, and its PEM as older tools write it.
fn keys() -> [(&'static str, KeyPair, String); 3] {
    let ecdsa = KeyPair::generate().unwrap();
    let sec1 = sec1(&KeyPair::generate().unwrap());
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let pkcs1 = pem("RSA PRIVATE KEY", inner(&rsa));
    let ecdsa_pem = ecdsa.serialize_pem();
    [("PKCS#8", ecdsa, ecdsa_pem), ("SEC1", sec1.0, sec1.1), ("PKCS#1", rsa, pkcs1)]
}

/// As `openssl ecparam -genkey` writes it, parameters first.
fn sec1(key: &KeyPair) -> (KeyPair, String) {
    const P256: &[u8] = &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    // SEQUENCE of version 1, 32 bytes, and after them the curve, which PKCS#8 names elsewhere.
    let [0x30, length, content @ ..] = inner(key) else { panic!("an ECPrivateKey of less than 128 bytes") };
    let (scalar, public) = content.split_at(37);
    let length = [*length + u8::try_from(P256.len()).unwrap()];
    let der = [&[0x30], length.as_slice(), scalar, P256, public].concat();
    let pair = KeyPair::try_from(&PrivateKeyDer::Sec1(der.clone().into())).unwrap();
    (pair, pem("EC PARAMETERS", &P256[2..]) + &pem("EC PRIVATE KEY", &der))
}

/// What PKCS#8 wraps.
fn inner(key: &KeyPair) -> &[u8] {
    pkcs8::PrivateKeyInfo::try_from(key.serialized_der()).unwrap().private_key
}

fn pem(label: &'static str, der: &[u8]) -> String {
    pkcs8::der::pem::encode_string(label, pkcs8::LineEnding::LF, der).unwrap()
}

#[test]
fn the_files_of_older_tools_serve_until_their_successor_is_there_which_is_asked_for_at_once() {
    let older = Older::new();
    for (form, key, key_pem) in keys() {
        let mut ca = Ca::stopped("1h");
        let worker = Worker::of(&ca, "streaming");
        let serial = older.leave(&worker, "streaming", &key, &key_pem, 300 * time::Duration::DAY);
        let agent = worker.start();
        let adopted = agent.event("CERT_ADOPTED", 1);
        assert_eq!(adopted["cert_metadata"]["serial"], serial.as_str(), "{form}");
        // They have no SPIFFE id.
        agent.event("CA_UNAVAILABLE", 1);
        assert_eq!(worker.run_once(&["health"]).status.code(), Some(0), "{form}: {}", agent.log());
        assert_eq!(worker.serial().unwrap(), serial, "{form}");
        let bundle = crank_agent::store::read_bundle(&worker.certificates()).unwrap();
        assert_eq!(bundle.key().public_key_der(), key.subject_public_key_info(), "{form}");
        assert_eq!(bundle.chain().len(), 2);
        assert!(worker.certificates().join("client.key").is_symlink());

        ca.restart();
        let renewed = agent.event("CERT_RENEWED", 1);
        assert_eq!(worker.serial().unwrap(), renewed["cert_metadata"]["serial"], "{form}");
        let names = renewed["cert_metadata"]["names"].to_string();
        assert!(names.contains("URI:spiffe://crank.local/worker/streaming"), "{form}: {names}");
        let roots = fs::read_to_string(worker.certificates().join("ca.crt")).unwrap();
        assert_eq!(roots, fs::read_to_string(ca.root_file()).unwrap(), "{form}");
        assert_eq!(agent.count("CERT_VALIDATION_FAILED"), 0, "{form}: {}", agent.log());
    }
}

#[test]
fn expired_files_are_told_and_replaced() {
    let (older, ca) = (Older::new(), Ca::start("1h"));
    let worker = Worker::of(&ca, "streaming");
    let key = KeyPair::generate().unwrap();
    older.leave(&worker, "streaming", &key, &key.serialize_pem(), -time::Duration::HOUR);
    let agent = worker.start();
    let expired = agent.event("CERT_EXPIRED", 1);
    assert_eq!(expired["cert_metadata"]["serial"], "12:34");
    assert_eq!(agent.event("CERT_RENEWED", 1)["cert_metadata"]["serial"], worker.serial().unwrap().as_str());
    assert_eq!(agent.count("CERT_ADOPTED"), 0);
}

#[test]
fn the_certificate_of_another_worker_is_told_and_replaced() {
    let (older, ca) = (Older::new(), Ca::start("1h"));
    let worker = Worker::of(&ca, "streaming");
    let key = KeyPair::generate().unwrap();
    older.leave(&worker, "billing", &key, &key.serialize_pem(), time::Duration::DAY);
    let agent = worker.start();
    let failed = agent.event("CERT_VALIDATION_FAILED", 1);
    assert_eq!(failed["error"]["kind"], "wrong_names");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("on disk: ") && message.contains("`billing`"), "{message}");
    let renewed = agent.event("CERT_RENEWED", 1);
    assert_eq!(renewed["cert_metadata"]["serial"], worker.serial().unwrap().as_str());
    assert_eq!(agent.count("CERT_ADOPTED"), 0);
}

#[test]
fn files_of_no_use_are_told_and_replaced() {
    let (older, ca) = (Older::new(), Ca::start("1h"));
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let encrypted = pem("ENCRYPTED PRIVATE KEY", &[0x30, 0]);
    let cases: [(&str, &str, Option<&str>, &str); 8] = [
        ("a certificate that is none", "client.crt", Some("garbage"), "corrupt"),
        ("an empty certificate", "client.crt", Some(""), "corrupt"),
        ("a key that is none", "client.key", Some("garbage"), "corrupt"),
        ("an encrypted key", "client.key", Some(&encrypted), "corrupt"),
        ("the key of another certificate", "client.key", Some(&other_key), "corrupt"),
        ("no key", "client.key", None, "missing"),
        ("no roots", "ca.crt", None, "missing"),
        ("roots that are none", "ca.crt", Some("\0\0\0"), "corrupt"),
    ];
    for (case, file, content, kind) in cases {
        let worker = Worker::of(&ca, "streaming");
        let key = KeyPair::generate().unwrap();
        older.leave(&worker, "streaming", &key, &key.serialize_pem(), time::Duration::DAY);
        let path = worker.certificates().join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let agent = worker.start();
        assert_eq!(agent.event("CERT_VALIDATION_FAILED", 1)["error"]["kind"], kind, "{case}");
        let issued = agent.event("CERT_ISSUED", 1);
        assert_eq!(worker.serial().unwrap(), issued["cert_metadata"]["serial"], "{case}");
        assert_eq!(agent.count("CERT_ADOPTED"), 0, "{case}");
        assert_eq!(worker.run_once(&["health"]).status.code(), Some(0), "{case}");
    }
}

/// A small volume at the worker's certificate directory, gone with the value.
struct Volume<'a>(&'a Worker);

impl<'a> Volume<'a> {
    fn mount(worker: &'a Worker) -> Self {
        fs::create_dir(worker.certificates()).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs"], &worker.certificates());
        Self(worker)
    }

    fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], &self.0.certificates());
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.certificates()).status();
    }
}

#[test]
#[ignore = "needs root"]
fn a_valid_certificate_serves_on_from_a_read_only_volume_and_the_agent_says_so() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let volume = Volume::mount(&worker);
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
    let serial = worker.serial().unwrap();
    volume.remount("ro");
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0), "there is a valid certificate");
    let mut agent = worker.start();
    let failed = agent.event("CERT_PUBLISH_FAILED", 1);
    assert_eq!(failed["error"]["kind"], "read_only");
    assert_eq!(agent.event("CERT_ADOPTED", 1)["cert_metadata"]["serial"], serial.as_str());
    // A renewal is not asked for in vain; once the volume can be written, it comes.
    agent.signal(rustix::process::Signal::USR1);
    agent.event("CERT_PUBLISH_FAILED", 2);
    assert!(agent.is_running());
    assert_eq!(agent.count("CSR_SUBMITTED"), 0);
    assert_eq!(worker.serial().unwrap(), serial);
    volume.remount("rw");
    let renewed = agent.event("CERT_RENEWED", 1);
    assert_eq!(worker.serial().unwrap(), renewed["cert_metadata"]["serial"]);
    until("the control socket is there", || worker.control_socket().exists().then_some(()));
    assert_eq!(worker.run_once(&["health"]).status.code(), Some(0));
}

#[test]
#[ignore = "needs root"]
fn init_ends_with_73_on_a_read_only_volume_and_its_token_is_still_good() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming").with("CRANK_CA_STARTUP_WAIT", "1s");
    let volume = Volume::mount(&worker);
    volume.remount("ro");
    for command in ["init", "run"] {
        let output = worker.run_once(&[command]);
        assert_eq!(output.status.code(), Some(73), "{command}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("Read-only file system") && text.contains("check the volume"), "{text}");
    }
    volume.remount("rw");
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
}
