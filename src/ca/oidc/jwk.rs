//! Owns an issuer's set of public keys (RFC 7517) and what each can verify.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::jws::{Algorithm, Header, Signed};
use super::refusal::TokenRefusal;

/// The keys of one issuer that can verify something; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The one algorithm that the key is for, where it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl KeySet {
    /// Reads a set. Keys that cannot verify a token (for encryption, symmetric, too weak, with a private part, of a kind
    /// we do not know) are left out, as RFC 7517, section 5, asks for.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let set = json::object(bytes).ok_or("expected a JSON object without a member twice")?;
        let Some(Value::Array(keys)) = set.get("keys") else { return Err("expected an array `keys`") };
        if keys.len() > KEYS_LIMIT {
            return Err("expected at most 64 keys");
        }
        let keys: Vec<Key> = keys.iter().filter_map(|key| Key::of(key.as_object()?)).collect();
        if keys.is_empty() { Err("expected a key that can verify signatures") } else { Ok(Self(keys)) }
    }

    /// Whether the key that `header` names is among them.
    pub(super) fn knows(&self, header: &Header) -> bool {
        self.named(header).next().is_some()
    }

    /// Verifies with the key that the header names; where it names none, with the only one there is for the algorithm.
    pub(super) fn verify(&self, signed: &Signed<'_>) -> Result<(), TokenRefusal> {
        let header = &signed.header;
        if !self.knows(header) {
            return Err(TokenRefusal::UnknownKey);
        }
        let fitting: Vec<&Key> = self.named(header).filter(|key| key.serves(header.algorithm)).collect();
        match fitting[..] {
            [] => Err(TokenRefusal::Algorithm),
            [_, _, ..] if header.key_id.is_none() => Err(TokenRefusal::UnknownKey),
            _ if fitting.iter().any(|key| key.verify(header.algorithm, signed)) => Ok(()),
            _ => Err(TokenRefusal::Signature),
        }
    }

    fn named(&self, header: &Header) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(|key| header.key_id.is_none() || key.id == header.key_id)
    }
}

impl Key {
    fn of(members: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        // A key with its private part in public is no key any more.
        if members.contains_key("d") || members.get("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = members.get("key_ops")
            && !operations.as_array()?.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (modulus, exponent) = (without_zeros(bytes("n")?), without_zeros(bytes("e")?));
                Material::Rsa { modulus, exponent }
            }
            ("EC", Some("P-256")) => Material::P256(point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&bytes("x")?, &bytes("y")?, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|key| key.len() == 32)?),
            _ => return None,
        };
        let algorithm = match members.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::find(name.as_str()?)?),
        };
        let id = match members.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        let key = Self { id, algorithm, material };
        (key.is_strong() && Algorithm::ALL.into_iter().any(|algorithm| key.serves(algorithm))).then_some(key)
    }

    fn is_strong(&self) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
                let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
                (2048..=8192).contains(&bits) && odd && exponent[..] != [1] && exponent.len() <= 4
            }
            Material::P256(_) | Material::P384(_) | Material::Ed25519(_) => true,
        }
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let fits = match self.material {
            Material::Rsa { .. } => matches!(algorithm, A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256),
            Material::P256(_) => algorithm == A::Es256,
            Material::P384(_) => algorithm == A::Es384,
            Material::Ed25519(_) => algorithm == A::EdDsa,
        };
        fits && self.algorithm.is_none_or(|own| own == algorithm)
    }

    fn verify(&self, algorithm: Algorithm, signed: &Signed<'_>) -> bool {
        let (message, signature) = (signed.message, signed.signature.as_slice());
        let rsa = match algorithm {
            Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
            _ => &RSA_PKCS1_2048_8192_SHA256,
        };
        let plain = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(rsa, message, signature).is_ok()
            }
            Material::P256(point) => plain(&ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => plain(&ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => plain(&ED25519, key),
        }
    }
}

/// The uncompressed form of a point (SEC 1, section 2.3.3). Its coordinates have the full length (RFC 7518, section
/// 6.2.1.2); whether it lies on the curve is looked at in verifying.
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}

/// Some issuers put zeros before their numbers, against RFC 7518, section 2.
fn without_zeros(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}

const KEYS_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn b64(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xc1; length])
    }

    fn parsed(key: &Value) -> Option<KeySet> {
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).ok()
    }

    #[test]
    fn keys_that_can_verify_are_kept_and_others_left_out() {
        let rsa = json!({ "kty": "RSA", "n": b64(256), "e": "AQAB", "kid": "1" });
        let ec = json!({ "kty": "EC", "crv": "P-256", "x": b64(32), "y": b64(32), "use": "sig" });
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "key_ops": ["verify"], "x5c": ["!"] });
        for good in [&rsa, &ec, &ed] {
            assert!(parsed(good).is_some(), "{good}");
        }
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        for bad in [
            with(&rsa, "kty", json!("oct")),
            with(&rsa, "kty", json!("rsa")),
            with(&rsa, "n", json!(b64(128))),
            with(&rsa, "n", json!(b64(1025))),
            with(&rsa, "e", json!("AQ")),
            with(&rsa, "e", json!("Ag")),
            with(&rsa, "e", json!(b64(9))),
            with(&rsa, "alg", json!("HS256")),
            with(&rsa, "alg", json!("ES256")),
            with(&rsa, "alg", Value::Null),
            with(&rsa, "kid", json!(1)),
            with(&rsa, "use", json!("enc")),
            with(&rsa, "key_ops", json!(["encrypt"])),
            with(&rsa, "d", json!("AQAB")),
            with(&ec, "x", json!(b64(31))),
            with(&ec, "crv", json!("P-521")),
            with(&ec, "crv", json!("secp256k1")),
            with(&ed, "crv", json!("X25519")),
            json!({}),
            json!([]),
        ] {
            assert!(parsed(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let many = json!({ "keys": vec![json!({}); 65] }).to_string();
        for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]}", "{\"keys\":[],\"keys\":[]}", many.as_str()] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
