//! Owns the cleaning of foreign text: what comes from a CA, a file or the environment goes through here before it
//! reaches a log, an event or a terminal.

/// `text` with every control and direction-changing character replaced by its escape (`\n`, `\u{202e}`), cut to
/// `limit` characters. The result is one line and safe to print.
///
/// ```
/// assert_eq!(crank_agent::printable::printable("a\nb", 10), "a\\nb");
/// assert_eq!(crank_agent::printable::printable("abcdef", 3), "abc…");
/// ```
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            line.push('…');
            break;
        }
        if is_unprintable(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// An error and its causes as one printable line: `cannot publish …: cannot write …: no space left on device`.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    printable(&text, 2 * FOREIGN_TEXT_LIMIT)
}

/// `bytes` as lower-case hexadecimal digits, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].map(hex_digit));
    }
    text
}

/// The digit for a number below 16.
pub(crate) fn hex_digit(number: u8) -> char {
    char::from_digit(u32::from(number), 16).unwrap_or('?')
}

/// The longest foreign text that an error, event or log line carries, in characters.
pub const FOREIGN_TEXT_LIMIT: usize = 512;

/// Whether `character` moves the cursor, hides, or changes direction.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control() || is_invisible(character)
}

/// Line separators, zero-width and bidirectional controls: text that would not print as it reads.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hexadecimal_is_as_the_formatter_has_it(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(hex(&bytes), pairs.concat());
        }

        #[test]
        fn is_always_one_short_printable_line(text in any::<String>(), limit in 0_usize..100) {
            let line = printable(&text, limit);
            prop_assert!(!line.chars().any(is_unprintable));
            // An escape takes at most 10 characters.
            prop_assert!(line.chars().count() <= limit * 10 + 1);
        }
    }

    #[test]
    fn escapes_terminal_and_bidi_controls() {
        assert_eq!(printable("\u{1b}[31m\u{202e}x\r\n", 100), "\\u{1b}[31m\\u{202e}x\\r\\n");
    }
}
