//! Owns the W3C Trace Context (level 1) of a request: read strictly, tied to the correlation id, passed on.

use std::fmt;

use crate::crypto::sha256;

/// What `traceparent` says of a request: the trace it belongs to, and the step that sent it.
///
/// ```
/// use crank_agent::trace_context::TraceContext;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context = TraceContext::parse(text).unwrap();
/// assert_eq!(context.to_string(), text);
/// assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(TraceContext::parse(&text.to_uppercase()), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    sampled: bool,
}

impl TraceContext {
    /// Reads the value of one `traceparent` header. `None` where section 3.2 of the recommendation does not allow it,
    /// such as for upper case, for an id of zeros, or for version `ff`. A later version is read as far as version `00`
    /// goes (section 4.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let version = hexadecimal(text.get(..2)?)?;
        let known = text.len() == LENGTH;
        let later = version != 0 && text.as_bytes().get(LENGTH) == Some(&b'-');
        if version == 0xff || !(known || later) {
            return None;
        }
        let mut parts = text.get(..LENGTH)?.split('-').skip(1);
        let mut part = |length: usize| parts.next().filter(|part| part.len() == length).and_then(hexadecimal);
        let (trace_id, parent_id, flags) = (part(32)?, part(16)?, part(2)?);
        if trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(Self { trace_id, parent_id: u64::try_from(parent_id).ok()?, sampled: flags & 1 == 1 })
    }

    /// The trace of a request that comes without one. One correlation id gives one trace id: of an id of ours
    /// (`req_` and 32 hexadecimal digits) the same digits. Not sampled, since nobody here records spans.
    #[must_use]
    pub fn of_request(correlation_id: &str) -> Self {
        let own = correlation_id.strip_prefix("req_").filter(|digits| digits.len() == 32).and_then(hexadecimal);
        let trace_id = own.unwrap_or_else(|| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&sha256(correlation_id.as_bytes())[..16]);
            u128::from_be_bytes(bytes)
        });
        Self { trace_id: trace_id.max(1), parent_id: random_id(), sampled: false }
    }

    /// What to send along with a request of our own that belongs to this one: the same trace, from a step of its own.
    #[must_use]
    pub fn next_step(self) -> Self {
        Self { parent_id: random_id(), ..self }
    }

    /// The trace as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    /// The value of the header, of version `00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, u8::from(self.sampled))
    }
}

/// Digits in lower case and nothing else: a sign or an upper-case digit is not allowed.
fn hexadecimal(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn random_id() -> u64 {
    let mut bytes = [0; 8];
    // The system's random source does not fail after boot; were it to, the step would be number 1.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_be_bytes(bytes).max(1)
}

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_the_recommendation_forbids_is_ignored() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{661}",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known_and_unknown_flags_go_no_further() {
        let later = GOOD.replacen("00", "cc", 1) + "-what-the-future-holds";
        assert_eq!(TraceContext::parse(&later), TraceContext::parse(GOOD));
        let flags = TraceContext::parse(&GOOD.replace("-01", "-fe")).unwrap();
        assert_eq!(flags.to_string(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn a_trace_and_a_correlation_id_of_ours_have_the_same_digits() {
        let id = crate::events::new_correlation_id();
        let context = TraceContext::of_request(&id);
        assert_eq!(format!("req_{}", context.trace_id()), id);
        assert_ne!(context.next_step().to_string(), context.to_string());
        assert_eq!(context.next_step().trace_id(), context.trace_id());
        assert_ne!(TraceContext::of_request("a").trace_id(), TraceContext::of_request("b").trace_id());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_and_what_is_read_is_written_the_same(text in any::<String>()) {
            prop_assert!(TraceContext::parse(&text).is_none_or(|context| context.to_string() == text));
        }

        #[test]
        fn every_context_is_read_back(trace_id in 1_u128.., parent_id in 1_u64.., sampled: bool) {
            let context = TraceContext { trace_id, parent_id, sampled };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn every_correlation_id_gives_one_lawful_trace(id in any::<String>()) {
            let context = TraceContext::of_request(&id);
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            prop_assert_eq!(TraceContext::of_request(&id).trace_id(), context.trace_id());
        }
    }
}
