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
fn every_key_is_taken() {
    let config = resolve(
        "data_dir = '/d'\nlisten = '[::1]:1'\nnames = ['ca', '10.0.0.7']\nlifetime = '2m'\nenvironment = 'development'\n\
         max_connections = 5\nretention = '30d'\n[database]\nurl = 'postgres:///crank?host=/run/postgresql'\n\
         max_connections = 3\n[policy]\nengine = 'rego'\ndirectory = '/p'\n",
    )
    .unwrap();
    assert_eq!(config.listen, "[::1]:1".parse().unwrap());
    assert_eq!(config.names.len(), 2);
    assert_eq!(resolve(&config.to_string()).unwrap(), config);
    assert_eq!(config.lifetime, Duration::from_mins(2));
    assert_eq!(config.environment, Environment::Development);
    assert_eq!((config.max_connections, config.retention), (5, Duration::from_hours(30 * 24)));
    assert!(matches!(config.database, Database::Postgres(server) if server.max_connections == 3));
}

#[test]
fn all_problems_are_told_at_once() {
    let report = resolve(
        "names = []\nlifetime = '1s'\nmax_connections = 0\nretention = '1h'\n[database]\n\
         url = 'postgres://db.example/crank'\nmax_connections = 1\n[policy]\nengine = 'rego'\n",
    )
    .unwrap_err();
    let mut keys: Vec<&str> = report.problems.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    let expected = [
        "data_dir",
        "database.max_connections",
        "database.root_file",
        "lifetime",
        "max_connections",
        "names",
        "policy.directory",
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
