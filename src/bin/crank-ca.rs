//! The CA binary.
fn main() {}
