//! Owns PKCS#12 files (RFC 7292): the key encrypted by AES-256 under PBKDF2 with HMAC-SHA-256 (PBES2, RFC 8018), and an HMAC
//! with SHA-256 over all of it. Java since 8u301 and OpenSSL since 1.1.1 read them.
//!
//! Certificates are no secret and not encrypted. The same certificate and password give the same bytes: what is to be unique,
//! follows from the certificate. The key is nowhere in memory but where it is wiped.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, pbkdf2};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::der::{algorithm, bmp, explicit, integer, octets, sequence, set, utf16};
use super::keystore::{Password, aliases};
use crate::crypto::sha256;
use crate::identity::CertificateBundle;

/// Key, leaf and intermediates as one entry.
pub(super) fn pkcs12(bundle: &CertificateBundle, password: &Password, alias: &str) -> Result<Vec<u8>, String> {
    let seed = bundle.leaf_digest();
    let name = attribute(FRIENDLY_NAME, &bmp(alias));
    let id = attribute(LOCAL_KEY_ID, &octets(&seed));
    let key = bag(SHROUDED_KEY, &encrypted_key(bundle, password, &seed)?, &[&name, &id]);
    let mut certificates = vec![certificate(&bundle.chain()[0], &[&name, &id])];
    certificates.extend(bundle.chain()[1..].iter().map(|above| certificate(above, &[])));
    Ok(file(&[&data(&sequence(&[&certificates.concat()])), &data(&sequence(&[&key]))], password, &seed))
}

/// The roots as trusted entries.
pub(super) fn pkcs12_roots(roots: &[CertificateDer<'_>], password: &Password, alias: &str) -> Vec<u8> {
    let seed = sha256(&roots.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat());
    // By this attribute Java knows what it may trust.
    let trusted = attribute(TRUSTED_KEY_USAGE, ANY_KEY_USAGE);
    let bags = aliases(alias, roots);
    let bags: Vec<_> =
        bags.map(|(alias, root)| certificate(root, &[&attribute(FRIENDLY_NAME, &bmp(&alias)), &trusted])).collect();
    file(&[&data(&sequence(&[&bags.concat()]))], password, &seed)
}

/// `PFX` (section 4): the contents, and a MAC over them.
fn file(contents: &[&[u8]], password: &Password, seed: &[u8; 32]) -> Vec<u8> {
    let safe = sequence(contents);
    let salt = derived(b"mac", seed);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &*mac_key(password, &salt));
    let digest = hmac::sign(&key, &safe);
    let info = sequence(&[&algorithm(SHA256), &octets(digest.as_ref())]);
    let mac = sequence(&[&info, &octets(&salt), &integer(ITERATIONS.get())]);
    sequence(&[&integer(3), &data(&safe), &mac])
}

/// `EncryptedPrivateKeyInfo`.
fn encrypted_key(bundle: &CertificateBundle, password: &Password, seed: &[u8; 32]) -> Result<Vec<u8>, String> {
    let failed = |_| "the key cannot be encrypted".to_owned();
    let (salt, iv) = (derived(b"key", seed), derived(b"iv", seed));
    let mut secret = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password.as_str().as_bytes(), &mut *secret);
    let cipher = UnboundCipherKey::new(&AES_256, &*secret).and_then(PaddedBlockEncryptingKey::cbc_pkcs7);
    let key = bundle.key().to_pkcs8_der().map_err(|error| error.to_string())?;
    // With room for the padding, so that no copy of the key is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(key.len() + BLOCK));
    text.extend_from_slice(&key);
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    cipher.and_then(|cipher| cipher.less_safe_encrypt(&mut *text, context)).map_err(failed)?;
    let derivation = sequence(&[&octets(&salt), &integer(ITERATIONS.get()), &algorithm(HMAC_SHA256)]);
    let scheme = sequence(&[&sequence(&[PBKDF2, &derivation]), &sequence(&[AES_256_CBC, &octets(&iv)])]);
    Ok(sequence(&[&sequence(&[PBES2, &scheme]), &octets(&text)]))
}

/// The key of the MAC (appendix B). It is as long as one digest, so that the first is all of it.
fn mac_key(password: &Password, salt: &[u8]) -> Zeroizing<[u8; 32]> {
    let text = Zeroizing::new([utf16(password.as_str()), vec![0, 0]].concat());
    let filled = |bytes: &[u8]| {
        let length = bytes.len().next_multiple_of(HASH_BLOCK);
        bytes.iter().copied().cycle().take(length).collect::<Vec<u8>>()
    };
    let filled_text = Zeroizing::new(filled(&text));
    let first = Zeroizing::new([&[MAC_PURPOSE; HASH_BLOCK][..], &filled(salt), &filled_text].concat());
    (1..ITERATIONS.get()).fold(Zeroizing::new(sha256(&first)), |digest, _| Zeroizing::new(sha256(&*digest)))
}

/// `ContentInfo` of plain data.
fn data(content: &[u8]) -> Vec<u8> {
    sequence(&[DATA, &explicit(&octets(content))])
}

/// `SafeBag` (section 4.2).
fn bag(kind: &[u8], value: &[u8], attributes: &[&[u8]]) -> Vec<u8> {
    let attributes = if attributes.is_empty() { Vec::new() } else { set(attributes) };
    sequence(&[kind, &explicit(value), &attributes])
}

fn certificate(der: &CertificateDer<'_>, attributes: &[&[u8]]) -> Vec<u8> {
    bag(CERTIFICATE, &sequence(&[X509_CERTIFICATE, &explicit(&octets(der))]), attributes)
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    sequence(&[kind, &set(&[value])])
}

/// Bytes for one purpose that no other certificate has.
fn derived(purpose: &[u8], seed: &[u8; 32]) -> [u8; BLOCK] {
    let digest = sha256(&[purpose, seed].concat());
    let mut bytes = [0; BLOCK];
    bytes.copy_from_slice(&digest[..BLOCK]);
    bytes
}

/// As many as Java does.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

const BLOCK: usize = 16;
const HASH_BLOCK: usize = 64;
const MAC_PURPOSE: u8 = 3;

// Object identifiers as DER.
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.12.10.1.2
const SHROUDED_KEY: &[u8] = &[0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
/// 1.2.840.113549.1.12.10.1.3
const CERTIFICATE: &[u8] = &[0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// 1.2.840.113549.1.9.22.1
const X509_CERTIFICATE: &[u8] = &[0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// 1.2.840.113549.1.9.20
const FRIENDLY_NAME: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
/// 1.2.840.113549.1.9.21
const LOCAL_KEY_ID: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
/// 2.16.840.1.113894.746875.1.1
const TRUSTED_KEY_USAGE: &[u8] = &[0x06, 0x0c, 0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
/// 2.5.29.37.0
const ANY_KEY_USAGE: &[u8] = &[0x06, 0x04, 0x55, 0x1d, 0x25, 0x00];
/// 1.2.840.113549.1.5.13
const PBES2: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
/// 1.2.840.113549.1.5.12
const PBKDF2: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// 1.2.840.113549.2.9
const HMAC_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
/// 2.16.840.1.101.3.4.1.42
const AES_256_CBC: &[u8] = &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
/// 2.16.840.1.101.3.4.2.1
const SHA256: &[u8] = &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
