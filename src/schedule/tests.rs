//! The schedule under simulated time: single decisions, a year of operation, and any sequence of bad clocks.

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;

const DAY: Duration = Duration::from_hours(24);
const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

/// A machine, its clocks and its CA, driven by the schedule.
struct World {
    schedule: Schedule,
    now: Now,
    lifetime: Duration,
    validity: Option<Validity>,
    random: u32,
    attempts: Vec<Duration>,
    issued: u32,
    expiries: u32,
    warnings: u32,
    waits: u32,
    checks: u32,
}

impl World {
    fn new(timing: Timing, lifetime: Duration) -> Self {
        let now = Now { wall: START, boot: Duration::from_secs(100), running: Duration::from_secs(100) };
        Self {
            schedule: Schedule::new(timing),
            now,
            lifetime,
            validity: None,
            random: 12_345,
            attempts: Vec::new(),
            issued: 0,
            expiries: 0,
            warnings: 0,
            waits: 0,
            checks: 0,
        }
    }

    /// A small generator: the tests repeat.
    fn jitter(&mut self) -> Jitter {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Jitter::from_bits(self.random)
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall += time;
        self.now.boot += time;
        self.now.running += time;
    }

    /// Runs for `length` of real time. `ca` answers at a time since boot.
    fn run(&mut self, length: Duration, mut ca: impl FnMut(&Self) -> Result<(), Failure>) {
        let end = self.now.boot + length;
        while self.now.boot < end {
            match self.schedule.step(self.now) {
                Step::Wait(wait) => {
                    assert!(wait >= SHORTEST_WAIT);
                    self.waits += 1;
                    self.pass(wait.min(end.saturating_sub(self.now.boot)));
                }
                Step::Renew(_) => {
                    self.attempts.push(self.now.boot);
                    self.pass(Duration::from_millis(20));
                    match ca(self) {
                        Ok(()) => self.install(),
                        Err(failure) => {
                            let jitter = self.jitter();
                            self.schedule.failed(failure, self.now, jitter);
                        }
                    }
                }
                Step::ReportExpired => self.expiries += 1,
                Step::ReportExpiring => self.warnings += 1,
                Step::Check => self.checks += 1,
                Step::ClockStepped(_) | Step::Suspended(_) => {}
            }
        }
    }

    fn install(&mut self) {
        let not_before = self.now.wall - Duration::from_mins(1);
        let validity = Validity { not_before, not_after: not_before + self.lifetime };
        let record = RenewalRecord::new(self.jitter(), self.now.wall);
        self.validity = Some(validity);
        self.issued += 1;
        self.schedule.installed(validity, record, self.now);
    }

    fn valid(&self) -> bool {
        self.validity.is_some_and(|validity| self.now.wall < validity.not_after)
    }
}

fn validity_of(lifetime: Duration) -> Validity {
    Validity { not_before: START, not_after: START + lifetime }
}

fn record_of(jitter: f64) -> RenewalRecord {
    RenewalRecord::new(Jitter::new(jitter).unwrap(), START)
}

#[test]
fn a_year_long_certificate_is_renewed_on_the_first_day_of_the_last_week() {
    let timing = Timing::default();
    let validity = validity_of(DAY * 365);
    assert_eq!(timing.renewal_instant(validity, record_of(0.0)), START + DAY * 358);
    assert_eq!(timing.renewal_instant(validity, record_of(0.5)), START + DAY * 358 + DAY / 2);
    assert_eq!(timing.warning_instant(validity), START + DAY * 335);
}

#[test]
fn days_before_the_end_are_used_only_where_they_fit_into_the_life() {
    let at = |timing: Timing, days: u32, jitter| {
        let validity = validity_of(DAY * days);
        let after = |instant: OffsetDateTime| ((instant - START).as_seconds_f64() / 864.0).round() / 100.0;
        (after(timing.renewal_instant(validity, record_of(jitter))), after(timing.warning_instant(validity)))
    };
    let hours = |hours| Timing { renew_before: Duration::from_hours(hours), ..Timing::default() };
    // The spread takes at most half of the window.
    let (renewal, _) = at(hours(12), 60, 0.999_999);
    assert!((renewal - 59.75).abs() < 1e-9, "{renewal}");
    // A window of more than half of the life, or a warning before its beginning: parts of the life instead.
    let long = Timing { warn_before: DAY * 32, renew_before: DAY * 21, ..Timing::default() };
    assert_eq!(at(long, 42, 0.0), (21.0, 35.7));
    assert_eq!(at(long, 43, 0.0), (22.0, 11.0));
    let early = Timing { warn_before: DAY * 60, ..Timing::default() };
    assert_eq!(at(early, 60, 0.0), (30.0, 51.0));
    assert_eq!(at(Timing::default(), 30, 0.0), (15.0, 25.5));
}

