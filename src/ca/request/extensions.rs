//! Owns which extensions a CSR may ask for. What we would not sign as it stands is refused, not left out.

use std::collections::HashSet;
use std::net::IpAddr;

use x509_parser::asn1_rs::{FromDer, Header};
use x509_parser::extensions::{
    BasicConstraints, ExtendedKeyUsage, GeneralName, ParsedExtension, SubjectAlternativeName, X509Extension,
};

use super::{CsrRefusal, RequestedNames};
use crate::identity::check::general_name;
use crate::identity::{DnsName, KeyType, SpiffeId, SubjectAltName};
use crate::printable::printable;

/// The names that the extensions ask for; `None` where there is no SAN.
pub(super) fn check(extensions: &[X509Extension<'_>], key_type: KeyType) -> Result<Option<RequestedNames>, CsrRefusal> {
    let mut seen = HashSet::new();
    let mut names = None;
    for extension in extensions {
        if !seen.insert(&extension.oid) {
            return Err(CsrRefusal::Malformed("an extension appears twice"));
        }
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(requested) => names = Some(check_names(requested)?),
            ParsedExtension::BasicConstraints(constraints) => check_constraints(constraints)?,
            ParsedExtension::KeyUsage(usage) => check_key_usage(usage.flags, key_type)?,
            ParsedExtension::ExtendedKeyUsage(usage) => check_extended_key_usage(usage)?,
            ParsedExtension::ParseError { .. } => return Err(CsrRefusal::Malformed("an extension does not parse")),
            _ => return Err(CsrRefusal::Asks(format!("extension {}", printable(&extension.oid.to_string(), 80)))),
        }
    }
    Ok(names)
}

/// Whether the SET of an attribute's values holds what was parsed and nothing after it.
pub(super) fn is_single_value(value: &[u8]) -> bool {
    match Header::from_der(value) {
        Ok((content, header)) => header.length().definite().is_ok_and(|length| length == content.len()),
        Err(_) => false,
    }
}

fn check_names(requested: &SubjectAlternativeName<'_>) -> Result<RequestedNames, CsrRefusal> {
    if requested.general_names.is_empty() {
        return Err(CsrRefusal::Malformed("the subject alternative name extension is empty"));
    }
    let mut names = RequestedNames::default();
    for name in &requested.general_names {
        match issuable(name) {
            Some(issuable) => {
                names.names.insert(issuable);
            }
            None => names.never.push(general_name(name)),
        }
    }
    Ok(names)
}

/// The name in our form, if it is of a kind that is issued at all.
fn issuable(name: &GeneralName<'_>) -> Option<SubjectAltName> {
    match name {
        GeneralName::DNSName(name) => DnsName::new(name).ok().map(SubjectAltName::Dns),
        GeneralName::URI(uri) => SpiffeId::new(uri).ok().map(SubjectAltName::Uri),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(SubjectAltName::Ip)
        }
        _ => None,
    }
}

fn check_constraints(constraints: &BasicConstraints) -> Result<(), CsrRefusal> {
    if constraints.ca || constraints.path_len_constraint.is_some() {
        return Err(CsrRefusal::Asks("basic constraints CA:TRUE".to_owned()));
    }
    Ok(())
}

fn check_key_usage(flags: u16, key_type: KeyType) -> Result<(), CsrRefusal> {
    const DIGITAL_SIGNATURE: u16 = 1;
    const KEY_ENCIPHERMENT: u16 = 1 << 2;
    let permitted = match key_type {
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => DIGITAL_SIGNATURE | KEY_ENCIPHERMENT,
        KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::Ed25519 => DIGITAL_SIGNATURE,
    };
    if flags & !permitted != 0 {
        let text = "a key usage beyond digitalSignature (and keyEncipherment with RSA)";
        return Err(CsrRefusal::Asks(text.to_owned()));
    }
    Ok(())
}

fn check_extended_key_usage(usage: &ExtendedKeyUsage<'_>) -> Result<(), CsrRefusal> {
    let ExtendedKeyUsage {
        any,
        server_auth: _,
        client_auth: _,
        code_signing,
        email_protection,
        time_stamping,
        ocsp_signing,
        other,
    } = usage;
    if *any || *code_signing || *email_protection || *time_stamping || *ocsp_signing || !other.is_empty() {
        let text = "an extended key usage beyond serverAuth and clientAuth";
        return Err(CsrRefusal::Asks(text.to_owned()));
    }
    Ok(())
}
