//! Owns [`PeerUrl`]: the only kind of URL that an mTLS client takes.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use serde::{Deserialize, Deserializer};

/// Where a request to a peer goes: an absolute `https` URL without user and password. There is no value of this type
/// with another scheme, so that whatever takes one cannot speak plain HTTP.
///
/// ```
/// use crank_agent::mtls::{PeerUrl, PeerUrlError};
///
/// let peer: PeerUrl = "https://streaming:8443".parse()?;
/// let orders = peer.join("/orders")?.with_query([("state", "open")]);
/// assert_eq!(orders.as_str(), "https://streaming:8443/orders?state=open");
/// assert_eq!("http://streaming:8080".parse::<PeerUrl>(), Err(PeerUrlError::NotHttps));
/// # Ok::<_, PeerUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PeerUrl(Url);

/// A text that is no [`PeerUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerUrlError {
    /// It is no URL.
    #[error("expected a URL such as https://streaming:8443/orders")]
    Unreadable,
    /// The scheme is another one.
    #[error("expected https://; there is no plain HTTP in any mode")]
    NotHttps,
    /// There is a user or a password in it.
    #[error("expected no user or password in the URL; the certificate tells who asks")]
    Credentials,
    /// It was to be of the same host and port, and is not.
    #[error("expected a path on the same host and port")]
    Elsewhere,
}

impl PeerUrl {
    /// The URL of `reference` (`/orders?id=7`, `orders/7`) as seen from this one (RFC 3986, section 5).
    ///
    /// # Errors
    /// When `reference` is none, or leads to another host or port: what came from outside cannot lead a request away.
    pub fn join(&self, reference: &str) -> Result<Self, PeerUrlError> {
        let joined = Self::try_from(self.0.join(reference).map_err(|_| PeerUrlError::Unreadable)?)?;
        if joined.0.origin() == self.0.origin() { Ok(joined) } else { Err(PeerUrlError::Elsewhere) }
    }

    /// The same with these names and values added to its query, encoded as they must be.
    #[must_use]
    pub fn with_query<N: AsRef<str>, V: AsRef<str>>(mut self, pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        self.0.query_pairs_mut().extend_pairs(pairs);
        self
    }

    /// The URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl TryFrom<Url> for PeerUrl {
    type Error = PeerUrlError;

    fn try_from(url: Url) -> Result<Self, PeerUrlError> {
        if url.scheme() != "https" {
            return Err(PeerUrlError::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PeerUrlError::Credentials);
        }
        Ok(Self(url))
    }
}

impl FromStr for PeerUrl {
    type Err = PeerUrlError;

    fn from_str(text: &str) -> Result<Self, PeerUrlError> {
        Self::try_from(Url::parse(text).map_err(|_| PeerUrlError::Unreadable)?)
    }
}

impl From<PeerUrl> for Url {
    fn from(url: PeerUrl) -> Self {
        url.0
    }
}

impl<'de> Deserialize<'de> for PeerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_but_https_without_credentials_is_a_peer() {
        for (text, error) in [
            ("http://streaming", PeerUrlError::NotHttps),
            ("HTTP://streaming", PeerUrlError::NotHttps),
            ("ws://streaming", PeerUrlError::NotHttps),
            ("file:///etc/certs/client.key", PeerUrlError::NotHttps),
            ("unix:/run/streaming.sock", PeerUrlError::NotHttps),
            ("https://user@streaming", PeerUrlError::Credentials),
            ("https://:word@streaming", PeerUrlError::Credentials),
            ("https://", PeerUrlError::Unreadable),
            ("streaming/orders", PeerUrlError::Unreadable),
        ] {
            assert_eq!(text.parse::<PeerUrl>(), Err(error), "{text}");
            assert!(serde_json::from_value::<PeerUrl>(text.into()).is_err(), "{text}");
        }
        let url: PeerUrl = serde_json::from_value("https://streaming".into()).unwrap();
        assert_eq!(url.to_string(), "https://streaming/");
    }

    #[test]
    fn a_reference_stays_on_the_same_host_and_port() {
        let base: PeerUrl = "https://streaming:8443/v1/".parse().unwrap();
        for (reference, joined) in [
            ("orders/7", Ok("https://streaming:8443/v1/orders/7")),
            ("/orders", Ok("https://streaming:8443/orders")),
            ("https://streaming:8443/x", Ok("https://streaming:8443/x")),
            ("//other/x", Err(PeerUrlError::Elsewhere)),
            ("https://streaming/x", Err(PeerUrlError::Elsewhere)),
            ("http://streaming:8443/x", Err(PeerUrlError::NotHttps)),
            ("https://user@streaming:8443/x", Err(PeerUrlError::Credentials)),
        ] {
            assert_eq!(base.join(reference).as_ref().map(PeerUrl::as_str), joined.as_ref().copied(), "{reference}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_joined_is_https_on_the_same_host(reference in "[a-z:/@?#.\\\\ ]{0,20}") {
            let base: PeerUrl = "https://streaming:8443/v1/".parse().unwrap();
            if let Ok(joined) = base.join(&reference) {
                prop_assert!(joined.as_str().starts_with("https://streaming:8443/"), "{joined}");
            }
        }
    }
}
