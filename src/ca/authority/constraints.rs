//! Owns the name constraints of the CA's own certificates (RFC 5280, section 4.2.1.10): which names a leaf may carry.

use std::net::IpAddr;

use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::X509Certificate;

use crate::identity::{SpiffeId, SubjectAltName};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// The name constraints of a chain: a name has to pass those of every certificate in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameConstraints(Vec<Constraint>);

/// The constraints of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Constraint {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subtree {
    /// A name and all below it; with a leading dot only those below.
    Dns(String),
    /// A host; with a leading dot all below it.
    UriHost(String),
    /// Address and mask, each 4 or 16 octets.
    Ip(Vec<u8>, Vec<u8>),
}

impl NameConstraints {
    /// The constraints of all `chain`. The error says what in them cannot be applied.
    pub(super) fn of(chain: &[&X509Certificate<'_>]) -> Result<Self, &'static str> {
        let mut all = Vec::new();
        for certificate in chain {
            let extension = certificate.name_constraints().map_err(|_| "its name constraints do not parse")?;
            let Some(extension) = extension else { continue };
            let read = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
                subtrees.iter().flatten().filter_map(|subtree| Subtree::of(&subtree.base).transpose()).collect()
            };
            let permitted: Result<_, _> = read(&extension.value.permitted_subtrees);
            let excluded: Result<_, _> = read(&extension.value.excluded_subtrees);
            all.push(Constraint { permitted: permitted?, excluded: excluded? });
        }
        Ok(Self(all))
    }

    /// Whether a leaf may carry `name`.
    pub(crate) fn permit(&self, name: &SubjectAltName) -> bool {
        self.0.iter().all(|constraint| constraint.permit(name))
    }

    /// Whether there are any on URIs. TLS libraries differ there, and rustls refuses every URI below them.
    pub(super) fn are_on_uris(&self) -> bool {
        self.subtrees().any(|subtree| matches!(subtree, Subtree::UriHost(_)))
    }

    /// The permitted DNS subtrees, for people; empty where all are.
    pub(super) fn permitted_dns(&self) -> Vec<String> {
        let dns = |subtree: &Subtree| match subtree {
            Subtree::Dns(name) => Some(printable(name, FOREIGN_TEXT_LIMIT)),
            _ => None,
        };
        self.0.iter().flat_map(|constraint| constraint.permitted.iter().filter_map(dns)).collect()
    }

    fn subtrees(&self) -> impl Iterator<Item = &Subtree> {
        self.0.iter().flat_map(|constraint| constraint.permitted.iter().chain(&constraint.excluded))
    }
}

impl Constraint {
    /// Permitted where there are subtrees of this kind of name and none covers it: no.
    fn permit(&self, name: &SubjectAltName) -> bool {
        let mut of_kind = self.permitted.iter().filter(|subtree| subtree.is_about(name)).peekable();
        let permitted = of_kind.peek().is_none() || of_kind.any(|subtree| subtree.covers(name));
        permitted && !self.excluded.iter().any(|subtree| subtree.covers(name))
    }
}

impl Subtree {
    /// `None` for kinds of names that no leaf of ours has.
    fn of(base: &GeneralName<'_>) -> Result<Option<Self>, &'static str> {
        Ok(match base {
            GeneralName::DNSName(name) => Some(Self::Dns(name.to_ascii_lowercase())),
            GeneralName::URI(host) => Some(Self::UriHost(host.to_ascii_lowercase())),
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 8 | 32) => {
                let (address, mask) = bytes.split_at(bytes.len() / 2);
                Some(Self::Ip(address.to_vec(), mask.to_vec()))
            }
            GeneralName::IPAddress(_) => return Err("a name constraint on addresses has a wrong length"),
            _ => None,
        })
    }

    fn is_about(&self, name: &SubjectAltName) -> bool {
        matches!(
            (self, name),
            (Self::Dns(_), SubjectAltName::Dns(_))
                | (Self::UriHost(_), SubjectAltName::Uri(_))
                | (Self::Ip(..), SubjectAltName::Ip(_))
        )
    }

