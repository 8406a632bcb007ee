//! Owns the log lines.
