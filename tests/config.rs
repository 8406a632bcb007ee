//! The configuration as users write it: precedence, old names, every key by every source, and the report.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "config/certificates.rs"]
mod certificates;
#[path = "config/deliveries.rs"]
mod deliveries;
#[path = "config/files.rs"]
mod files;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crank_agent::config::{
    Arguments, CaKind, CaTrust, Config, ConfigReport, Facts, Fallback, Problem, SETTINGS, Setting, control_socket,
    find, load, resolve,
};
use crank_agent::schedule::Timing;
use proptest::prelude::*;

/// A machine without anything, so that no test depends on the one it runs on.
fn facts() -> Facts {
    Facts {
        etc_certs_writable: false,
        in_container: false,
        home: Some(PathBuf::from("/home/someone")),
        users: PathBuf::from("/nonexistent/passwd"),
        groups: PathBuf::from("/nonexistent/group"),
    }
}

fn environment(variables: &[(&str, &str)]) -> Arguments {
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    // Away from the file of the machine that the tests run on.
    if !variables.iter().any(|(name, _)| name == "CRANK_CONFIG") {
        variables.push((OsString::from("CRANK_CONFIG"), OsString::from("/dev/null/none")));
    }
    Arguments::new(variables, facts())
}

/// Arguments with a file, which lives as long as the directory that is returned with them.
fn with_file(variables: &[(&str, &str)], content: impl AsRef<[u8]>) -> (tempfile::TempDir, Arguments) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, content).unwrap();
    (directory, environment(variables).with_file(path))
}

/// Loads with an empty file below the given environment.
fn load_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigReport> {
    let (_directory, arguments) = with_file(variables, "");
    load(&arguments)
}

fn load_file(content: impl AsRef<[u8]>) -> Result<Config, ConfigReport> {
    let (_directory, arguments) = with_file(&[], content);
    load(&arguments)
}

fn one_problem(result: Result<Config, ConfigReport>) -> Problem {
    let mut report = result.unwrap_err();
    assert_eq!(report.problems.len(), 1, "{report}");
    report.problems.remove(0)
}

#[test]
fn a_worker_id_is_all_it_takes() {
    let config = load_environment(&[("SERVICE_NAME", "streaming")]).unwrap();
    assert_eq!(config.identity.spiffe_id.unwrap().as_str(), "spiffe://crank.local/worker/streaming");
    assert_eq!(config.ca.url.as_str(), "https://cert-authority:9090");
    assert_eq!(config.ca.trust, CaTrust::RootFile(PathBuf::from("/shared/ca-certs/ca.crt")));
    assert_eq!(config.files.directory, Path::new("/home/someone/.crank/certs"));
    assert_eq!(config.control_socket, Path::new("/home/someone/.crank/certs/.crank-agent.sock"));
    assert_eq!(config.files.key_mode, 0o600);
    assert_eq!(config.timing, Timing::default());
    assert_eq!(config.server.unwrap().listen.port(), 9443);
}

#[test]
fn a_missing_worker_id_says_to_set_service_name() {
    let problem = one_problem(load_environment(&[]));
    assert_eq!(problem.key.as_deref(), Some("worker_id"));
    assert!(problem.advice.contains("SERVICE_NAME"), "{problem}");
}

