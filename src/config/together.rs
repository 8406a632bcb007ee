//! Owns what must fit together between values that are good one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Fault;
use super::deliver::DeliveryDraft;
use super::draft::Draft;
use super::further::{FederationDraft, FileDraft};
use super::report::{Origin, Problem};
use super::resolve::Origins;
use crate::identity::TrustDomain;

/// What is wrong between values that are good one by one.
pub(super) fn problems_together(draft: &Draft, origins: &Origins) -> Vec<Problem> {
    let mut problems = Vec::new();
    let set_by = |key| origins.get(key).filter(|origin| **origin != Origin::Default);
    if let (Some(fingerprint), Some(file)) = (set_by("ca.root_fingerprint"), set_by("ca.root_file")) {
        problems.push(Problem {
            key: Some("ca.root_fingerprint".to_owned()),
            source: Some(fingerprint.clone()),
            value: draft.root_fingerprint_text(),
            expected: format!("one of `ca.root_fingerprint` and `ca.root_file`, which {file} sets"),
            advice: "remove one of them".to_owned(),
        });
    }
    if let (Some(socket), Some(origin)) = (&draft.workload_socket, set_by("workload_api.socket"))
        && draft.control_socket.as_ref() == Some(socket)
    {
        problems.push(Problem {
            key: Some("workload_api.socket".to_owned()),
            source: Some(origin.clone()),
            value: None,
            expected: "another path than that of `control.socket`".to_owned(),
            advice: "change either".to_owned(),
        });
    }
    let mut ordered = |key: &'static str, smaller: Option<Duration>, larger: Option<Duration>, expected: &str| {
        if let (Some(smaller), Some(larger)) = (smaller, larger)
            && smaller >= larger
        {
            let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
            let shown = crate::duration::format_duration;
            let expected = format!("{expected} ({} is not less than {})", shown(smaller), shown(larger));
            let advice = "change either".to_owned();
            problems.push(Problem { key: Some(key.to_owned()), source: Some(origin), value: None, expected, advice });
        }
    };
    ordered(
        "schedule.renew_before",
        draft.renew_before,
        draft.warn_before,
        "less than `schedule.warn_before`, so that a warning comes before it matters",
    );
    // Equal is good here.
    let largest_interval = draft.max_back_off.map(|longest| longest + Duration::from_millis(1));
    ordered("schedule.min_interval", draft.min_interval, largest_interval, "at most `schedule.max_back_off`");
    let domains: Vec<&TrustDomain> =
        draft.federations.values().filter_map(|federation| federation.trust_domain.as_ref()).collect();
    problems.extend(faults("file", &draft.files, origins, |file| file.faults(&domains)));
    let own = draft.trust_domain.as_ref();
    problems.extend(faults("federate", &draft.federations, origins, |federation| federation.faults(own)));
    problems.extend(faults("deliver", &draft.deliver, origins, DeliveryDraft::faults));
    let file = |file: &FileDraft| Some(file.name.as_ref()?.as_str().to_owned());
    problems.extend(doubles("file", "name", &draft.files, origins, file));
    let domain = |federation: &FederationDraft| Some(federation.trust_domain.as_ref()?.as_str().to_owned());
    problems.extend(doubles("federate", "trust_domain", &draft.federations, origins, domain));
    problems.extend(doubles("deliver", "name", &draft.deliver, origins, |delivery| delivery.name.clone()));
    problems
}

/// What is wrong within each of the tables of a name.
fn faults<D>(
    table: &str,
    drafts: &BTreeMap<usize, D>,
    origins: &Origins,
    of: impl Fn(&D) -> Vec<Fault>,
) -> Vec<Problem> {
    let problem = |number: usize, (name, expected): Fault| {
        let key = format!("{table}.{number}.{name}");
        let source = origins.get(&key).cloned();
        let advice = source.as_ref().map_or_else(|| format!("set `{key}`"), |source| source.advice(&key));
        Problem { key: Some(key), source, value: None, expected, advice }
    };
    let of_one = |(number, draft): (&usize, &D)| -> Vec<Problem> {
        of(draft).into_iter().map(|fault| problem(*number, fault)).collect()
    };
    drafts.iter().flat_map(of_one).collect()
}

/// The tables of a name that are called as one before them.
fn doubles<D>(
    table: &str,
    name: &str,
    drafts: &BTreeMap<usize, D>,
    origins: &Origins,
    called: impl Fn(&D) -> Option<String>,
) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (number, draft) in drafts {
        let Some(value) = called(draft) else { continue };
        if !seen.insert(value.clone()) {
            let key = format!("{table}.{number}.{name}");
            let source = origins.get(&key).cloned();
            let expected = format!("one that no other `[[{table}]]` has; there is `{value}` already");
            problems.push(Problem { key: Some(key), source, value: None, expected, advice: "change it".to_owned() });
        }
    }
    problems
}