    fn covers(&self, name: &SubjectAltName) -> bool {
        match (self, name) {
            (Self::Dns(base), SubjectAltName::Dns(name)) => is_below(name.as_str(), base) || name.as_str() == base,
            (Self::UriHost(base), SubjectAltName::Uri(id)) => covers_host(base, id),
            (Self::Ip(base, mask), SubjectAltName::Ip(address)) => {
                let octets = match address {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                octets.len() == base.len()
                    && octets.iter().zip(base).zip(mask).all(|((octet, base), mask)| octet & mask == base & mask)
            }
            _ => false,
        }
    }
}

fn covers_host(base: &str, id: &SpiffeId) -> bool {
    let host = id.trust_domain();
    if base.starts_with('.') { is_below(host, base) } else { host == base }
}

/// The empty base covers all names.
fn is_below(name: &str, base: &str) -> bool {
    let base = base.strip_prefix('.').unwrap_or(base);
    base.is_empty() || name.strip_suffix(base).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn constraints(permitted: &[Subtree], excluded: &[Subtree]) -> NameConstraints {
        NameConstraints(vec![Constraint { permitted: permitted.to_vec(), excluded: excluded.to_vec() }])
    }

    fn dns(base: &str) -> Subtree {
        Subtree::Dns(base.to_owned())
    }

    #[test]
    fn dns_names_are_permitted_below_a_base_label_by_label() {
        let some = constraints(&[dns("mesh.example"), dns(".sub.example")], &[dns("bad.mesh.example")]);
        for (name, permitted) in [
            ("mesh.example", true),
            ("a.mesh.example", true),
            ("amesh.example", false),
            ("sub.example", false),
            ("a.sub.example", true),
            ("bad.mesh.example", false),
            ("very.bad.mesh.example", false),
            ("localhost", false),
        ] {
            assert_eq!(some.permit(&name.parse().unwrap()), permitted, "{name}");
        }
        assert!(some.permit(&"10.0.0.7".parse().unwrap()), "nothing is said of addresses");
        assert!(constraints(&[dns("")], &[]).permit(&"any.name".parse().unwrap()));
        assert!(!constraints(&[], &[dns("")]).permit(&"any.name".parse().unwrap()));
    }

    #[test]
    fn hosts_of_uris_match_whole_and_addresses_by_mask() {
        let uri = |id: &str| SubjectAltName::Uri(SpiffeId::new(id).unwrap());
        let host = |base: &str| constraints(&[Subtree::UriHost(base.to_owned())], &[]);
        assert!(host("crank.local").permit(&uri("spiffe://crank.local/worker/a")));
        assert!(!host("crank.local").permit(&uri("spiffe://a.crank.local/worker/a")));
        assert!(host(".crank.local").permit(&uri("spiffe://a.crank.local/worker/a")));
        assert!(!host(".crank.local").permit(&uri("spiffe://crank.local/worker/a")));
        assert!(host("crank.local").are_on_uris() && !constraints(&[dns("a")], &[]).are_on_uris());
        let net = constraints(&[Subtree::Ip(vec![10, 0, 0, 0], vec![255, 0, 0, 0])], &[]);
        assert!(net.permit(&"10.9.8.7".parse().unwrap()));
        assert!(!net.permit(&"11.9.8.7".parse().unwrap()) && !net.permit(&"fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn an_excluded_name_is_never_permitted_and_every_certificate_has_a_say(
            name in "[a-c]{1,2}(\\.[a-c]{1,2}){0,2}",
            bases in proptest::collection::vec("\\.?[a-c]{1,2}(\\.[a-c]{1,2}){0,1}", 1..4),
        ) {
            let name: SubjectAltName = name.parse().unwrap();
            let bases: Vec<Subtree> = bases.iter().map(|base| dns(base)).collect();
            let covered = bases.iter().any(|base| base.covers(&name));
            prop_assert_eq!(constraints(&bases, &[]).permit(&name), covered);
            prop_assert_eq!(constraints(&[], &bases).permit(&name), !covered);
            let both = NameConstraints([constraints(&bases, &[]).0, constraints(&[], &bases).0].concat());
            prop_assert!(!both.permit(&name));
        }
    }
}