#[test]
fn the_old_names_serve_and_the_new_ones_win_over_them() {
    let old =
        [("SERVICE_NAME", "old"), ("CA_SERVICE_URL", "https://old:1"), ("CERT_DIR", "/old"), ("HTTPS_ONLY", "true")];
    let config = load_environment(&old).unwrap();
    assert_eq!(config.identity.worker_id.as_str(), "old");
    assert_eq!(config.ca.url.as_str(), "https://old:1");
    assert_eq!(config.files.directory, Path::new("/old"));
    let new = [("CRANK_WORKER_ID", "new"), ("CRANK_CA_URL", "https://new:1"), ("CRANK_FILES_DIRECTORY", "/new")];
    let config = load_environment(&[&old[..], &new[..]].concat()).unwrap();
    assert_eq!(config.identity.worker_id.as_str(), "new");
    assert_eq!(config.ca.url.as_str(), "https://new:1");
    assert_eq!(config.files.directory, Path::new("/new"));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "worker_id = \"file\"\nca.url = \"https://file\"\nfiles.directory = \"/file\"\nca.timeout = \"5s\"";
    let (_directory, arguments) = with_file(&[("SERVICE_NAME", "variable"), ("CERT_DIR", "/variable")], file);
    let arguments = arguments.with_flag("--set", "worker_id", "first").with_flag("--worker-id", "worker_id", "flag");
    let resolution = resolve(&arguments).unwrap();
    assert_eq!(resolution.config.identity.worker_id.as_str(), "flag");
    assert_eq!(resolution.config.files.directory, Path::new("/variable"));
    assert_eq!(resolution.config.ca.url.as_str(), "https://file");
    assert_eq!(resolution.config.ca.timeout, Duration::from_secs(5));
    assert_eq!(resolution.config.ca.startup_wait, Duration::from_mins(1));
    let shown = resolution.to_toml();
    for line in [
        "worker_id = \"flag\" # --worker-id\n",
        "directory = \"/variable\" # environment variable CERT_DIR\n",
        "config.toml:4\n",
        "startup_wait = \"1m\" # default\n",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
}

/// A valid value of each setting that is not its default, and the line of the resolved view that shows it.
fn example(setting: &Setting) -> (&'static str, &'static str) {
    match setting.key {
        "worker_id" => ("other", "\"other\""),
        "environment" => ("development", "\"development\""),
        "https_only" | "require_mtls" | "verify_certificates" | "deliver.crls" => ("true", "true"),
        "identity.trust_domain" => ("example.org", "\"example.org\""),
        "identity.names" => ("a.example.org, 10.0.0.7", "[\"a.example.org\", \"10.0.0.7\"]"),
        "identity.spiffe_id" => ("spiffe://example.org/x", "\"spiffe://example.org/x\""),
        "identity.hint" => ("internal", "\"internal\""),
        "ca.kind" => ("crank", "\"crank\""),
        "ca.socket" => ("unix:///run/api.sock", "\"unix:///run/api.sock\""),
        "identity.key_type" => ("rsa-3072", "\"rsa-3072\""),
        "ca.url" => ("https://ca.example.org:8443/base", "\"https://ca.example.org:8443/base\""),
        "ca.root_fingerprint" => (
            "sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "\"sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\"",
        ),
        "ca.root_file"
        | "ca.issued_roots_file"
        | "ca.token_file"
        | "files.directory"
        | "control.socket"
        | "deliver.pid_file"
        | "deliver.cgroup"
        | "deliver.socket"
        | "federate.roots_file"
        | "file.password_file"
        | "workload_api.socket" => ("/some/path", "\"/some/path\""),
        "ca.follow_roots" | "ca.push" | "crl.enabled" => ("false", "false"),
        "crl.size_limit" => ("17MiB", "\"17MiB\""),
        "revocation.files" => ("withdraw", "\"withdraw\""),
        "files.owner" | "files.group" | "file.owner" | "file.group" => ("4242", "4242"),
        "files.key_mode" | "file.mode" => ("0440", "\"0440\""),
        "certificate.name" => ("admin", "\"admin\""),
        "file.name" => ("svid.pem", "\"svid.pem\""),
        "file.content" => ("leaf", "\"leaf\""),
        "file.alias" => ("web", "\"web\""),
        "file.trust_domain" | "federate.trust_domain" => ("partner.example", "\"partner.example\""),
        "schedule.warn_before" => ("40d", "\"40d\""),
        "schedule.min_interval" => ("17s", "\"17s\""),
        "schedule.max_back_off" => ("70s", "\"1m10s\""),
        "schedule.renew_fraction" => ("0.25,0.375", "[0.25, 0.375]"),
        "server.listen" => ("[::1]:1", "\"[::1]:1\""),
        "server.metrics_allow" => ("spiffe://a/b,prometheus", "[\"spiffe://a/b\", \"prometheus\"]"),
        "workload_api.allow" => ("uid:1000,gid:2000", "[\"uid:1000\", \"gid:2000\"]"),
        "log.format" => ("json", "\"json\""),
        "log.filter" => ("debug", "\"debug\""),
        "deliver.name" => ("nginx", "\"nginx\""),
        "deliver.signal" => ("USR1", "\"USR1\""),
        "deliver.process" => ("nginx: master", "\"nginx: master\""),
        "deliver.exec" => ("/bin/true,-x", "[\"/bin/true\", \"-x\"]"),
        "deliver.url" => ("https://localhost:8443/reload", "\"https://localhost:8443/reload\""),
        "deliver.path" => ("/-/reload", "\"/-/reload\""),
        "deliver.method" => ("PUT", "\"PUT\""),
        "deliver.timeout" => ("9m", "\"9m\""),
        "deliver.attempts" | "deliver.probes" => ("7", "7"),
        "deliver.probe" => ("[::1]:8443", "\"[::1]:8443\""),
        "deliver.probe_name" => ("worker.example.org", "\"worker.example.org\""),
        "deliver.probe_starttls" => ("postgres", "\"postgres\""),
        "deliver.not_served" => ("not-ready", "\"not-ready\""),
        _ => ("17m", "\"17m\""),
    }
}

/// What a table that may come several times has to have beside the setting.
fn companions(setting: &Setting) -> &'static [(&'static str, &'static str)] {
    match setting.key {
        _ if !setting.is_repeated() => &[],
        "certificate.name" => &[("certificate.1.files.directory", "/x")],
        "federate.trust_domain" => &[("federate.1.roots_file", "/x")],
        "federate.roots_file" => &[("federate.1.trust_domain", "b.example")],
        "file.name" => &[("file.1.content", "key")],
        "file.content" => &[("file.1.name", "x.pem")],
        "file.password_file" => &[("file.1.name", "x.p12"), ("file.1.content", "pkcs12")],
        "file.alias" => &[("file.1.name", "x"), ("file.1.content", "jks"), ("file.1.password_file", "/p")],
        "file.trust_domain" => &[
            ("file.1.name", "x"),
            ("file.1.content", "federated-roots"),
            ("federate.1.trust_domain", "partner.example"),
            ("federate.1.roots_file", "/r"),
        ],
        key if key.starts_with("file.") => &[("file.1.name", "x.pem"), ("file.1.content", "key")],
        "deliver.name" => &[("deliver.1.probe", "localhost:1")],
        "deliver.signal" => &[("deliver.1.name", "x"), ("deliver.1.process", "x")],
        "deliver.pid_file" | "deliver.process" | "deliver.cgroup" => {
            &[("deliver.1.name", "x"), ("deliver.1.signal", "HUP")]
        }
        "deliver.path" => &[("deliver.1.name", "x"), ("deliver.1.socket", "/s")],
        "deliver.exec" | "deliver.url" | "deliver.socket" | "deliver.probe" => &[("deliver.1.name", "x")],
        _ => &[("deliver.1.name", "x"), ("deliver.1.probe", "localhost:1")],
    }
}

