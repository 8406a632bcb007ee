//! Owns who is at the other end of a connection that needs a certificate of this CA: a worker, or an admin by its name.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::enrolment::EnrolmentError;
use super::manager::CertificateAuthorityManager;
use super::renewal_info::Subject;
use crate::identity::metadata::serial_text;
use crate::identity::{SpiffeId, SubjectAltName};
use crate::policy::Actor;

/// The names whose holders may do to every certificate what a worker may do to its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admins(BTreeSet<SubjectAltName>);

impl Admins {
    /// Takes SPIFFE ids and DNS names.
    ///
    /// # Errors
    /// Every text that is neither, or a name that every worker has; with what was expected.
    pub fn new<T: AsRef<str>>(identities: &[T]) -> Result<Self, Vec<(String, &'static str)>> {
        let mut names = BTreeSet::new();
        let mut problems = Vec::new();
        for identity in identities {
            let identity = identity.as_ref();
            let name = if identity.starts_with("spiffe://") {
                SpiffeId::new(identity).map(SubjectAltName::Uri)
            } else {
                identity.parse()
            };
            match name {
                Ok(SubjectAltName::Dns(name)) if name.as_str() == "localhost" => {
                    problems.push((identity.to_owned(), "expected another name: every worker has this one"));
                }
                Ok(name @ (SubjectAltName::Dns(_) | SubjectAltName::Uri(_))) => {
                    names.insert(name);
                }
                _ => problems.push((identity.to_owned(), "expected a SPIFFE id or a DNS name")),
            }
        }
        if problems.is_empty() { Ok(Self(names)) } else { Err(problems) }
    }

    /// As in the settings.
    pub fn identities(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(identity)
    }

    /// The first of `names` that is an admin's.
    fn name_among(&self, names: &BTreeSet<SubjectAltName>) -> Option<String> {
        self.0.intersection(names).next().map(identity)
    }
}

fn identity(name: &SubjectAltName) -> String {
    match name {
        SubjectAltName::Uri(id) => id.as_str().to_owned(),
        SubjectAltName::Dns(name) => name.as_str().to_owned(),
        SubjectAltName::Ip(address) => address.to_string(),
    }
}

/// The holder of a certificate that this CA issued and has on record.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Its certificate.
    pub(crate) subject: Subject,
    /// The admin's name that it has.
    admin: Option<String>,
    revoked: bool,
}

impl Caller {
    /// Whether it is an admin.
    pub(crate) fn is_admin(&self) -> bool {
        self.admin.is_some()
    }

    /// As who it acts.
    ///
    /// # Errors
    /// When its certificate is revoked: that may ask about itself, and do nothing.
    pub(crate) fn actor(&self) -> Result<Actor, EnrolmentError> {
        if self.revoked {
            return Err(EnrolmentError::CertificateRevoked);
        }
        Ok(match &self.admin {
            Some(name) => Actor::Admin(name.clone()),
            None => Actor::Worker(self.subject.worker_id.clone()),
        })
    }
}

impl CertificateAuthorityManager {
    /// Who shows this certificate, which has been verified to our root in the handshake. Whatever an authority beside
    /// this one may have issued is not on record, and nobody.
    pub(crate) async fn caller(&self, leaf: &CertificateDer<'_>) -> Result<Caller, EnrolmentError> {
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| EnrolmentError::CertificateUnknown)?;
        let serial = serial_text(parsed.tbs_certificate.raw_serial());
        let record = self.state.issued(&serial).await?.ok_or(EnrolmentError::CertificateUnknown)?;
        if record.der != leaf.as_ref() {
            return Err(EnrolmentError::CertificateUnknown);
        }
        // A connection may live longer than a certificate.
        if record.not_after <= self.clock.now().wall {
            return Err(EnrolmentError::CertificateExpired);
        }
        let (admin, revoked) = (self.in_force().admins.name_among(&record.names), record.revoked_at.is_some());
        let subject = Subject::of(record).ok_or(EnrolmentError::CertificateUnknown)?;
        Ok(Caller { subject, admin, revoked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admins_are_spiffe_ids_and_dns_names_that_not_everybody_has() {
        let admins = Admins::new(&["spiffe://crank.local/worker/ops", "OPS.example"]).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(admins.name_among(&names(&["localhost", "ops.example"])).as_deref(), Some("ops.example"));
        assert_eq!(admins.name_among(&names(&["localhost", "other.example", "10.0.0.1"])), None);
        let id = SubjectAltName::Uri(SpiffeId::new("spiffe://crank.local/worker/ops").unwrap());
        assert_eq!(admins.name_among(&BTreeSet::from([id])).as_deref(), Some("spiffe://crank.local/worker/ops"));
        assert_eq!(Admins::default().name_among(&names(&["ops.example"])), None);
    }

    #[test]
    fn every_identity_that_is_none_is_told() {
        let problems =
            Admins::new(&["localhost", "LOCALHOST", "10.0.0.1", "*.example", "spiffe://x y", "", "ops"]).unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:?}");
    }
}
