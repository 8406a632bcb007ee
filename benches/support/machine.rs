//! Owns the line that says for which machine figures hold.

use std::fs;

/// Processor, cores, memory and kernel, in a line.
#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub(crate) fn machine() -> String {
    let field = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!(
        "{}, {cores} cores, {:.0} GiB of memory, Linux {}",
        field("/proc/cpuinfo", "model name"),
        memory as f64 / (1024.0 * 1024.0),
        kernel.trim()
    )
}
