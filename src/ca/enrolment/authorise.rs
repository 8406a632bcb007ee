//! Owns what the one who asks may have: its own worker id and the names its credential permits, nothing else.

use std::collections::BTreeSet;

use super::{Credential, EnrolmentError, Requester};
use crate::ca::request::RequestedNames;
use crate::identity::{DnsName, SpiffeId, SubjectAltName};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// The `service_name` of a request must be the requester's own.
pub(super) fn check_worker(requester: &Requester, service_name: &str) -> Result<(), EnrolmentError> {
    if service_name == requester.worker_id.as_str() {
        return Ok(());
    }
    Err(EnrolmentError::OtherWorker {
        own: requester.worker_id.to_string(),
        asked: printable(service_name, FOREIGN_TEXT_LIMIT),
    })
}

/// A re-enrolment keeps the names of the certificate that it is asked for with (RFC 7030, section 4.2.2). With another
/// credential, or where the CSR names nothing, there is nothing to compare.
pub(super) fn check_same_names(requester: &Requester, asked: Option<&RequestedNames>) -> Result<(), EnrolmentError> {
    let Some(asked) = asked else { return Ok(()) };
    let current = &requester.default_names;
    if !matches!(requester.credential, Credential::Certificate(_)) || !asked.names.is_subset(current) {
        // Names beyond those permitted are refused later, each told.
        return Ok(());
    }
    if asked.names == *current {
        return Ok(());
    }
    let missing: Vec<String> = current.difference(&asked.names).map(ToString::to_string).collect();
    Err(EnrolmentError::NamesMissing { names: printable(&missing.join(", "), FOREIGN_TEXT_LIMIT) })
}