#[test]
fn every_key_is_reachable_by_environment_by_set_and_by_file() {
    for setting in &SETTINGS {
        let (text, shown) = example(setting);
        let limit = matches!(setting.key, "ca.timeout").then_some("9m");
        let (text, shown) = limit.map_or((text, shown.to_owned()), |limit| (limit, format!("\"{limit}\"")));
        let (table, name) = setting.table_and_name();
        let line = format!("\n{name} = {shown} # ");
        let named = setting.environment_name();
        let mut sources = vec![environment_and_flag(&[(named.as_str(), text)], None)];
        for alias in setting.aliases {
            sources.push(environment_and_flag(&[(alias, text)], None));
        }
        let key = if setting.is_repeated() { format!("{table}.1.{name}") } else { setting.key.to_owned() };
        sources.push(environment_and_flag(&[], Some((&key, text))));
        let file = match table {
            "" => format!("{name} = {shown}"),
            table if setting.is_repeated() => format!("[[{table}]]\n{name} = {shown}"),
            table => format!("[{table}]\n{name} = {shown}"),
        };
        sources.push(with_file(&[], file));
        for (_directory, mut arguments) in sources {
            if setting.key != "worker_id" {
                arguments = arguments.with_flag("--worker-id", "worker_id", "streaming");
            }
            for (key, value) in companions(setting) {
                arguments = arguments.with_flag("--set", key, value);
            }
            let resolution = resolve(&arguments).unwrap_or_else(|report| panic!("{}: {report}", setting.key));
            let view = format!("\n{}", resolution.to_toml());
            assert!(view.contains(&line), "{line} is not in:\n{view}");
            let plain_default = format!("{line}default\n");
            assert!(!view.contains(&plain_default), "{} does not know its source", setting.key);
        }
    }
}

