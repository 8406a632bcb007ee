//! Owns which public keys are certified: P-256, P-384, Ed25519, and RSA of 2048, 3072 or 4096 bits.

use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::CsrRefusal;
use crate::ca::sign::CertifiableKey;
use crate::identity::KeyType;

pub(super) fn check(info: &SubjectPublicKeyInfo<'_>) -> Result<CertifiableKey, CsrRefusal> {
    let key_type = key_type(info)?;
    CertifiableKey::new(info.raw, key_type).ok_or(CsrRefusal::Key("it is not in DER form"))
}

fn key_type(info: &SubjectPublicKeyInfo<'_>) -> Result<KeyType, CsrRefusal> {
    let algorithm = &info.algorithm.algorithm;
    let bytes: &[u8] = &info.subject_public_key.data;
    if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        return rsa(bytes);
    }
    if *algorithm == oid::OID_SIG_ED25519 {
        return if bytes.len() == 32 { Ok(KeyType::Ed25519) } else { Err(CsrRefusal::Key("it has a wrong length")) };
    }
    if *algorithm != oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(CsrRefusal::Key(EXPECTED));
    }
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = curve.ok_or(CsrRefusal::Key(EXPECTED))?;
    // An uncompressed point; whether it lies on the curve is seen when the signature is verified.
    let is_point = |length: usize| bytes.len() == length && bytes.first() == Some(&4);
    if curve == oid::OID_EC_P256 && is_point(65) {
        Ok(KeyType::EcdsaP256)
    } else if curve == oid::OID_NIST_EC_P384 && is_point(97) {
        Ok(KeyType::EcdsaP384)
    } else {
        Err(CsrRefusal::Key(EXPECTED))
    }
}

fn rsa(bytes: &[u8]) -> Result<KeyType, CsrRefusal> {
    let (rest, key) = RSAPublicKey::from_der(bytes).map_err(|_| CsrRefusal::Key("it does not parse"))?;
    let exponent = key.try_exponent().unwrap_or(0);
    // NIST SP 800-56B, section 6.4.1.1: odd, over 2^16; ours must also fit 32 bits, as verifiers expect.
    if !rest.is_empty() || exponent % 2 == 0 || !(65_537..=u64::from(u32::MAX)).contains(&exponent) {
        return Err(CsrRefusal::Key("expected an RSA exponent of 65537"));
    }
    match bits(key.modulus) {
        2048 => Ok(KeyType::Rsa2048),
        3072 => Ok(KeyType::Rsa3072),
        4096 => Ok(KeyType::Rsa4096),
        _ => Err(CsrRefusal::Key("expected RSA of 2048, 3072 or 4096 bits")),
    }
}

/// The length of a positive DER integer in bits; 0 for a negative one.
fn bits(integer: &[u8]) -> usize {
    if integer.first().is_some_and(|first| first & 0x80 != 0) {
        return 0;
    }
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    let significant = &integer[zeros..];
    let top = significant.first().map_or(0, |first| first.leading_zeros() as usize);
    significant.len() * 8 - top
}

const EXPECTED: &str = "expected ECDSA P-256 or P-384, Ed25519, or RSA of 2048, 3072 or 4096 bits";
