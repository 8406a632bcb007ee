//! Owns the comparison of the tables in the documentation with what the code says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use crank_agent::ca::{PROBLEM_TYPES, ROUTES};
use crank_agent::config::settings_markdown;
use crank_agent::control::StatusReport;
use crank_agent::error_kind::ERROR_KINDS;
use crank_agent::events::CertificateEvent;
use crank_agent::exit::Exit;
use crank_agent::metrics::Metrics;
use time::OffsetDateTime;

use crate::markdown::{Document, code_spans, files_below, root};

fn readme() -> Document {
    Document::read("README.md")
}

/// The first cells of a table, without backticks.
fn first_cells(table: &[Vec<String>]) -> Vec<String> {
    table.iter().map(|row| row[0].replace('`', "")).collect()
}

#[test]
fn the_settings_are_those_of_the_code() {
    let text = readme().text;
    let (_, rest) = text.split_once("<!-- settings:begin -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- settings:end -->").unwrap();
    assert!(table == settings_markdown(), "put what `crank-agent check-config --settings-table` prints into README.md");
}

#[test]
fn the_events_are_those_of_the_code_with_their_severities() {
    let rows: Vec<String> = readme().table("event").iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    let events = CertificateEvent::ALL.map(|event| {
        let severity = serde_json::to_value(event.severity()).unwrap();
        format!("`{}` {}", event.name(), severity.as_str().unwrap())
    });
    assert_eq!(rows, events);
}

#[test]
fn operations_says_of_every_event_what_to_do() {
    let text = Document::read("docs/operations.md").section("By event");
    let told: Vec<String> = code_spans(&text).into_iter().filter(|span| *span == span.to_uppercase()).collect();
    for event in CertificateEvent::ALL {
        assert_eq!(told.iter().filter(|name| *name == event.name()).count(), 1, "{event}");
    }
}

#[test]
fn the_metrics_are_those_that_are_shown() {
    let mut rows = BTreeMap::new();
    for row in readme().table("metric") {
        let name = row[0].replace('`', "");
        let name = name.split('{').next().unwrap_or_default().to_owned();
        rows.insert(name, row[1].clone());
    }
    assert_eq!(rows, metric_types());
}

