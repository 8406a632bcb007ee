//! Owns the rows of `[[federate]]`.

use toml::Value;

use super::{path, put};
use crate::config::parse;
use crate::config::setting::{Fallback, Read, Setting};
use crate::identity::TrustDomain;

pub(super) const ROWS: [Setting; 2] = [
    Setting::new(
        "federate.trust_domain",
        Fallback::Required,
        "Of a table `[[federate]]`, another trust domain whose workers are known here: its name. Its roots are published as `federated.<trust domain>.crt`.",
        Read::Text(|draft, text, _| {
            put(&mut draft.federation().trust_domain, TrustDomain::new(text).map_err(|error| error.reason))
        }),
        |draft| draft.shown_federation()?.trust_domain.as_ref().map(|domain| Value::from(domain.as_str())),
    ),
    Setting::new(
        "federate.roots_file",
        Fallback::Required,
        "A PEM file of its roots. Read anew at every check, and when it changes.",
        Read::Text(|draft, text, _| put(&mut draft.federation().roots_file, parse::absolute_path(text))),
        |draft| path(draft.shown_federation()?.roots_file.as_ref()),
    ),
];
