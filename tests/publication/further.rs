//! Further files: forms of the same certificate for workers that read others, in the same generation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crank_agent::config::FilesConfig;
use crank_agent::identity::{CertificateBundle, TrustDomain};
use crank_agent::store::{ChangeKind, Content, FileName, FurtherFile, Healed, Keystore, Store, read_bundle};

use crate::support::{REVOCATION, after, bundle, bundle_and_crls, config, generations, mode, names, now, record};

const PASSWORD: &str = "of six or more";

fn further(name: &str, content: Content, mode: u32) -> FurtherFile {
    FurtherFile { name: FileName::new(name).unwrap(), content, mode, owner: None, group: None }
}

fn keystore(directory: &Path) -> Keystore {
    let password_file = directory.join("password");
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    Keystore { password_file, alias: "web".to_owned() }
}

/// The certificate directory `certs` below a directory, with every kind of file.
fn with_every_kind(directory: &Path) -> FilesConfig {
    let certs = directory.join("certs");
    fs::create_dir_all(&certs).unwrap();
    let partner = TrustDomain::new("partner.example").unwrap();
    let keystore = keystore(directory);
    let further = vec![
        further("svid_key.pem", Content::Key, 0o400),
        further("cert.pem", Content::Leaf, 0o444),
        further("chain.pem", Content::Intermediates, 0o644),
        further("svid.pem", Content::Certificate, 0o644),
        further("svid_bundle.pem", Content::Roots, 0o644),
        further("crl.pem", Content::Crl, 0o644),
        further("tls.pem", Content::CredentialBundle, 0o600),
        further("haproxy.pem", Content::CertificateAndKey, 0o640),
        further("partner.pem", Content::FederatedRoots(partner), 0o644),
        further("keystore.p12", Content::Pkcs12(keystore.clone()), 0o600),
        further("truststore.p12", Content::Pkcs12Roots(keystore.clone()), 0o644),
        further("keystore.jks", Content::Jks(keystore.clone()), 0o600),
        further("truststore.jks", Content::JksRoots(keystore), 0o644),
    ];
    FilesConfig { further, ..config(&certs) }
}

fn federated(bundle: CertificateBundle) -> CertificateBundle {
    let partner = TrustDomain::new("partner.example").unwrap();
    let roots = crate::support::bundle().roots().to_vec();
    bundle.with_federated(BTreeMap::from([(partner, roots)]))
}

#[test]
fn every_kind_has_its_content_and_its_mode_in_the_same_generation() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let (bundle, crls) = bundle_and_crls();
    let bundle = federated(bundle.with_crls(crls));
    let store = Store::open(&config).unwrap();
    let generation = store.publish(&bundle, &record(), now()).unwrap();

    let path = &config.directory;
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    let (key, chain) = (bundle.key_pem().unwrap().to_string(), bundle.chain_pem());
    let partner = bundle.federated().values().next().unwrap();
    let partner = bundle.with_roots(partner.clone()).unwrap().roots_pem();
    for (name, content) in [
        ("svid_key.pem", key.clone()),
        ("cert.pem", chain.clone()),
        ("chain.pem", String::new()),
        ("svid.pem", chain.clone()),
        ("svid_bundle.pem", bundle.roots_pem()),
        ("crl.pem", bundle.crls_pem()),
        ("tls.pem", format!("{key}{chain}")),
        ("haproxy.pem", format!("{chain}{key}")),
        ("partner.pem", partner.clone()),
        ("federated.partner.example.crt", partner),
    ] {
        assert_eq!(read(name), content, "{name}");
    }
    for file in &config.further {
        let name = file.name.as_str();
        assert_eq!(mode(&path.join(&generation).join(name)), file.mode, "{name}");
        assert_eq!(fs::read_link(path.join(name)).unwrap(), Path::new("..data").join(name));
    }
    assert_eq!((store.verify().unwrap(), store.usable(now().wall)), (vec![], true));
    let found = read_bundle(path).unwrap();
    assert_eq!((found.leaf_digest(), found.federated()), (bundle.leaf_digest(), bundle.federated()));

    // Another process finds all of it as it was left.
    drop(store);
    let store = Store::open(&config).unwrap();
    assert!(store.load().unwrap().unwrap().complete);
    assert_eq!(store.verify().unwrap(), vec![]);
    assert_eq!(store.heal(&bundle, &record(), now()).unwrap(), Healed::Nothing);
}

