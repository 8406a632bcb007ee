//! Further files `[[file]]` and other trust domains `[[federate]]`.

use std::path::Path;

use crank_agent::config::{ConfigReport, resolve};
use crank_agent::store::{Content, Keystore};

use crate::{load_file, with_file};

const FILE: &str = r#"
worker_id = "streaming"

[files]
group = 5000

[[file]]
name = "haproxy.pem"
content = "certificate-and-key"

[[file]]
name = "keystore.p12"
content = "pkcs12"
password_file = "/run/secrets/keystore"
owner = 7000
group = 7001
mode = "0400"

[[file]]
name = "truststore.jks"
content = "jks-roots"
password_file = "/run/secrets/keystore"
alias = "mesh"

[[file]]
name = "partner.pem"
content = "federated-roots"
trust_domain = "partner.example"

[[federate]]
trust_domain = "partner.example"
roots_file = "/etc/partner/roots.pem"
"#;

fn problems(file: &str) -> Vec<(String, String)> {
    let report: ConfigReport = load_file(format!("worker_id = \"a\"\n{file}")).unwrap_err();
    report.problems.into_iter().map(|problem| (problem.key.unwrap_or_default(), problem.expected)).collect()
}

#[test]
fn files_are_read_with_their_readers_and_read_back_as_shown() {
    let (_directory, arguments) = with_file(&[("CRANK_FILE_3_MODE", "0444")], FILE);
    let resolution = resolve(&arguments).unwrap();
    let [haproxy, keystore, truststore, partner] = &resolution.config.files.further[..] else {
        panic!("{:?}", resolution.config.files)
    };
    assert_eq!(haproxy.content, Content::CertificateAndKey);
    assert_eq!((haproxy.mode, haproxy.owner, haproxy.group), (0o640, None, Some(5000)));
    let password_file = Path::new("/run/secrets/keystore").to_owned();
    let of = |alias: &str| Keystore { password_file: password_file.clone(), alias: alias.to_owned() };
    assert_eq!(keystore.content, Content::Pkcs12(of("streaming")));
    assert_eq!((keystore.mode, keystore.owner, keystore.group), (0o400, Some(7000), Some(7001)));
    assert_eq!(truststore.content, Content::JksRoots(of("mesh")));
    assert_eq!(truststore.mode, 0o444);
    assert_eq!((partner.name.as_str(), partner.mode), ("partner.pem", 0o644));
    assert_eq!(resolution.config.federation[0].roots_file, Path::new("/etc/partner/roots.pem"));
    let text = resolution.to_toml();
    let again = load_file(text.replace("mode = \"0444\" #", "mode = \"0444\" # as in the environment,")).unwrap();
    assert_eq!(again, resolution.config);
    assert_eq!(resolution.to_json()["settings"]["federate.1.trust_domain"]["value"], "partner.example");
}

#[test]
fn a_key_is_for_no_one_but_owner_and_group() {
    let with = |mode: &str, content: &str| {
        problems(&format!(
            "[[file]]\nname = \"x.pem\"\ncontent = \"{content}\"\nmode = \"{mode}\"\n[[file]]\nname = \"y\"\n"
        ))
        .into_iter()
        .filter(|(key, _)| key == "file.1.mode")
        .count()
    };
    for content in ["key", "credential-bundle", "certificate-and-key"] {
        assert_eq!((with("0644", content), with("0444", content), with("0640", content)), (1, 1, 0), "{content}");
    }
    assert_eq!((with("0644", "leaf"), with("0666", "leaf"), with("0755", "roots")), (0, 1, 1));
}

#[test]
fn what_does_not_fit_together_is_told_by_its_key() {
    for (file, key, expected) in [
        ("[[file]]\ncontent = \"key\"", "file.1.name", "a value"),
        ("[[file]]\nname = \"x.pem\"", "file.1.content", "a value"),
        ("[[file]]\nname = \"../x\"\ncontent = \"key\"", "file.1.name", "a file name"),
        ("[[file]]\nname = \"client.key\"\ncontent = \"key\"", "file.1.name", "there anyway"),
        ("[[file]]\nname = \"x.pem\"\ncontent = \"pem\"", "file.1.content", "`certificate-and-key`"),
        ("[[file]]\nname = \"x.p12\"\ncontent = \"pkcs12\"", "file.1.password_file", "`content` is `pkcs12`"),
        (
            "[[file]]\nname = \"x.pem\"\ncontent = \"key\"\npassword_file = \"/x\"",
            "file.1.password_file",
            "a keystore as `content`",
        ),
        ("[[file]]\nname = \"x.pem\"\ncontent = \"key\"\nalias = \"x\"", "file.1.alias", "a keystore"),
        ("[[file]]\nname = \"x.pem\"\ncontent = \"federated-roots\"", "file.1.trust_domain", "`federated-roots`"),
        (
            "[[file]]\nname = \"x.pem\"\ncontent = \"federated-roots\"\ntrust_domain = \"b.example\"",
            "file.1.trust_domain",
            "of a table `[[federate]]`",
        ),
        (
            "[[file]]\nname = \"x.pem\"\ncontent = \"leaf\"\n[[file]]\nname = \"x.pem\"\ncontent = \"roots\"",
            "file.2.name",
            "no other `[[file]]` has",
        ),
        (
            "[[federate]]\ntrust_domain = \"crank.local\"\nroots_file = \"/x\"",
            "federate.1.trust_domain",
            "another trust domain",
        ),
        ("[[federate]]\ntrust_domain = \"b.example\"", "federate.1.roots_file", "a value"),
        ("[[file]]\n[[file]]\nname = \"x.pem\"\ncontent = \"leaf\"", "file", "none empty"),
    ] {
        let found = problems(file);
        let fits = |(found, told): &(String, String)| found == key && told.contains(expected);
        assert!(found.iter().any(fits), "{file}: {found:?}");
    }
}
