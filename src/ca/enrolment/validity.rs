//! Owns the life of a leaf: from a minute ago, for as long as policy and issuer allow.

use std::time::Duration;

use time::OffsetDateTime;

use super::{AttestationRefusal, EnrolmentError, Terms};
use crate::ca::sign::BACKDATE;
use crate::policy::default::{LONGEST_LIFETIME, SHORTEST_LIFETIME};

/// `notBefore` and `notAfter` of a worker's certificate, in whole seconds. At least [`SHORTEST_LIFETIME`] of it lies
/// ahead, at most `period` and [`LONGEST_LIFETIME`], and none of it beyond the issuer's end.
pub(super) fn worker(
    now: OffsetDateTime,
    period: Duration,
    issuer_not_after: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), EnrolmentError> {
    leaf(now, period.clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME), SHORTEST_LIFETIME, issuer_not_after)
}

/// The same, by what the protocol of the request asks for in addition.
pub(super) fn within(
    terms: &Terms,
    now: OffsetDateTime,
    period: Duration,
    issuer_not_after: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), EnrolmentError> {
    let (not_before, not_after) = worker(now, period.min(terms.longest.saturating_sub(BACKDATED)), issuer_not_after)?;
    let life = Duration::try_from(not_after - not_before).unwrap_or_default();
    if life >= terms.shortest {
        return Ok((not_before, not_after));
    }
    if not_after == issuer_not_after {
        return Err(EnrolmentError::IssuerEnding);
    }
    let (allowed, needed) = (life.as_secs(), terms.shortest.as_secs());
    Err(AttestationRefusal::LifeTooShort { allowed, needed }.into())
}

/// [`BACKDATE`] on the other scale.
const BACKDATED: Duration = BACKDATE.unsigned_abs();

/// The same for the CA's own listener, which may be as short as a second.
pub(super) fn server(
    now: OffsetDateTime,
    period: Duration,
    issuer_not_after: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), EnrolmentError> {
    let shortest = Duration::from_secs(1);
    leaf(now, period.clamp(shortest, LONGEST_LIFETIME), shortest, issuer_not_after)
}

fn leaf(
    now: OffsetDateTime,
    period: Duration,
    shortest: Duration,
    issuer_not_after: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), EnrolmentError> {
    let now = now.replace_nanosecond(0).map_err(|_| EnrolmentError::IssuerEnding)?;
    // A clock set to the end of time is no reason to overflow.
    let ends = now.checked_add(time::Duration::try_from(period).unwrap_or(time::Duration::ZERO));
    let not_after = ends.unwrap_or(issuer_not_after).min(issuer_not_after);
    let not_before = now.checked_sub(BACKDATE).unwrap_or(now);
    if not_after - now < shortest {
        return Err(EnrolmentError::IssuerEnding);
    }
    Ok((not_before, not_after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00:00.5 UTC);

    #[test]
    fn a_leaf_begins_a_minute_ago_and_ends_in_whole_seconds() {
        let (from, to) = worker(NOW, Duration::from_mins(2), NOW + time::Duration::days(9)).unwrap();
        assert_eq!(from, time::macros::datetime!(2026-08-20 11:59 UTC));
        assert_eq!(to, time::macros::datetime!(2026-08-20 12:02 UTC));
    }

    #[test]
    fn an_issuer_at_its_end_issues_nothing() {
        for left in [-1, 0, 59] {
            let result = worker(
                NOW,
                Duration::from_hours(1),
                NOW.replace_nanosecond(0).unwrap() + time::Duration::seconds(left),
            );
            assert!(matches!(result, Err(EnrolmentError::IssuerEnding)), "{left}");
        }
    }

    #[test]
    fn terms_cut_a_life_and_refuse_one_that_is_too_short() {
        let hour = Duration::from_hours(1);
        let terms = Terms { shortest: hour, longest: hour * 2, ..Terms::default() };
        let end = NOW + time::Duration::days(9);
        let life = |period| within(&terms, NOW, period, end).map(|(from, to)| to - from);
        assert_eq!(life(hour * 24).unwrap(), hour * 2, "from notBefore to notAfter");
        assert_eq!(life(hour).unwrap(), hour + Duration::from_mins(1));
        assert_eq!(life(Duration::from_mins(59)).unwrap(), hour);
        let refused = life(Duration::from_mins(30)).unwrap_err();
        assert_eq!(refused.kind(), "life_too_short");
        let ending = within(&terms, NOW, hour * 24, (NOW + hour / 2).replace_nanosecond(0).unwrap());
        assert!(matches!(ending, Err(EnrolmentError::IssuerEnding)));
    }

    proptest! {
        #[test]
        fn every_life_is_within_the_bounds(period in any::<u64>(), issuer_life in -1_000_i64..100_000_000) {
            let issuer_end = NOW.replace_nanosecond(0).unwrap() + time::Duration::seconds(issuer_life);
            match worker(NOW, Duration::from_secs(period), issuer_end) {
                Ok((from, to)) => {
                    prop_assert!(to <= issuer_end && from < NOW);
                    let ahead = to - NOW.replace_nanosecond(0).unwrap();
                    prop_assert!(ahead >= SHORTEST_LIFETIME && ahead <= LONGEST_LIFETIME);
                    prop_assert!(period < 60 || ahead.whole_seconds().unsigned_abs() <= period);
                }
                Err(_) => prop_assert!(issuer_life < 60),
            }
        }
    }
}
