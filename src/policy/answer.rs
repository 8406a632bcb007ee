//! Owns the shapes that an engine's answer may have. What has another shape is no answer, and no answer denies.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Decision, PolicyError, ValidityPeriod};
use crate::duration::parse_duration;

/// The answer of `can_issue_certificate`, `should_renew_certificate` and `revoke_certificate`: `{"allow": true}`, with a
/// `reason` if one likes. `None` is what the engine has no answer to: denied.
pub(crate) fn decision(answer: Option<Value>, basis: &str) -> Result<Decision, PolicyError> {
    let Some(answer) = answer else { return Ok(undefined(basis)) };
    let DecisionShape { allow, reason } = read(answer, r#"{"allow": true or false, "reason": "text, optional"}"#)?;
    Ok(decided(allow, reason.as_deref(), basis))
}

/// The answer of `certificate_validity_period`: `{"period": "24h"}` or `{"allow": false}`, with a `reason` if one likes.
pub(crate) fn validity_period(answer: Option<Value>, basis: &str) -> Result<ValidityPeriod, PolicyError> {
    let Some(answer) = answer else {
        return Ok(ValidityPeriod { period: Duration::ZERO, decision: undefined(basis) });
    };
    let ValidityShape { allow, period, reason } = read(answer, VALIDITY)?;
    let allow = allow.unwrap_or(true);
    let period = match period {
        Some(text) => {
            let expected = |expected| PolicyError::new(&format!("the period `{text}` is none: {expected}"));
            parse_duration(&text).map_err(expected)?
        }
        None if allow => return Err(PolicyError::new(&format!("the answer has no period, expected {VALIDITY}"))),
        None => Duration::ZERO,
    };
    if allow && period.is_zero() {
        return Err(PolicyError::new("the period `0s` is none: expected more than nothing"));
    }
    Ok(ValidityPeriod { period, decision: decided(allow, reason.as_deref(), basis) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionShape {
    allow: bool,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidityShape {
    allow: Option<bool>,
    period: Option<String>,
    reason: Option<String>,
}

fn read<T: for<'de> Deserialize<'de>>(answer: Value, expected: &str) -> Result<T, PolicyError> {
    let fail = |found: &str| PolicyError::new(&format!("the answer is not of the form {expected}: {found}"));
    // An array of the values in their order would do for serde.
    if !answer.is_object() {
        return Err(fail("it is no object"));
    }
    T::deserialize(answer).map_err(|error| fail(&error.to_string()))
}

fn undefined(basis: &str) -> Decision {
    decided(false, Some("no rule of the policy answers"), basis)
}

fn decided(allow: bool, reason: Option<&str>, basis: &str) -> Decision {
    let decision = if allow {
        Decision::allow(reason.unwrap_or("allowed by the policy"))
    } else {
        Decision::deny(reason.unwrap_or("no reason given"))
    };
    Decision { basis: Some(basis.to_owned()), ..decision }
}

const VALIDITY: &str = r#"{"period": "24h", "reason": "text, optional"} or {"allow": false}"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn allowed(answer: Value) -> Option<bool> {
        decision(Some(answer), "x").ok().map(|decision| decision.is_allowed())
    }

    fn period(answer: Value) -> Option<u64> {
        validity_period(Some(answer), "x")
            .ok()
            .filter(|answer| answer.decision.is_allowed())
            .map(|answer| answer.period.as_secs())
    }

    #[test]
    fn only_the_documented_shapes_are_answers() {
        assert_eq!(allowed(json!({ "allow": true })), Some(true));
        assert_eq!(allowed(json!({ "allow": false, "reason": "no" })), Some(false));
        for wrong in [
            json!(true),
            json!({}),
            json!({ "allow": "true" }),
            json!({ "allow": 1 }),
            json!({ "allow": null }),
            json!([{ "allow": true }]),
            json!([true, "reason"]),
            json!({ "allow": true, "deny": false }),
            json!({ "allow": true, "reason": ["a"] }),
        ] {
            assert_eq!(allowed(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn a_period_is_a_duration_and_more_than_nothing() {
        assert_eq!(period(json!({ "period": "1h30m" })), Some(5400));
        assert_eq!(period(json!({ "period": "24h", "allow": true, "reason": "a day" })), Some(86_400));
        let wrong = [json!({}), json!({ "period": 60 }), json!({ "period": "1 h" }), json!({ "period": "0s" })];
        for wrong in wrong.into_iter().chain([json!("24h"), json!({ "allow": true })]) {
            assert!(validity_period(Some(wrong.clone()), "x").is_err(), "{wrong}");
        }
        let denied = validity_period(Some(json!({ "allow": false, "reason": "not here" })), "x").unwrap().decision;
        assert_eq!((denied.is_allowed(), denied.reason.as_str()), (false, "not here"));
    }

    #[test]
    fn what_the_engine_does_not_answer_is_denied() {
        assert!(!decision(None, "x").unwrap().is_allowed());
        assert!(!validity_period(None, "x").unwrap().decision.is_allowed());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("allow|period|reason|x", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_but_a_plain_true_allows(answer in any_json()) {
            let says_so = answer["allow"] == json!(true);
            prop_assert!(allowed(answer.clone()) != Some(true) || says_so);
            let gives_one = answer["period"].is_string() && answer["allow"] != json!(false);
            prop_assert!(period(answer).is_none() || gives_one);
        }
    }
}
