//! The commands that an init container runs at each start, whatever it finds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::process::{Directory, crank_ca, text};

/// The lines that `root list` prints below its heading.
fn issuers(data: &str) -> Vec<String> {
    let output = crank_ca(&["root", "list", "--data-dir", data]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn init_if_missing_makes_a_ca_once_and_keeps_it() {
    let directory = TempDir::new().unwrap();
    // Below a volume, as nobody may write to the data directory beside the CA.
    let data = directory.path().join("volume/data").display().to_string();
    let init = ["init", "--data-dir", &data, "--if-missing", "--trust-domain", "example.org"];
    let first = crank_ca(&init);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let root = fs::read(format!("{data}/authority/root.crt")).unwrap();
    let again = crank_ca(&init);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains("nothing was changed"));
    assert_eq!(fs::read(format!("{data}/authority/root.crt")).unwrap(), root);

    let other = crank_ca(&["init", "--data-dir", &data, "--if-missing", "--trust-domain", "example.net"]);
    assert_eq!(other.status.code(), Some(78));
    assert!(text(&other.stderr).contains("example.org, not example.net"), "{}", text(&other.stderr));
    assert_eq!(crank_ca(&["init", "--data-dir", &data]).status.code(), Some(73), "never without being told");
}

#[test]
fn import_if_missing_takes_an_issuer_or_a_root_over_once() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        path.display().to_string()
    };
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let root = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
    let issuer = CertifiedIssuer::signed_by(authority("Issuer"), KeyPair::generate().unwrap(), &root).unwrap();
    let (root_file, root_key) = (write("root.pem", &root.pem()), write("root.key", &root.key().serialize_pem()));
    let (issuer_file, issuer_key) = (write("tls.crt", &issuer.pem()), write("tls.key", &issuer.key().serialize_pem()));

    for (data, certificate, key) in [("below", &issuer_file, &issuer_key), ("root", &root_file, &root_key)] {
        let data = directory.path().join(data).display().to_string();
        let import = ["import", "--data-dir", &data, "--certificate", certificate, "--key", key, "--root", &root_file];
        let import = [&import[..], &["--if-missing"]].concat();
        for run in 0..2 {
            let output = crank_ca(&import);
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert_eq!(text(&output.stdout).contains("already"), run == 1, "{}", text(&output.stdout));
            assert_eq!(issuers(&data).len(), 1);
        }
    }
    // Another one stands beside it, once.
    let data = directory.path().join("root").display().to_string();
    let import = ["import", "--data-dir", &data, "--certificate", &issuer_file, "--key", &issuer_key, "--root"];
    let import = [&import[..], &[root_file.as_str(), "--if-missing"]].concat();
    for _ in 0..2 {
        let output = crank_ca(&import);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(issuers(&data).len(), 2);
    }
}

#[test]
fn import_with_activate_has_that_issuer_sign_whatever_was_there() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data").display().to_string();
    let write = |name: String, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        path.display().to_string()
    };
    let roots = ["first", "second"].map(|name| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().unwrap()).unwrap();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "issuing");
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        let certificate = write(format!("{name}.crt"), &issuer.pem());
        let key = write(format!("{name}.key"), &issuer.key().serialize_pem());
        (certificate, key, write(format!("{name}-root.crt"), &root.pem()))
    });
    let import = |(certificate, key, root): &(String, String, String), activate: &[&str]| {
        let arguments = ["--certificate", certificate, "--key", key, "--root", root, "--if-missing"];
        let output = crank_ca(&[&["import", "--data-dir", &data], &arguments[..], activate].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        issuers(&data).into_iter().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [first, second] = &roots;
    assert_eq!(import(first, &["--activate"]), ["issuing"], "the only one signs anyway");
    assert_eq!(import(second, &[]), ["issuing", "next"]);
    assert_eq!(import(first, &["--activate"]), ["issuing", "next"], "it signs already");
    let before = issuers(&data)[0].clone();
    assert_eq!(import(second, &["--activate"]), ["issuing", "former"]);
    let id = before.split_whitespace().next().unwrap();
    assert!(issuers(&data)[1].starts_with(id), "{:?}", issuers(&data));
    assert_eq!(import(first, &["--activate"]), ["issuing", "former"], "and back");

    // A new one at once, without having been next.
    fs::remove_dir_all(&data).unwrap();
    import(first, &[]);
    assert_eq!(import(second, &["--activate"]), ["issuing", "former"]);
}

#[test]
fn root_show_prints_every_root_that_is_handed_out() {
    let directory = Directory::with_ca();
    let show = || {
        let output = crank_ca(&["root", "show", "--data-dir", &directory.data()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(show(), directory.root_pem());
    assert!(crank_ca(&["root", "rotate", "--data-dir", &directory.data()]).status.success());
    let roots = show();
    assert!(roots.starts_with(&directory.root_pem()));
    assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 2);
}
