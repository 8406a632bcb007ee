//! Owns the checks between what a CA returns and what is installed.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::printable::printable;

/// The SANs of `certificate` as `DNS:…`, `IP:…`, `URI:…`, and other kinds as `other:…`; printable, sorted. `None` when
/// the extension does not parse.
pub(crate) fn names_of(certificate: &X509Certificate<'_>) -> Option<Vec<String>> {
    let Some(extension) = certificate.subject_alternative_name().ok()? else { return Some(Vec::new()) };
    let mut names: Vec<String> = extension.value.general_names.iter().map(general_name).collect();
    names.sort();
    Some(names)
}

/// One general name as text, in the form of [`SubjectAltName`](super::SubjectAltName).
pub(crate) fn general_name(name: &GeneralName<'_>) -> String {
    let text = match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::IPAddress(bytes) => match ip_address(bytes) {
            Some(address) => format!("IP:{address}"),
            None => "other:IP address of a wrong length".to_owned(),
        },
        other => format!("other:{other}"),
    };
    printable(&text, 300)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
