//! Owns the reasons for revocation as numbers and names (RFC 5280, section 5.3.1).

use crate::policy::RevocationReason;

/// Every reason with its code and its name.
pub const REVOCATION_REASONS: [(RevocationReason, u8, &str); 6] = [
    (RevocationReason::Unspecified, 0, "unspecified"),
    (RevocationReason::KeyCompromise, 1, "keyCompromise"),
    (RevocationReason::AffiliationChanged, 3, "affiliationChanged"),
    (RevocationReason::Superseded, 4, "superseded"),
    (RevocationReason::CessationOfOperation, 5, "cessationOfOperation"),
    (RevocationReason::PrivilegeWithdrawn, 9, "privilegeWithdrawn"),
];

/// The name of a reason, as `keyCompromise`.
#[must_use]
pub fn reason_name(reason: RevocationReason) -> &'static str {
    REVOCATION_REASONS.iter().find(|row| row.0 == reason).map_or("unspecified", |row| row.2)
}

/// The code of a reason.
pub(crate) fn reason_to_code(reason: RevocationReason) -> u8 {
    REVOCATION_REASONS.iter().find(|row| row.0 == reason).map_or(0, |row| row.1)
}

/// The reason with this code, if it is one of ours.
pub(crate) fn reason_from_code(code: i64) -> Option<RevocationReason> {
    REVOCATION_REASONS.iter().find(|row| i64::from(row.1) == code).map(|row| row.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json_and_codes_go_both_ways() {
        for (reason, code, name) in REVOCATION_REASONS {
            assert_eq!(serde_json::to_value(reason).unwrap(), name);
            assert_eq!(reason_from_code(i64::from(code)), Some(reason));
            assert_eq!((reason_to_code(reason), reason_name(reason)), (code, name));
        }
        assert_eq!(reason_from_code(2), None);
    }
}
