//! Owns the writing of DER (X.690): as much as keystores need.

/// A value under a tag, with its length before it (section 8.1.3).
pub(super) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length: Vec<u8> = content.len().to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let mut value = Vec::with_capacity(content.len() + length.len() + 2);
    value.push(tag);
    match content.len() {
        0 => value.push(0),
        1..=127 => value.extend(length),
        _ => {
            value.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
            value.extend(length);
        }
    }
    value.extend(content);
    value
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

pub(super) fn set(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x31, &parts.concat())
}

pub(super) fn octets(content: &[u8]) -> Vec<u8> {
    tagged(0x04, content)
}

/// `[0] EXPLICIT`.
pub(super) fn explicit(content: &[u8]) -> Vec<u8> {
    tagged(0xa0, content)
}

pub(super) fn integer(value: u32) -> Vec<u8> {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    // A leading bit would be a sign, and nothing would be no number.
    let zero: &[u8] = if bytes.first().is_none_or(|byte| *byte > 0x7f) { &[0] } else { &[] };
    tagged(0x02, &[zero, &bytes].concat())
}

/// ASCII as a `BMPString`.
pub(super) fn bmp(text: &str) -> Vec<u8> {
    tagged(0x1e, &utf16(text))
}

/// ASCII as UTF-16 with the high byte first.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| [0, byte]).collect()
}

/// An algorithm without parameters, or with `NULL` as some want it: `oid` is the DER of its identifier.
pub(super) fn algorithm(oid: &[u8]) -> Vec<u8> {
    sequence(&[oid, &[0x05, 0x00]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_as_short_as_they_can_be() {
        assert_eq!(tagged(4, &[]), [4, 0]);
        assert_eq!(tagged(4, &[0; 127])[..3], [4, 127, 0]);
        assert_eq!(tagged(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tagged(4, &[0; 256])[..4], [4, 0x82, 1, 0]);
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(3), [2, 1, 3]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(10_000), [2, 2, 0x27, 0x10]);
        assert_eq!(bmp("ab"), [0x1e, 4, 0, b'a', 0, b'b']);
    }
}
