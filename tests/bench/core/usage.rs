//! What the process has used so far, as the system tells it.

use std::{fs, time::Duration};

use prometheus::Registry;

/// What was used up to a moment, or between two.
#[derive(Clone, Default)]
pub struct Usage {
    /// Processor time of the thread that asks.
    pub core: Duration,
    /// Processor time of all threads.
    pub process: Duration,
    /// Bytes handed to the file system for the disk.
    pub written: u64,
    /// Allocations of all threads, where they are counted.
    pub allocations: Option<u64>,
}

impl Usage {
    /// All of it up to now.
    pub fn now() -> Self {
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
        let spent = threads.flatten().map(|thread| ran(&thread.path()));
        Self {
            core: ran("/proc/thread-self".as_ref()),
            process: spent.sum(),
            written: written(),
            allocations: crate::allocations::count(),
        }
    }

    /// What was used since then.
    pub fn since(&self, before: &Self) -> Self {
        let allocations = self.allocations.zip(before.allocations);
        Self {
            core: self.core.saturating_sub(before.core),
            process: self.process.saturating_sub(before.process),
            written: self.written.saturating_sub(before.written),
            allocations: allocations.map(|(after, before)| after - before),
        }
    }
}

/// How long a thread ran.
fn ran(thread: &std::path::Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// How often the log was synced.
pub fn syncs(registry: &Registry) -> u64 {
    let families = registry.gather();
    let named = |family: &&prometheus::proto::MetricFamily| {
        family.name() == "etcd_disk_wal_fsync_duration_seconds"
    };
    let family = families.iter().find(named);
    let metric = family.and_then(|family| family.get_metric().first());
    metric.map_or(0, |metric| metric.get_histogram().get_sample_count())
}
