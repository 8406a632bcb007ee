//! Owns the TLS client settings toward a CA.