#[test]
fn the_labels_of_metrics_are_those_that_are_shown() {
    let text = metrics_text();
    for row in readme().table("metric") {
        let Some((name, labels)) = row[0].trim_matches('`').split_once('{') else { continue };
        let sample =
            text.lines().find(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_")));
        let (_, sample) = sample.unwrap().split_once('{').unwrap();
        let shown: Vec<&str> = sample.split('"').step_by(2).filter_map(|label| label.strip_suffix('=')).collect();
        let shown: Vec<&str> = shown.iter().map(|label| label.trim_start_matches(',')).collect();
        let shown: Vec<&str> = shown.into_iter().filter(|label| *label != "le").collect();
        assert_eq!(shown.join(","), labels.trim_end_matches('}'), "{name}");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let rows: Vec<String> = readme().table("code").iter().map(|row| row.join(" ").replace('`', "")).collect();
    assert_eq!(rows, Exit::ALL.map(|exit| format!("{} {}", exit.code(), exit.meaning())));
    let told = first_cells(&Document::read("docs/operations.md").table("code"));
    assert_eq!(told, Exit::ALL.map(|exit| exit.code().to_string()));
}

#[test]
fn the_error_kinds_are_those_of_the_code_with_their_exit_codes() {
    let rows: Vec<String> =
        Document::read("docs/operations.md").table("kind").iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    assert_eq!(rows, ERROR_KINDS.map(|kind| format!("`{}` {}", kind.label, kind.exit.code())));
}

/// Their kinds go to the log alone, or to whoever uses the library.
const NOT_IN_EVENTS: [&str; 7] = [
    "src/serve.rs",
    "src/watch.rs",
    "src/policy.rs",
    "src/policy/settings.rs",
    "src/control/socket.rs",
    "src/mtls.rs",
    "src/mtls/client.rs",
];

#[test]
fn the_list_of_error_kinds_has_every_kind_that_an_event_can_have() {
    let mut written = BTreeSet::new();
    for path in files_below("src", &["rs"]) {
        let source = fs::read_to_string(root().join(&path)).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let path = path.to_str().unwrap();
        if path.starts_with("src/ca/") || path == "src/ca.rs" || NOT_IN_EVENTS.contains(&path) {
            continue;
        }
        for body in source.split("fn kind(&self) -> &'static str {").skip(1) {
            let body = body.split("\n    }\n").next().unwrap_or_default();
            written.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let listed: BTreeSet<String> = ERROR_KINDS.iter().map(|kind| kind.label.to_owned()).collect();
    assert_eq!(written, listed);
}

#[test]
fn the_probes_are_those_that_are_answered() {
    let source = fs::read_to_string(root().join("src/serve/http.rs")).unwrap();
    let (_, rest) = source.split_once("fn of(path: &str)").unwrap();
    let (routes, _) = rest.split_once("_ => None").unwrap();
    let answered: BTreeSet<String> = routes.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let told: BTreeSet<String> = readme().table("path").iter().flat_map(|row| code_spans(&row[0])).collect();
    assert_eq!(told, answered);
}

#[test]
fn the_commands_are_those_of_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_crank-agent")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = help.split_once("\nCommands:\n").unwrap();
    let listed = rest.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let listed: Vec<String> = listed.map(|name| format!("crank-agent {name}")).collect();
    assert_eq!(first_cells(&readme().table("command")), listed);
}

#[test]
fn the_routes_of_the_ca_are_those_it_serves() {
    let told = first_cells(&Document::read("docs/crank-ca.md").table("call"));
    assert_eq!(told, ROUTES.map(|route| format!("{} {}", route.method, route.path)));
}

#[test]
fn the_problems_of_the_ca_are_those_it_answers_with() {
    let rows: Vec<String> =
        Document::read("docs/standards.md").table("problem").iter().map(|row| row.join(" ")).collect();
    let known = PROBLEM_TYPES.map(|problem| format!("`{}` {} {}", problem.kind, problem.status, problem.title));
    assert_eq!(rows, known);
}

#[test]
fn every_refusal_of_the_ca_has_a_type_of_its_own() {
    let mut kinds = BTreeSet::new();
    for path in ["src/ca/enrolment/error.rs", "src/ca/oidc/refusal.rs", "src/ca/request.rs"] {
        let source = fs::read_to_string(root().join(path)).unwrap();
        let (_, body) = source.split_once("fn kind(&self) -> &'static str {").unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        kinds.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    // Faults of the CA, which tell no more than their status.
    for internal in ["issuer_ending", "jwt_keys_unavailable", "key"] {
        assert!(kinds.remove(internal), "{internal}");
    }
    assert!(kinds.len() > 15, "{kinds:?}");
    for kind in kinds {
        assert!(PROBLEM_TYPES.iter().any(|problem| problem.kind == kind), "{kind}");
    }
}

#[test]
fn the_flags_of_the_ca_are_those_it_takes() {
    let page = Document::read("docs/crank-ca.md");
    for command in ["serve", "init"] {
        let output = Command::new(env!("CARGO_BIN_EXE_crank-ca")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows = page.table(&format!("flag of `{command}`"));
        // Each flag of the help with a value, each in the table; `[env: NAME=] [default: VALUE]` as told.
        let flags: Vec<&str> = help.split(" --").skip(1).filter(|rest| rest.contains("[env: ")).collect();
        assert_eq!(rows.len(), flags.len(), "{command}");
        for (row, flag) in rows.iter().zip(flags) {
            let cells: Vec<&str> = row.iter().map(|cell| cell.trim_matches('`')).collect();
            assert!(flag.starts_with(&format!("{} ", cells[0].trim_start_matches('-'))), "{row:?}: {flag}");
            assert!(flag.contains(&format!("[env: {}=", cells[1])), "{row:?}: {flag}");
            match cells[2] {
                "**required**" | "none" => assert!(!flag.contains("[default: "), "{row:?}: {flag}"),
                default => assert!(flag.contains(&format!("[default: {default}]")), "{row:?}: {flag}"),
            }
        }
    }
}

#[test]
fn the_modules_are_those_of_the_library() {
    let source = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = source.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules: BTreeSet<String> = modules.map(str::to_owned).collect();
    let rows = Document::read("docs/architecture.md").table("module");
    let told: BTreeSet<String> = rows.iter().map(|row| code_spans(&row[0]).remove(0)).collect();
    assert_eq!(told, modules);
}

/// The type of each metric that a scrape shows.
pub(crate) fn metric_types() -> BTreeMap<String, String> {
    let text = metrics_text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// A scrape of an agent of which all is known.
fn metrics_text() -> String {
    let page = Document::read("docs/operations.md");
    let mut report: StatusReport = serde_json::from_str(&page.blocks_in("json").remove(0)).unwrap();
    report.status.last_attempt.as_mut().unwrap().error = None;
    let metrics = Metrics::new().unwrap();
    metrics.observe_status(&report.status, OffsetDateTime::UNIX_EPOCH);
    metrics.add_delivery("nginx", true);
    metrics.set_served("nginx", true);
    metrics.render(true).unwrap()
}
