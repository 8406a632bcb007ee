//! Owns the commands by which an operator revokes certificates and orders renewals, beside a serving CA.

use std::sync::Arc;
use std::time::Duration;

use crank_agent::ca::{
    RenewalOrder, RenewalOrders, RevocationError, Revocations, RevokedCertificate, Selector, reason_name,
};
use crank_agent::clock::{Clock, SystemClock};
use crank_agent::policy::DefaultPolicy;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::{CONFIGURATION, Failure};
use crate::revocation_arguments::{Revoke, Rotate, RotationTask};
use crate::say;

/// `crank-ca revoke`.
pub(crate) async fn revoke(revoke: Revoke) -> Result<(), Failure> {
    // All settings, since the policy's say is wanted here too.
    let config = revoke.place.settings()?.resolve()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let policy = config.policy.build(DefaultPolicy::default(), config.environment, Arc::clone(&clock));
    let policy = policy.map_err(|error| Failure::new(CONFIGURATION, &error))?;
    let revocations = Revocations::open(&config.data_dir, &config.database, policy, clock).await?;
    let revoked = match (&revoke.target.serial, &revoke.target.worker) {
        (Some(serial), _) => revocations.revoke_certificate(serial, revoke.reason).await.map(|one| vec![one]),
        (None, Some(worker)) => revocations.revoke_worker(worker, revoke.reason).await,
        (None, None) => Err(RevocationError::UnknownSerial),
    };
    revocations.close().await;
    let line = |revoked: &RevokedCertificate| {
        format!("revoked {} at {} ({})\n", revoked.serial, text(revoked.revoked_at), reason_name(revoked.reason))
    };
    say(&revoked?.iter().map(line).collect::<String>())
}

/// `crank-ca rotate`.
pub(crate) async fn rotate(rotate: Rotate) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Rotate { place, task, within, start, explanation } = rotate;
    let (data_dir, database) = place.resolve()?;
    // The arguments demand both where an order is placed.
    let terms = Terms { within: within.unwrap_or_default(), start, explanation: explanation.unwrap_or_default() };
    let orders = RenewalOrders::open(&data_dir, &database, Arc::clone(&clock)).await?;
    let said = answer(&orders, task, terms, clock.now().wall).await;
    orders.close().await;
    say(&said?)
}

/// When and why to renew.
struct Terms {
    within: Duration,
    start: Option<OffsetDateTime>,
    explanation: String,
}

async fn answer(
    orders: &RenewalOrders,
    task: RotationTask,
    terms: Terms,
    now: OffsetDateTime,
) -> Result<String, Failure> {
    if task.list {
        return Ok(table(&orders.list().await?, now));
    }
    if let Some(id) = &task.cancel {
        if orders.cancel(id).await? {
            return Ok("cancelled\n".to_owned());
        }
        let message = "there is no order in force with this id: see `crank-ca rotate --list`".to_owned();
        return Err(Failure { code: CONFIGURATION, message });
    }
    let selector = if task.all {
        Selector::default()
    } else {
        let bad = |error| Failure::new(CONFIGURATION, &error);
        Selector::matching(&task.conditions).map_err(bad)?
    };
    let placed = orders.place(selector, terms.start, terms.within, &terms.explanation).await?;
    let plural = if placed.certificates == 1 { "" } else { "s" };
    Ok(format!(
        "order {}: {} certificate{plural} to renew from {} to {}\n",
        placed.order.id,
        placed.certificates,
        text(placed.order.start),
        text(placed.order.end),
    ))
}

fn table(orders: &[RenewalOrder], now: OffsetDateTime) -> String {
    let head = format!("{:<22}{:<11}{:<22}{:<22}{:<32}{}\n", "ID", "STATE", "FROM", "TO", "FOR", "EXPLANATION");
    let rows = orders.iter().map(|order| {
        let state = match order {
            order if order.cancelled_at.is_some() => "cancelled",
            order if order.expires_at <= now => "over",
            _ => "in force",
        };
        let selector = order.selector.to_string();
        let (from, to) = (text(order.start), text(order.end));
        format!("{:<22}{state:<11}{from:<22}{to:<22}{selector:<31} {}\n", order.id, order.explanation)
    });
    std::iter::once(head).chain(rows).collect()
}

/// RFC 3339, whole seconds.
fn text(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}
