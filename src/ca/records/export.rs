//! Owns the forms in which records are carried away: JSON lines, and CSV that no spreadsheet takes for formulas.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::{CertificateRecord, IdentityRecord, RevocationRecord};
use crate::ca::state::{DecisionRecord, TokenRecord};

/// What can be exported.
pub trait Record: Serialize {
    /// The members of its JSON, and the columns of its CSV, in their order.
    const COLUMNS: &'static [&'static str];
}

impl Record for CertificateRecord {
    const COLUMNS: &'static [&'static str] = &[
        "serial",
        "status",
        "worker_id",
        "names",
        "not_before",
        "not_after",
        "reserved_at",
        "issued_at",
        "authentication",
        "credential",
        "source",
        "decision_id",
        "correlation_id",
        "revoked_at",
        "revocation_reason",
        "key_sha256",
        "issuer_sha256",
        "pem",
    ];
}

impl Record for IdentityRecord {
    const COLUMNS: &'static [&'static str] =
        &["worker_id", "state", "first_issued_at", "last_issued_at", "last_serial", "last_not_after", "certificates"];
}

impl Record for DecisionRecord {
    const COLUMNS: &'static [&'static str] =
        &["id", "hook", "outcome", "reason", "basis", "worker_id", "correlation_id", "decided_at"];
}

impl Record for RevocationRecord {
    const COLUMNS: &'static [&'static str] = &[
        "serial",
        "worker_id",
        "reason",
        "actor",
        "revoked_at",
        "not_after",
        "decision_id",
        "correlation_id",
        "issuer_sha256",
    ];
}

impl Record for TokenRecord {
    const COLUMNS: &'static [&'static str] =
        &["id", "worker_id", "names", "created_at", "expires_at", "used_at", "used_serial", "revoked_at"];
}

/// One line of JSON.
///
/// # Errors
/// When it cannot be written.
pub fn write_json_line(record: &impl Record, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}

/// The cells of one row of CSV, in the order of [`Record::COLUMNS`]: lists with blanks between, nothing for what is not
/// there. What a spreadsheet would take for a formula gets an apostrophe in front.
///
/// # Errors
/// When the record cannot be put into JSON.
pub fn csv_cells<T: Record>(record: &T) -> io::Result<Vec<String>> {
    let value = serde_json::to_value(record)?;
    Ok(T::COLUMNS.iter().map(|column| cell(column, text(&value[*column]))).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn cell(column: &str, text: String) -> String {
    // A certificate begins with dashes and is read by machines.
    if column != "pem" && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        return format!("'{text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::WorkerId;
    use crate::policy::Outcome;

    fn decision(reason: &str) -> DecisionRecord {
        DecisionRecord {
            id: "dec_1".to_owned(),
            hook: "can_issue_certificate".to_owned(),
            outcome: Outcome::Deny,
            reason: reason.to_owned(),
            basis: None,
            worker_id: WorkerId::new("streaming").unwrap(),
            correlation_id: "req_1".to_owned(),
            decided_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn assert_columns<T: Record>(record: &T) {
        let Value::Object(members) = serde_json::to_value(record).unwrap() else { panic!("no object") };
        let members: BTreeSet<&str> = members.keys().map(String::as_str).collect();
        assert_eq!(members, T::COLUMNS.iter().copied().collect::<BTreeSet<_>>());
    }

    #[test]
    fn a_record_has_the_columns_that_are_told() {
        let (worker_id, at) = (WorkerId::new("streaming").unwrap(), OffsetDateTime::UNIX_EPOCH);
        assert_columns(&decision(""));
        assert_columns(&TokenRecord {
            id: String::new(),
            worker_id: worker_id.clone(),
            names: BTreeSet::new(),
            created_at: at,
            expires_at: at,
            used_at: None,
            used_serial: None,
            revoked_at: None,
        });
        assert_columns(&RevocationRecord {
            serial: String::new(),
            worker_id: None,
            reason: "unspecified",
            actor: String::new(),
            revoked_at: at,
            not_after: at,
            decision_id: String::new(),
            correlation_id: String::new(),
            issuer_sha256: String::new(),
        });
        assert_columns(&IdentityRecord {
            worker_id,
            state: crate::ca::IdentityState::Late,
            first_issued_at: at,
            last_issued_at: at,
            last_serial: String::new(),
            last_not_after: at,
            certificates: 1,
        });
    }

    proptest! {
        #[test]
        fn no_cell_is_a_formula_and_no_text_leaves_its_cell(reason in "[=+@,;\"'\r\n\t a-]{0,12}") {
            let cells = csv_cells(&decision(&reason)).unwrap();
            prop_assert!(!cells[3].starts_with(['=', '+', '-', '@', '\t', '\r', '\n']));
            prop_assert_eq!(cells[3].strip_prefix('\'').filter(|rest| *rest == reason).unwrap_or(&cells[3]), &reason);
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&cells).unwrap();
            let bytes = writer.into_inner().unwrap();
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
            let read: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].iter().collect::<Vec<_>>(), cells);
        }
    }
}
