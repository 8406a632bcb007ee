//! Owns the test of every documented example that is no command: settings, manifests, events.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crank_agent::config::{Arguments, Facts, resolve};
use crank_agent::control::StatusReport;
use crank_agent::events::EventRecord;
use crank_agent::policy::Input;
use crank_agent::store::UvicornConfig;
use crank_agent::wire::ErrorReply;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::markdown::{Document, files_below, root};

/// What blocks may be written in; each is run or read by a test here, or by a doctest.
const LANGUAGES: [&str; 10] = ["go", "hcl", "ini", "json", "python", "rust", "sh", "text", "toml", "yaml"];

#[test]
fn every_block_is_in_a_language_that_is_tested() {
    for page in Document::all() {
        for block in page.blocks() {
            let language = block.language.as_str();
            assert!(LANGUAGES.contains(&language), "{}: ```{language}\n{}", page.path.display(), block.text);
        }
    }
}

#[test]
fn every_toml_example_is_a_configuration_without_problems() {
    let mut texts: Vec<String> = Document::all().iter().flat_map(|page| page.blocks_in("toml")).collect();
    texts.extend(files_below("deploy", &["toml"]).iter().map(|path| fs::read_to_string(root().join(path)).unwrap()));
    assert!(!texts.is_empty());
    let directory = tempfile::TempDir::new().unwrap();
    for text in texts {
        let path = directory.path().join("settings.toml");
        let output = if text.starts_with("# crank-ca.toml\n") {
            fs::write(&path, with_files(&text, directory.path())).unwrap();
            let arguments = ["check-config", "--config", path.to_str().unwrap(), "--data-dir", "/var/lib/crank-ca"];
            Command::new(env!("CARGO_BIN_EXE_crank-ca")).args(arguments).output().unwrap()
        } else {
            fs::write(&path, &text).unwrap();
            agent(&["check-config", "--config", path.to_str().unwrap()])
        };
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && complaints.is_empty(), "{text}\n{complaints}");
    }
}

/// The text with each file below `/etc/crank-ca/` in `directory` instead, where they are made.
fn with_files(text: &str, directory: &Path) -> String {
    for name in text.split("\"/etc/crank-ca/").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    text.replace("/etc/crank-ca/", &format!("{}/", directory.display()))
}

#[test]
fn every_json_example_is_what_the_program_writes() {
    let examples: Vec<String> = Document::all().iter().flat_map(|page| page.blocks_in("json")).collect();
    assert!(examples.len() >= 2);
    for text in examples {
        let value: Value = serde_json::from_str(&text).unwrap();
        match value {
            _ if value.get("event").is_some() => assert_whole::<EventRecord>(&value),
            _ if value.get("instance").is_some() => assert_whole::<ErrorReply>(&value),
            _ if value.get("hook").is_some() => assert_whole::<Input>(&value),
            _ if value.get("ssl_keyfile").is_some() => assert_whole::<UvicornConfig>(&value),
            _ => assert_whole::<StatusReport>(&value),
        }
    }
}

#[test]
fn every_event_example_has_the_severity_of_its_event() {
    for text in Document::all().iter().flat_map(|page| page.blocks_in("json")) {
        let Ok(record) = serde_json::from_str::<EventRecord>(&text) else { continue };
        assert_eq!(record.severity, record.event.severity(), "{text}");
    }
}

#[test]
fn every_yaml_example_starts_a_command_that_exists_with_settings_that_resolve() {
    let mut agents = 0;
    for text in Document::all().iter().flat_map(|page| page.blocks_in("yaml")) {
        agents += check_manifest(&text);
    }
    assert!(agents >= 2, "Kubernetes and Compose");
    for path in files_below("deploy", &["yaml", "yml"]) {
        let found = check_manifest(&fs::read_to_string(root().join(&path)).unwrap());
        assert!(!path.ends_with("compose/compose.yaml") || found == 3, "{}: {found} agents", path.display());
    }
}

/// Checks the containers in `text` and returns how many of them are agents.
fn check_manifest(text: &str) -> usize {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut containers = Vec::new();
    for document in &documents {
        collect_containers(document, &mut containers);
    }
    let mut agents = 0;
    for container in containers {
        let environment = environment(container);
        if !environment.contains_key("SERVICE_NAME") {
            continue;
        }
        agents += 1;
        let facts = Facts { in_container: true, ..Facts::read() };
        let variables = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let resolution = resolve(&Arguments::new(variables, facts)).unwrap_or_else(|report| panic!("{report}\n{text}"));
        assert_eq!(resolution.warnings, [""; 0], "{text}");
        let paths = [Some(&resolution.config.files.directory), resolution.config.ca.token_file.as_ref()];
        for path in paths.into_iter().flatten() {
            assert!(has_mount_for(container, path), "nothing is mounted for {}:\n{text}", path.display());
        }
        for command in commands(container) {
            let mut words: Vec<&str> =
                command.iter().map(String::as_str).filter(|word| *word != "crank-agent").collect();
            words.push("--help");
            assert!(agent(&words).status.success(), "{command:?}");
        }
    }
    agents
}

/// Every mapping that names an image.
fn collect_containers<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            if map.contains_key("image") {
                found.push(value);
            }
            map.values().for_each(|value| collect_containers(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_containers(value, found)),
        _ => {}
    }
}

/// The variables of a container, as Kubernetes or as Compose has them.
fn environment(container: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        // A field of the pod has some name; `$(NAME)` stands for a variable before it.
        let field = entry["valueFrom"]["fieldRef"].is_object();
        let written = if field { "name".to_owned() } else { text(&entry["value"]) };
        let value = all.iter().fold(written, |written, (name, value)| written.replace(&format!("$({name})"), value));
        all.insert(text(&entry["name"]), value);
    }
    let mapped = container["environment"].as_object().into_iter().flatten();
    all.extend(mapped.map(|(name, value)| (name.clone(), text(value))));
    all
}

/// The command lines in a container: to run and to probe.
fn commands(container: &Value) -> Vec<Vec<String>> {
    let words = |value: &Value| match value {
        Value::String(line) => line.split_whitespace().map(str::to_owned).collect(),
        Value::Array(words) => words.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect(),
        _ => Vec::new(),
    };
    let run = [words(&container["command"]), words(&container["args"])].concat();
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
    let mut lines = vec![run];
    lines.extend(probes.iter().map(|probe| words(&container[*probe]["exec"]["command"])));
    lines.retain(|line| !line.is_empty());
    lines
}

/// Whether a volume or secret is mounted at or above `path`.
fn has_mount_for(container: &Value, path: &Path) -> bool {
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter_map(|mount| Some(mount["mountPath"].as_str()?.to_owned()));
    let volumes = container["volumes"].as_array().into_iter().flatten();
    let volumes = volumes.filter_map(|volume| Some(volume.as_str()?.split(':').nth(1)?.to_owned()));
    let secrets = container["secrets"].as_array().into_iter().flatten();
    let secrets = secrets.filter_map(|secret| Some(format!("/run/secrets/{}", secret.as_str()?)));
    mounts.chain(volumes).chain(secrets).any(|mount| path.starts_with(mount))
}

/// Reading as `T` and writing again loses nothing and adds nothing.
fn assert_whole<T: Serialize + DeserializeOwned>(value: &Value) {
    let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
    assert_eq!(serde_json::to_value(read).unwrap(), *value);
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crank-agent"))
        .env_clear()
        .env("HOME", "/nowhere")
        .args(arguments)
        .output()
        .unwrap()
}
