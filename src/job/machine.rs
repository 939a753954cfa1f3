//! What this machine has: memory that a run may take, memory that it took.

use crate::error::{Error, Result};
use crate::limits::MEMORY_DEFAULT_BYTES;
use crate::tensor::Bytes;
use std::fs::read_to_string;
use std::path::Path;

/// Fails if `peak` bytes are more than the machine, its memory cgroup or this process's own limits allow.
pub fn check_memory(peak: u64) -> Result<()> {
    match limits().into_iter().find(|(limit, _)| peak > *limit) {
        Some((limit, name)) => {
            Err(Error::NoMemory { needed: Bytes(peak), available: Bytes(limit), limit: name.to_owned() })
        }
        None => Ok(()),
    }
}

/// The budget when none is given: three quarters of what there is, at most [`MEMORY_DEFAULT_BYTES`].
pub fn default_memory() -> u64 {
    let least = limits().into_iter().map(|(limit, _)| limit / 4 * 3).min();
    least.map_or(MEMORY_DEFAULT_BYTES, |l| l.min(MEMORY_DEFAULT_BYTES))
}

/// Every limit that is known, with its name.
fn limits() -> Vec<(u64, &'static str)> {
    let own = read_to_string("/proc/self/limits").unwrap_or_default();
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = [
        (available(), "free on this machine"),
        (cgroup_limit(&groups, Path::new("/sys/fs/cgroup")), "the memory limit of this cgroup"),
        (own_limit(&own, "Max address space"), "ulimit -v"),
        (own_limit(&own, "Max data size"), "ulimit -d"),
    ];
    all.into_iter().filter_map(|(limit, name)| Some((limit?, name))).collect()
}

/// The soft limit of this name, unless it is `unlimited`.
fn own_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
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

/// The smallest `memory.max` (or `memory.limit_in_bytes`) on the way from this process's cgroup to the root. `own` is the
/// process's list of cgroups, `mount` the folder where they are mounted.
fn cgroup_limit(own: &str, mount: &Path) -> Option<u64> {
    let limits = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, file) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            "memory" => (mount.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let read = |p: &Path| {
            let group = p.strip_prefix("/").unwrap_or(p);
            read_to_string(root.join(group).join(file)).ok()?.trim().parse::<u64>().ok()
        };
        Path::new(path).ancestors().filter_map(read).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_from_the_cgroup_to_the_root_counts_in_both_versions() {
        let mount = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = mount.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "4096\n");
        write("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.limit_in_bytes", "1024\n");
        let limit = |own: &str| cgroup_limit(own, mount.path());
        assert_eq!(limit("0::/a/b\n"), Some(4096));
        assert_eq!(limit("0::/other\n"), None);
        assert_eq!(limit("5:cpu:/x\n4:memory:/x\n0::/a/b\n"), Some(1024));
        // In a container the path may be the host's, of which only the root is mounted.
        assert_eq!(limit("4:memory:/docker/0123\n"), Some(1024));
    }

    #[test]
    fn limits_of_the_process_are_read_unless_they_are_unlimited() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax data size  unlimited  unlimited  bytes\n\
                    Max address space  409600000  unlimited  bytes\n";
        assert_eq!(own_limit(text, "Max address space"), Some(409_600_000));
        assert_eq!(own_limit(text, "Max data size"), None);
        assert!(default_memory() > 0 && default_memory() <= MEMORY_DEFAULT_BYTES);
    }
}
