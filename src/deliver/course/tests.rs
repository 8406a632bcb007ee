use std::time::Duration;

use proptest::prelude::*;

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A course that has seen one publication at 100 s.
fn course(acts: bool, proven: bool) -> Course {
    with_row(acts, proven, 1)
}

fn with_row(acts: bool, proven: bool, row: u32) -> Course {
    let proof = proven.then_some(Proof { served_within: s(10), interval: s(60), row });
    let plan = Plan { acts, attempts: 3, proof };
    let mut course = Course::idle(plan);
    assert_eq!(course.step(s(0)), Step::Wait(None));
    course.publish(s(100));
    course
}

/// Performs the steps until `end`, with answers that are always the same. Returns what was done, and when.
fn drive(
    course: &mut Course,
    from: Duration,
    end: Duration,
    acted: Acted,
    seen: Seen,
) -> Vec<(Duration, Step, Option<News>)> {
    let (mut now, mut log) = (from, Vec::new());
    loop {
        let step = course.step(now);
        match step {
            Step::Act => log.push((now, step, course.acted(now, acted))),
            Step::Probe => log.push((now, step, course.probed(now, seen))),
            Step::Wait(Some(at)) if at <= end => now = at,
            Step::Wait(_) => return log,
        }
        assert!(log.len() < 10_000, "it runs hot: {:?}", &log[log.len() - 3..]);
    }
}

fn news(log: &[(Duration, Step, Option<News>)]) -> Vec<(Duration, News)> {
    log.iter().filter_map(|(at, _, news)| news.map(|news| (*at, news))).collect()
}

fn acts(log: &[(Duration, Step, Option<News>)]) -> Vec<u64> {
    log.iter().filter(|(_, step, _)| *step == Step::Act).map(|(at, ..)| at.as_secs()).collect()
}

#[test]
fn a_worker_that_is_told_and_not_looked_at_is_told_once() {
    let mut course = course(true, false);
    let log = drive(&mut course, s(100), s(100_000), Acted::Done, Seen::Published);
    assert_eq!(log, [(s(100), Step::Act, Some(News::Delivered(s(0))))]);
    assert_eq!(course.verdict(), Verdict::Delivered);
}

#[test]
fn an_action_that_fails_is_tried_with_back_off_told_once_and_never_given_up() {
    let mut course = course(true, false);
    let log = drive(&mut course, s(100), s(100 + 4 * 3_600), Acted::Failed, Seen::Published);
    assert_eq!(acts(&log)[..7], [100, 101, 103, 163, 283, 523, 1_003]);
    assert_eq!(news(&log), [(s(103), News::Failed)]);
    assert!(course.is_settled());
    // At last once an hour.
    let times = acts(&log);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 3_600));
    let now = s(100 + 4 * 3_600);
    assert!(matches!(course.acted(now, Acted::Done), Some(News::Delivered(age)) if age == s(4 * 3_600)));
}

#[test]
fn where_there_is_nobody_to_tell_nothing_is_reported() {
    let mut course = course(true, false);
    let log = drive(&mut course, s(100), s(100_000), Acted::Nobody, Seen::Published);
    assert_eq!((acts(&log), news(&log)), (vec![100, 101, 103], vec![]));
    assert_eq!(course.verdict(), Verdict::Nobody);
}

#[test]
fn a_worker_that_serves_the_certificate_is_seen_at_once_and_watched_on() {
    let mut course = course(true, true);
    let log = drive(&mut course, s(100), s(280), Acted::Done, Seen::Published);
    let probe = |at, news| (s(at), Step::Probe, news);
    let told = Some(News::Delivered(s(0)));
    assert_eq!(
        log,
        [(s(100), Step::Act, None), probe(100, told), probe(160, None), probe(220, None), probe(280, None)]
    );
}

#[test]
fn a_worker_is_believed_once_it_was_seen_in_a_row_and_counts_from_the_first_of_it() {
    let mut course = with_row(true, true, 3);
    course.acted(s(100), Acted::Done);
    let at = |milliseconds| s(100) + Duration::from_millis(milliseconds);
    // One of its processes has the next certificate, another the one before.
    assert_eq!(course.probed(at(10), Seen::Published), None);
    assert_eq!(course.step(at(10)), Step::Wait(Some(at(60))));
    assert_eq!(course.probed(at(60), Seen::Published), None);
    assert_eq!(course.probed(at(110), Seen::Other), None);
    assert_eq!(course.verdict(), Verdict::Pending);
    assert_eq!(course.probed(at(200), Seen::Published), None);
    assert_eq!(course.probed(at(250), Seen::Published), None);
    assert_eq!(course.verdict(), Verdict::Pending);
    assert_eq!(course.probed(at(300), Seen::Published), Some(News::Delivered(Duration::from_millis(200))));
    assert_eq!(course.step(at(300)), Step::Wait(Some(at(300) + s(60))));
    // From then on one look is enough to stay believed, and one to be doubted.
    assert_eq!(course.probed(s(161), Seen::Published), None);
    assert_eq!(course.verdict(), Verdict::Served);
    course.probed(s(221), Seen::Other);
    assert_eq!(course.verdict(), Verdict::Pending);
}

