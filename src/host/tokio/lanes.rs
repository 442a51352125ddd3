//! Disk lanes: one thread each, operations in order, every ticket answered exactly once.

use std::{
    io,
    sync::mpsc::{Sender, channel},
    thread,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::{DiskError, DiskOp, DiskOutcome, Event, Lane, Ticket};

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
    wal: Sender<(Ticket, DiskOp)>,
    keep: Sender<(Ticket, DiskOp)>,
    backend: Sender<(Ticket, DiskOp)>,
    snapshot: Sender<(Ticket, DiskOp)>,
}

impl Lanes {
    /// Starts the threads. They end when this value goes.
    pub(super) fn start(set: LaneSet, events: &UnboundedSender<Event>) -> io::Result<Self> {
        Ok(Self {
            wal: start("wal", set.wal, events.clone())?,
            keep: start("keep", set.keep, events.clone())?,
            backend: start("backend", set.backend, events.clone())?,
            snapshot: start("snapshot", set.snapshot, events.clone())?,
        })
    }

    pub(super) fn submit(&self, ticket: Ticket, op: DiskOp) {
        let lane = match op.lane() {
            Lane::Wal => &self.wal,
            Lane::Keep => &self.keep,
            Lane::Backend => &self.backend,
            Lane::Snapshot => &self.snapshot,
        };
        // A lane's thread ends only with this process or by a panic, which is our bug.
        lane.send((ticket, op))
            .expect("a disk lane lives as long as its host");
    }
}

fn start(
    name: &str,
    mut work: Box<dyn LaneWork>,
    events: UnboundedSender<Event>,
) -> io::Result<Sender<(Ticket, DiskOp)>> {
    let (submit, operations) = channel::<(Ticket, DiskOp)>();
    thread::Builder::new()
        .name(format!("lane-{name}"))
        .spawn(move || {
            while let Ok((ticket, op)) = operations.recv() {
                let outcome = work.run(op);
                if events.send(Event::DiskDone { ticket, outcome }).is_err() {
                    return; // the event loop is gone, nobody waits for this any more
                }
            }
        })?;
    Ok(submit)
}
