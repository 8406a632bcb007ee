//! Owns the protocol of crank-ca.