fn environment_and_flag(variables: &[(&str, &str)], flag: Option<(&str, &str)>) -> (tempfile::TempDir, Arguments) {
    let (directory, arguments) = with_file(variables, "");
    match flag {
        Some((key, value)) => (directory, arguments.with_flag("--set", key, value)),
        None => (directory, arguments),
    }
}

#[test]
fn the_resolved_view_reads_back_as_the_same_configuration() {
    let file = "worker_id = \"a\"\n[identity]\nnames = [\"b.c\", \"::1\"]\n[files]\ngroup = 7\n[server]\nlisten = \"off\"\n\
                [ca]\nroot_fingerprint = \"sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\"";
    let (_directory, arguments) = with_file(&[("CERT_DIR", "/c")], file);
    let resolution = resolve(&arguments).unwrap();
    assert_eq!(load_file(resolution.to_toml()).unwrap(), resolution.config);
    assert_eq!(resolution.config.files.key_mode, 0o640, "a group makes the key readable by it");
    let json = resolution.to_json();
    assert_eq!(json["settings"]["files.group"]["value"], 7);
    assert_eq!(json["settings"]["ca.root_file"]["value"], serde_json::Value::Null);
    assert_eq!(json["settings"]["files.directory"]["source"], "environment variable CERT_DIR");
}

#[test]
fn security_cannot_be_turned_off_by_any_source() {
    for key in ["https_only", "require_mtls", "verify_certificates"] {
        let variable = find(key).unwrap().environment_name();
        for value in ["false", "0", "no", "off", "", "True", "true "] {
            let mut attempts = vec![
                environment_and_flag(&[("SERVICE_NAME", "a"), (&variable, value)], None),
                environment_and_flag(&[("SERVICE_NAME", "a")], Some((key, value))),
                // Below a source that says true: still an error.
                environment_and_flag(&[("SERVICE_NAME", "a"), (&variable, value)], Some((key, "true"))),
                with_file(&[("SERVICE_NAME", "a"), (&variable, "true")], format!("{key} = \"{value}\"")),
            ];
            if key == "https_only" {
                attempts.push(environment_and_flag(&[("SERVICE_NAME", "a"), ("HTTPS_ONLY", value)], None));
                attempts.push(environment_and_flag(
                    &[("SERVICE_NAME", "a"), ("HTTPS_ONLY", value), ("CRANK_HTTPS_ONLY", "true")],
                    None,
                ));
            }
            for (_directory, arguments) in attempts {
                let problem = one_problem(load(&arguments));
                assert_eq!(problem.key.as_deref(), Some(key), "{problem}");
            }
        }
        for value in ["false", "0", "1", "\"false\"", "[]", "[true]", "{}", "1979-05-27", "0.0"] {
            let problem = one_problem(load_file(format!("worker_id = \"a\"\n{key} = {value}")));
            assert_eq!(problem.key.as_deref(), Some(key), "{problem}");
            assert!(problem.source.unwrap().to_string().ends_with("config.toml:2"));
        }
    }
}

