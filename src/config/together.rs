//! Owns what must fit together between values that are good one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Fault;
use super::deliver::DeliveryDraft;
use super::draft::{Draft, KindOfCa};
use super::further::{FederationDraft, FileDraft};
use super::parse;
use super::place::CERTIFICATE;
use super::report::{Origin, Problem};
use super::resolve::Origins;
use super::sources::SHOWN_LIMIT;
use crate::identity::TrustDomain;
use crate::printable::printable;

/// What is wrong between values that are good one by one, in each certificate and between them.
pub(super) fn problems_together(first: &Draft, further: &BTreeMap<usize, Draft>, origins: &Origins) -> Vec<Problem> {
    let mut problems = problems_of(first, Sources::of(origins, 0));
    let mut seen: Vec<(usize, &Draft)> = vec![(0, first)];
    for (number, draft) in further {
        let source = Sources::of(origins, *number);
        let told = |problem: &Problem| {
            // What a further certificate has of the first is told of the first.
            let inherited = problem.key.as_ref().is_some_and(|key| !origins.contains_key(key));
            inherited && problems.iter().any(|first| first.expected == problem.expected)
        };
        let own: Vec<Problem> = problems_of(draft, source).into_iter().filter(|problem| !told(problem)).collect();
        problems.extend(own);
        let mut double = |key: &str, expected: String| {
            let (source, key) = (source.get(key).cloned(), source.key(key));
            problems.push(Problem { key: Some(key), source, value: None, expected, advice: "change it".to_owned() });
        };
        for (_, other) in &seen {
            if draft.directory.is_some() && draft.directory == other.directory {
                double("files.directory", "a directory that no other certificate of this agent has".to_owned());
            }
            if let Some(name) =
                draft.certificate_name.as_ref().filter(|name| Some(*name) == other.certificate_name.as_ref())
            {
                double("name", format!("one that no other `[[certificate]]` has; there is `{name}` already"));
            }
        }
        seen.push((*number, draft));
    }
    problems
}

/// Where the values of one certificate come from.
#[derive(Clone, Copy)]
struct Sources<'a> {
    origins: &'a Origins,
    certificate: usize,
}

impl<'a> Sources<'a> {
    fn of(origins: &'a Origins, certificate: usize) -> Self {
        Self { origins, certificate }
    }

    /// The key with its certificate.
    fn key(self, key: &str) -> String {
        match self.certificate {
            0 => key.to_owned(),
            number => format!("{CERTIFICATE}.{number}.{key}"),
        }
    }

    fn own(self, key: &str) -> Option<&'a Origin> {
        self.origins.get(&self.key(key))
    }

    fn get(self, key: &str) -> Option<&'a Origin> {
        self.own(key).or_else(|| self.origins.get(key))
    }
}

fn problems_of(draft: &Draft, origins: Sources<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let set_by = |key: &str| origins.get(key).filter(|origin| **origin != Origin::Default);
    let own = |key: &str| origins.own(key).filter(|origin| **origin != Origin::Default);
    if let (Some(fingerprint), Some(file)) = (own("ca.root_fingerprint"), own("ca.root_file")) {
        problems.push(Problem {
            key: Some(origins.key("ca.root_fingerprint")),
            source: Some(fingerprint.clone()),
            value: draft.root_fingerprint_text(),
            expected: format!("one of `ca.root_fingerprint` and `ca.root_file`, which {file} sets"),
            advice: "remove one of them".to_owned(),
        });
    }
    problems.extend(endpoint_problem(draft, origins));
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
            problems.push(Problem { key: Some(origins.key(key)), source: Some(origin), value: None, expected, advice });
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

/// What is wrong with the socket of the Workload API that certificates come from.
fn endpoint_problem(draft: &Draft, origins: Sources<'_>) -> Option<Problem> {
    const KEY: &str = "ca.socket";
    let text = draft.ca_socket.as_ref().filter(|_| draft.ca_kind == Some(KindOfCa::WorkloadApi))?;
    let expected = match parse::endpoint(text) {
        Ok(socket) if draft.workload_socket.as_ref() == Some(&socket) => {
            "another socket than `workload_api.socket`, which this agent serves by what it has from here".to_owned()
        }
        Ok(_) => return None,
        Err(expected) => expected,
    };
    let origin = origins.get(KEY)?;
    Some(Problem {
        key: Some(origins.key(KEY)),
        source: Some(origin.clone()),
        value: Some(printable(text, SHOWN_LIMIT)),
        expected,
        advice: origin.advice(KEY),
    })
}

/// What is wrong within each of the tables of a name.
fn faults<D>(
    table: &str,
    drafts: &BTreeMap<usize, D>,
    origins: Sources<'_>,
    of: impl Fn(&D) -> Vec<Fault>,
) -> Vec<Problem> {
    let problem = |number: usize, (name, expected): Fault| {
        let key = format!("{table}.{number}.{name}");
        let (source, key) = (origins.get(&key).cloned(), origins.key(&key));
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
    origins: Sources<'_>,
    called: impl Fn(&D) -> Option<String>,
) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (number, draft) in drafts {
        let Some(value) = called(draft) else { continue };
        if !seen.insert(value.clone()) {
            let key = format!("{table}.{number}.{name}");
            let (source, key) = (origins.get(&key).cloned(), origins.key(&key));
            let expected = format!("one that no other `[[{table}]]` has; there is `{value}` already");
            problems.push(Problem { key: Some(key), source, value: None, expected, advice: "change it".to_owned() });
        }
    }
    problems
}
