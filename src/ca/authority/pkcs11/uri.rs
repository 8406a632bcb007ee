//! Owns `pkcs11:` URIs (RFC 7512): which module, which token, which object, and where the PIN is.

use std::path::PathBuf;

use crate::ca::authority::AuthorityError;

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenUri {
    /// The text it was read from.
    text: String,
    /// The token's label.
    pub(super) token: String,
    /// The label of private and public key.
    pub(super) object: String,
    /// The `CKA_ID` of both, where labels are not enough.
    pub(super) id: Option<Vec<u8>>,
    /// The module, a shared library.
    pub(super) module: PathBuf,
    /// A file with the PIN, of one line.
    pub(super) pin_file: Option<PathBuf>,
}

impl TokenUri {
    /// Reads `pkcs11:token=…;object=…[;id=…][;type=private]?module-path=…[&pin-source=file:…]`.
    pub(crate) fn parse(text: &str) -> Result<Self, AuthorityError> {
        let fail = |reason| AuthorityError::Option { what: "key", reason };
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| fail("expected a URI that begins with `pkcs11:`"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut object, mut id, mut module, mut pin_file) = (None, None, None, None, None);
        for (separator, part) in [(';', path), ('&', query)] {
            for attribute in part.split(separator).filter(|attribute| !attribute.is_empty()) {
                let (name, value) = attribute.split_once('=').ok_or_else(|| fail("expected `name=value` pairs"))?;
                let value = decode(value).ok_or_else(|| fail("a percent-encoding is broken"))?;
                let string = |value: Vec<u8>| String::from_utf8(value).map_err(|_| fail("expected UTF-8"));
                match (separator, name) {
                    (';', "token") => set(&mut token, string(value)?)?,
                    (';', "object") => set(&mut object, string(value)?)?,
                    (';', "id") => set(&mut id, value)?,
                    (';', "type") if value == b"private" => {}
                    ('&', "module-path") => set(&mut module, PathBuf::from(string(value)?))?,
                    ('&', "pin-source") => {
                        let value = string(value)?;
                        let path = value.strip_prefix("file:").unwrap_or(&value);
                        set(&mut pin_file, PathBuf::from(path.strip_prefix("//").unwrap_or(path)))?;
                    }
                    ('&', "pin-value") => {
                        return Err(fail(
                            "a PIN does not go into a URI: put it into a file, and name that by pin-source",
                        ));
                    }
                    _ => {
                        return Err(fail(
                            "expected token, object, id and type=private, and after the `?` module-path and pin-source",
                        ));
                    }
                }
            }
        }
        let filled = |value: &Option<String>| value.as_deref().is_some_and(|value| !value.is_empty());
        match (token, object, module) {
            (token, object, Some(module)) if filled(&token) && filled(&object) && module.is_absolute() => Ok(Self {
                text: text.to_owned(),
                token: token.unwrap_or_default(),
                object: object.unwrap_or_default(),
                id,
                module,
                pin_file,
            }),
            (_, _, Some(module)) if !module.is_absolute() => Err(fail("expected an absolute path in module-path")),
            _ => Err(fail("expected at least token, object and module-path")),
        }
    }

    /// The text it was read from.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), AuthorityError> {
    if slot.replace(value).is_some() {
        return Err(AuthorityError::Option { what: "key", reason: "an attribute of the URI occurs twice" });
    }
    Ok(())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_uri_is_read() {
        let text = "pkcs11:token=Crank%20CA;object=issuing;id=%01%ff;type=private?module-path=/m.so&pin-source=file:/p";
        let uri = TokenUri::parse(text).unwrap();
        assert_eq!((uri.token.as_str(), uri.object.as_str(), uri.as_str()), ("Crank CA", "issuing", text));
        assert_eq!((uri.id, uri.module), (Some(vec![1, 255]), PathBuf::from("/m.so")));
        assert_eq!(uri.pin_file.as_deref(), Some(Path::new("/p")));
        for form in ["/p", "file:/p", "file:///p"] {
            let text = format!("pkcs11:token=t;object=o?module-path=/m&pin-source={form}");
            assert_eq!(TokenUri::parse(&text).unwrap().pin_file.as_deref(), Some(Path::new("/p")), "{form}");
        }
    }

    #[test]
    fn what_is_missing_unknown_twice_or_secret_is_told() {
        for (text, told) in [
            ("file:/key", "begins with"),
            ("pkcs11:token=t;object=o", "module-path"),
            ("pkcs11:token=;object=o?module-path=/m", "at least token"),
            ("pkcs11:object=o?module-path=/m", "at least token"),
            ("pkcs11:token=t;object=o?module-path=m.so", "absolute"),
            ("pkcs11:token=t;object=o;slot-id=1?module-path=/m", "type=private"),
            ("pkcs11:token=t;object=o;type=public?module-path=/m", "type=private"),
            ("pkcs11:token=t;token=u;object=o?module-path=/m", "twice"),
            ("pkcs11:token=%zz;object=o?module-path=/m", "percent"),
            ("pkcs11:token=t;object=o?module-path=/m&pin-value=1234", "put it into a file"),
        ] {
            let error = TokenUri::parse(text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("1234"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(pkcs11:)?[a-z=;?&%0-9/:-]{0,60}") {
            let _ = TokenUri::parse(&text);
        }
    }
}
