//! Owns how many wait for news at a time, and how long each asks to wait (RFC 7240).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;

/// The places for those who wait: so many in all, and few for each certificate.
#[derive(Debug)]
pub(crate) struct Waiters {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: usize,
    by_serial: HashMap<Arc<str>, usize>,
}

/// The right to wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    waiters: &'a Waiters,
    serial: Arc<str>,
}

impl Waiters {
    /// `limit` places, none of them taken.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    /// A place for the certificate with this serial, if one is free.
    pub(crate) fn take(&self, serial: &str) -> Option<Place<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.total >= self.limit || waiting.by_serial.get(serial).is_some_and(|taken| *taken >= PER_CERTIFICATE) {
            return None;
        }
        let serial: Arc<str> = serial.into();
        waiting.total += 1;
        *waiting.by_serial.entry(Arc::clone(&serial)).or_insert(0) += 1;
        Some(Place { waiters: self, serial })
    }

    /// How many wait.
    pub(crate) fn total(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.total = waiting.total.saturating_sub(1);
        if let Some(taken) = waiting.by_serial.get_mut(&self.serial) {
            *taken -= 1;
            if *taken == 0 {
                waiting.by_serial.remove(&self.serial);
            }
        }
    }
}

/// What `Prefer: wait=N` asks for, at most [`LONGEST_WAIT`]; nothing where it is not understood.
pub(crate) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split(',')).find_map(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
        // Of the same name only the first counts (section 2).
        name.trim().eq_ignore_ascii_case("wait").then(|| digits.then(|| value.parse().unwrap_or(u64::MAX)))
    })?;
    seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT)).filter(|wait| !wait.is_zero())
}

/// The longest wait.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// One agent, its successor while it restarts, and somebody who looks by hand.
const PER_CERTIFICATE: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wait(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", value.parse().unwrap());
        }
        preferred_wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_wait_counts_and_is_cut_to_five_minutes() {
        assert_eq!(wait(&["wait=240"]), Some(240));
        assert_eq!(wait(&["respond-async, Wait = \"7\"; x=y"]), Some(7));
        assert_eq!(wait(&["respond-async", "wait=9, wait=10"]), Some(9));
        assert_eq!(wait(&["wait=301"]), Some(300));
        assert_eq!(wait(&["wait=99999999999999999999999"]), Some(300));
        for none in [&[][..], &["wait"], &["wait="], &["wait=0"], &["wait=-1"], &["wait=x, wait=9"], &["waiter=9"]] {
            assert_eq!(wait(none), None, "{none:?}");
        }
    }

    #[test]
    fn places_are_few_for_each_certificate_and_so_many_in_all() {
        let waiters = Waiters::new(5);
        let of_one: Vec<_> = std::iter::repeat_with(|| waiters.take("01")).take_while(Option::is_some).collect();
        assert_eq!(of_one.len(), PER_CERTIFICATE);
        let others: Vec<_> =
            (2..100).map(|serial: u32| waiters.take(&serial.to_string())).take_while(Option::is_some).collect();
        assert_eq!((others.len(), waiters.total()), (2, 5));
        drop(of_one);
        assert!(waiters.take("01").is_some());
        drop(others);
        assert_eq!(waiters.total(), 0);
        assert!(waiters.waiting.lock().unwrap().by_serial.is_empty());
        assert!(Waiters::new(0).take("01").is_none());
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(value in "[ -~]{0,40}") {
            if let Some(seconds) = wait(&[&value]) {
                prop_assert!((1..=300).contains(&seconds));
            }
        }
    }
}
