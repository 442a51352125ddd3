//! What the host measures: the disk and the links, under etcd's names.
//!
//! Clones count into the same figures. Invariant: `stalled` looks only at operations that clients
//! wait for, writes of the log and commits of the store; what may take long by its nature (a new
//! segment, a rewriting, an image) never counts as a stall.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
    exponential_buckets,
};

use crate::kernel::{DiskOp, MemberId};

/// The figures of the host.
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    /// When the running write of the log, and the running commit, began: nanoseconds since
    /// `began`, and zero while there is none.
    writing: AtomicU64,
    committing: AtomicU64,
    wal_write: Histogram,
    wal_fsync: Histogram,
    wal_bytes: IntGauge,
    commit: Histogram,
    defragment: Histogram,
    part: Histogram,
    /// When the first part of the running rewriting began, counted from `began`.
    rewriting: Mutex<Option<Duration>>,
    seal: Histogram,
    sent: IntCounterVec,
    received: IntCounterVec,
    send_failures: IntCounterVec,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Default for Meter {
    /// A meter nobody reads.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

/// What is measured of a disk operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timed {
    /// Whether it hangs; its parts are measured where it is done.
    Write,
    /// Its duration, and whether it hangs.
    Commit,
    /// Its duration; the whole, of which it is a part, is measured too.
    Defragment,
    /// Its duration.
    Seal,
    /// Nothing.
    Other,
}

impl Timed {
    pub(super) fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::WalWrite { .. } => Self::Write,
            DiskOp::Commit { .. } => Self::Commit,
            DiskOp::Defragment { .. } => Self::Defragment,
            DiskOp::StageSeal { .. } => Self::Seal,
            DiskOp::WalPrepare { .. }
            | DiskOp::WalRemove { .. }
            | DiskOp::SnapshotOpen { .. }
            | DiskOp::SnapshotRead { .. }
            | DiskOp::SnapshotClose { .. }
            | DiskOp::RemoveReplaced
            | DiskOp::StageOpen { .. }
            | DiskOp::StageWrite { .. }
            | DiskOp::StageInstall { .. }
            | DiskOp::StageDrop { .. } => Self::Other,
        }
    }
}

/// The figures of one link.
#[derive(Clone, Debug)]
pub(super) struct LinkMeter {
    pub sent: IntCounter,
    pub received: IntCounter,
    pub failures: IntCounter,
}

