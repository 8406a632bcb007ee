//! Owns the one row that is of `[[certificate]]` alone.

use toml::Value;

use super::put;
use crate::config::parse;
use crate::config::setting::{Fallback, Read, Setting};

pub(super) const ROWS: [Setting; 1] = [Setting::new(
    "certificate.name",
    Fallback::Required,
    "Of a table `[[certificate]]`, a further certificate: its name in events, metrics and `status`; lower-case letters, digits and `-`. Any setting that is not of the whole agent may stand below it, `files.directory` has to; what does not is as for the first certificate.",
    Read::Text(|draft, text, _| put(&mut draft.certificate_name, parse::label(text))),
    |draft| draft.certificate_name.as_deref().map(Value::from),
)];
