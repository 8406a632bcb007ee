//! Owns the forms in which a serial number may be written.

use crate::identity::metadata::serial_text;

/// A serial as `4a:3b:…` or `4A3B…`, in the form of the record. `None` when it is neither, or longer than RFC 5280 allows.
pub(crate) fn parse_serial(text: &str) -> Option<String> {
    let plain = if text.contains(':') {
        let pairs: Vec<&str> = text.split(':').collect();
        pairs.iter().all(|pair| pair.len() == 2).then(|| pairs.concat())?
    } else {
        text.to_owned()
    };
    if plain.is_empty() || plain.len() > 2 * LONGEST {
        return None;
    }
    hexadecimal(&plain).map(|bytes| serial_text(&bytes))
}

/// The octets of a serial in the form of the record.
pub(crate) fn serial_bytes(text: &str) -> Option<Vec<u8>> {
    hexadecimal(&text.replace(':', ""))
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Octets (section 4.1.2.2).
const LONGEST: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_serial_is_none() {
        for bad in ["", ":", "4", "4a:3", "4a:3b:", "4a::3b", "4g", "4a3b1", "0x4a", "4a 3b", "+a", "4a:3b1c", "é"] {
            assert_eq!(parse_serial(bad), None, "{bad}");
        }
        assert_eq!(parse_serial(&"41".repeat(21)), None);
    }

    proptest! {
        #[test]
        fn both_forms_and_either_case_are_the_same_serial(bytes in proptest::collection::vec(any::<u8>(), 1..=20)) {
            let text = serial_text(&bytes);
            prop_assert_eq!(parse_serial(&text), Some(text.clone()));
            prop_assert_eq!(parse_serial(&text.to_uppercase()), Some(text.clone()));
            prop_assert_eq!(parse_serial(&text.replace(':', "")), Some(text.clone()));
            prop_assert_eq!(serial_text(&serial_bytes(&text).unwrap()), text);
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,60}") {
            if let Some(serial) = parse_serial(&text) {
                prop_assert!(serial_bytes(&serial).is_some());
            }
        }
    }
}