#[test]
fn another_set_of_files_is_noticed_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let bundle = bundle();
    let path = config.directory.clone();
    Store::open(&config).unwrap().publish(&bundle, &record(), now()).unwrap();

    let fewer = FilesConfig { further: config.further[3..4].to_vec(), ..config };
    let store = Store::open(&fewer).unwrap();
    assert!(!store.load().unwrap().unwrap().complete);
    store.publish(&bundle, &record(), now()).unwrap();
    let links: Vec<String> = names(&path).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(links, ["ca.crt", "client.crt", "client.key", "credential-bundle.pem", "svid.pem"]);
    assert_eq!((store.verify().unwrap(), store.load().unwrap().unwrap().complete), (vec![], true));
    store.sweep(after(now(), 61)).unwrap();
    assert_eq!(generations(&path).len(), 1);
}

#[test]
fn changes_of_any_kind_are_put_right() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let bundle = federated(bundle());
    let store = Store::open(&config).unwrap();
    store.publish(&bundle, &record(), now()).unwrap();
    let there = config.further.iter().filter(|file| file.content != Content::Crl);
    for name in there.map(|file| file.name.as_str()) {
        let file = config.directory.join("..data").join(name);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "another").unwrap();
        assert!(!store.verify().unwrap().is_empty(), "{name}");
        assert!(matches!(store.heal(&bundle, &record(), now()).unwrap(), Healed::Published(_)), "{name}");
        fs::remove_file(config.directory.join(name)).unwrap();
        assert_eq!(store.heal(&bundle, &record(), now()).unwrap(), Healed::Links, "{name}");
        assert_eq!(store.verify().unwrap(), vec![], "{name}");
    }
    // Also what happened while nobody looked.
    for name in ["keystore.p12", "truststore.p12", "keystore.jks", "truststore.jks", "haproxy.pem"] {
        let file = config.directory.join("..data").join(name);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        let kept = mode(&file);
        crate::support::set_mode(&file, 0o600);
        fs::write(&file, bytes).unwrap();
        crate::support::set_mode(&file, kept);
        store.release();
        let next = Store::open(&config).unwrap();
        next.load().unwrap();
        let changes: Vec<_> = next.verify().unwrap().into_iter().map(|change| (change.path, change.kind)).collect();
        assert_eq!(changes, [(format!("..data/{name}"), ChangeKind::Content)]);
        next.heal(&bundle, &record(), now()).unwrap();
        next.release();
        store.load().unwrap();
    }
}

#[test]
fn another_password_makes_another_keystore_and_none_leaves_the_generation_before() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let password_file = directory.path().join("password");
    let bundle = bundle();
    let store = Store::open(&config).unwrap();
    let first = store.publish(&bundle, &record(), now()).unwrap();

    fs::write(&password_file, "another password").unwrap();
    let kinds: Vec<_> = store.verify().unwrap().into_iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Password; 4]);
    assert!(store.usable(now().wall));
    assert!(matches!(store.heal(&bundle, &record(), now()).unwrap(), Healed::Published(_)));
    assert_eq!(store.verify().unwrap(), vec![]);

    // While no agent runs, too.
    drop(store);
    fs::write(&password_file, "a third password").unwrap();
    let store = Store::open(&config).unwrap();
    store.load().unwrap();
    assert_eq!(store.verify().unwrap().len(), 4);
    let Healed::Published(second) = store.heal(&bundle, &record(), now()).unwrap() else { panic!("not healed") };
    assert_ne!(first, second);

    let before = generations(&config.directory);
    for bad in ["", "short", "tab\tin it", "two\nlines of it", "größer", &"x".repeat(257)] {
        fs::write(&password_file, bad).unwrap();
        let error = store.publish(&bundle, &record(), now()).unwrap_err();
        assert_eq!(error.kind(), "password", "{bad}");
        let text = crank_agent::printable::error_chain(&error);
        assert!(
            text.contains("password") && text.contains("printable ASCII") && (bad.is_empty() || !text.contains(bad)),
            "{text}"
        );
        assert_eq!(store.check_writable(now()).unwrap_err().kind(), "password");
    }
    fs::remove_file(&password_file).unwrap();
    assert_eq!(store.publish(&bundle, &record(), now()).unwrap_err().kind(), "password");
    // What is there stays good.
    assert_eq!(store.verify().unwrap(), vec![]);
    assert_eq!(fs::read_link(config.directory.join("..data")).unwrap(), PathBuf::from(&second));
    assert_eq!(generations(&config.directory), before);
}

