//! Owns the test of names in the documentation: variables, settings, metrics, tests and links lead to something.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crank_agent::config::{FILE_VARIABLE, SETTINGS, Setting, find};

use crate::markdown::{Document, code_spans, files_below, root};
use crate::tables::metric_types;

#[test]
fn every_environment_variable_is_one_of_ours() {
    let own = SETTINGS.iter().map(Setting::environment_name);
    let mut known: BTreeSet<String> = own.chain([FILE_VARIABLE.to_owned()]).collect();
    for command in ["init", "serve"] {
        let help = Command::new(env!("CARGO_BIN_EXE_crank-ca")).args([command, "--help"]).output().unwrap();
        known.extend(
            words(&String::from_utf8(help.stdout).unwrap()).into_iter().filter(|word| word.starts_with("CRANK_")),
        );
    }
    for bench in ["agent", "ca"] {
        let settings = fs::read_to_string(root().join(format!("benches/{bench}/main.rs"))).unwrap();
        known.extend(words(&settings).into_iter().filter(|word| word.starts_with("CRANK_BENCH_")));
    }
    // What programs get that deliveries run.
    let facts = fs::read_to_string(root().join("src/deliver/exec.rs")).unwrap();
    known.extend(words(&facts).into_iter().filter(|word| word.starts_with("CRANK_")));
    for page in Document::all() {
        for word in words(&page.text) {
            // Any setting of a certificate has one more name, for a further certificate.
            let of_further = word.strip_prefix("CRANK_CERTIFICATE_1_").map(|rest| format!("CRANK_{rest}"));
            let known = known.contains(&word) || of_further.is_some_and(|name| known.contains(&name));
            let ours = !word.starts_with("CRANK_") || known;
            assert!(ours, "{}: there is no {word}", page.path.display());
        }
    }
}

#[test]
fn every_setting_is_one_of_ours() {
    // Values of the chart have the same form.
    let chart = fs::read_to_string(root().join("helm/crank-agent/values.yaml")).unwrap();
    let chart: serde_json::Value = serde_saphyr::from_str(&chart).unwrap();
    let tables: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.table_and_name().0).collect();
    let mut seen = 0;
    for page in Document::all() {
        for span in page.code_spans() {
            let key_like = span.split_once('.').is_some_and(|(table, name)| {
                !table.is_empty() && tables.contains(table) && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
            });
            // Of the same form, and a file.
            if key_like && span != "ca.crt" && span != "ca.crl" {
                seen += 1;
                let known = find(&span).is_some() || !span.split('.').fold(&chart, |value, key| &value[key]).is_null();
                assert!(known, "{}: there is no {span}", page.path.display());
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_metric_is_one_of_ours() {
    let known = metric_types();
    for page in Document::all() {
        for word in words(&page.text) {
            let metric = ["crank_cert_", "crank_ca_", "crank_agent_", "crank_crl_", "crank_delivery_"]
                .iter()
                .any(|prefix| word.starts_with(prefix));
            assert!(!metric || known.contains_key(&word), "{}: there is no {word}", page.path.display());
        }
    }
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let sources: Vec<String> = [files_below("src", &["rs"]), files_below("tests", &["rs"])]
        .concat()
        .iter()
        .map(|path| fs::read_to_string(root().join(path)).unwrap())
        .collect();
    let guarantees = Document::read("README.md").section("Guarantees");
    let tests: Vec<String> = code_spans(&guarantees)
        .into_iter()
        .filter(|span| span.matches('_').count() >= 3 && !span.contains(' '))
        .collect();
    for number in 1..=7 {
        assert!(guarantees.contains(&format!("\n{number}. ")), "{number}");
    }
    assert!(tests.len() >= 12, "{tests:?}");
    for test in tests {
        let definition = format!("fn {test}(");
        assert!(sources.iter().any(|source| source.contains(&definition)), "there is no test {test}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    for page in Document::all() {
        for link in links(&page.prose()).into_iter().filter(|link| !link.starts_with("https://")) {
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(path) };
            assert!(root().join(&target).exists(), "{}: {link}", page.path.display());
            if !anchor.is_empty() {
                let anchors = Document::read(target.to_str().unwrap()).anchors();
                assert!(anchors.iter().any(|known| known == anchor), "{}: {link}", page.path.display());
            }
        }
    }
    assert!(seen > 15, "{seen}");
}

/// Runs of letters, digits and underscores.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned).collect()
}

/// The targets of the links in `text`.
fn links(text: &str) -> Vec<String> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}
