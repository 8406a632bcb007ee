//! Owns what uvicorn calls the published files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE};
use crate::identity::CertificateBundle;

/// The settings of uvicorn, under its names, for `uvicorn.run(app, **settings)` from JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UvicornConfig {
    /// The private key.
    pub ssl_keyfile: PathBuf,
    /// Leaf and intermediates.
    pub ssl_certfile: PathBuf,
    /// The roots that clients have to reach.
    pub ssl_ca_certs: PathBuf,
    /// Python's `ssl.CERT_REQUIRED`: a client without a certificate is refused.
    pub ssl_cert_reqs: u8,
}

impl CertificateBundle {
    /// How uvicorn finds this certificate, and those that follow it, in `directory`. It reads the files when it starts, and
    /// not again by itself.
    #[must_use]
    pub fn to_uvicorn_config(&self, directory: &Path) -> UvicornConfig {
        UvicornConfig {
            ssl_keyfile: directory.join(KEY_FILE),
            ssl_certfile: directory.join(CERTIFICATE_FILE),
            ssl_ca_certs: directory.join(ROOTS_FILE),
            ssl_cert_reqs: CERT_REQUIRED,
        }
    }
}

const CERT_REQUIRED: u8 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{TestCa, identity};

    #[test]
    fn uvicorn_is_given_the_paths_and_demands_certificates() {
        let now = time::macros::datetime!(2026-08-20 12:00 UTC);
        let bundle = TestCa::new().bundle(&identity("streaming"), now, Duration::from_hours(1));
        let expected = serde_json::json!({
            "ssl_keyfile": "/etc/certs/client.key",
            "ssl_certfile": "/etc/certs/client.crt",
            "ssl_ca_certs": "/etc/certs/ca.crt",
            "ssl_cert_reqs": 2,
        });
        let config = bundle.to_uvicorn_config(Path::new("/etc/certs"));
        assert_eq!(serde_json::to_value(config).unwrap(), expected);
    }
}