impl Meter {
    /// A meter whose figures show in the registry; each registry takes one.
    pub fn new(registry: &Registry) -> Self {
        let peers = |name, help, label| {
            let made = IntCounterVec::new(Opts::new(name, help), &[label]);
            register(registry, made.expect("the name and the label are plain"))
        };
        // No file of the log marks an image here: what etcd syncs there is part of the log.
        let _ = histogram(
            registry,
            "etcd_snap_fsync_duration_seconds",
            "How long syncing files that mark images took; there are no such files.",
            (0.001, 14),
        );
        let bytes = IntGauge::new(
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the log.",
        );
        let shared = Shared {
            began: Instant::now(),
            writing: AtomicU64::new(0),
            committing: AtomicU64::new(0),
            wal_write: histogram(
                registry,
                "etcd_disk_wal_write_duration_seconds",
                "How long writing to the log took, without making it durable.",
                (0.001, 14),
            ),
            wal_fsync: histogram(
                registry,
                "etcd_disk_wal_fsync_duration_seconds",
                "How long making the log durable took.",
                (0.001, 14),
            ),
            wal_bytes: register(registry, bytes.expect("the name is plain")),
            commit: histogram(
                registry,
                "etcd_disk_backend_commit_duration_seconds",
                "How long commits to the store took.",
                (0.001, 14),
            ),
            defragment: histogram(
                registry,
                "etcd_disk_backend_defrag_duration_seconds",
                "How long rewriting the store's file took.",
                (0.1, 13),
            ),
            part: histogram(
                registry,
                "fated_disk_backend_defrag_part_duration_seconds",
                "How long parts of rewriting the store's file took; commits wait for one at most.",
                (0.001, 14),
            ),
            rewriting: Mutex::new(None),
            seal: histogram(
                registry,
                "etcd_snap_db_fsync_duration_seconds",
                "How long making a received image durable took.",
                (0.001, 14),
            ),
            sent: peers(
                "etcd_network_peer_sent_bytes_total",
                "Bytes sent to other members.",
                "To",
            ),
            received: peers(
                "etcd_network_peer_received_bytes_total",
                "Bytes received from other members.",
                "From",
            ),
            send_failures: peers(
                "etcd_network_peer_sent_failures_total",
                "Messages to another member that could not be sent.",
                "To",
            ),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The figures of a link to or from a member.
    pub(super) fn link(&self, peer: MemberId) -> LinkMeter {
        let id = format!("{:x}", peer.get());
        let of = |all: &IntCounterVec| all.with_label_values(&[&id]);
        LinkMeter {
            sent: of(&self.shared.sent),
            received: of(&self.shared.received),
            failures: of(&self.shared.send_failures),
        }
    }

    /// The log was written to.
    pub(super) fn on_write(&self, bytes: usize, took: Duration) {
        self.shared.wal_write.observe(took.as_secs_f64());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.shared.wal_bytes.add(bytes);
    }

    /// The log was made durable.
    pub(super) fn on_fsync(&self, took: Duration) {
        self.shared.wal_fsync.observe(took.as_secs_f64());
    }

    /// Runs a disk operation and measures it.
    pub(super) fn disk<T>(&self, timed: Timed, run: impl FnOnce() -> T) -> T {
        let shared = &self.shared;
        let (running, histogram) = match timed {
            Timed::Write => (Some(&shared.writing), None),
            Timed::Commit => (Some(&shared.committing), Some(&shared.commit)),
            Timed::Seal => (None, Some(&shared.seal)),
            Timed::Defragment => (None, Some(&shared.part)),
            Timed::Other => (None, None),
        };
        if let Some(running) = running {
            running.store(shared.elapsed().max(1), Ordering::Relaxed);
        }
        let began = Instant::now();
        let result = run();
        if let Some(histogram) = histogram {
            histogram.observe(began.elapsed().as_secs_f64());
        }
        if let Some(running) = running {
            running.store(0, Ordering::Relaxed);
        }
        result
    }

    /// A part of a rewriting is over; the time it took altogether is that since its first part.
    pub(super) fn on_rewriting(&self, began: Duration, is_over: bool) {
        let shared = &self.shared;
        let mut since = shared
            .rewriting
            .lock()
            .expect("no holder of the lock panics");
        let first = *since.get_or_insert(began);
        if is_over {
            *since = None;
            let took = shared.began.elapsed().saturating_sub(first);
            shared.defragment.observe(took.as_secs_f64());
        }
    }

    /// A moment, as `on_rewriting` takes it.
    pub(super) fn moment(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// How long the disk has not answered an operation that clients wait for.
    pub fn stalled(&self) -> Duration {
        let shared = &self.shared;
        let longest = [&shared.writing, &shared.committing]
            .map(|running| running.load(Ordering::Relaxed))
            .into_iter()
            .filter(|since| *since > 0)
            .map(|since| shared.elapsed().saturating_sub(since))
            .max();
        Duration::from_nanos(longest.unwrap_or(0))
    }
}

impl Shared {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn histogram(registry: &Registry, name: &str, help: &str, scale: (f64, usize)) -> Histogram {
    let buckets = exponential_buckets(scale.0, 2.0, scale.1);
    let options = HistogramOpts::new(name, help).buckets(buckets.expect("bounds that rise"));
    let made = Histogram::with_opts(options);
    register(registry, made.expect("the name is plain"))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    let registered = registry.register(Box::new(collector.clone()));
    registered.expect("a registry takes one meter");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a write that hangs shows while it hangs and not afterwards, and one that may take long
    /// never does. Method: the meter is asked from within the operation.
    #[test]
    fn only_a_running_write_is_a_stall() {
        let meter = Meter::default();
        let within = meter.disk(Timed::Write, || {
            while meter.stalled() < Duration::from_millis(2) {
                std::thread::yield_now();
            }
            meter.stalled()
        });
        assert!(within >= Duration::from_millis(2));
        assert_eq!(meter.stalled(), Duration::ZERO);
        let rewriting = meter.disk(Timed::Defragment, || {
            std::thread::sleep(Duration::from_millis(2));
            meter.stalled()
        });
        assert_eq!(rewriting, Duration::ZERO);
    }
}
