//! Proves the guarantees of the certificate directory: readers see whole generations, a crash leaves the last good one,
//! nobody else gets the key, nothing outside the directory is touched.

mod attacks;
mod crash;
mod healing;
mod layout;
mod readers;
mod support;
mod volumes;
