//! Owns durations as people write them: `10m`, `365d`, `1h30m`.

use std::time::Duration;

/// Parses a duration: whole numbers, each with one of the units `ms`, `s`, `m`, `h`, `d`, larger units first and none
/// twice. A day is 24 hours. `0s` is a duration; whether it makes sense is for the caller to say.
///
/// ```
/// use std::time::Duration;
/// use crank_agent::duration::parse_duration;
/// assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
/// assert!(parse_duration("10").is_err());
/// ```
///
/// # Errors
/// The text says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(EXPECTED);
    }
    let mut total = Duration::ZERO;
    let mut smallest = usize::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(EXPECTED);
        }
        let place = UNITS.iter().rposition(|(name, _)| *name == unit).ok_or(EXPECTED)?;
        if place >= smallest {
            return Err("expected larger units before smaller ones, such as 1h30m");
        }
        smallest = place;
        let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(UNITS[place].1));
        let part = Duration::from_millis(milliseconds.ok_or(TOO_LONG)?);
        total = total.checked_add(part).ok_or(TOO_LONG)?;
        rest = tail;
    }
    if total > LONGEST { Err(TOO_LONG) } else { Ok(total) }
}

/// A duration in the form that [`parse_duration`] reads, in the fewest units: `1h30m`, `365d`. What is shorter than a
/// millisecond is dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (name, milliseconds) in UNITS.iter().rev() {
        let count = rest / u128::from(*milliseconds);
        rest %= u128::from(*milliseconds);
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(name);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

const EXPECTED: &str = "expected a number with a unit (ms, s, m, h, d), such as 90s, 10m, 1h30m or 365d";

const TOO_LONG: &str = "expected at most 36500d";

/// Long enough for a root; short enough that adding one to any date of today stays a date.
const LONGEST: Duration = Duration::from_hours(36_500 * 24);

/// Units with their milliseconds, smallest first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_each_unit_and_compounds() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("365d", 31_536_000_000),
            ("1h30m", 5_400_000),
            ("1d1h1m1s1ms", 90_061_001),
            (" 5s ", 5_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous_or_endless() {
        for bad in ["", " ", "10", "s", "-1s", "+1s", "1.5h", "1 s", "1S", "10min", "1y", "1m1h", "1s1s", "1sé", "é"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for long in ["36501d", "99999999999999999999s", "18446744073709551615d", "36500d1s"] {
            assert_eq!(parse_duration(long), Err(TOO_LONG), "{long}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_reads_back(milliseconds in 0_u64..=3_153_600_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_taken_without_panic(text in any::<String>()) {
            let _ = parse_duration(&text);
        }
    }
}