#[test]
fn all_problems_are_in_one_report_with_key_source_value_and_remedy() {
    let file = "wroker_id = \"x\"\n[ca]\nurl = \"http://plain\"\ntimeout = 30\n[colours]\na = 1\n[schedule]\nrenew_before = \"40d\"";
    let (_directory, arguments) = with_file(&[("CERT_DIR", "relative"), ("CRANK_FILES_OWNER", "nobody")], file);
    let report = load(&arguments.with_flag("--set", "ca.tokenfile", "/t")).unwrap_err();
    let keys: Vec<&str> = report.problems.iter().map(|problem| problem.key.as_deref().unwrap()).collect();
    let expected = [
        "colours",
        "wroker_id",
        "ca.tokenfile",
        "worker_id",
        "ca.url",
        "ca.timeout",
        "files.directory",
        "files.owner",
        "schedule.renew_before",
    ];
    assert_eq!(keys, expected, "{report}");
    let text = report.to_string();
    for part in [
        "the configuration has 9 problems:",
        "did you mean `worker_id`?",
        "config.toml:1\n",
        "  ca.url = \"http://plain\"\n",
        "there is no plain HTTP in any mode",
        "config.toml:4\n    expected: a string in quotes, not a TOML integer",
        "--set ca.tokenfile\n    expected: a known key; did you mean `ca.token_file`?",
        "files.directory = \"relative\"\n    source:   environment variable CERT_DIR\n    expected: an absolute path",
        "a number, since /nonexistent/passwd cannot be read here",
        "less than `schedule.warn_before`",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert_eq!(report.to_json()["problems"].as_array().unwrap().len(), 9);
}

#[test]
fn a_workload_api_on_the_control_socket_or_for_nobody_known_is_refused() {
    let file = "worker_id = \"a\"\n[control]\nsocket = \"/s\"\n[workload_api]\nsocket = \"/s\"";
    let problem = one_problem(load_file(file));
    assert_eq!(problem.key.as_deref(), Some("workload_api.socket"), "{problem}");
    assert!(problem.source.unwrap().to_string().ends_with("config.toml:5"));
    let problem = one_problem(load_file("worker_id = \"a\"\n[workload_api]\nallow = [\"uid:1\", \"app\"]"));
    assert!(problem.expected.starts_with("for element 2: `uid:` or `gid:`"), "{problem}");
}

#[test]
fn certificates_of_a_workload_api_need_a_socket_that_is_not_the_agent_s_own() {
    let kind = ("CRANK_CA_KIND", "spiffe-workload-api");
    let load_with =
        |further: &[(&str, &str)]| load_environment(&[&[("SERVICE_NAME", "a"), ("CERT_DIR", "/c")], further].concat());
    for text in ["unix:///run/api.sock", "/run/api.sock"] {
        let config = load_with(&[kind, ("SPIFFE_ENDPOINT_SOCKET", text), ("CRANK_IDENTITY_HINT", "inside")]).unwrap();
        let CaKind::WorkloadApi(source) = &config.ca.kind else { unreachable!("{:?}", config.ca) };
        assert_eq!((source.socket.as_path(), source.hint.as_deref()), (Path::new("/run/api.sock"), Some("inside")));
        assert_eq!((config.identity.spiffe_id, config.ca.push, config.ca.crl_limit), (None, false, None));
    }
    let problem = one_problem(load_with(&[kind]));
    assert!(
        problem.key.as_deref() == Some("ca.socket") && problem.advice.contains("SPIFFE_ENDPOINT_SOCKET"),
        "{problem}"
    );
    for bad in ["tcp://127.0.0.1:8000", "unix:run/api.sock", "unix://run/api.sock"] {
        let problem = one_problem(load_with(&[kind, ("SPIFFE_ENDPOINT_SOCKET", bad)]));
        assert!(problem.expected.starts_with("`unix://` and a path"), "{problem}");
        // It may stand there for the worker.
        assert_eq!(load_with(&[("SPIFFE_ENDPOINT_SOCKET", bad)]).unwrap().ca.kind, CaKind::Crank);
    }
    let own = [kind, ("SPIFFE_ENDPOINT_SOCKET", "unix:///s"), ("CRANK_WORKLOAD_API_SOCKET", "/s")];
    let problem = one_problem(load_with(&own));
    assert!(problem.expected.starts_with("another socket than `workload_api.socket`"), "{problem}");
}

#[test]
fn an_empty_variable_is_a_problem_and_not_the_same_as_none() {
    for (variable, key) in [("SERVICE_NAME", "worker_id"), ("CRANK_CA_TOKEN_FILE", "ca.token_file")] {
        let mut variables = vec![(variable, "")];
        if variable != "SERVICE_NAME" {
            variables.push(("SERVICE_NAME", "a"));
        }
        let problem = one_problem(load_environment(&variables));
        assert_eq!(problem.key.as_deref(), Some(key));
        assert!(problem.expected.contains("empty") && problem.advice.contains(variable), "{problem}");
    }
}

#[test]
fn a_root_file_and_a_fingerprint_exclude_each_other_when_both_are_set() {
    let print = "sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";
    let variables = [("SERVICE_NAME", "a"), ("CRANK_CA_ROOT_FINGERPRINT", print)];
    let config = load_environment(&variables).unwrap();
    assert!(matches!(config.ca.trust, CaTrust::Fingerprint(digest) if digest[31] == 0x20));
    let both = [&variables[..], &[("CRANK_CA_ROOT_FILE", "/r")]].concat();
    let problem = one_problem(load_environment(&both));
    assert!(problem.expected.contains("CRANK_CA_ROOT_FILE"), "{problem}");
}

#[test]
fn a_value_that_is_overridden_may_be_wrong_but_is_mentioned() {
    let (_directory, arguments) = with_file(&[("SERVICE_NAME", "a")], "worker_id = \"NOT VALID\"");
    let resolution = resolve(&arguments).unwrap();
    assert_eq!(resolution.warnings.len(), 1, "{:?}", resolution.warnings);
    assert!(resolution.warnings[0].contains("NOT VALID") && resolution.warnings[0].contains("overridden"));
}

#[test]
fn unknown_variables_are_warnings_and_service_links_are_not_even_that() {
    let variables = [
        ("SERVICE_NAME", "a"),
        ("CRANK_WORKR_ID", "b"),
        ("CRANK_CA_SERVICE_HOST", "10.0.0.1"),
        ("CRANK_AGENT_PORT", "tcp://10.0.0.1:9443"),
        ("CRANK_AGENT_PORT_9443_TCP_ADDR", "10.0.0.1"),
    ];
    let (_directory, arguments) = with_file(&variables, "");
    let warnings = resolve(&arguments).unwrap().warnings;
    let expected = "environment variable CRANK_WORKR_ID is no setting and is ignored; did you mean CRANK_WORKER_ID?";
    assert_eq!(warnings, [expected]);
}

#[test]
fn what_may_be_a_secret_in_the_wrong_place_is_not_shown() {
    let variables = [
        ("SERVICE_NAME", "a"),
        ("CRANK_CA_URL", "https://user:hunter2@ca"),
        ("CRANK_CA_TOKEN_FILE", "hunter3.payload.signature"),
    ];
    let (_directory, arguments) = with_file(&variables, "[ca]\ntoken = \"hunter4\"");
    let report = load(&arguments.with_flag("--set", "ca.tokn", "hunter5")).unwrap_err();
    assert_eq!(report.problems.len(), 4, "{report}");
    assert!(!format!("{report} {:?} {}", report, report.to_json()).contains("hunter"), "{report}");
}

#[test]
fn syntax_errors_show_line_and_column() {
    let problem = one_problem(load_file("worker_id = \"a\"\n[ca]\nurl = = 3\n"));
    assert!(problem.source.as_ref().unwrap().to_string().ends_with("config.toml:3"), "{problem}");
    assert!(problem.expected.contains("at column 7"), "{problem}");
    let problem = one_problem(load_file("worker_id = \"a\"\nworker_id = \"b\"\n"));
    assert!(problem.source.as_ref().unwrap().to_string().ends_with("config.toml:2"), "{problem}");
    assert!(problem.expected.contains("duplicate"), "{problem}");
}

#[test]
fn a_file_that_cannot_be_used_is_one_clear_problem() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let file = |content: &[u8]| {
        let (directory, arguments) = with_file(&[], content);
        (Some(directory), arguments)
    };
    let cases = [
        (file(&vec![b'#'; 2 << 20]), "too large"),
        (file(b"worker_id = \"a\"\n# \xff"), "not UTF-8 text on line 2"),
        ((None, environment(&[]).with_file(directory.path().to_owned())), "not a regular file"),
        ((None, environment(&[]).with_file(pipe)), "not a regular file"),
        ((None, environment(&[]).with_file(PathBuf::from("/dev/zero"))), "not a regular file"),
        ((None, environment(&[]).with_file(directory.path().join("absent"))), "No such file"),
        ((None, environment(&[("CRANK_CONFIG", "")])), "No such file"),
        ((None, environment(&[("CRANK_CONFIG", "/absent")])), "No such file"),
    ];
    for ((_directory, arguments), expected) in cases {
        let problem = one_problem(load(&arguments));
        assert!(problem.expected.contains(expected), "{problem}");
    }
}

