//! Owns the limit: what one core could do if it did nothing but the cryptography that nobody can leave out.

use std::process::Command;
use std::time::Duration;

use crate::load::Connections;
use crate::{Result, count_of};

/// Times of single operations on one core, as `openssl speed` has them.
pub(crate) struct Limit {
    pub(crate) version: String,
    sign: f64,
    verify: f64,
    exchange: f64,
}

/// How a client shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Token,
    Certificate,
}

impl Limit {
    /// Measures for `seconds` an operation, on all cores at once: two that share one unit are not twice as fast as one.
    pub(crate) fn measure(seconds: u64) -> Result<Self> {
        let version = Command::new("openssl").arg("version").output()?;
        let cores = std::thread::available_parallelism()?.get();
        let speed = |algorithm: &str| -> Result<Vec<f64>> {
            let output = Command::new("openssl")
                .args(["speed", "-seconds", &seconds.to_string(), "-multi", &cores.to_string(), "-mr", algorithm])
                .output()
                .map_err(|error| format!("cannot run openssl: {error}"))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // As `+F4:3:256:sign/s:verify/s` and `+F5:8:253:derive/s:seconds`.
            let line = text.lines().find(|line| line.starts_with("+F4") || line.starts_with("+F5"));
            let line = line.ok_or_else(|| format!("openssl speed {algorithm} said: {text}"))?;
            Ok(line.split(':').skip(3).filter_map(|field| field.parse().ok()).collect())
        };
        let [signs, verifies] = speed("ecdsap256")?[..] else { return Err("openssl speed ecdsap256".into()) };
        let [exchanges, ..] = speed("ecdhx25519")?[..] else { return Err("openssl speed ecdhx25519".into()) };
        Ok(Self {
            version: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            sign: count_of(cores) / signs,
            verify: count_of(cores) / verifies,
            exchange: count_of(cores) / exchanges,
        })
    }

    /// Processor time for one certificate: verify the CSR, sign, verify what was signed; for a fresh connection also a
    /// signature and two operations on X25519 (ML-KEM is left out, OpenSSL of today has none to measure); and for a client
    /// certificate three verifications, of the handshake and of leaf and intermediate.
    pub(crate) fn time(&self, connections: Connections, shown: Shown) -> Duration {
        let issuance = self.sign + 2.0 * self.verify;
        let handshake = match connections {
            Connections::KeptAlive => 0.0,
            Connections::Fresh => {
                self.sign
                    + 2.0 * self.exchange
                    + match shown {
                        Shown::Token => 0.0,
                        Shown::Certificate => 3.0 * self.verify,
                    }
            }
        };
        Duration::from_secs_f64(issuance + handshake)
    }

    /// In words.
    pub(crate) fn line(&self) -> String {
        let micro = |seconds: f64| seconds * 1e6;
        format!(
            "one core while all are busy, {}: P-256 sign {:.1} µs, verify {:.1} µs, X25519 {:.1} µs",
            self.version,
            micro(self.sign),
            micro(self.verify),
            micro(self.exchange)
        )
    }
}