#[test]
fn a_worker_that_does_not_follow_is_told_again_and_then_reported_once() {
    let mut course = course(true, true);
    let log = drive(&mut course, s(100), s(130), Acted::Done, Seen::Other);
    assert_eq!(acts(&log)[0], 100);
    assert_eq!(acts(&log).len(), 3);
    let reported = news(&log);
    assert!(matches!(reported[..], [(at, News::NotServed)] if at >= s(129)), "{reported:?}");
    assert_eq!(course.verdict(), Verdict::NotServed);
    // It is told on, ever more seldom, and seen as soon as it follows.
    let later = drive(&mut course, s(130), s(130 + 3_600), Acted::Done, Seen::Other);
    assert_eq!(news(&later), []);
    assert!((3..10).contains(&acts(&later).len()), "{:?}", acts(&later));
    assert!(matches!(course.probed(s(4_000), Seen::Published), Some(News::Delivered(_))));
}

#[test]
fn a_worker_that_falls_back_is_noticed_told_and_reported() {
    let mut course = course(true, true);
    drive(&mut course, s(100), s(220), Acted::Done, Seen::Published);
    let log = drive(&mut course, s(220), s(400), Acted::Done, Seen::Other);
    assert_eq!(acts(&log)[0], 280);
    assert!(matches!(news(&log)[..], [(_, News::NotServed)]), "{:?}", news(&log));
    // Without an action there is only patience.
    let mut course = self::course(false, true);
    drive(&mut course, s(100), s(220), Acted::Done, Seen::Published);
    let log = drive(&mut course, s(220), s(400), Acted::Done, Seen::Other);
    assert_eq!(acts(&log), [] as [u64; 0]);
    assert!(matches!(news(&log)[..], [(at, News::NotServed)] if (s(290)..s(293)).contains(&at)), "{:?}", news(&log));
}

#[test]
fn a_worker_that_cannot_be_reached_is_no_worker_that_serves_another() {
    let mut course = course(true, true);
    let log = drive(&mut course, s(100), s(1_000), Acted::Done, Seen::Unreachable);
    assert_eq!((acts(&log), news(&log)), (vec![100], vec![]));
    assert_eq!(course.verdict(), Verdict::Unreachable);
    // It comes up with an old certificate.
    let log = drive(&mut course, s(1_000), s(1_080), Acted::Done, Seen::Other);
    assert_eq!(acts(&log).len(), 3);
    assert!(matches!(news(&log)[..], [(_, News::NotServed)]));
}

#[test]
fn a_new_publication_begins_anew() {
    let mut course = course(true, true);
    drive(&mut course, s(100), s(200), Acted::Done, Seen::Other);
    course.publish(s(200));
    assert_eq!((course.step(s(200)), course.verdict()), (Step::Act, Verdict::Pending));
    let log = drive(&mut course, s(200), s(260), Acted::Done, Seen::Other);
    assert!(matches!(news(&log)[..], [(_, News::NotServed)]));
    course.withdraw();
    assert_eq!(course.step(s(10_000)), Step::Wait(None));
}

proptest! {
    /// Whatever happens: no step comes back at once more than a few times, nothing is reported twice in a row, and while a
    /// publication stands there is always something to come.
    #[test]
    fn no_course_runs_hot_repeats_itself_or_stalls(
        acts in any::<bool>(),
        proven in any::<bool>(),
        row in 1..4_u32,
        answers in prop::collection::vec((0..3_u8, 0..3_u8), 1..200),
    ) {
        prop_assume!(acts || proven);
        let mut course = with_row(acts, proven, row);
        let (mut now, mut last_news, mut at_once) = (s(100), None, 0);
        for (acted, seen) in answers {
            let acted = [Acted::Done, Acted::Nobody, Acted::Failed][usize::from(acted)];
            let seen = [Seen::Published, Seen::Other, Seen::Unreachable][usize::from(seen)];
            let news = match course.step(now) {
                Step::Act => course.acted(now, acted),
                Step::Probe => course.probed(now, seen),
                Step::Wait(Some(at)) => {
                    prop_assert!(at > now);
                    (now, at_once) = (at, 0);
                    continue;
                }
                Step::Wait(None) => {
                    prop_assert!(!proven && matches!(course.verdict(), Verdict::Delivered | Verdict::Nobody));
                    break;
                }
            };
            at_once += 1;
            prop_assert!(at_once < 6, "{course:?}");
            if let Some(news) = news {
                let kind = std::mem::discriminant(&news);
                prop_assert!(last_news != Some(kind) || matches!(news, News::Delivered(_)), "{news:?} twice");
                last_news = Some(kind);
            }
        }
    }
}
