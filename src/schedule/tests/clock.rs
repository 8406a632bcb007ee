//! When it wakes, and what it tells of the clock.

use super::*;

#[test]
fn it_wakes_at_the_instants_of_the_certificate() {
    let timing = Timing::default();
    let mut world = World::new(timing, DAY * 365);
    world.run(Duration::from_mins(1), |_| Ok(()));
    let warning = timing.warning_instant(world.validity.unwrap());
    let (margin, hour) = (Duration::from_secs(100), Duration::from_hours(1));
    let until_warning = Duration::try_from(warning - world.now.wall).unwrap();
    world.run(until_warning.saturating_sub(margin), |_| Ok(()));
    // Just checked, so that the next regular check is an hour away.
    world.schedule.request_check(world.now);
    world.run(Duration::from_secs(2), |_| Ok(()));
    let Step::Wait(wait) = world.schedule.step(world.now) else { panic!("nothing is to be done yet") };
    assert!(wait <= margin && wait < hour, "{wait:?}");
    world.pass(wait);
    assert_eq!(world.schedule.step(world.now), Step::ReportExpiring);
}

#[test]
fn clock_steps_both_ways_and_suspends_are_told_once_and_small_ones_are_not() {
    let mut world = World::new(Timing::default(), DAY);
    world.run(Duration::from_mins(1), |_| Ok(()));
    for seconds in [11_i64, -11, 86_400, -86_400] {
        world.now.wall += time::Duration::seconds(seconds);
        let Step::ClockStepped(step) = world.schedule.step(world.now) else { panic!("a step of {seconds} s") };
        assert!((step - f64::from(i32::try_from(seconds).unwrap())).abs() < 1e-3, "{step}");
        assert!(!matches!(world.schedule.step(world.now), Step::ClockStepped(_)), "told twice");
    }
    let slept = Duration::from_secs(11);
    world.now.wall += slept;
    world.now.boot += slept;
    assert_eq!(world.schedule.step(world.now), Step::Suspended(slept));
    world.now.wall += Duration::from_secs(9);
    world.now.boot += Duration::from_secs(9);
    world.now.wall += time::Duration::seconds(9);
    assert!(!matches!(world.schedule.step(world.now), Step::ClockStepped(_) | Step::Suspended(_)));
}

#[test]
fn after_a_step_back_the_next_crossing_is_news_again() {
    let mut world = World::new(Timing::default(), DAY * 365);
    world.run(Duration::from_mins(1), |_| Ok(()));
    let told = |world: &mut World, to: i64| {
        world.now.wall = world.validity.unwrap().not_before + time::Duration::days(to);
        // What is due is not granted, so that the certificate stays.
        world.run(Duration::from_secs(1), |_| Err(Failure::Transient));
        (world.warnings, world.expiries)
    };
    assert_eq!(told(&mut world, 366), (0, 1), "expiry says it all");
    assert_eq!(told(&mut world, 367), (0, 1));
    // Back before the warning, and over each line again.
    assert_eq!(told(&mut world, 300), (0, 1));
    assert_eq!(told(&mut world, 340), (1, 1));
    assert_eq!(told(&mut world, 366), (1, 2));
    assert_eq!(told(&mut world, 340), (1, 2));
    assert_eq!(told(&mut world, 366), (1, 3));
    assert_eq!(told(&mut world, 300), (1, 3));
    assert_eq!(told(&mut world, 340), (2, 3));
}

#[test]
fn short_certificates_are_checked_ten_times_in_their_life_but_not_hotly() {
    for (lifetime, length, checks) in [(DAY / 24, DAY / 48, 5..=7), (Duration::from_mins(2), DAY / 48, 50..=65)] {
        let mut world = World::new(Timing::default(), lifetime);
        world.run(length, |_| Ok(()));
        assert!(checks.contains(&world.checks), "{} of {lifetime:?}", world.checks);
    }
}
