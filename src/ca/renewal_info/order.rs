//! Owns orders to renew: placed by the operator, spread over a window, in force until the last certificate they are for
//! has ended.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Selector, Subject};
use crate::ca::authority::{Authority, AuthorityError};
use crate::ca::state::{Database, State, StateError};
use crate::clock::Clock;
use crate::printable::{FOREIGN_TEXT_LIMIT, hex, printable};

/// An order: whatever matches and was issued before it renews within its window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalOrder {
    /// `ord_` and 16 hexadecimal digits.
    pub id: String,
    /// Whom it is for.
    pub selector: Selector,
    /// Why; one printable line, which the agents log.
    pub explanation: String,
    /// Who placed it: `operator`.
    pub actor: String,
    /// From when on certificates are renewed.
    pub start: OffsetDateTime,
    /// By when they are to be.
    pub end: OffsetDateTime,
    /// When it was placed.
    pub created_at: OffsetDateTime,
    /// When the last certificate that it is for ends; from then on it means nothing.
    pub expires_at: OffsetDateTime,
    /// When it was taken back.
    pub cancelled_at: Option<OffsetDateTime>,
}

/// An order that was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedOrder {
    /// The order.
    pub order: RenewalOrder,
    /// How many certificates in force it is for.
    pub certificates: u64,
}

/// An order that cannot be placed, listed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The window is out of range.
    #[error("window: expected 1s to 90d, beginning within a year")]
    Window,
    /// Nothing to renew.
    #[error("no certificate in force matches `{0}`")]
    NothingMatches(String),
    /// More than anybody needs, and each costs at every question.
    #[error("there are {ORDERS_LIMIT} orders in force: cancel some of them first")]
    TooMany,
    /// The random source failed.
    #[error("cannot draw an id")]
    Random,
    /// There is no CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The record failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl OrderError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Window | Self::TooMany => "order_option",
            Self::NothingMatches(_) => "order_matches_nothing",
            Self::Random => "order_random",
            Self::Authority(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }
}

impl RenewalOrder {
    /// Whether the certificate shall be renewed for this order. Its successor will not.
    pub(crate) fn is_for(&self, subject: &Subject) -> bool {
        subject.issued_at <= self.created_at && self.selector.matches(subject)
    }
}

/// The orders to renew of one CA. Works on its record, in the same process as a serving CA or in another, which takes
/// note within a second. Needs no key.
#[derive(Clone)]
pub struct RenewalOrders {
    state: State,
    clock: Arc<dyn Clock>,
}

impl RenewalOrders {
    /// Those of the CA under `data_dir`.
    ///
    /// # Errors
    /// When there is no CA, or its database does not open.
    pub async fn open(data_dir: &Path, database: &Database, clock: Arc<dyn Clock>) -> Result<Self, OrderError> {
        if !Authority::exists(data_dir) {
            return Err(AuthorityError::Missing(data_dir.to_owned()).into());
        }
        Ok(Self::new(State::open(data_dir, database).await?, clock))
    }

    pub(crate) fn new(state: State, clock: Arc<dyn Clock>) -> Self {
        Self { state, clock }
    }

    /// How many certificates in force an order with this selector would be for now.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn count(&self, selector: &Selector) -> Result<u64, OrderError> {
        Ok(self.survey(selector, self.clock.now().wall).await?.0)
    }

    /// Orders that what matches now renews between `start` (now, where none is given) and `within` (1 s to 90 days)
    /// later. Each certificate gets a share of that time.
    ///
    /// # Errors
    /// When the window is out of range, nothing matches, there are too many orders, or the record fails.
    pub async fn place(
        &self,
        selector: Selector,
        start: Option<OffsetDateTime>,
        within: Duration,
        explanation: &str,
    ) -> Result<PlacedOrder, OrderError> {
        let now = self.clock.now().wall;
        let start = start.unwrap_or(now);
        if !(SHORTEST..=LONGEST).contains(&within) || (start - now).abs() > FARTHEST {
            return Err(OrderError::Window);
        }
        let (certificates, last) = self.survey(&selector, now).await?;
        let Some(expires_at) = last else { return Err(OrderError::NothingMatches(selector.to_string())) };
        let mut id = [0; 8];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| OrderError::Random)?;
        let order = RenewalOrder {
            id: format!("ord_{}", hex(&id)),
            selector,
            explanation: printable(explanation.trim(), FOREIGN_TEXT_LIMIT),
            actor: "operator".to_owned(),
            start,
            end: start + within,
            created_at: now,
            expires_at,
            cancelled_at: None,
        };
        if self.state.add_order(&order, ORDERS_LIMIT).await? {
            Ok(PlacedOrder { order, certificates })
        } else {
            Err(OrderError::TooMany)
        }
    }

    /// Takes an order back: whoever has not renewed yet goes on as before. `false` when there is none with this id, or
    /// it was taken back before.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn cancel(&self, id: &str) -> Result<bool, OrderError> {
        Ok(self.state.cancel_order(id, self.clock.now().wall).await?)
    }

    /// The newest orders first, at most 1,000.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn list(&self) -> Result<Vec<RenewalOrder>, OrderError> {
        Ok(self.state.orders(LIST_LIMIT).await?)
    }

    /// Closes the database.
    pub async fn close(self) {
        self.state.close().await;
    }

    /// How many certificates in force match, and when the last of them ends.
    async fn survey(
        &self,
        selector: &Selector,
        now: OffsetDateTime,
    ) -> Result<(u64, Option<OffsetDateTime>), StateError> {
        let (mut count, mut last) = (0, None);
        let mut after = String::new();
        loop {
            let page = self.state.subjects(now, &after, PAGE).await?;
            for subject in page.iter().filter(|subject| selector.matches(subject)) {
                count += 1;
                last = last.max(Some(subject.not_after));
            }
            match page.last() {
                Some(subject) => after.clone_from(&subject.serial),
                None => return Ok((count, last)),
            }
        }
    }
}

impl fmt::Debug for RenewalOrders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewalOrders").finish_non_exhaustive()
    }
}

/// The most orders in force.
pub(crate) const ORDERS_LIMIT: u32 = 256;

const LIST_LIMIT: u32 = 1_000;

const PAGE: u32 = 2_000;

const SHORTEST: Duration = Duration::from_secs(1);

const LONGEST: Duration = Duration::from_hours(90 * 24);

const FARTHEST: time::Duration = time::Duration::days(365);
