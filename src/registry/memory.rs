//! Whether there is memory for one more model beside those that are served.

use std::fs;

/// Of a model's file, in memory once it is loaded, about: weights are mapped, and packed anew for the kernels. Weights
/// that are stored as fp16 are computed in fp32.
const SHARE: f64 = 1.5;
const SHARE_FP16: f64 = 3.0;
/// For arenas and tables, whatever the size.
const BASE_BYTES: u64 = 64 << 20;

/// Bytes that a bundle of this size and precision needs, about.
pub(super) fn needed(bundle_bytes: u64, precision: &str) -> u64 {
    let share = if precision == "fp16" { SHARE_FP16 } else { SHARE };
    BASE_BYTES + (bundle_bytes as f64 * share) as u64
}

/// Bytes that this process can still have: what the machine and the control group leave, where they say so.
pub(super) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    let read = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let group = read("memory.max").zip(read("memory.current")).zip(read("memory.stat"));
    let group = group.and_then(|((max, current), stat)| of_group(&max, &current, &stat));
    [machine, group].into_iter().flatten().min()
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the group may still take; files that were read and are not used are given up for it.
fn of_group(max: &str, current: &str, stat: &str) -> Option<u64> {
    let (max, current): (u64, u64) = (max.trim().parse().ok()?, current.trim().parse().ok()?);
    let inactive = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let inactive = inactive.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(inactive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_words_are_read() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(of_group("1000\n", "700\n", "anon 5\ninactive_file 100\n"), Some(400));
        assert_eq!(of_group("max\n", "700\n", ""), None);
        assert!(available().is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn a_model_needs_more_than_its_file() {
        assert!(needed(100 << 20, "int8") > 150 << 20 && needed(100 << 20, "fp16") > 300 << 20);
    }
}
