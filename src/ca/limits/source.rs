//! Owns who counts as one source, and how many connections each has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// One source of requests: an IPv4 address, or the /64 of an IPv6 address, of which whoever has one address has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ca) struct Source(IpAddr);

impl Source {
    /// The source of `address`. An IPv4 address in IPv6 clothes is an IPv4 address.
    pub(in crate::ca) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// The connections of each source. Holds a source for as long as it has one, so no more than there are connections.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    most: usize,
    open: Arc<Mutex<HashMap<Source, usize>>>,
}

/// The right of a source to one connection, until it is dropped.
#[derive(Debug)]
pub(in crate::ca) struct Place {
    source: Source,
    open: Arc<Mutex<HashMap<Source, usize>>>,
}

impl Connections {
    /// At most `most` for each source.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// A place for one more connection of `source`; `None` when it has as many as it may.
    pub(super) fn open(&self, source: Source) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&source).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        open.insert(source, count + 1);
        Some(Place { source, open: Arc::clone(&self.open) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8:1:2:3::4").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn each_has_its_number_of_connections_and_nothing_is_kept_of_those_that_went() {
        let connections = Connections::new(2);
        let one = connections.open(source("10.0.0.1")).unwrap();
        let two = connections.open(source("10.0.0.1")).unwrap();
        assert!(connections.open(source("10.0.0.1")).is_none());
        let other = connections.open(source("10.0.0.2")).unwrap();
        drop(one);
        let again = connections.open(source("10.0.0.1")).unwrap();
        drop((two, other, again));
        assert!(connections.open.lock().unwrap().is_empty());
    }
}
