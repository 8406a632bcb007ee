//! Owns the examination of the record: that its rows fit each other, and every certificate its row.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateQuery, CertificateRecord, CertificateStatus, Order, Records};
use crate::ca::state::{StateError, follows_from};
use crate::crypto::sha256;
use crate::identity::WorkerId;
use crate::identity::bundle::certificates_from_pem;
use crate::identity::check::names_of;
use crate::identity::metadata::serial_text;
use crate::printable::hex;

/// What an examination found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// How many certificates were read and compared.
    pub certificates: u64,
    /// What does not fit; at most 100, in no order.
    pub problems: Vec<String>,
}

impl Records {
    /// Examines the whole record. The serving CA goes on meanwhile.
    ///
    /// # Errors
    /// When the record cannot be read, or holds what does not parse at all.
    pub async fn check(&self) -> Result<CheckReport, StateError> {
        let mut problems = self.state.problems().await?;
        let query = CertificateQuery { order: Order::OldestFirst, pem: true, ..CertificateQuery::default() };
        let (mut certificates, mut names) = (0, 0);
        let mut after = None;
        loop {
            let page = self.certificates(&query, after.as_ref()).await?;
            for record in &page.records {
                certificates += 1;
                names += record.names.iter().filter(|name| !follows_from(record.worker_id.as_ref(), name)).count();
                if let Err(what) = compare(record) {
                    problems.push(format!("{}: {what} is not that of its row", record.serial));
                }
            }
            after = page.next;
            if after.is_none() || problems.len() > PROBLEMS {
                break;
            }
        }
        let found = self.state.count_names().await?;
        // Issued meanwhile, a certificate may have been passed by; too few names are told in any case.
        if problems.len() <= PROBLEMS && found < names as u64 {
            problems.push(format!("{names} names are recorded and {found} can be found"));
        }
        problems.truncate(PROBLEMS);
        Ok(CheckReport { certificates, problems })
    }
}

/// The error names the first field that differs.
fn compare(record: &CertificateRecord) -> Result<(), &'static str> {
    let ensure = |same: bool, what: &'static str| if same { Ok(()) } else { Err(what) };
    let Some(pem) = &record.pem else { return ensure(record.status == CertificateStatus::Reserved, "the status") };
    let certificates = certificates_from_pem("record", pem.as_bytes(), 1).map_err(|_| "the encoding")?;
    let der = certificates.first().ok_or("the encoding")?;
    let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| "the encoding")?;
    ensure(rest.is_empty(), "the length")?;
    ensure(serial_text(leaf.raw_serial()) == record.serial, "the serial")?;
    ensure(leaf.validity().not_before.to_datetime() == record.not_before, "notBefore")?;
    ensure(leaf.validity().not_after.to_datetime() == record.not_after, "notAfter")?;
    let digest = hex(&sha256(leaf.public_key().raw));
    ensure(digest == record.key_sha256, "the key")?;
    let mut names: Vec<String> = record.names.iter().map(ToString::to_string).collect();
    names.sort();
    ensure(names_of(&leaf) == Some(names), "the list of names")?;
    let common_name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    ensure(common_name == record.worker_id.as_ref().map(WorkerId::as_str), "the worker")
}

/// The most problems that are told.
const PROBLEMS: usize = 100;
