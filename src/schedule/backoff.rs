//! Owns back-off.
