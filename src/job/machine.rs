//! What this machine has: memory that a run may take, memory that it took.

use crate::error::{Error, Result};
use crate::tensor::Bytes;
use std::fs::read_to_string;

/// Fails if `peak` bytes are more than the machine or its memory cgroup allows.
pub fn check_memory(peak: u64) -> Result<()> {
    let limits = [(available(), "free on this machine"), (cgroup_limit(), "the memory limit of this cgroup")];
    for (limit, name) in limits {
        if let Some(limit) = limit.filter(|&l| peak > l) {
            return Err(Error::NoMemory { needed: Bytes(peak), available: Bytes(limit), limit: name.into() });
        }
    }
    Ok(())
}

/// The largest resident set of this process so far, mapped pages included.
pub fn peak_rss_bytes() -> u64 {
    read_to_string("/proc/self/status").ok().and_then(|s| kilobytes(&s, "VmHWM:")).unwrap_or(0)
}

fn available() -> Option<u64> {
    kilobytes(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// The smallest `memory.max` (or `memory.limit_in_bytes`) on the way from this process's cgroup to the root.
fn cgroup_limit() -> Option<u64> {
    let own = read_to_string("/proc/self/cgroup").ok()?;
    let limits = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let ancestors = std::path::Path::new(path).ancestors();
        let read = |p: &std::path::Path| {
            read_to_string(format!("{root}{}/{file}", p.display())).ok()?.trim().parse::<u64>().ok()
        };
        ancestors.filter_map(read).min()
    });
    limits.min()
}
