//! Tests of the settings file.

use tempfile::TempDir;

use super::*;

fn resolve(text: &str) -> Result<CaConfig, CaConfigReport> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crank-ca.toml");
    std::fs::write(&path, text).unwrap();
    CaFile::read(&path).and_then(CaFile::resolve)
}

#[test]
fn an_empty_file_with_a_data_directory_gives_the_defaults() {
    let config = resolve("data_dir = '/var/lib/crank-ca'").unwrap();
    let names = vec!["cert-authority".parse().unwrap()];
    assert_eq!(config, CaConfig::new("/var/lib/crank-ca".into(), "0.0.0.0:9090".parse().unwrap(), names));
}

#[test]
fn the_defaults_read_back_as_they_are_printed() {
    let config = resolve("data_dir = '/var/lib/crank-ca'").unwrap();
    let text = config.to_string();
    assert_eq!(resolve(&text), Ok(config), "{text}");
}

#[test]
fn every_key_is_taken() {
    let config = resolve(
        "data_dir = '/d'\nlisten = '[::1]:1'\nnames = ['ca', '10.0.0.7']\nlifetime = '2m'\nenvironment = 'development'\n\
         max_connections = 5\nretention = '30d'\nrenewal_grace = '1d'\n[keys]\npassphrase_file = '/k'\n[database]\n\
         url = 'postgres:///crank?host=/run/postgresql'\nmax_connections = 3\n[limits]\nsource_rate = 7\n\
         [policy]\nengine = 'rego'\ndirectory = '/p'\n\
         [crl]\nlifetime = '6h'\n[admin]\nidentities = ['ops.example', 'spiffe://a/worker/b']\n\
         [renewal]\nmax_waiting = 4\nexplanation_url = 'https://example.org/why'\n\
         [[issuers]]\nkind = 'kubernetes'\nissuer = 'https://kubernetes.default.svc'\naudience = 'crank-ca'\n\
         jwks_url = 'https://kubernetes.default.svc/openid/v1/jwks'\nroot_file = '/r'\ntoken_file = '/t'\n\
         algorithms = ['RS256']\nleeway = '1m'\nlongest_life = '2h'\nidentity = '{namespace}-{serviceaccount}'\n\
         names = ['{pod}.example']\nrequire_pod_binding = false\nrequire = { sub = 'x', on = true, n = 3 }\n\
         [[anonymous]]\nsources = ['10.0.0.0/8']\nworkers = ['old-*']\n\
         [kubernetes]\nsigner_name = 'a.b/c'\nrequests = ['CertificateSigningRequest']\nidentity = '{pod}'\n\
         names = ['{pod}.example']\nurl = 'https://api.example'\nroot_file = '/r'\ntoken_file = '/t'\n",
    )
    .unwrap();
    assert_eq!(config.listen, "[::1]:1".parse().unwrap());
    assert_eq!(config.names.len(), 2);
    assert_eq!(config.keys.passphrase_file, Some("/k".into()));
    assert_eq!(resolve(&config.to_string()).unwrap(), config);
    assert_eq!(config.lifetime, Duration::from_mins(2));
    assert_eq!(config.environment, Environment::Development);
    assert_eq!((config.max_connections, config.retention), (5, Duration::from_hours(30 * 24)));
    assert_eq!((config.renewal_grace, config.limits.source.rate), (Duration::from_hours(24), 7));
    assert_eq!((config.issuers.len(), config.anonymous.len()), (1, 1));
    assert_eq!(config.kubernetes.as_ref().map(|signer| signer.settings().signer_name.as_str()), Some("a.b/c"));
    assert_eq!(config.revocation.crl_lifetime, Duration::from_hours(6));
    assert_eq!(config.revocation.admins.identities().count(), 2);
    assert_eq!(config.revocation.max_waiting, Some(4));
    assert!(matches!(config.database, Database::Postgres(server) if server.max_connections == 3));
}

#[test]
fn all_problems_are_told_at_once() {
    let report = resolve(
        "names = []\nlifetime = '1s'\nmax_connections = 0\nretention = '1h'\nrenewal_grace = '8d'\n[database]\n\
         url = 'postgres://db.example/crank'\nmax_connections = 1\n[policy]\nengine = 'rego'\n[limits]\n\
         failure_cost = 5000\n[crl]\nlifetime = '59s'\n[admin]\n\
         identities = ['localhost']\n[renewal]\nmax_waiting = 0\nexplanation_url = 'http://example.org'\n[[issuers]]\n\
         issuer = 'i'\naudience = 'a'\njwks_file = '/k'\nidentity = '{sub}'\n[[issuers]]\nissuer = 'i'\n\
         audience = 'a'\njwks_file = '/k'\nidentity = '{sub}{x}'\n[[anonymous]]\nsources = ['10.0.0.1']\n\
         workers = ['*']\n",
    )
    .unwrap_err();
    let mut keys: Vec<&str> = report.problems.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    let expected = [
        "admin.identities",
        "anonymous.sources",
        "crl.lifetime",
        "data_dir",
        "database.max_connections",
        "database.root_file",
        "issuers[1].identity",
        "lifetime",
        "limits.failure_cost",
        "max_connections",
        "names",
        "policy.directory",
        "renewal.explanation_url",
        "renewal.max_waiting",
        "renewal_grace",
        "retention",
    ];
    assert_eq!(keys, expected);
    assert!(report.to_string().contains("\n  lifetime = 1s: expected 60s to 365d"), "{report}");
}

#[test]
fn unknown_keys_and_bad_values_are_told_with_their_line() {
    for (text, told) in [
        ("data_dri = '/d'", "data_dri"),
        ("lifetime = '1 fortnight'", "lifetime"),
        ("listen = 'here'", "ADDRESS:PORT"),
        ("names = ['a b']", "names"),
        ("environment = 'test'", "environment"),
        ("[database]\npassword = 'x'", "password"),
        ("x", "line 1"),
    ] {
        let report = resolve(text).unwrap_err().to_string();
        assert!(report.contains(told) && report.contains("crank-ca.toml"), "{text}: {report}");
    }
}

#[test]
fn a_file_that_is_no_file_or_too_large_or_missing_is_told() {
    let directory = TempDir::new().unwrap();
    assert!(CaFile::read(directory.path()).unwrap_err().to_string().contains("not a regular file"));
    let path = directory.path().join("large");
    std::fs::write(&path, "#".repeat(300 * 1024)).unwrap();
    assert!(CaFile::read(&path).unwrap_err().to_string().contains("256 KiB"));
    assert!(CaFile::read(&directory.path().join("none")).unwrap_err().to_string().contains("none"));
}
