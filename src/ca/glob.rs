//! Owns the comparing of worker ids with patterns, in which `*` stands for any number of characters and `?` for one.

/// What the characters are that `*` and `?` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// Any.
    Anything,
    /// Any but dots, so that a pattern does not reach into another namespace.
    WithinLabel,
}

impl Wildcards {
    /// Whether the whole of `text` is of the form of `pattern`. Takes at most the product of their lengths, whatever
    /// they are.
    pub(super) fn matches(self, pattern: &str, text: &str) -> bool {
        let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
        let (mut at, mut from) = (0, 0);
        // After the last star: where the pattern goes on, and where the text does. No star before that has to be tried
        // again, as the last one gets no more by it: not where all stars stop at the same dot either.
        let mut retry: Option<(usize, usize)> = None;
        while from < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    retry = Some((at, from));
                }
                Some(b'?') if self.stand_for(text[from]) => (at, from) = (at + 1, from + 1),
                Some(&c) if c == text[from] => (at, from) = (at + 1, from + 1),
                _ => match retry {
                    Some((star, taken)) if self.stand_for(text[taken]) => {
                        retry = Some((star, taken + 1));
                        (at, from) = (star, taken + 1);
                    }
                    _ => return false,
                },
            }
        }
        pattern[at..].iter().all(|&c| c == b'*')
    }

    fn stand_for(self, byte: u8) -> bool {
        self == Self::Anything || byte != b'.'
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Wildcards::{Anything, WithinLabel};
    use super::*;

    #[test]
    fn many_stars_take_no_time() {
        for wildcards in [Anything, WithinLabel] {
            assert!(!wildcards.matches(&"*a".repeat(64), &"a".repeat(63)));
            assert!(wildcards.matches(&"*a".repeat(63), &"a".repeat(63)));
        }
    }

    /// The obvious way, which can take for ever.
    fn naive(wildcards: Wildcards, pattern: &[u8], text: &[u8]) -> bool {
        let wild = |byte: u8| wildcards == Anything || byte != b'.';
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((b'*', rest)), _) if naive(wildcards, rest, text) => true,
            (Some((b'*', _)), Some((byte, tail))) => wild(*byte) && naive(wildcards, pattern, tail),
            (Some((c, rest)), Some((d, tail))) => (c == d || *c == b'?' && wild(*d)) && naive(wildcards, rest, tail),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn patterns_match_as_the_obvious_way_does(pattern in "[ab.?*]{0,7}", text in "[ab.]{0,7}") {
            for wildcards in [Anything, WithinLabel] {
                let expected = naive(wildcards, pattern.as_bytes(), text.as_bytes());
                prop_assert_eq!(wildcards.matches(&pattern, &text), expected, "{:?}", wildcards);
            }
        }

        #[test]
        fn a_pattern_without_wildcards_matches_itself_only(pattern in "[ab.]{0,5}", text in "[ab.]{0,5}") {
            for wildcards in [Anything, WithinLabel] {
                prop_assert_eq!(wildcards.matches(&pattern, &text), pattern == text);
            }
        }

        #[test]
        fn a_star_stands_for_all_but_dots_within_a_label(
            before in "[ab.]{0,3}", middle in "[ab.]{0,3}", after in "[ab.]{0,3}",
        ) {
            let (pattern, text) = (format!("{before}*{after}"), format!("{before}{middle}{after}"));
            prop_assert!(Anything.matches(&pattern, &text));
            prop_assert!(WithinLabel.matches(&pattern, &text) || middle.contains('.'));
            let dotted = format!("{before}.{after}");
            prop_assert!(!WithinLabel.matches("*", &dotted));
        }
    }
}