#[test]
fn without_a_named_file_none_is_needed() {
    let arguments = Arguments::new([("SERVICE_NAME".into(), "a".into())], facts());
    assert_eq!(arguments.config_file(), Path::new("/etc/crank-agent/config.toml"));
    if !arguments.config_file().exists() {
        assert!(load(&arguments).is_ok());
    }
}

#[test]
fn text_that_is_not_utf_8_or_too_long_is_refused() {
    let garbage = OsString::from_vec(vec![b'a', 0xff, b'\n']);
    let variables = [("SERVICE_NAME".into(), garbage), ("CRANK_CONFIG".into(), "/dev/null/none".into())];
    let report = load(&Arguments::new(variables, facts())).unwrap_err();
    let problem = report.problems.iter().find(|problem| problem.key.as_deref() == Some("worker_id")).unwrap();
    assert_eq!(problem.expected, "UTF-8 text");
    assert_eq!(problem.value.as_deref(), Some("\"a\u{fffd}\\n\""));

    let long = "a,".repeat(20_000);
    let problem = one_problem(load_environment(&[("SERVICE_NAME", "a"), ("CRANK_IDENTITY_NAMES", &long)]));
    assert!(problem.expected.contains("at most 16384 bytes"), "{problem}");
    let many = "a,".repeat(200);
    let problem = one_problem(load_environment(&[("SERVICE_NAME", "a"), ("CRANK_IDENTITY_NAMES", &many)]));
    assert!(problem.expected.contains("at most 100 elements"), "{problem}");
    assert!(problem.value.unwrap().len() < 100);
}

