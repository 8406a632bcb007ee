//! Owns the compact form of a signed token (RFC 7515, section 7.1): its three parts and its header.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::refusal::TokenRefusal;
use super::{TOKEN_LIMIT, json};

/// A token taken apart, and nothing verified.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    /// What the signature is over.
    pub(super) message: &'a [u8],
    /// What makes the token one; wiped on drop.
    pub(super) signature: Zeroizing<Vec<u8>>,
}

/// What of a header is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

/// The algorithms there are (RFC 7518, section 3.1; RFC 8037). None of them is `none`, and none is symmetric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// Every one.
    pub(super) const ALL: [Self; 7] =
        [Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in the header. Names compare with case.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The one with this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Takes a token apart.
pub(super) fn parse(token: &str) -> Result<Signed<'_>, TokenRefusal> {
    let malformed = TokenRefusal::Malformed;
    if token.len() > TOKEN_LIMIT {
        return Err(malformed("expected at most 16 KiB"));
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err(malformed("expected three parts, as of a signed token"));
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("expected base64url without padding"));
    let message = token.as_bytes().get(..header.len() + 1 + payload.len()).unwrap_or_default();
    let header = json::object(&decode(header)?).ok_or(malformed("expected a header of members, none of them twice"))?;
    Ok(Signed {
        header: Header::of(&header)?,
        payload: decode(payload)?,
        message,
        signature: Zeroizing::new(decode(signature)?),
    })
}

impl Header {
    fn of(members: &Map<String, Value>) -> Result<Self, TokenRefusal> {
        let malformed = TokenRefusal::Malformed;
        // An extension that we must understand is one that we do not (RFC 7515, section 4.1.11). The others make
        // something else of the payload than claims: another token, an encrypted one, a compressed one.
        if ["crit", "b64", "cty", "enc", "zip"].iter().any(|name| members.contains_key(*name)) {
            return Err(malformed("expected a header without crit, b64, cty, enc and zip"));
        }
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= TEXT_LIMIT => Ok(Some(text.as_str())),
            Some(_) => Err(malformed("expected short texts in the header")),
        };
        // A token made for another purpose says so here (RFC 8725, section 3.11).
        let known = |kind: &str| {
            // `application/` may be left out (RFC 7515, section 4.1.9).
            let kind = kind.to_ascii_lowercase();
            matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
        };
        if text("typ")?.is_some_and(|kind| !known(kind)) {
            return Err(malformed("expected the type JWT or at+jwt, or none"));
        }
        let algorithm = text("alg")?.ok_or(malformed("expected an algorithm in the header"))?;
        Ok(Self {
            algorithm: Algorithm::find(algorithm).ok_or(TokenRefusal::Algorithm)?,
            key_id: text("kid")?.map(str::to_owned),
        })
    }
}

/// The longest text in a header that is looked at, in bytes.
const TEXT_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_header(header: &str) -> Result<Header, TokenRefusal> {
        parse(&format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header))).map(|signed| signed.header)
    }

    #[test]
    fn every_algorithm_is_known_by_its_exact_name_and_no_other_is() {
        for algorithm in Algorithm::ALL {
            let header = with_header(&format!(r#"{{"alg":"{}","kid":"1"}}"#, algorithm.name())).unwrap();
            assert_eq!(header, Header { algorithm, key_id: Some("1".to_owned()) });
        }
        for name in ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "rs256", "ES256K", "PS384", "dir", "RSA1_5"]
        {
            assert_eq!(with_header(&format!(r#"{{"alg":"{name}"}}"#)), Err(TokenRefusal::Algorithm), "{name}");
        }
    }

    #[test]
    fn a_header_that_asks_for_more_or_is_unclear_is_refused() {
        for header in [
            r"{}",
            r#"{"alg":1}"#,
            r#"{"alg":["RS256"]}"#,
            r#"{"alg":"RS256","alg":"ES256"}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":"RS256","crit":[]}"#,
            r#"{"alg":"RS256","crit":["exp"]}"#,
            r#"{"alg":"RS256","b64":false}"#,
            r#"{"alg":"RS256","cty":"JWT"}"#,
            r#"{"alg":"RS256","enc":"A256GCM"}"#,
            r#"{"alg":"RS256","zip":"DEF"}"#,
            r#"{"alg":"RS256","typ":"logout+jwt"}"#,
            r#"{"alg":"RS256","typ":"application/dpop+jwt"}"#,
            r#"{"alg":"RS256","typ":null}"#,
            "[]",
        ] {
            assert!(matches!(with_header(header), Err(TokenRefusal::Malformed(_))), "{header}");
        }
        for kind in ["JWT", "jwt", "at+jwt", "application/at+JWT", "application/jwt"] {
            assert!(with_header(&format!(r#"{{"alg":"RS256","typ":"{kind}"}}"#)).is_ok(), "{kind}");
        }
        let long = "k".repeat(257);
        assert!(with_header(&format!(r#"{{"alg":"RS256","kid":"{long}"}}"#)).is_err());
    }

    #[test]
    fn other_forms_are_refused() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        assert!(parse(&format!("{header}.e30.AAAA")).is_ok());
        let huge = format!("{header}.{}.AAAA", "A".repeat(16 * 1024));
        for token in [
            String::new(),
            "..".to_owned(),
            header.clone(),
            format!("{header}.e30"),
            format!("{header}.e30.AAAA.AAAA"),
            format!("{header}.e30.AAAA.AAAA.AAAA"),
            format!("{header}.e30=.AAAA"),
            format!("{header}.e3+.AAAA"),
            // Bits beyond the last byte.
            format!("{header}.e31.AAAA"),
            format!("{header}. e30.AAAA"),
            huge,
        ] {
            assert!(matches!(parse(&token), Err(TokenRefusal::Malformed(_))), "{token}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_panic(token in "[A-Za-z0-9._=é-]{0,60}", header in "\\PC{0,60}") {
            let _ = (parse(&token), with_header(&header));
        }

        #[test]
        fn any_type_is_taken_without_panic(kind in "[a-zA-Z/+é]{0,20}") {
            let _ = with_header(&format!(r#"{{"alg":"RS256","typ":"{kind}"}}"#));
        }
    }
}