#[test]
fn short_lives_are_renewed_between_half_and_70_percent() {
    let timing = Timing::default();
    for seconds in [60.0, 120.0, 3600.0, 86_400.0, 30.0 * 86_400.0] {
        let validity = validity_of(Duration::from_secs_f64(seconds));
        let at = |jitter| (timing.renewal_instant(validity, record_of(jitter)) - START).as_seconds_f64();
        assert!((at(0.0) - 0.5 * seconds).abs() < 1e-3);
        assert!((at(0.999_999) - 0.7 * seconds).abs() < 1.0 + seconds * 1e-5);
        let warning = (timing.warning_instant(validity) - START).as_seconds_f64();
        assert!((warning - 0.85 * seconds).abs() < 1e-3);
    }
}

#[test]
fn a_certificate_that_arrives_half_used_up_is_not_renewed_at_once() {
    let timing = Timing::default();
    let record = RenewalRecord::new(Jitter::new(0.0).unwrap(), START + DAY / 2);
    assert_eq!(timing.renewal_instant(validity_of(DAY), record), START + DAY * 3 / 4);
    // Installed by a clock that was wrong: within the life all the same.
    for (installed_at, renewal) in [(START - DAY * 3650, START + DAY / 2), (START + DAY * 3650, START + DAY)] {
        let record = RenewalRecord { installed_at, ..record };
        assert_eq!(timing.renewal_instant(validity_of(DAY), record), renewal);
    }
}

#[test]
fn a_year_of_renewals_outages_and_clock_jumps() {
    let mut world = World::new(Timing::default(), DAY);
    let hour = Duration::from_hours(1);
    for day in 0_u64..365 {
        // Every ninth day the CA is away for six hours; every thirtieth the clock jumps by an hour, both ways.
        let outage = day % 9 == 4;
        world.run(hour * 6, |_| if outage { Err(Failure::Transient) } else { Ok(()) });
        if day % 30 == 10 {
            world.now.wall += hour;
        } else if day % 30 == 20 {
            world.now.wall -= hour;
        }
        world.run(hour * 18, |_| Ok(()));
        assert!(world.valid(), "day {day}");
    }
    assert_eq!(world.expiries, 0);
    // Renewal at 50 to 70 % of a day: between 520 and 730 certificates a year.
    assert!((500..=760).contains(&world.issued), "{}", world.issued);
    // The checks ten times in a certificate's life, and what the renewals and outages add.
    assert!(world.waits < 60_000, "{}", world.waits);
}

#[test]
fn a_certificate_of_a_minute_never_lapses() {
    let mut world = World::new(Timing::default(), Duration::from_mins(2));
    world.run(Duration::from_hours(1), |_| Ok(()));
    assert_eq!(world.expiries, 0);
    assert!(world.issued >= 3600 / 84, "{}", world.issued);
}

#[test]
fn sleeping_past_the_end_of_the_certificate_ends_in_a_valid_one() {
    let mut world = World::new(Timing::default(), DAY / 2);
    world.run(Duration::from_mins(10), |_| Ok(()));
    world.now.wall += Duration::from_hours(16);
    world.now.boot += Duration::from_hours(16);
    assert!(!world.valid());
    assert!(matches!(world.schedule.step(world.now), Step::Suspended(_)));
    world.run(Duration::from_secs(1), |_| Ok(()));
    assert!(world.valid());
    assert_eq!((world.expiries, world.issued), (1, 2));
}

#[test]
fn expiry_is_reported_once_and_attempts_go_on() {
    let mut world = World::new(Timing::default(), DAY * 365);
    world.run(Duration::from_mins(1), |_| Ok(()));
    world.run(DAY * 367, |_| Err(Failure::Transient));
    assert_eq!((world.warnings, world.expiries), (1, 1));
    let outage = world.attempts.len();
    world.run(Duration::from_mins(2), |_| Ok(()));
    assert!(world.valid());
    assert!(world.attempts.len() > outage);
}

