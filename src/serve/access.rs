//! Owns who may read metrics: the names in a client's certificate against the list, and the log of those refused.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AllowedClient;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// The SANs of a verified client certificate that can be on the list. Its common name counts for nothing
/// (RFC 9525, section 2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ClientNames {
    uris: Vec<String>,
    dns: Vec<String>,
}

/// The decision on one request for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A name is on the list.
    Granted,
    /// The client showed no certificate.
    NoCertificate,
    /// No name is on the list.
    NotListed,
}

impl ClientNames {
    /// The names in `leaf`; none when its SAN extension does not parse.
    pub(super) fn of(leaf: &CertificateDer<'_>) -> Self {
        let mut names = Self::default();
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return names };
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                _ => {}
            }
        }
        names
    }

    fn matches(&self, allowed: &AllowedClient) -> bool {
        match allowed {
            // An X.509-SVID has exactly one URI SAN (X509-SVID, section 2); with more, it is none.
            AllowedClient::Spiffe(id) => matches!(self.uris.as_slice(), [only] if only == id.as_str()),
            AllowedClient::Dns(name) => self.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name.as_str())),
        }
    }

    fn printable(&self) -> String {
        let names: Vec<&str> = self.uris.iter().chain(&self.dns).map(String::as_str).collect();
        printable(&names.join(" "), FOREIGN_TEXT_LIMIT)
    }
}

/// Whether `client` may read metrics. An empty list admits nobody.
pub(super) fn decide(allowed: &[AllowedClient], client: Option<&ClientNames>) -> Access {
    match client {
        None => Access::NoCertificate,
        Some(names) if allowed.iter().any(|allowed| names.matches(allowed)) => Access::Granted,
        Some(_) => Access::NotListed,
    }
}

/// Logs refusals, at most one in [`DENIAL_INTERVAL`], with the number of those left out.
#[derive(Debug, Default)]
pub(super) struct DenialLog(Mutex<Denials>);

#[derive(Debug, Default)]
struct Denials {
    last: Option<Instant>,
    left_out: u64,
}

impl DenialLog {
    pub(super) fn note(&self, peer: SocketAddr, client: Option<&ClientNames>) {
        if let Some(left_out) = self.turn(Instant::now()) {
            let names = client.map_or_else(|| "no certificate".to_owned(), ClientNames::printable);
            tracing::info!(%peer, client = names, left_out, "metrics refused");
        }
    }

    /// The number left out since the last line, when it is time for another.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut denials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denials.last.is_some_and(|last| now.duration_since(last) < DENIAL_INTERVAL) {
            denials.left_out += 1;
            return None;
        }
        denials.last = Some(now);
        Some(std::mem::take(&mut denials.left_out))
    }
}

const DENIAL_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::identity::{DnsName, SpiffeId};

    fn spiffe(id: &str) -> AllowedClient {
        AllowedClient::Spiffe(SpiffeId::new(id).unwrap())
    }

    fn dns(name: &str) -> AllowedClient {
        AllowedClient::Dns(DnsName::new(name).unwrap())
    }

    fn names(uris: &[&str], dns: &[&str]) -> ClientNames {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ClientNames { uris: owned(uris), dns: owned(dns) }
    }

    #[test]
    fn a_spiffe_id_matches_exactly() {
        let allowed = [spiffe("spiffe://td/worker/prometheus")];
        let access = |uri: &str| decide(&allowed, Some(&names(&[uri], &[])));
        assert_eq!(access("spiffe://td/worker/prometheus"), Access::Granted);
        for other in [
            "spiffe://td/worker/Prometheus",
            "spiffe://td/worker/prometheus/",
            "spiffe://td/worker/prometheus2",
            "spiffe://td/worker/prometheus\0",
            "spiffe://td",
        ] {
            assert_eq!(access(other), Access::NotListed, "{other:?}");
        }
    }

    #[test]
    fn a_certificate_with_two_uris_is_no_svid() {
        let allowed = [spiffe("spiffe://td/worker/a"), spiffe("spiffe://td/worker/b")];
        let two = names(&["spiffe://td/worker/a", "spiffe://td/worker/b"], &[]);
        assert_eq!(decide(&allowed, Some(&two)), Access::NotListed);
    }

    #[test]
    fn a_dns_name_matches_whole_and_without_case() {
        let allowed = [dns("prometheus.example")];
        let access = |name: &str| decide(&allowed, Some(&names(&[], &[name])));
        assert_eq!(access("Prometheus.Example"), Access::Granted);
        for other in ["*.example", "example", "prometheus.example.", "a.prometheus.example", "prometheus.example\0.x"] {
            assert_eq!(access(other), Access::NotListed, "{other:?}");
        }
    }

    #[test]
    fn nobody_is_admitted_by_an_empty_list_or_without_a_certificate() {
        let client = names(&["spiffe://td/worker/a"], &["a"]);
        assert_eq!(decide(&[], Some(&client)), Access::NotListed);
        assert_eq!(decide(&[dns("a")], None), Access::NoCertificate);
    }

    #[test]
    fn the_common_name_counts_for_nothing() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "prometheus");
        params.subject_alt_names.push(SanType::DnsName("other".try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let client = ClientNames::of(certificate.der());
        assert_eq!(client, names(&[], &["other"]));
        assert_eq!(decide(&[dns("prometheus")], Some(&client)), Access::NotListed);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_logged_sparingly_and_counted() {
        let log = DenialLog::default();
        assert_eq!(log.turn(Instant::now()), Some(0));
        assert_eq!(log.turn(Instant::now()), None);
        assert_eq!(log.turn(Instant::now()), None);
        tokio::time::advance(DENIAL_INTERVAL).await;
        assert_eq!(log.turn(Instant::now()), Some(2));
    }

    proptest! {
        #[test]
        fn only_a_listed_name_is_admitted(name in "[a-cA-C]{1,2}", listed in "[a-c]{1,2}") {
            let access = decide(&[dns(&listed)], Some(&names(&[&name], &[&name])));
            prop_assert_eq!(access == Access::Granted, name.to_ascii_lowercase() == listed);
        }

        #[test]
        fn names_are_read_from_any_bytes_without_panic(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(ClientNames::of(&CertificateDer::from(bytes)), ClientNames::default());
        }
    }
}