#[test]
fn a_quoted_key_with_a_dot_is_not_the_key_it_looks_like() {
    let problem = one_problem(load_file("worker_id = \"a\"\n\"ca.url\" = \"https://x\""));
    assert_eq!(problem.key.as_deref(), Some("ca.url"));
    assert!(problem.expected.contains("a known key"), "{problem}");
}

#[test]
fn a_value_where_a_table_belongs_and_a_table_where_a_value_belongs_are_problems() {
    let problem = one_problem(load_file("worker_id = \"a\"\nca = \"https://x\""));
    assert!(problem.expected.contains("a table `[ca]`"), "{problem}");
    let problem = one_problem(load_file("worker_id = \"a\"\n[ca.url]\nx = 1"));
    assert!(problem.expected.contains("not a TOML table"), "{problem}");
}

#[test]
fn the_length_of_the_socket_path_is_checked_where_it_follows_from_the_directory() {
    let directory = format!("/{}", "d".repeat(100));
    let problem = one_problem(load_environment(&[("SERVICE_NAME", "a"), ("CERT_DIR", &directory)]));
    assert_eq!(problem.key.as_deref(), Some("control.socket"));
    assert!(problem.expected.contains("107 bytes"), "{problem}");
    let shorter = [("SERVICE_NAME", "a"), ("CERT_DIR", directory.as_str()), ("CRANK_CONTROL_SOCKET", "/run/a.sock")];
    assert_eq!(load_environment(&shorter).unwrap().control_socket, Path::new("/run/a.sock"));
}

#[test]
fn bounds_hold_for_every_duration() {
    for (key, bad) in [
        ("ca.timeout", "0s"),
        ("ca.timeout", "11m"),
        ("ca.startup_wait", "2d"),
        ("files.keep_generations", "0s"),
        ("schedule.check_interval", "999ms"),
        ("schedule.min_interval", "0s"),
        ("schedule.max_back_off", "0s"),
        ("schedule.refused_interval", "0s"),
        ("schedule.allowed_skew", "2h"),
        ("schedule.renew_before", "0s"),
        ("schedule.warn_before", "99999999999999d"),
        ("ca.timeout", "30"),
        ("ca.timeout", "-1s"),
    ] {
        let (_directory, arguments) = environment_and_flag(&[("SERVICE_NAME", "a")], Some((key, bad)));
        let problem = one_problem(load(&arguments));
        assert_eq!(problem.key.as_deref(), Some(key), "{problem}");
    }
    let (_directory, arguments) = environment_and_flag(&[("SERVICE_NAME", "a")], Some(("schedule.max_back_off", "5s")));
    let problem = one_problem(load(&arguments));
    assert!(problem.expected.contains("at most `schedule.max_back_off` (10s is not less"), "{problem}");
}