#[test]
fn an_operators_request_comes_at_once_and_does_not_repeat_when_refused() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_secs(5), |_| Ok(()));
    world.schedule.request(RenewReason::Operator);
    assert_eq!(world.schedule.step(world.now), Step::Renew(RenewReason::Operator));
    let jitter = world.jitter();
    world.schedule.failed(Failure::Refused, world.now, jitter);
    let before = world.attempts.len();
    world.run(DAY / 3, |_| Ok(()));
    assert_eq!(world.attempts.len(), before);
}

#[test]
fn a_failed_operators_request_backs_off_like_any_other() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_secs(5), |_| Ok(()));
    world.schedule.request(RenewReason::Operator);
    let before = world.attempts.len();
    world.run(Duration::from_hours(1), |_| Err(Failure::Transient));
    let made = world.attempts.len() - before;
    assert!((60..300).contains(&made), "{made}");
}

#[test]
fn retry_after_is_honoured_up_to_an_hour() {
    let mut world = World::new(Timing::default(), DAY);
    let wait =
        world.schedule.failed(Failure::RateLimited(Duration::from_secs(90)), world.now, Jitter::new(0.0).unwrap());
    assert_eq!(wait, Duration::from_secs(90));
    let wait = world.schedule.failed(Failure::RateLimited(DAY * 365), world.now, Jitter::new(0.0).unwrap());
    assert_eq!(wait, RETRY_AFTER_LIMIT);
}

#[test]
fn a_new_credential_ends_the_wait_after_a_refusal() {
    let mut world = World::new(Timing::default(), DAY);
    world.schedule.failed(Failure::Refused, world.now, Jitter::new(0.5).unwrap());
    world.run(Duration::from_secs(30), |_| Ok(()));
    assert_eq!(world.issued, 0);
    world.schedule.credential_changed(world.now);
    world.run(Duration::from_secs(2), |_| Ok(()));
    assert_eq!(world.issued, 1);
}

#[test]
fn a_refusal_leaves_time_for_another_try_before_a_short_certificate_expires() {
    let mut world = World::new(Timing::default(), Duration::from_mins(3));
    world.run(Duration::from_secs(1), |_| Ok(()));
    world.run(Duration::from_secs(118), |_| Err(Failure::Refused));
    assert!(world.attempts.len() >= 3, "{:?}", world.attempts);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the clocks and the CA do, attempts an hour stay bounded.
    #[test]
    fn no_state_of_the_world_makes_it_hot(
        steps in prop::collection::vec((-400_000_i64..400_000, 0_u8..4, 1_u64..1200), 1..40),
        lifetime in 60_u64..200_000,
        seed in any::<u32>(),
    ) {
        let mut world = World::new(Timing::default(), Duration::from_secs(lifetime));
        world.random = seed;
        for (step, answer, seconds) in steps {
            world.now.wall += time::Duration::seconds(step);
            world.run(Duration::from_secs(seconds), |_| match answer {
                0 => Ok(()),
                1 => Err(Failure::Transient),
                2 => Err(Failure::Refused),
                _ => Err(Failure::RateLimited(Duration::ZERO)),
            });
        }
        for (first, attempt) in world.attempts.iter().enumerate() {
            let hour = world.attempts[first..].iter().take_while(|other| other.saturating_sub(*attempt) < Duration::from_hours(1));
            prop_assert!(hour.count() <= 420);
        }
        for pair in world.attempts.windows(2) {
            prop_assert!(pair[1].saturating_sub(pair[0]) >= Duration::from_millis(500));
        }
    }

    #[test]
    fn a_fleet_spreads_evenly(bits in prop::collection::vec(any::<u32>(), 1000)) {
        let timing = Timing::default();
        let validity = validity_of(DAY);
        let mut per_bucket = [0_u32; 10];
        for bits in bits {
            let record = RenewalRecord::new(Jitter::from_bits(bits), START);
            let part = (timing.renewal_instant(validity, record) - START).as_seconds_f64() / 86_400.0;
            let bucket = (1..10).filter(|edge| part >= 0.5 + 0.02 * f64::from(*edge)).count();
            per_bucket[bucket] += 1;
        }
        // 1,000 over ten buckets: 100 each, and far from empty or double anywhere.
        prop_assert!(per_bucket.iter().all(|count| (40..200).contains(count)), "{per_bucket:?}");
    }
}

mod clock;
mod suggestions;
mod wishes;
