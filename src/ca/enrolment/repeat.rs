//! Owns the answer to a request that comes a second time: the certificate of the first, so that a lost reply costs
//! nothing.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::audit::Audit;
use super::{Credential, EnrolmentError, IssuedCertificate, Requester, Terms};
use crate::ca::authority::Authority;
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::sign::CertifiableKey;
use crate::ca::state::IssuedRecord;
use crate::identity::SubjectAltName;
use crate::identity::bundle::certificates_to_pem;

impl CertificateAuthorityManager {
    /// The certificate that an earlier request got with the same credential, for the same key and names: what a token
    /// was used for, as long as the token lives; what a certificate was renewed to, or a token of a trusted issuer or a
    /// request that is attested got, for as long as `terms` say. Nothing is signed, and no policy asked: the decision of
    /// then stands. A used token is good for nothing else.
    pub(super) async fn repeat(
        &self,
        authority: &Authority,
        requester: &Requester,
        terms: &Terms,
        (key, names): (&CertifiableKey, &BTreeSet<SubjectAltName>),
        audit: &mut Audit<'_>,
    ) -> Result<Option<IssuedCertificate>, EnrolmentError> {
        let now = self.clock.now().wall;
        let asked = Asked { key_digest: key.digest(), names, issuers: authority.issuer_digests(), now };
        let earlier = match &requester.credential {
            Credential::Token(id) => match self.state.issued_for_token(id).await? {
                Some(earlier) if !asked.is_answered_by(&earlier) => return Err(EnrolmentError::TokenUsed),
                earlier => earlier,
            },
            credential @ (Credential::Certificate(id) | Credential::Signed { id, .. }) => {
                let earlier = self.state.issued_before(credential.kind(), id, &asked.key_digest).await?;
                earlier.filter(|earlier| is_recent(earlier, now, terms.repeat_for) && asked.is_answered_by(earlier))
            }
            Credential::Anonymous(_) | Credential::Caller => None,
        };
        let again = earlier.map(|earlier| sent_before(authority, earlier));
        if let Some(again) = &again {
            audit.repeated(again);
        }
        Ok(again)
    }
}

fn sent_before(authority: &Authority, record: IssuedRecord) -> IssuedCertificate {
    let leaf = CertificateDer::from(record.der);
    // Of the issuer of then, which may no longer be the one that signs.
    let chain = authority.chain_of(&record.issuer_digest).unwrap_or_default();
    IssuedCertificate {
        certificate_pem: certificates_to_pem(&[leaf]) + &certificates_to_pem(chain),
        ca_certificate_pem: authority.public().roots_pem.clone(),
        serial: record.serial,
        names: record.names,
        not_before: record.not_before,
        not_after: record.not_after,
        decision_id: record.decision_id,
    }
}

/// A request whose key is proven and whose names are permitted.
struct Asked<'a> {
    key_digest: [u8; 32],
    names: &'a BTreeSet<SubjectAltName>,
    /// Those whose roots are handed out.
    issuers: Vec<[u8; 32]>,
    now: OffsetDateTime,
}

impl Asked<'_> {
    /// Whether `earlier` is what was asked for and still is of use: valid, not revoked, and by an issuer whose root is
    /// handed out.
    fn is_answered_by(&self, earlier: &IssuedRecord) -> bool {
        earlier.key_digest == self.key_digest
            && earlier.names == *self.names
            && self.issuers.contains(&earlier.issuer_digest)
            && self.now < earlier.not_after
            && earlier.revoked_at.is_none()
    }
}

/// After a step of the clock, backwards too, a renewal is a new one.
fn is_recent(earlier: &IssuedRecord, now: OffsetDateTime, window: time::Duration) -> bool {
    (now - earlier.issued_at).abs() < window
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

    fn record(key: u8, names: &BTreeSet<SubjectAltName>, issuer: u8, not_after: OffsetDateTime) -> IssuedRecord {
        IssuedRecord {
            serial: "01".to_owned(),
            worker_id: None,
            names: names.clone(),
            not_before: NOW,
            not_after,
            key_digest: [key; 32],
            issuer_digest: [issuer; 32],
            der: Vec::new(),
            decision_id: String::new(),
            issued_at: NOW,
            revoked_at: None,
        }
    }

    proptest! {
        #[test]
        fn only_the_same_key_names_and_issuer_within_its_life_answer(
            key in 0_u8..2,
            names in proptest::collection::btree_set("[a-b]", 1..3),
            issuer in 0_u8..2,
            left in -2_i64..3,
        ) {
            let one = BTreeSet::from(["a".parse().unwrap()]);
            let names: BTreeSet<SubjectAltName> = names.iter().map(|name| name.parse().unwrap()).collect();
            let asked = Asked { key_digest: [0; 32], names: &one, issuers: vec![[0; 32]], now: NOW };
            let earlier = record(key, &names, issuer, NOW + time::Duration::seconds(left));
            prop_assert_eq!(asked.is_answered_by(&earlier), key == 0 && names == one && issuer == 0 && left > 0);
        }

        #[test]
        fn a_renewal_is_recent_for_ten_minutes_either_way(seconds in -2_000_i64..2_000) {
            let earlier = record(0, &BTreeSet::new(), 0, NOW);
            let recent = is_recent(&earlier, NOW + time::Duration::seconds(seconds), Terms::default().repeat_for);
            prop_assert_eq!(recent, seconds.abs() < 600);
        }
    }
}
