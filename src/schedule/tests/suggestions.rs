//! What a CA may wish: windows and revocations.

use super::*;
use crate::policy::RevocationReason;

const REVOCATION: Revocation = Revocation { at: START, reason: RevocationReason::KeyCompromise };

fn window(from: i64, to: i64) -> Window {
    let at = |seconds| START + time::Duration::seconds(seconds);
    Window::new(at(from), at(to)).unwrap()
}

fn day_old_world() -> World {
    let mut world = World::new(Timing::default(), DAY * 365);
    world.run(DAY, |_| Ok(()));
    assert_eq!(world.issued, 1);
    world
}

/// Why there would be an attempt now.
fn reason(world: &mut World) -> Option<RenewReason> {
    loop {
        match world.schedule.step(world.now) {
            Step::Check => {}
            Step::Renew(reason) => return Some(reason),
            _ => return None,
        }
    }
}

#[test]
fn a_window_is_renewed_in_at_an_instant_drawn_once() {
    let mut world = day_old_world();
    let day = 86_400;
    let record = world.schedule.suggest(window(2 * day, 3 * day), Jitter::new(0.25).unwrap()).unwrap();
    assert_eq!(record.suggestion.unwrap().at, START + DAY * 9 / 4);
    // The same window again is no news, whatever is drawn.
    assert_eq!(world.schedule.suggest(window(2 * day, 3 * day), Jitter::new(0.9).unwrap()), None);
    assert_eq!(world.schedule.hastened(), record.suggestion);
    world.run(Duration::from_secs(86_400 * 5 / 4 - 2), |_| Ok(()));
    assert_eq!(world.issued, 1);
    world.run(Duration::from_secs(10), |_| Ok(()));
    assert_eq!(world.issued, 2);
}

#[test]
fn a_window_in_the_past_is_now() {
    let mut world = day_old_world();
    world.schedule.suggest(window(-100, -50), Jitter::new(0.5).unwrap()).unwrap();
    assert_eq!(reason(&mut world), Some(RenewReason::Suggested));
}

#[test]
fn a_window_that_was_taken_back_counts_no_longer() {
    let mut world = day_old_world();
    world.schedule.suggest(window(90_000, 100_000), Jitter::LEAST).unwrap();
    world.schedule.suggest(window(86_400 * 400, 86_400 * 401), Jitter::LEAST).unwrap();
    assert_eq!(world.schedule.hastened(), None);
    world.run(DAY * 10, |_| Ok(()));
    assert_eq!(world.issued, 1);
}

#[test]
fn a_window_in_the_last_week_is_what_the_agent_does_anyway() {
    let mut world = day_old_world();
    let validity = world.validity.unwrap();
    let last_week = Window::new(validity.not_after - DAY * 7, validity.not_after).unwrap();
    world.schedule.suggest(last_week, Jitter::LEAST).unwrap();
    assert_eq!(world.schedule.hastened(), None);
}

#[test]
fn a_revoked_certificate_is_replaced_at_once_and_the_next_is_not() {
    let mut world = day_old_world();
    assert!(world.schedule.revoked(REVOCATION).is_some());
    assert_eq!(world.schedule.revoked(REVOCATION), None);
    assert_eq!(reason(&mut world), Some(RenewReason::Revoked));
    world.run(DAY, |_| Ok(()));
    assert_eq!(world.issued, 2);
}

#[test]
fn refusals_of_a_revoked_certificate_are_met_with_patience() {
    let mut world = day_old_world();
    world.schedule.revoked(REVOCATION);
    let before = world.attempts.len();
    world.run(Duration::from_hours(1), |_| Err(Failure::Refused));
    assert!((9..=17).contains(&(world.attempts.len() - before)), "{}", world.attempts.len());
}

#[test]
fn wishes_far_apart_are_each_followed_at_once() {
    let mut world = day_old_world();
    for month in 0..12 {
        world.run(DAY * 20, |_| Ok(()));
        world.schedule.suggest(window(-100 - month, -50), Jitter::LEAST).unwrap();
        let asked = world.now.boot;
        world.run(Duration::from_secs(1), |_| Ok(()));
        assert!(world.attempts.last().is_some_and(|attempt| *attempt == asked), "{month}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    Suggest(i64, i64),
    Revoke,
    Nothing,
}

fn any_wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        (-10_000_000_i64..10_000_000, 1_i64..1_000_000).prop_map(|(from, length)| Wish::Suggest(from, from + length)),
        Just(Wish::Suggest(-10, -5)),
        Just(Wish::Revoke),
        Just(Wish::Nothing),
    ]
}

proptest! {
    #[test]
    fn no_wish_delays_a_renewal(from in -100_i64 * 86_400..500 * 86_400, length in 1_i64..86_400 * 3_000, bits: u32, own: u32) {
        let timing = Timing::default();
        for lifetime in [DAY, DAY * 365] {
            let (validity, mut record) = (validity_of(lifetime), RenewalRecord::new(Jitter::from_bits(own), START));
            let before = timing.renewal_instant(validity, record);
            let window = window(from, from + length);
            record.suggestion = Some(Suggestion { window, at: window.draw(Jitter::from_bits(bits)) });
            prop_assert!(timing.renewal_instant(validity, record) <= before);
            prop_assert_eq!(timing.own_renewal_instant(validity, record), before);
        }
    }

    #[test]
    fn no_wishes_of_a_ca_make_a_hot_loop(
        wishes in prop::collection::vec(any_wish(), 1..20), refuses in prop::collection::vec(any::<bool>(), 1..7),
    ) {
        let mut world = day_old_world();
        let before = world.attempts.len();
        // A wish for every certificate as soon as it is there, a thousand times a minute, for twelve hours.
        let mut wishes = wishes.into_iter().cycle();
        let mut answers = refuses.into_iter().cycle();
        for _ in 0..12 * 60 {
            for _ in 0..3 {
                match wishes.next().unwrap() {
                    Wish::Suggest(from, to) => drop(world.schedule.suggest(window(from, to), Jitter::LEAST)),
                    Wish::Revoke => drop(world.schedule.revoked(REVOCATION)),
                    Wish::Nothing => {}
                }
                let refused = answers.next().unwrap();
                world.run(Duration::from_secs(20), |_| if refused { Err(Failure::Transient) } else { Ok(()) });
            }
        }
        let attempts = &world.attempts[before..];
        // 10 s, 20 s, 40 s … an hour between those that succeed; transient failures in between back off as ever.
        prop_assert!(world.issued <= 1 + 10 + 12, "{}", world.issued);
        for pair in attempts.windows(2) {
            prop_assert!(pair[1].saturating_sub(pair[0]) >= Duration::from_millis(500));
        }
        for (first, attempt) in attempts.iter().enumerate() {
            let hour = attempts[first..].iter().take_while(|other| other.saturating_sub(*attempt) < Duration::from_hours(1));
            prop_assert!(hour.count() <= 420);
        }
    }
}
