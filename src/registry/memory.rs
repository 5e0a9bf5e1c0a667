//! Whether there is memory for one more model beside those that are served.

use std::fs;

/// Approximate memory of a loaded model for each byte of its files: weights are mapped, and packed for the kernels.
const FACTOR: f64 = 1.5;
/// The same for a model whose weights are stored as fp16 and computed in fp32.
const FACTOR_FP16: f64 = 3.0;
/// Memory for arenas and tables, whatever the model's size.
const BASE_BYTES: u64 = 64 << 20;

/// Approximate memory of a loaded bundle of this size and precision, in bytes.
pub(super) fn needed(bundle_bytes: u64, precision: &str) -> u64 {
    let factor = if precision == "fp16" { FACTOR_FP16 } else { FACTOR };
    BASE_BYTES + (bundle_bytes as f64 * factor) as u64
}

/// Memory that this process can still allocate, in bytes: what machine and control group report as free.
pub(super) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    let read = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let group = read("memory.max").zip(read("memory.current")).zip(read("memory.stat"));
    let group = group.and_then(|((max, current), stat)| parse_cgroup(&max, &current, &stat));
    [machine, group].into_iter().flatten().min()
}

fn parse_meminfo(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Memory that the control group leaves; cached files that are inactive count as free.
fn parse_cgroup(max: &str, current: &str, stat: &str) -> Option<u64> {
    let (max, current): (u64, u64) = (max.trim().parse().ok()?, current.trim().parse().ok()?);
    let inactive = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let inactive = inactive.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(inactive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_and_cgroup_files_are_read() {
        assert_eq!(parse_meminfo("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_cgroup("1000\n", "700\n", "anon 5\ninactive_file 100\n"), Some(400));
        assert_eq!(parse_cgroup("max\n", "700\n", ""), None);
        assert!(available().is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn a_model_needs_more_memory_than_its_files() {
        assert!(needed(100 << 20, "int8") > 150 << 20 && needed(100 << 20, "fp16") > 300 << 20);
    }
}
