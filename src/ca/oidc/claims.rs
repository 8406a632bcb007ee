//! Owns the claims of a token (RFC 7519, section 4): for whom, from when and until when it is good.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::json;
use super::refusal::TokenRefusal;
use super::settings::TokenIssuer;

/// The claims, no member twice.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Reads a payload.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, TokenRefusal> {
        json::object(payload).map(Self).ok_or(TokenRefusal::Malformed("expected claims, none of them twice"))
    }

    /// All of them.
    pub(super) fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A claim that is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Who made the token.
    pub(super) fn issuer(&self) -> Result<&str, TokenRefusal> {
        self.text("iss").ok_or(TokenRefusal::Malformed("expected the issuer as a text"))
    }

    /// Checks subject, audience and times at `now` by what `issuer` allows.
    pub(super) fn check(&self, issuer: &TokenIssuer, now: OffsetDateTime) -> Result<(), TokenRefusal> {
        if self.text("sub").is_none_or(|subject| subject.is_empty() || subject.len() > SUBJECT_LIMIT) {
            return Err(TokenRefusal::Malformed("expected the subject as a text of at most 1024 bytes"));
        }
        let for_us = match self.0.get("aud") {
            Some(Value::String(audience)) => *audience == issuer.audience,
            Some(Value::Array(audiences)) => {
                if !audiences.iter().all(Value::is_string) {
                    return Err(TokenRefusal::Malformed("expected the audience as texts"));
                }
                audiences.iter().any(|audience| audience == issuer.audience.as_str())
            }
            _ => false,
        };
        if !for_us {
            return Err(TokenRefusal::Audience);
        }
        let times = Times { issued: self.time("iat")?, begins: self.time("nbf")?, ends: self.time("exp")? };
        let leeway = i64::try_from(issuer.leeway.as_secs()).unwrap_or(0);
        let longest = i64::try_from(issuer.longest_life.as_secs()).unwrap_or(0);
        times.check(now.unix_timestamp(), leeway, longest)
    }

    /// A time in seconds since 1970. One that is there and is no time is an error, not an absence.
    fn time(&self, name: &str) -> Result<Option<i64>, TokenRefusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        #[expect(clippy::cast_possible_truncation, reason = "cut to the second; the range is looked at below")]
        let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
        match seconds {
            Some(seconds) if (0..=LAST_SECOND).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(TokenRefusal::Malformed("expected times as seconds since 1970")),
        }
    }
}

/// The times of a token.
#[derive(Debug, Clone, Copy)]
struct Times {
    issued: Option<i64>,
    begins: Option<i64>,
    ends: Option<i64>,
}

impl Times {
    /// A token that never ends is none.
    fn check(self, now: i64, leeway: i64, longest: i64) -> Result<(), TokenRefusal> {
        let ends = self.ends.ok_or(TokenRefusal::Malformed("expected an expiry"))?;
        if now - leeway >= ends {
            return Err(TokenRefusal::Expired);
        }
        if self.issued.max(self.begins).is_some_and(|begins| now + leeway < begins) {
            return Err(TokenRefusal::NotYetValid);
        }
        // Of a token that does not say when it was made, what is left counts.
        if ends - self.issued.unwrap_or(now) > longest {
            return Err(TokenRefusal::TooLong);
        }
        Ok(())
    }
}

/// A subject of Kubernetes has at most 339.
const SUBJECT_LIMIT: usize = 1024;

/// The end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(issued: Option<i64>, begins: Option<i64>, ends: Option<i64>) -> Result<(), TokenRefusal> {
        Times { issued, begins, ends }.check(1_000, 60, 3_600)
    }

    #[test]
    fn a_token_is_good_between_its_times_and_a_leeway_around_them() {
        assert_eq!(times(Some(1_000), Some(1_000), Some(1_001)), Ok(()));
        assert_eq!(times(None, None, Some(941)), Ok(()));
        assert_eq!(times(None, None, Some(940)), Err(TokenRefusal::Expired));
        assert_eq!(times(None, Some(1_060), Some(2_000)), Ok(()));
        assert_eq!(times(None, Some(1_061), Some(2_000)), Err(TokenRefusal::NotYetValid));
        assert_eq!(times(Some(1_061), None, Some(2_000)), Err(TokenRefusal::NotYetValid));
        assert_eq!(times(Some(1_000), None, Some(4_600)), Ok(()));
        assert_eq!(times(Some(1_000), None, Some(4_601)), Err(TokenRefusal::TooLong));
        assert_eq!(times(None, None, Some(4_601)), Err(TokenRefusal::TooLong));
        assert!(matches!(times(Some(1_000), Some(1_000), None), Err(TokenRefusal::Malformed(_))));
    }

    #[test]
    fn a_time_of_another_type_is_an_error_and_not_an_absence() {
        for value in ["\"9999\"", "null", "true", "[1]", "{}", "-1", "1e300", "253402300800", "18446744073709551615"] {
            let claims = Claims::parse(format!("{{\"exp\":{value}}}").as_bytes()).unwrap();
            assert!(claims.time("exp").is_err(), "{value}");
        }
        for (value, seconds) in [("0", 0), ("1700000000", 1_700_000_000), ("12.9", 12), ("253402300799", LAST_SECOND)] {
            let claims = Claims::parse(format!("{{\"exp\":{value}}}").as_bytes()).unwrap();
            assert_eq!(claims.time("exp"), Ok(Some(seconds)), "{value}");
        }
        assert_eq!(Claims::parse(b"{}").unwrap().time("exp"), Ok(None));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_lies_within_its_times(
            issued in proptest::option::of(0_i64..5_000), begins in proptest::option::of(0_i64..5_000),
            ends in proptest::option::of(0_i64..9_000),
        ) {
            if times(issued, begins, ends).is_ok() {
                let ends = ends.unwrap();
                prop_assert!(ends > 940 && ends - issued.unwrap_or(1_000) <= 3_600);
                prop_assert!(issued.is_none_or(|at| at <= 1_060) && begins.is_none_or(|at| at <= 1_060));
            }
        }
    }
}
