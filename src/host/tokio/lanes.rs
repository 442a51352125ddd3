//! Disk lanes: one thread each, operations in order, every ticket answered exactly once.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use tokio::sync::mpsc::UnboundedSender;

use super::meter::{Meter, Timed};
use crate::kernel::{DiskError, DiskErrorKind, DiskOp, DiskOutcome, Event, Lane, Ticket};

/// What runs on a lane's thread.
pub trait LaneWork: Send {
    /// Runs one operation to its end.
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError>;
}

/// The four lanes' work.
pub struct LaneSet {
    /// Appends to the log.
    pub wal: Box<dyn LaneWork>,
    /// Segments made ready and removed.
    pub keep: Box<dyn LaneWork>,
    /// Commits to the live backend.
    pub backend: Box<dyn LaneWork>,
    /// Images read out and staged.
    pub snapshot: Box<dyn LaneWork>,
}

/// Handles to the running lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    wal: LaneHandle,
    keep: LaneHandle,
    backend: LaneHandle,
    snapshot: LaneHandle,
}

/// One running lane.
#[derive(Debug)]
struct LaneHandle {
    operations: Sender<(Ticket, DiskOp)>,
    worker: Arc<Mutex<Worker>>,
    /// Operations that were handed in and whose end was not told yet.
    waiting: Arc<AtomicUsize>,
}

/// The work of a lane, and how it ended.
struct Worker {
    work: Box<dyn LaneWork>,
    failed: Option<DiskError>,
    meter: Meter,
}

impl Lanes {
    /// Starts the threads. They end when this value goes.
    pub(super) fn start(
        set: LaneSet,
        events: &UnboundedSender<Event>,
        meter: &Meter,
    ) -> io::Result<Self> {
        let start = |name, work| start(name, work, events.clone(), meter.clone());
        Ok(Self {
            wal: start("wal", set.wal)?,
            keep: start("keep", set.keep)?,
            backend: start("backend", set.backend)?,
            snapshot: start("snapshot", set.snapshot)?,
        })
    }

    pub(super) fn submit(&self, ticket: Ticket, op: DiskOp) {
        let lane = match op.lane() {
            Lane::Wal => &self.wal,
            Lane::Keep => &self.keep,
            Lane::Backend => &self.backend,
            Lane::Snapshot => &self.snapshot,
        };
        lane.submit(ticket, op);
    }

    /// Whether everything that was handed to the lane of the log is done and told.
    pub(super) fn wal_is_idle(&self) -> bool {
        self.wal.waiting.load(Ordering::Acquire) == 0
    }

    /// Writes to the log here and now, in the order of the lane, which must be idle.
    pub(super) fn write_here(&self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        assert!(self.wal_is_idle(), "a write that overtakes others");
        lock(&self.wal.worker).run(op)
    }
}

impl LaneHandle {
    fn submit(&self, ticket: Ticket, op: DiskOp) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // A lane's thread ends only with this process or by a panic, which is our bug.
        self.operations
            .send((ticket, op))
            .expect("a disk lane lives as long as its host");
    }
}

impl Worker {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        let lane = op.lane();
        let rewrite = matches!(op, DiskOp::Defragment { .. });
        let began = self.meter.moment();
        let outcome = match &self.failed {
            // What stands behind a failure would leave a gap if it took effect.
            Some(error) => Err(DiskError::clone(error)),
            None => self.meter.disk(Timed::of(&op), || self.work.run(op)),
        };
        if rewrite {
            let over = !matches!(outcome, Ok(DiskOutcome::Rewriting));
            self.meter.on_rewriting(began, over);
        }
        // A rewrite that found no room for its copy has left the store as it was.
        if let Err(error) = &outcome
            && lane != Lane::Snapshot
            && !(rewrite && error.kind == DiskErrorKind::Full)
        {
            self.failed = Some(error.clone());
        }
        outcome
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

fn start(
    name: &str,
    work: Box<dyn LaneWork>,
    events: UnboundedSender<Event>,
    meter: Meter,
) -> io::Result<LaneHandle> {
    let (operations, taken) = channel::<(Ticket, DiskOp)>();
    let failed = None;
    let worker = Worker {
        work,
        failed,
        meter,
    };
    let lane = LaneHandle {
        operations,
        worker: Arc::new(Mutex::new(worker)),
        waiting: Arc::default(),
    };
    let (worker, waiting) = (Arc::clone(&lane.worker), Arc::clone(&lane.waiting));
    thread::Builder::new()
        .name(format!("lane-{name}"))
        .spawn(move || {
            while let Ok((ticket, op)) = taken.recv() {
                let outcome = lock(&worker).run(op);
                if events.send(Event::DiskDone { ticket, outcome }).is_err() {
                    return; // the event loop is gone, nobody waits for this any more
                }
                // Only now, so that nothing done elsewhere is told before this.
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
    Ok(lane)
}

fn lock(worker: &Mutex<Worker>) -> MutexGuard<'_, Worker> {
    worker.lock().expect("no holder of the lock panics")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::kernel::{DiskErrorKind, SegmentId};

    /// Fails its second operation only.
    struct Hiccup(Arc<AtomicU32>);

    impl LaneWork for Hiccup {
        fn run(&mut self, _op: DiskOp) -> Result<DiskOutcome, DiskError> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                1 => Err(DiskError::new(DiskErrorKind::Io, "hiccup")),
                _ => Ok(DiskOutcome::Done),
            }
        }
    }

    /// Goal: nothing takes effect behind a failure. Method: four operations, the second fails; the
    /// work must not see the others.
    #[test]
    fn a_lane_ends_with_its_first_failure() {
        let runs = Arc::new(AtomicU32::new(0));
        let (events, mut done) = unbounded_channel();
        let lane = start(
            "test",
            Box::new(Hiccup(Arc::clone(&runs))),
            events,
            Meter::default(),
        );
        let lane = lane.unwrap();
        for number in 1..=4 {
            let before = SegmentId::new(number);
            lane.submit(Ticket::new(number), DiskOp::WalRemove { before });
        }
        let outcomes: Vec<bool> = (0..4)
            .map(|_| match done.blocking_recv() {
                Some(Event::DiskDone { outcome, .. }) => outcome.is_ok(),
                other => panic!("a lane answers {other:?}"),
            })
            .collect();
        assert_eq!(outcomes, [true, false, false, false]);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }
}
