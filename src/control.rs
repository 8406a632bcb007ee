//! Owns the control socket.