#[test]
fn what_is_of_peers_stays_when_a_certificate_is_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let (bundle, crls) = bundle_and_crls();
    let bundle = federated(bundle.with_crls(crls));
    let store = Store::open(&config).unwrap();
    store.publish(&bundle, &record(), now()).unwrap();
    let mut revoked = record();
    revoked.renewal.revoked = Some(REVOCATION);
    store.withdraw(&bundle, &revoked, now()).unwrap();
    let mut left = names(&config.directory.join("..data"));
    left.retain(|name| !name.starts_with('.'));
    let peers = ["ca.crl", "ca.crt", "crl.pem", "federated.partner.example.crt", "partner.pem", "svid_bundle.pem"];
    assert_eq!(left, [&peers[..], &["truststore.jks", "truststore.p12"]].concat());
}

/// What `program` prints, which must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
#[ignore = "needs openssl"]
fn openssl_reads_the_pkcs12_files() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let bundle = bundle();
    Store::open(&config).unwrap().publish(&bundle, &record(), now()).unwrap();
    let path = |name: &str| config.directory.join(name).to_str().unwrap().to_owned();
    let password = format!("pass:{PASSWORD}");
    let keystore = path("keystore.p12");
    let text = run("openssl", &["pkcs12", "-in", &keystore, "-passin", &password, "-nodes"]);
    let expected = bundle.key_pem().unwrap();
    assert!(text.contains(expected.as_str()) && text.contains(&bundle.chain_pem()), "{text}");
    let text = run("openssl", &["pkcs12", "-in", &path("truststore.p12"), "-passin", &password]);
    assert!(text.contains(&bundle.roots_pem()) && !text.contains("PRIVATE KEY"), "{text}");
    let arguments = ["pkcs12", "-info", "-noout", "-in", &keystore, "-passin", &password];
    let info = Command::new("openssl").args(arguments).output().unwrap();
    let info = String::from_utf8_lossy(&info.stderr).into_owned();
    assert!(info.contains("AES-256-CBC") && info.contains("hmacWithSHA256"), "{info}");
    let wrong = Command::new("openssl").args(["pkcs12", "-in", &keystore, "-passin", "pass:wrong", "-nodes"]).output();
    assert!(!wrong.unwrap().status.success());
}

#[test]
#[ignore = "needs keytool (a JDK) and openssl"]
fn java_reads_the_keystores() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_every_kind(directory.path());
    let bundle = bundle();
    Store::open(&config).unwrap().publish(&bundle, &record(), now()).unwrap();
    let path = |name: &str| config.directory.join(name).to_str().unwrap().to_owned();
    for (name, kind) in [("keystore.p12", "PKCS12"), ("keystore.jks", "JKS")] {
        let listed =
            run("keytool", &["-list", "-rfc", "-keystore", &path(name), "-storetype", kind, "-storepass", PASSWORD]);
        assert!(listed.contains("Alias name: web") && listed.contains("PrivateKeyEntry"), "{name}: {listed}");
        // The key comes out as it went in.
        let copy = directory.path().join(format!("{name}.copy")).to_str().unwrap().to_owned();
        let source = ["-srckeystore", &path(name), "-srcstoretype", kind, "-srcstorepass", PASSWORD];
        let target = ["-destkeystore", &copy, "-deststoretype", "PKCS12", "-deststorepass", PASSWORD, "-noprompt"];
        run("keytool", &[&["-importkeystore"], &source[..], &target[..]].concat());
        let text = run("openssl", &["pkcs12", "-in", &copy, "-passin", &format!("pass:{PASSWORD}"), "-nodes"]);
        assert!(text.contains(bundle.key_pem().unwrap().as_str()), "{name}: {text}");
        assert!(text.contains(&bundle.chain_pem()), "{name}: {text}");
    }
    for (name, kind) in [("truststore.p12", "PKCS12"), ("truststore.jks", "JKS")] {
        let listed = run("keytool", &["-list", "-keystore", &path(name), "-storetype", kind, "-storepass", PASSWORD]);
        assert!(listed.contains("web, ") && listed.contains("trustedCertEntry"), "{name}: {listed}");
    }
}
