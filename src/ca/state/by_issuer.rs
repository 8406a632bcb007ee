//! Owns what the record tells of the certificates of one issuer.

use time::OffsetDateTime;

use super::backend::on;
use super::{State, StateError, failed};

impl State {
    /// How many certificates of workers the issuing certificate with this SHA-256 has signed that have not expired at
    /// `now`.
    pub(crate) async fn unexpired_by_issuer(
        &self,
        issuer_digest: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<u64, StateError> {
        let (count,): (i64,) = on!(Pool, &self.readers, pool => {
            sqlx::query_as(
                "SELECT count(*) FROM certificates \
                 WHERE not_after > $1 AND issuer_digest = $2 AND purpose = 'worker' AND status = 'issued'",
            )
            .bind(now.unix_timestamp())
            .bind(&issuer_digest[..])
            .fetch_one(pool)
            .await
            .map_err(failed("count certificates of an issuer"))?
        });
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
