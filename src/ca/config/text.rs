//! Owns values of the settings file that are read from text.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::duration::parse_duration;
use crate::identity::SubjectAltName;

/// A value that stands in the file as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// What can be read from text.
pub trait FromText: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What was expected.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        parse_duration(text).map_err(str::to_owned)
    }
}

impl FromText for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected ADDRESS:PORT, as 0.0.0.0:9090".to_owned())
    }
}

impl FromText for SubjectAltName {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}"))
    }
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromString<T>(PhantomData<T>);
        impl<T: FromText> Visitor<'_> for FromString<T> {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                T::from_text(text).map(Text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(FromString(PhantomData))
    }
}
