//! A token issuer of the tests' own: real keys, real signatures, and every lie that is asked for.

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crank_agent::ca::{IssuerSettings, TokenIssuer};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Signs tokens. Its keys are `rsa`, `p256`, `p384` and `ed`.
pub(crate) struct TestIssuer {
    directory: TempDir,
    pub(crate) url: &'static str,
    pub(crate) rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl TestIssuer {
    pub(crate) fn new(url: &'static str) -> Self {
        let issuer = Self {
            directory: TempDir::new().unwrap(),
            url,
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        };
        issuer.write_keys(&issuer.keys());
        issuer
    }

    pub(crate) fn keys_file(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// Replaces the file of keys in one step.
    pub(crate) fn write_keys(&self, keys: &Value) {
        self.write_keys_text(&keys.to_string());
    }

    pub(crate) fn write_keys_text(&self, text: &str) {
        let staging = self.directory.path().join("keys.new");
        std::fs::write(&staging, text).unwrap();
        std::fs::rename(staging, self.keys_file()).unwrap();
    }

    pub(crate) fn keys(&self) -> Value {
        let point = |pair: &EcdsaKeyPair| {
            let point = pair.public_key().as_ref()[1..].to_vec();
            let (x, y) = point.split_at(point.len() / 2);
            (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
        };
        let (p256, p384) = (point(&self.p256), point(&self.p384));
        let modulus = URL_SAFE_NO_PAD.encode(self.rsa.public_key().modulus().big_endian_without_leading_zero());
        json!({ "keys": [
            { "kty": "RSA", "kid": "rsa", "use": "sig", "n": modulus, "e": "AQAB" },
            { "kty": "EC", "kid": "p256", "alg": "ES256", "crv": "P-256", "x": p256.0, "y": p256.1 },
            { "kty": "EC", "kid": "p384", "crv": "P-384", "x": p384.0, "y": p384.1 },
            { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.ed.public_key()) },
            { "kty": "oct", "kid": "shared", "k": "c2VjcmV0" },
        ]})
    }

    /// The settings under which a CA trusts it, with `further` lines of TOML.
    pub(crate) fn trusted(&self, further: &str) -> TokenIssuer {
        let file = self.keys_file().display().to_string();
        let text = format!("issuer = \"{}\"\naudience = \"crank-ca\"\njwks_file = \"{file}\"\n{further}", self.url);
        toml::from_str::<IssuerSettings>(&text).unwrap().resolve().unwrap()
    }

    /// Claims that are good for ten minutes.
    pub(crate) fn claims(&self, subject: &str) -> Value {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        json!({ "iss": self.url, "aud": ["crank-ca"], "sub": subject, "iat": now, "nbf": now, "exp": now + 600,
            "jti": "id-1" })
    }

    /// The claims of a projected token of a service account in a pod.
    pub(crate) fn pod_claims(&self, namespace: &str, account: &str) -> Value {
        let mut claims = self.claims(&format!("system:serviceaccount:{namespace}:{account}"));
        claims["kubernetes.io"] = json!({
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": "4a1c0a9e-0000-4000-8000-000000000001" },
            "pod": { "name": format!("{account}-0"), "uid": "4a1c0a9e-0000-4000-8000-000000000002" },
            "node": { "name": "node-1", "uid": "4a1c0a9e-0000-4000-8000-000000000003" },
        });
        claims
    }

    pub(crate) fn token(&self, algorithm: &str, claims: &Value) -> String {
        let key = match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "EdDSA" => "ed",
            _ => "rsa",
        };
        self.sign(algorithm, &json!({ "alg": algorithm, "kid": key }).to_string(), &claims.to_string())
    }

    /// Signs header and claims as they are, with the key that fits `algorithm`.
    pub(crate) fn sign(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.signature(algorithm, message.as_bytes()).expect("an algorithm that it has a key for");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let rsa = |padding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => Some(rsa(&RSA_PKCS1_SHA256)),
            "RS384" => Some(rsa(&RSA_PKCS1_SHA384)),
            "RS512" => Some(rsa(&RSA_PKCS1_SHA512)),
            "PS256" => Some(rsa(&RSA_PSS_SHA256)),
            "ES256" => Some(self.p256.sign(&random, message).unwrap().as_ref().to_vec()),
            "ES384" => Some(self.p384.sign(&random, message).unwrap().as_ref().to_vec()),
            "EdDSA" => Some(self.ed.sign(message).as_ref().to_vec()),
            _ => None,
        }
    }
}