#[test]
fn the_control_socket_is_found_although_the_rest_is_wrong() {
    let (_directory, arguments) = with_file(&[("CERT_DIR", "/c")], "[ca]\nurl = \"http://x\"");
    assert_eq!(control_socket(&arguments).unwrap(), Path::new("/c/.crank-agent.sock"));
    let (_directory, arguments) = with_file(&[("CRANK_CONTROL_SOCKET", "relative")], "");
    assert!(control_socket(&arguments).is_err());
}

#[test]
fn a_changed_file_is_seen_by_loading_the_same_arguments_again() {
    let (directory, arguments) = with_file(&[], "worker_id = \"one\"");
    assert_eq!(load(&arguments).unwrap().identity.worker_id.as_str(), "one");
    std::fs::write(directory.path().join("config.toml"), "worker_id = \"two\"").unwrap();
    assert_eq!(load(&arguments).unwrap().identity.worker_id.as_str(), "two");
}

#[test]
fn a_default_of_the_program_is_below_every_source() {
    let (_directory, arguments) = with_file(&[("CRANK_CA_TIMEOUT", "7s")], "ca.startup_wait = \"8s\"");
    let arguments = ["worker_id", "ca.timeout", "ca.startup_wait", "files.directory", "no.such.key"]
        .into_iter()
        .zip(["dev", "1s", "1s", "/dev-files", "x"])
        .fold(arguments, |arguments, (key, value)| arguments.with_default(key, value));
    let config = load(&arguments).unwrap();
    assert_eq!(config.identity.worker_id.as_str(), "dev");
    assert_eq!((config.ca.timeout.as_secs(), config.ca.startup_wait.as_secs()), (7, 8));
    assert_eq!(config.control_socket, Path::new("/dev-files/.crank-agent.sock"));
}

#[test]
fn only_a_worker_id_is_required() {
    let required: Vec<&str> =
        SETTINGS.iter().filter(|setting| setting.default == Fallback::Required).map(|setting| setting.key).collect();
    assert_eq!(required.into_iter().filter(|key| find(key).is_some_and(|setting| !setting.is_repeated())).count(), 1);
}

proptest! {
    #[test]
    fn any_file_and_any_environment_are_taken_without_panic(
        content in proptest::collection::vec(any::<u8>(), 0..400),
        text in "\\PC{0,200}",
        index in 0..SETTINGS.len(),
        value in proptest::collection::vec(1..=255_u8, 0..60),
    ) {
        let name = SETTINGS[index].environment_name();
        for content in [content, text.into_bytes()] {
            let (_directory, arguments) = with_file(&[], content);
            let _ = load(&arguments).map_err(|report| report.to_string());
        }
        let variables = [(OsString::from(name), OsString::from_vec(value)), ("SERVICE_NAME".into(), "a".into())];
        let _ = load(&Arguments::new(variables, facts())).map_err(|report| report.to_string());
    }

    #[test]
    fn any_value_of_any_known_key_is_taken_without_panic(
        index in 0..SETTINGS.len(),
        value in prop_oneof!["\"[^\"\\\\\n\r]{0,40}\"", "-?[0-9]{1,25}", "[0-9]\\.[0-9]{1,9}e?[0-9]", "true|false|nan|inf|\\[\\]|\\{\\}",
            "\\[(\"[a-z:/.]{0,9}\",?){0,3}\\]", "\\[([0-9.]{1,9},?){0,3}\\]", "1979-05-27"],
    ) {
        let (_directory, arguments) = with_file(&[], format!("{} = {value}", SETTINGS[index].key));
        let _ = load(&arguments).map_err(|report| report.to_string());
    }
}
