//! Further files and the roots of other trust domains, by a running agent.

use std::fs;

use crank_agent::identity::TrustDomain;
use crank_agent::store::read_bundle;

use crate::processes::{Ca, Worker, until};

#[test]
fn further_files_come_and_go_with_the_configuration_and_are_no_change_by_others() {
    let ca = Ca::start("1h");
    let worker = Worker::of(&ca, "streaming");
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    fs::write(&password, "of six or more\n").unwrap();
    worker.configure(&format!(
        "[[file]]\nname = \"haproxy.pem\"\ncontent = \"certificate-and-key\"\n\
         [[file]]\nname = \"keystore.p12\"\ncontent = \"pkcs12\"\npassword_file = \"{}\"\n",
        password.display()
    ));
    agent.event("CONFIG_RELOADED", 1);
    let path = |name: &str| worker.certificates().join(name);
    until("both files are there", || (path("haproxy.pem").exists() && path("keystore.p12").exists()).then_some(()));
    let keystore = fs::read(path("keystore.p12")).unwrap();

    // Another password is seen at once.
    fs::write(&password, "another password\n").unwrap();
    agent.event("CERT_FILES_HEALED", 1);
    assert_ne!(fs::read(path("keystore.p12")).unwrap(), keystore);

    worker.configure("");
    agent.event("CONFIG_RELOADED", 2);
    until("both files are gone", || {
        let there = |name| fs::symlink_metadata(path(name)).is_ok();
        (!there("haproxy.pem") && !there("keystore.p12")).then_some(())
    });
    assert_eq!((agent.count("CERT_FILES_CHANGED"), agent.count("CSR_SUBMITTED")), (1, 1));
    assert!(agent.is_running());
}

#[test]
fn roots_of_another_trust_domain_follow_their_file_and_stay_apart() {
    let ca = Ca::start("1h");
    let (partner, next) = (Ca::start("1h"), Ca::start("1h"));
    let worker = Worker::of(&ca, "streaming");
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("partner.pem");
    fs::copy(partner.root_file(), &roots).unwrap();
    worker.configure(&format!(
        "[[federate]]\ntrust_domain = \"partner.example\"\nroots_file = \"{}\"\n\
         [[file]]\nname = \"partner.pem\"\ncontent = \"federated-roots\"\ntrust_domain = \"partner.example\"\n",
        roots.display()
    ));
    let agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let domain = TrustDomain::new("partner.example").unwrap();
    let published = |ca: &Ca| {
        let expected = fs::read_to_string(ca.root_file()).unwrap();
        let found = ["federated.partner.example.crt", "partner.pem"].map(|name| {
            fs::read_to_string(worker.certificates().join(name)).unwrap_or_default().trim() == expected.trim()
        });
        found == [true, true]
    };
    assert!(published(&partner));
    let bundle = read_bundle(&worker.certificates()).unwrap();
    assert_eq!(bundle.federated().len(), 1);
    assert!(!bundle.roots().iter().any(|root| bundle.federated()[&domain].contains(root)));

    fs::copy(next.root_file(), &roots).unwrap();
    until("the next root is published", || published(&next).then_some(()));
    // What is of no use changes nothing.
    fs::write(&roots, "no roots").unwrap();
    until("the log says so", || agent.log().contains("its published roots stay as they are").then_some(()));
    assert!(published(&next));
    assert_eq!((agent.count("CSR_SUBMITTED"), agent.count("CERT_FILES_CHANGED")), (1, 0));
}
