//! Owns how often anybody may ask: budgets for each source and each worker, and the number of a source's connections.
//!
//! A connection costs its source one unit, a request one more, and a request that is refused [`failure_cost`] more. The
//! budget of a source is looked at before anything is verified, that of a worker once it is known who asks. A source
//! that has spent its burst is answered 429; one that owes twice as much, as only failures make it, is hung up on before
//! the handshake. What is counted takes the same memory whoever comes: see [`table`].
//!
//! [`failure_cost`]: RequestLimits::failure_cost

mod bucket;
mod settings;
mod source;
mod table;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::identity::WorkerId;

pub use bucket::Budget;
pub use settings::LimitSettings;
use source::Connections;
pub(super) use source::{Place, Source};
use table::Table;

/// How often anybody may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// For each source: an IPv4 address, or the /64 of an IPv6 address.
    pub source: Budget,
    /// For each worker.
    pub worker: Budget,
    /// What a failure costs beside the request.
    pub failure_cost: u32,
    /// The most connections of one source at a time; half of all where none is set.
    pub connections_per_source: Option<usize>,
}

impl Default for RequestLimits {
    /// No fleet of ten thousand notices, not even one that starts at once behind one address, or a worker that runs as
    /// five thousand replicas; and whoever guesses gets some ninety answers a second.
    fn default() -> Self {
        Self {
            source: Budget { rate: 1_000, burst: 30_000 },
            worker: Budget { rate: 5, burst: 5_000 },
            failure_cost: 10,
            connections_per_source: None,
        }
    }
}

/// The accounts of one serving CA.
#[derive(Debug)]
pub(super) struct Limits {
    sources: Table,
    workers: Table,
    connections: Connections,
    failure_cost: u32,
    clock: Arc<dyn Clock>,
}

/// Too many requests: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// The whole seconds to wait, at least 1.
    pub(super) seconds: u64,
}

impl Limits {
    /// Accounts on which nobody owes anything.
    pub(super) fn new(limits: &RequestLimits, max_connections: usize, clock: Arc<dyn Clock>) -> Self {
        let most = limits.connections_per_source.unwrap_or_else(|| max_connections.div_ceil(2));
        Self {
            sources: Table::new(limits.source),
            workers: Table::new(limits.worker),
            connections: Connections::new(most),
            failure_cost: limits.failure_cost,
            clock,
        }
    }

    /// A place for a connection of `source`; `None` when it has too many, or owes too much for even a refusal.
    pub(super) fn connect(&self, source: Source) -> Option<Place> {
        let place = self.connections.open(source)?;
        self.sources.take_overdrawn(&source, 1, self.now()).ok()?;
        Some(place)
    }

    /// A request of `source`.
    pub(super) fn source_asks(&self, source: Source) -> Result<(), Wait> {
        self.sources.take(&source, 1, self.now()).map_err(Wait::at_least)
    }

    /// A request of `source`, or its handshake, has failed by its own doing.
    pub(super) fn source_failed(&self, source: Source) {
        self.sources.charge(&source, self.failure_cost, self.now());
    }

    /// A request of `worker`, who has proven to be that.
    pub(super) fn worker_asks(&self, worker: &WorkerId) -> Result<(), Wait> {
        self.workers.take(worker, 1, self.now()).map_err(Wait::at_least)
    }

    /// A request of `worker` has failed by its own doing.
    pub(super) fn worker_failed(&self, worker: &WorkerId) {
        self.workers.charge(worker, self.failure_cost, self.now());
    }

    /// A clock that no operator sets and no suspend stops.
    fn now(&self) -> Duration {
        self.clock.now().boot
    }
}

impl Wait {
    /// At least `wait`, and at most twice that and a second: those who are refused together shall not come back together.
    fn at_least(wait: Duration) -> Self {
        let mut random = [0; 2];
        // Without randomness they come back together.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self::spread(wait, f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
    }

    fn spread(wait: Duration, share: f64) -> Self {
        let spread = wait.mul_f64(1.0 + share.clamp(0.0, 1.0));
        Self { seconds: spread.as_secs() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::testing::TestClock;

    fn limits(source: Budget, worker: Budget) -> (Limits, Arc<TestClock>) {
        let clock = Arc::new(TestClock::at(time::OffsetDateTime::UNIX_EPOCH));
        let limits = RequestLimits { source, worker, failure_cost: 10, connections_per_source: None };
        (Limits::new(&limits, 8, Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    fn source() -> Source {
        Source::of("10.0.0.1".parse().unwrap())
    }

    const BUDGET: Budget = Budget { rate: 1, burst: 20 };

    #[tokio::test(start_paused = true)]
    async fn a_source_is_refused_after_its_burst_and_hung_up_on_when_it_owes_twice_as_much() {
        let (limits, _clock) = limits(BUDGET, BUDGET);
        for _ in 0..20 {
            assert!(limits.source_asks(source()).is_ok());
        }
        assert!(limits.source_asks(source()).is_err());
        assert!(limits.connect(source()).is_some());
        limits.source_failed(source());
        limits.source_failed(source());
        assert!(limits.connect(source()).is_none());
        assert!(limits.connect(Source::of("10.0.0.2".parse().unwrap())).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(limits.connect(source()).is_some());
        assert!(limits.source_asks(source()).is_err());
        tokio::time::advance(Duration::from_secs(21)).await;
        assert!(limits.source_asks(source()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_holds_half_of_the_connections() {
        let (limits, _clock) = limits(Budget { rate: 0, burst: 1 }, BUDGET);
        let held: Vec<Place> = (0..4).map(|_| limits.connect(source()).unwrap()).collect();
        assert!(limits.connect(source()).is_none());
        assert!(limits.connect(Source::of("10.0.0.2".parse().unwrap())).is_some());
        drop(held);
        assert!(limits.connect(source()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_cost_a_worker_more_than_successes() {
        let (limits, _clock) = limits(BUDGET, BUDGET);
        let worker = WorkerId::new("streaming").unwrap();
        for _ in 0..2 {
            assert!(limits.worker_asks(&worker).is_ok());
            limits.worker_failed(&worker);
        }
        assert!(limits.worker_asks(&worker).is_err());
        assert!(limits.worker_asks(&WorkerId::new("other").unwrap()).is_ok());
    }

    /// Ten thousand agents behind one address, each with a connection and a request, all within ten seconds.
    #[tokio::test(start_paused = true)]
    async fn no_normal_fleet_notices_the_defaults() {
        let clock = Arc::new(TestClock::at(time::OffsetDateTime::UNIX_EPOCH));
        let limits = Limits::new(&RequestLimits::default(), 1024, clock);
        for number in 0..10_000 {
            let worker = WorkerId::new(&format!("worker-{number}")).unwrap();
            assert!(limits.connect(source()).is_some());
            assert!(limits.source_asks(source()).is_ok() && limits.worker_asks(&worker).is_ok());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    proptest! {
        #[test]
        fn nobody_is_told_to_come_back_too_early(milliseconds in 0_u64..10_000_000, share in 0.0_f64..=1.0) {
            let wait = Duration::from_millis(milliseconds);
            let told = Duration::from_secs(Wait::spread(wait, share).seconds);
            prop_assert!(told > wait && told <= wait * 2 + Duration::from_secs(1));
        }
    }
}
