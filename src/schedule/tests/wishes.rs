//! Wishes, failures, and what cuts a wait short or makes it long.

use super::*;

#[test]
fn credentials_that_change_again_and_again_hurry_no_more_than_once_in_the_minimum_interval() {
    let timing = Timing::default();
    let mut world = World::new(timing, DAY);
    let half = Jitter::new(0.5).unwrap();
    let mut hurried = Vec::new();
    for _ in 0..5 {
        world.schedule.failed(Failure::Refused, world.now, half);
        world.schedule.credential_changed(world.now);
        let wait = world.schedule.until_attempt(world.now);
        world.pass(wait);
        hurried.push(world.now.boot);
    }
    assert!(hurried.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) == timing.min_interval), "{hurried:?}");
    // A CA that asked for patience gets it.
    let asked = Duration::from_secs(90);
    world.schedule.failed(Failure::RateLimited(asked), world.now, half);
    world.schedule.credential_changed(world.now);
    assert!(world.schedule.until_attempt(world.now) >= asked);
}

#[test]
fn other_settings_are_in_force_at_once() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_mins(1), |_| Ok(()));
    let before = world.schedule.next_renewal().unwrap();
    let early = Timing { renew_fraction: Fraction::new(0.1, 0.1).unwrap(), ..Timing::default() };
    world.schedule.reconfigure(early, world.now);
    assert!(world.schedule.next_renewal().unwrap() < before);
    assert_eq!(world.schedule.timing(), early);
    world.schedule.failed(Failure::Refused, world.now, Jitter::new(0.5).unwrap());
    world.schedule.reconfigure(Timing::default(), world.now);
    assert_eq!(world.schedule.until_attempt(world.now), Duration::ZERO);
}

#[test]
fn what_is_no_longer_wanted_is_not_asked_for() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_mins(1), |_| Ok(()));
    world.schedule.request(RenewReason::Changed);
    world.schedule.withdraw(RenewReason::Operator);
    assert!(world.schedule.wanted(world.now).is_some());
    world.schedule.withdraw(RenewReason::Changed);
    assert_eq!(world.schedule.wanted(world.now), None);
}

#[test]
fn no_wish_that_comes_and_goes_hides_what_is_due() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_mins(1), |_| Ok(()));
    world.schedule.request(RenewReason::Operator);
    world.schedule.request(RenewReason::Changed);
    assert_eq!(world.schedule.wanted(world.now), Some(RenewReason::Operator));
    for reason in [RenewReason::Changed, RenewReason::Operator] {
        world.schedule.withdraw(reason);
    }
    assert_eq!(world.schedule.wanted(world.now), None);
    world.pass(DAY);
    assert_eq!(world.schedule.wanted(world.now), Some(RenewReason::Expired));
}

#[test]
fn a_success_ends_the_back_off_and_begins_the_minimum_interval() {
    let timing = Timing::default();
    let mut world = World::new(timing, DAY);
    world.run(Duration::from_mins(10), |_| Err(Failure::Transient));
    assert!(world.schedule.failures() > 5);
    let wait = world.schedule.until_attempt(world.now);
    world.pass(wait);
    world.install();
    assert_eq!(world.schedule.failures(), 0);
    assert_eq!(world.schedule.until_attempt(world.now), timing.min_interval);
    let first = world.schedule.failed(Failure::Transient, world.now, Jitter::new(0.999).unwrap());
    assert!(first <= Duration::from_secs(1), "{first:?}");
}

#[test]
fn refused_agents_do_not_come_back_together() {
    let wait = |jitter| {
        let mut world = World::new(Timing::default(), DAY);
        world.schedule.failed(Failure::Refused, world.now, Jitter::new(jitter).unwrap()).as_secs_f64()
    };
    assert!((wait(0.0) - 225.0).abs() < 1e-6 && (wait(0.5) - 300.0).abs() < 1e-6 && wait(0.999) > 374.0);
}

#[test]
fn a_refusal_just_before_the_end_is_no_reason_to_hurry() {
    let timing = Timing::default();
    // A minute of its life is over when it comes.
    let mut world = World::new(timing, Duration::from_mins(2));
    world.run(Duration::from_secs(1), |_| Ok(()));
    world.pass(Duration::from_secs(55));
    assert!(world.valid());
    let wait = world.schedule.failed(Failure::Refused, world.now, Jitter::new(0.0).unwrap());
    assert!(wait >= timing.min_interval.mul_f64(0.75), "{wait:?}");
}
