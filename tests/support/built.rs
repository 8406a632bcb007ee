//! Owns where the example programs of the library are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// The program of the example `name`, built as this test is. `cargo test --test` alone would not build it.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let profile = Path::new(env!("CARGO_BIN_EXE_crank-agent")).parent().unwrap();
    BUILD.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--examples", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    profile.join("examples").join(name)
}
