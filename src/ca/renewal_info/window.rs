//! Owns the arithmetic of windows: the usual one of a certificate, and each certificate's share of an ordered one.

use serde::Serialize;
use time::OffsetDateTime;

use crate::crypto::sha256;
use crate::policy::default::renewal_part;

/// From when to when to renew, in whole seconds; the end is after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Window {
    /// Not before this.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) start: OffsetDateTime,
    /// Before this.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) end: OffsetDateTime,
}

/// From when the default policy renews, for half of what is left then: the other half is for attempts that fail.
pub(super) fn usual(not_before: OffsetDateTime, not_after: OffsetDateTime) -> Window {
    let part = renewal_part(not_after - not_before);
    cut(not_after.saturating_sub(part), part / 2)
}

/// A tenth of `whole` for each certificate, placed by a digest: so a fleet is spread evenly, each keeps its place
/// whenever it asks, and an agent's own jitter stays within the order.
pub(super) fn share(whole: Window, order_id: &str, serial: &str) -> Window {
    let length = (whole.end - whole.start).whole_seconds().max(1);
    let width = (length / 10).max(1);
    let digest = sha256(format!("{order_id}\n{serial}").as_bytes());
    let place = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let room = i128::from(length - width) * i128::from(place) / i128::from(u32::MAX);
    let offset = time::Duration::seconds(i64::try_from(room).unwrap_or(0));
    cut(whole.start.saturating_add(offset), time::Duration::seconds(width))
}

fn cut(start: OffsetDateTime, length: time::Duration) -> Window {
    let start = start.replace_nanosecond(0).unwrap_or(start);
    let length = time::Duration::seconds(length.whole_seconds().max(1));
    Window { start, end: start.saturating_add(length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

    fn window(seconds: i64) -> Window {
        Window { start: START, end: START + time::Duration::seconds(seconds) }
    }

    proptest! {
        #[test]
        fn a_share_is_within_the_order_and_always_the_same(length in 1_i64..10_000_000, order in "[a-z]{3}", serial: u64) {
            let whole = window(length);
            let part = share(whole, &order, &serial.to_string());
            prop_assert!(part.start >= whole.start && part.end <= whole.end && part.start < part.end);
            prop_assert_eq!(part, share(whole, &order, &serial.to_string()));
        }

        #[test]
        fn the_usual_window_is_in_the_last_third_and_leaves_time_for_attempts(life in 60_i64..34_560_000) {
            let whole = window(life);
            let usual = usual(whole.start, whole.end);
            prop_assert!(usual.start >= whole.start + (whole.end - whole.start) / 2);
            prop_assert!(usual.start < usual.end && usual.end < whole.end);
        }
    }

    #[test]
    fn a_fleet_is_spread_evenly_over_the_window() {
        let mut tenths = [0_u32; 10];
        for serial in 0..10_000 {
            let share = share(window(3600), "ord_1", &serial.to_string());
            // Where the agent's own draw is in the mean.
            let middle: time::Duration = ((share.start - START) + (share.end - START)) / 2;
            let tenth = usize::try_from(middle.whole_seconds() / 360).unwrap();
            tenths[tenth] += 1;
        }
        // The first and the last have half of a share each.
        assert!(tenths[1..9].iter().all(|count| (1_000..1_230).contains(count)), "{tenths:?}");
        assert!([tenths[0], tenths[9]].iter().all(|count| (450..670).contains(count)), "{tenths:?}");
    }
}
