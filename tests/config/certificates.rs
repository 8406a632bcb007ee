//! Further certificates: `[[certificate]]`.

use std::path::Path;
use std::time::Duration;

use crank_agent::config::{CaTrust, ConfigReport, load, resolve};
use crank_agent::identity::KeyType;

use crate::{load_file, with_file};

const FILE: &str = r#"
worker_id = "streaming"
identity.names = ["first.example.org"]
ca.url = "https://ca:9090"
ca.timeout = "9s"
files.directory = "/certs/first"
files.group = 5000
workload_api.socket = "/run/workload.sock"

[[federate]]
trust_domain = "partner.example"
roots_file = "/partner.pem"

[[deliver]]
name = "nginx"
signal = "HUP"
process = "nginx"

[[certificate]]
name = "admin"
worker_id = "streaming-admin"
files.directory = "/certs/admin"
identity.key_type = "rsa-2048"
ca.token_file = "/run/secrets/admin"

[[certificate.deliver]]
name = "admin-server"
url = "https://localhost:1/reload"

[[certificate.file]]
name = "tls.pem"
content = "credential-bundle"

[[certificate]]
name = "legacy"
[certificate.files]
directory = "/certs/legacy"
[certificate.ca]
root_fingerprint = "sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
"#;

fn problems(file: &str) -> Vec<(String, String)> {
    let report: ConfigReport = load_file(format!("worker_id = \"a\"\n{file}")).unwrap_err();
    report.problems.into_iter().map(|problem| (problem.key.unwrap_or_default(), problem.expected)).collect()
}

#[test]
fn a_further_certificate_has_what_is_its_own_and_the_rest_of_the_first() {
    let (_directory, arguments) = with_file(&[], FILE);
    let resolution = resolve(&arguments).unwrap();
    let config = &resolution.config;
    let [admin, legacy] = &config.certificates[..] else { panic!("{:?}", config.certificates) };
    assert_eq!((admin.name.as_str(), legacy.name.as_str()), ("admin", "legacy"));
    let (admin, legacy) = (&admin.config, &legacy.config);
    assert_eq!(admin.identity.worker_id.as_str(), "streaming-admin");
    assert_eq!(admin.identity.names.len(), 3, "the further names are of the first alone: {:?}", admin.identity.names);
    assert_eq!(legacy.identity.worker_id.as_str(), "streaming");
    assert_eq!((admin.key_type, legacy.key_type), (KeyType::Rsa2048, KeyType::EcdsaP256));
    assert_eq!(admin.files.directory, Path::new("/certs/admin"));
    assert_eq!((admin.files.group, admin.files.key_mode), (Some(5000), 0o640));
    assert_eq!((admin.ca.timeout, admin.ca.url.as_str()), (Duration::from_secs(9), "https://ca:9090"));
    assert_eq!(admin.ca.token_file.as_deref(), Some(Path::new("/run/secrets/admin")));
    assert_eq!(legacy.ca.token_file, None);
    assert!(matches!(admin.ca.trust, CaTrust::RootFile(_)) && matches!(legacy.ca.trust, CaTrust::Fingerprint(_)));
    assert_eq!(admin.federation, config.federation);
    let names = |config: &crank_agent::config::Config| -> Vec<String> {
        config.deliveries.iter().map(|delivery| delivery.name.clone()).collect()
    };
    assert_eq!(
        (names(config), names(admin), names(legacy)),
        (vec!["nginx".into()], vec!["admin-server".into()], vec![])
    );
    assert_eq!((admin.files.further.len(), legacy.files.further.len()), (1, 0));
    assert_eq!((&admin.server, &admin.workload_api), (&None, &None));
    assert_eq!(admin.control_socket, config.control_socket);

    assert_eq!(load_file(resolution.to_toml()).unwrap(), resolution.config, "{}", resolution.to_toml());
    let json = resolution.to_json();
    assert_eq!(json["settings"]["certificate.1.files.directory"]["value"], "/certs/admin");
    assert_eq!(json["settings"]["certificate.1.deliver.1.name"]["value"], "admin-server");
}

#[test]
fn environment_and_flags_reach_a_further_certificate_by_its_number() {
    let variables = [
        ("CRANK_CERTIFICATE_2_IDENTITY_KEY_TYPE", "ed25519"),
        ("CRANK_CERTIFICATE_3_NAME", "third"),
        ("CRANK_CERTIFICATE_3_FILES_DIRECTORY", "/certs/third"),
        ("CRANK_CERTIFICATE_3_DELIVER_1_NAME", "x"),
    ];
    let (_directory, arguments) = with_file(&variables, FILE);
    let arguments = arguments.with_flag("--set", "certificate.3.deliver.1.probe", "localhost:1");
    let config = load(&arguments).unwrap();
    assert_eq!(config.certificates[1].config.key_type, KeyType::Ed25519);
    let third = &config.certificates[2];
    assert_eq!((third.name.as_str(), third.config.deliveries.len()), ("third", 1));
    for key in ["certificate.name", "certificate.0.name", "certificate.1.server.listen", "certificate.21.name"] {
        let (_directory, arguments) = with_file(&[], FILE);
        assert!(load(&arguments.with_flag("--set", key, "x")).is_err(), "{key}");
    }
}

#[test]
fn what_is_wrong_with_a_further_certificate_is_told_once_and_by_its_key() {
    for (file, expected) in [
        ("[[certificate]]\nname = \"x\"", vec![("certificate.1.files.directory", "a value")]),
        ("[[certificate]]\nfiles.directory = \"/x\"", vec![("certificate.1.name", "a value")]),
        (
            "files.directory = \"/x\"\n[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"",
            vec![("certificate.1.files.directory", "no other certificate")],
        ),
        (
            "[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"\n\
             [[certificate]]\nname = \"x\"\nfiles.directory = \"/y\"",
            vec![("certificate.2.name", "no other `[[certificate]]` has")],
        ),
        (
            "[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"\nserver.listen = \"off\"",
            vec![("certificate.1.server.listen", "of the whole agent")],
        ),
        ("ca.timeout = \"soon\"\n[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"", vec![("ca.timeout", "")]),
        (
            "schedule.renew_before = \"40d\"\n[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"",
            vec![("schedule.renew_before", "less than")],
        ),
        (
            "[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"\nschedule.renew_before = \"40d\"",
            vec![("certificate.1.schedule.renew_before", "less than")],
        ),
        (
            "[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"\n[[certificate.deliver]]\nname = \"d\"",
            vec![("certificate.1.deliver.1.signal", "a `signal`")],
        ),
        ("[certificate]\nname = \"x\"", vec![("certificate", "`[[certificate]]`")]),
        ("[[certificate]]\nname = \"x\"\nfiles.directory = \"/x\"\ncolour = \"red\"", vec![("colour", "known key")]),
    ] {
        let found = problems(file);
        let fits = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, (key, text))| found.0 == *key && found.1.contains(text));
        assert!(fits, "{file}: {found:?}");
    }
}
