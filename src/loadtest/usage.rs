//! What a process used, by what Linux says under `/proc`. Elsewhere nothing is known.

use std::time::Duration;

/// What a process used from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Processor time of all its threads.
    pub(super) cpu: Duration,
    /// The most memory it had at once, bytes.
    pub(super) rss_max_bytes: u64,
}

/// Looks at a process; `None` when it has ended.
pub(super) fn of(pid: u32) -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let ticks = rustix::param::clock_ticks_per_second();
    Some(Usage { cpu: cpu(&read("stat")?, ticks)?, rss_max_bytes: rss_max_bytes(&read("status")?)? })
}

/// `utime` and `stime` of `/proc/PID/stat`: fields 14 and 15 (proc_pid_stat(5)).
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The name in front may hold spaces, and ends with the last parenthesis; field 3 follows.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_millis(ticks.checked_mul(1_000)?.checked_div(ticks_per_second)?))
}

/// `VmHWM` of `/proc/PID/status` (proc_pid_status(5)); a process that has ended has none.
fn rss_max_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
        assert_eq!(cpu(stat, 100), Some(Duration::from_secs(3)));
        assert_eq!(cpu("42 (a", 100), None);
        assert_eq!(rss_max_bytes("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(rss_max_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_something() {
        if cfg!(target_os = "linux") {
            assert!(of(std::process::id()).unwrap().rss_max_bytes > 1 << 20);
        }
        assert_eq!(of(u32::MAX), None);
    }
}