/// The names of the certificate: those asked for, all permitted; or the default ones where the CSR does not say.
/// A SPIFFE id other than `own_id`, and a name of the CA itself, is never permitted, whatever the credential says; and a
/// worker that is called as the CA gets nothing.
pub(super) fn names(
    requester: &Requester,
    common_name: Option<&str>,
    asked: Option<RequestedNames>,
    own_id: &SpiffeId,
    reserved: &BTreeSet<SubjectAltName>,
) -> Result<BTreeSet<SubjectAltName>, EnrolmentError> {
    if let Some(common_name) = common_name {
        check_worker(requester, common_name)?;
    }
    let asked = asked.unwrap_or_else(|| RequestedNames { names: requester.default_names.clone(), never: Vec::new() });
    let permitted = |name: &&SubjectAltName| {
        let foreign_id = matches!(name, SubjectAltName::Uri(id) if id != own_id);
        requester.permitted.contains(*name) && !reserved.contains(*name) && !foreign_id
    };
    // Not even a certificate without the name: old clients take the common name for one.
    let own_name = DnsName::new(requester.worker_id.as_str()).map(SubjectAltName::Dns);
    let of_the_ca = own_name.ok().filter(|name| reserved.contains(name));
    let refused: BTreeSet<String> = asked
        .names
        .iter()
        .filter(|name| !permitted(name))
        .chain(&of_the_ca)
        .map(ToString::to_string)
        .chain(asked.never.iter().cloned())
        .collect();
    if !refused.is_empty() || asked.names.is_empty() {
        return Err(EnrolmentError::NamesNotPermitted {
            worker: requester.worker_id.to_string(),
            names: printable(&refused.into_iter().collect::<Vec<_>>().join(", "), FOREIGN_TEXT_LIMIT),
        });
    }
    Ok(asked.names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{RequestedIdentity, TrustDomain, WorkerId};

    fn requester(further: &[&str]) -> Requester {
        let worker = WorkerId::new("streaming").unwrap();
        let own = RequestedIdentity::new(worker, &TrustDomain::new("crank.local").unwrap(), []);
        let further = further.iter().map(|name| name.parse().unwrap());
        Requester {
            worker_id: own.worker_id,
            permitted: own.names.iter().cloned().chain(further).collect(),
            default_names: own.names,
            credential: Credential::Caller,
            is_unused: false,
        }
    }

    fn decide(
        requester: &Requester,
        asked: Option<&[SubjectAltName]>,
        reserved: &[&str],
    ) -> Result<BTreeSet<SubjectAltName>, String> {
        let own_id = SpiffeId::new("spiffe://crank.local/worker/streaming").unwrap();
        let reserved = reserved.iter().map(|name| name.parse().unwrap()).collect();
        let asked = asked.map(|names| RequestedNames { names: names.iter().cloned().collect(), never: Vec::new() });
        names(requester, None, asked, &own_id, &reserved).map_err(|error| error.to_string())
    }

    fn uri(id: &str) -> SubjectAltName {
        SubjectAltName::Uri(SpiffeId::new(id).unwrap())
    }

    #[test]
    fn a_csr_that_names_nothing_gets_the_default_names() {
        let requester = requester(&["extra.example"]);
        assert_eq!(decide(&requester, None, &[]).unwrap(), requester.default_names);
    }

    #[test]
    fn a_csr_gets_exactly_what_it_asks_for_of_what_is_permitted() {
        let requester = requester(&["extra.example"]);
        let asked = ["streaming".parse().unwrap(), "extra.example".parse().unwrap()];
        assert_eq!(decide(&requester, Some(&asked), &[]).unwrap(), asked.into_iter().collect());
    }

    #[test]
    fn every_name_that_is_not_permitted_is_listed() {
        let asked = ["streaming".parse().unwrap(), "other".parse().unwrap(), "10.0.0.7".parse().unwrap()];
        let error = decide(&requester(&[]), Some(&asked), &[]).unwrap_err();
        assert_eq!(error, "names not permitted for worker `streaming`: DNS:other, IP:10.0.0.7");
    }

    #[test]
    fn a_foreign_spiffe_id_is_refused_even_when_the_credential_permits_it() {
        let foreign = uri("spiffe://crank.local/worker/other");
        let mut requester = requester(&[]);
        requester.permitted.insert(foreign.clone());
        requester.default_names.insert(foreign.clone());
        assert!(decide(&requester, Some(&[foreign]), &[]).is_err());
        assert!(decide(&requester, None, &[]).is_err());
    }

    #[test]
    fn a_name_of_the_ca_is_refused_even_when_the_credential_permits_it() {
        let requester = requester(&["cert-authority"]);
        let asked = ["cert-authority".parse().unwrap()];
        assert!(decide(&requester, Some(&asked), &[]).is_ok());
        assert!(decide(&requester, Some(&asked), &["cert-authority"]).is_err());
    }

    #[test]
    fn a_worker_that_is_called_as_the_ca_gets_no_certificate_whatever_it_asks_for() {
        let requester = requester(&[]);
        for asked in [None, Some(["localhost".parse().unwrap()])] {
            let asked = asked.as_ref().map(<[_; 1]>::as_slice);
            assert!(decide(&requester, asked, &[]).is_ok());
            let error = decide(&requester, asked, &["streaming"]).unwrap_err();
            assert_eq!(error, "names not permitted for worker `streaming`: DNS:streaming");
        }
    }

    #[test]
    fn another_common_name_or_service_name_is_refused() {
        let requester = requester(&[]);
        let own_id = SpiffeId::new("spiffe://crank.local/worker/streaming").unwrap();
        assert!(names(&requester, Some("streaming"), None, &own_id, &BTreeSet::new()).is_ok());
        assert!(names(&requester, Some("other"), None, &own_id, &BTreeSet::new()).is_err());
        assert!(check_worker(&requester, "Streaming").is_err());
        let error = check_worker(&requester, "a\nb").unwrap_err().to_string();
        assert_eq!(error, "the credential is for worker `streaming`, not for `a\\nb`");
    }

    proptest! {
        #[test]
        fn nothing_but_permitted_names_is_ever_granted(asked in proptest::collection::btree_set("[a-c]", 0..4)) {
            let requester = requester(&["a", "b"]);
            let names: Vec<SubjectAltName> = asked.iter().map(|name| name.parse().unwrap()).collect();
            match decide(&requester, Some(&names), &["b"]) {
                Ok(granted) => prop_assert_eq!(granted.into_iter().collect::<Vec<_>>(), ["a".parse().unwrap()]),
                Err(_) => prop_assert!(asked.is_empty() || asked.contains("b") || asked.contains("c")),
            }
        }
    }
}
