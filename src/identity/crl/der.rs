//! Owns the walk through a CRL's DER, as far as the TLS library keeps to itself what it reads. Nothing is copied of the
//! entries, of which there may be many.

use time::OffsetDateTime;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::CrlNumber;

/// The fields that the TLS library reads and keeps to itself.
pub(super) struct Facts {
    pub(super) issuer: Vec<u8>,
    pub(super) authority_key: Option<Vec<u8>>,
    pub(super) number: CrlNumber,
    pub(super) this_update: OffsetDateTime,
    pub(super) next_update: OffsetDateTime,
}

impl Facts {
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, list) = Any::from_der(der).ok()?;
        let (_, to_be_signed) = Any::from_der(list.data).ok()?;
        let (rest, _version) = Any::from_der(to_be_signed.data).ok()?;
        let (from_issuer, _algorithm) = Any::from_der(rest).ok()?;
        let (rest, _) = Any::from_der(from_issuer).ok()?;
        let issuer = from_issuer.get(..from_issuer.len().checked_sub(rest.len())?)?;
        let (rest, this_update) = ASN1Time::from_der(rest).ok()?;
        let (mut rest, next_update) = ASN1Time::from_der(rest).ok()?;
        let mut extensions = Vec::new();
        while !rest.is_empty() {
            let (after, field) = Any::from_der(rest).ok()?;
            rest = after;
            // The entries come first, where there are any: a plain sequence.
            if field.header.is_contextspecific() {
                let (_, sequence) = Any::from_der(field.data).ok()?;
                extensions = read_extensions(sequence.data)?;
            }
        }
        let number = extensions.iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::CRLNumber(number) => CrlNumber::from_bytes(&number.to_bytes_be()),
            _ => None,
        });
        Some(Self {
            issuer: issuer.to_vec(),
            authority_key: authority_key_of(&extensions),
            number: number?,
            this_update: this_update.to_datetime(),
            next_update: next_update.to_datetime(),
        })
    }
}

/// The three parts of what is signed.
pub(super) struct Signed<'a> {
    pub(super) message: &'a [u8],
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let (_, list) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(list.data).ok()?;
        let message = list.data.get(..list.data.len().checked_sub(rest.len())?)?;
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = Any::from_der(rest).ok()?;
        // The first octet of a bit string counts unused bits.
        let signature = signature.data.strip_prefix(&[0])?;
        Some(Self { message, algorithm: algorithm.data, signature })
    }
}

fn read_extensions(mut rest: &[u8]) -> Option<Vec<X509Extension<'_>>> {
    let mut extensions = Vec::new();
    while !rest.is_empty() && extensions.len() < EXTENSIONS_LIMIT {
        let (after, extension) = X509Extension::from_der(rest).ok()?;
        extensions.push(extension);
        rest = after;
    }
    Some(extensions)
}

pub(super) fn authority_key_of(extensions: &[X509Extension<'_>]) -> Option<Vec<u8>> {
    extensions.iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })
}

/// More than any CRL has.
const EXTENSIONS_LIMIT: usize = 32;
