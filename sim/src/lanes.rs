//! A member's disk at work: four lanes, each doing one operation after the other in steps that a
//! crash may fall between. The log lies on the simulated disk; the backend is an image in memory
//! whose commits are atomic, as a transaction is.
//!
//! Invariant: a ticket comes back exactly once, in the order of its lane, or its member has died.

use std::collections::VecDeque;

use fated::{
    kernel::{
        DiskError, DiskErrorKind, DiskOp, DiskOutcome, Entropy, Event, Lane, SegmentId, Ticket,
    },
    mutant,
    wal::{parse_segment_name, segment_name},
};

use crate::{
    faults::{DiskFault, Point},
    world::{Item, World},
};

/// One lane of one member.
#[derive(Default, Debug)]
pub struct LaneState {
    queue: VecDeque<(Ticket, DiskOp)>,
    work: Option<Work>,
    /// The failure after which nothing more is done.
    failed: Option<DiskError>,
    /// Nothing completes before this moment.
    pub stalled_until: u64,
}

#[derive(Debug)]
struct Work {
    ticket: Ticket,
    op: DiskOp,
    step: u32,
    /// What a backend operation brought that took effect before it is reported.
    early: Option<Outcome>,
    /// Segments that a removal has still to unlink.
    doomed: Vec<String>,
}

type Outcome = Result<DiskOutcome, DiskError>;

enum Progress {
    More,
    Done(Outcome),
}

/// The lanes, in the order in which a crash looks at them.
pub const LANES: [Lane; 4] = [Lane::Wal, Lane::Keep, Lane::Backend, Lane::Snapshot];

impl World {
    /// Takes an operation onto its lane.
    pub fn execute_disk(&mut self, at: usize, ticket: Ticket, op: DiskOp) {
        let lane = op.lane();
        let state = self.members[at].lanes.entry(lane).or_default();
        state.queue.push_back((ticket, op));
        if state.work.is_none() {
            self.start_next(at, lane);
        }
    }

    fn start_next(&mut self, at: usize, lane: Lane) {
        let member = &mut self.members[at];
        let state = member.lanes.entry(lane).or_default();
        let Some((ticket, op)) = state.queue.pop_front() else {
            return;
        };
        if let Some(error) = state.failed.clone() {
            let outcome = Err(error);
            self.event_now(at, Event::DiskDone { ticket, outcome });
            return self.start_next(at, lane);
        }
        // A transaction is durable at some moment between its start and its answer.
        let backend = matches!(lane, Lane::Backend | Lane::Snapshot);
        let early = backend && member.entropy.one_in(2);
        let fails =
            matches!(op, DiskOp::Commit { .. }) && member.failing == Some(DiskFault::Commit);
        let early = (early && !fails).then(|| member.vault().execute(&op));
        let state = member.lanes.entry(lane).or_default();
        state.work = Some(Work {
            ticket,
            op,
            step: 0,
            early,
            doomed: Vec::new(),
        });
        self.lane_later(at, lane);
    }

    fn lane_later(&mut self, at: usize, lane: Lane) {
        let plan = &self.plan.disks;
        let member = &mut self.members[at];
        let state = &member.lanes[&lane];
        let quick = lane == Lane::Wal && state.work.as_ref().is_some_and(|work| work.step == 0);
        let base = if quick { plan.write_us } else { plan.sync_us };
        let factor = 1 << member.entropy.below(4);
        let nanos = base * 1000 * factor + member.entropy.below(1000);
        let when = (self.now + nanos * member.slow_times).max(state.stalled_until);
        let boot = member.boot;
        self.at(when, Item::Lane { at, boot, lane });
    }

    /// The running operation of a lane goes one step on.
    pub fn on_lane(&mut self, at: usize, boot: u64, lane: Lane) {
        if self.members[at].boot != boot || !self.members[at].up {
            return;
        }
        let stalled_until = self.members[at].lanes[&lane].stalled_until;
        if stalled_until > self.now {
            self.counters.hit("disk: operation held by a stall");
            self.at(stalled_until, Item::Lane { at, boot, lane });
            return;
        }
        let state = self.members[at]
            .lanes
            .get_mut(&lane)
            .expect("a lane at work");
        let mut work = state.work.take().expect("a lane at work");
        let progress = self.work_on(at, &mut work);
        if let Some(point) = point_of(&work, &progress) {
            self.maybe_crash(at, point);
            if self.members[at].boot != boot || !self.members[at].up {
                return;
            }
        }
        match progress {
            Progress::More => {
                work.step += 1;
                let state = self.members[at]
                    .lanes
                    .get_mut(&lane)
                    .expect("a lane at work");
                state.work = Some(work);
                self.lane_later(at, lane);
            }
            Progress::Done(outcome) => {
                let ticket = work.ticket;
                let failed = outcome.as_ref().err().filter(|_| lane != Lane::Snapshot);
                if let Some(error) = failed {
                    let state = self.members[at].lanes.get_mut(&lane);
                    state.expect("a lane at work").failed = Some(error.clone());
                }
                self.event_now(at, Event::DiskDone { ticket, outcome });
                self.start_next(at, lane);
            }
        }
    }

    fn work_on(&mut self, at: usize, work: &mut Work) -> Progress {
        let reverts = self.plan.disks.failed_sync_reverts;
        let member = &mut self.members[at];
        let outcome = match &work.op {
            DiskOp::WalWrite {
                segment,
                offset,
                bytes,
                sync,
            } => {
                let name = segment_name(*segment);
                if work.step == 0 {
                    match member.take_failure(DiskFault::Write) {
                        true => Err(failed(&name)),
                        false => match member.disk.write(&name, *offset, bytes) {
                            Ok(()) if *sync => return Progress::More,
                            written => written,
                        },
                    }
                } else if member.take_failure(DiskFault::Sync) {
                    member.disk.fail_sync(&name, reverts, &mut member.entropy);
                    Err(failed(&name))
                } else {
                    member.disk.sync(&name)
                }
            }
            DiskOp::WalPrepare { segment, bytes } => {
                match member.prepare_step(*segment, *bytes, work.step) {
                    Ok(true) => Ok(()),
                    Ok(false) => return Progress::More,
                    Err(error) => Err(error),
                }
            }
            DiskOp::WalRemove { before } => match member.remove_step(*before, work) {
                Ok(true) => Ok(()),
                Ok(false) => return Progress::More,
                Err(error) => Err(error),
            },
            DiskOp::Commit { .. } if member.take_failure(DiskFault::Commit) => {
                Err(failed("the backend"))
            }
            op => {
                let early = work.early.take();
                let outcome = early.unwrap_or_else(|| member.vault().execute(op));
                return Progress::Done(outcome);
            }
        };
        if outcome.is_err() {
            self.counters.hit("disk: operation failed");
            self.members[at].expects_halt = true;
        }
        Progress::Done(outcome.map(|()| DiskOutcome::Done))
    }

    /// The member dies: of each lane's running step nobody knows whether it was done. What waits
    /// behind never began.
    pub fn drop_lanes(&mut self, at: usize) {
        let mut entropy = self.members[at].entropy.clone();
        for lane in LANES {
            let work = self.members[at]
                .lanes
                .remove(&lane)
                .and_then(|state| state.work);
            if let Some(mut work) = work
                && entropy.one_in(2)
            {
                self.counters.hit(match lane {
                    Lane::Wal => "crash: inside a log write",
                    Lane::Keep => "crash: inside segment keeping",
                    Lane::Backend => "crash: inside a backend operation",
                    Lane::Snapshot => "crash: inside an image operation",
                });
                self.work_on(at, &mut work);
            }
        }
        // One draw, so that what the steps took from the stream above does not matter.
        self.members[at].entropy = Entropy::from_seed(entropy.next_u64());
        self.members[at].expects_halt = false;
    }
}

impl crate::world::Member {
    /// One step of making a segment, as the production host does it. True at the end.
    fn prepare_step(
        &mut self,
        segment: SegmentId,
        bytes: u64,
        step: u32,
    ) -> Result<bool, DiskError> {
        let name = segment_name(segment);
        let temporary = format!("{name}.tmp");
        match step {
            0 => self.disk.create(&temporary),
            1 => {
                if self.take_failure(DiskFault::Prepare) {
                    return Err(failed(&temporary));
                }
                let zeros = vec![0; usize::try_from(bytes).expect("small segments")];
                self.disk.write(&temporary, 0, &zeros)?;
            }
            2 => self.disk.sync(&temporary)?,
            3 => self.disk.rename(&temporary, &name)?,
            _ => {
                if !mutant!("segment-name-unsynced") {
                    self.disk.sync_names();
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One step of removing old segments. True at the end.
    fn remove_step(&mut self, before: SegmentId, work: &mut Work) -> Result<bool, DiskError> {
        if work.step == 0 {
            let names = self.disk.names().into_iter();
            let old = |name: &String| parse_segment_name(name).is_some_and(|id| id < before);
            work.doomed = names.filter(old).rev().collect();
        }
        match work.doomed.pop() {
            Some(name) => {
                self.disk.unlink(&name)?;
                Ok(false)
            }
            None => {
                self.disk.sync_names();
                Ok(true)
            }
        }
    }

    /// Whether the next operation of this kind is to fail; it is then used up.
    fn take_failure(&mut self, on: DiskFault) -> bool {
        self.failing.take_if(|failing| *failing == on).is_some()
    }
}

/// Where a member stands when a step has just been done; nowhere when it failed.
fn point_of(work: &Work, progress: &Progress) -> Option<Point> {
    if matches!(progress, Progress::Done(Err(_))) {
        return None;
    }
    Some(match &work.op {
        DiskOp::WalWrite { .. } if work.step == 0 => Point::LogWritten,
        DiskOp::WalWrite { .. } => Point::LogSynced,
        DiskOp::WalPrepare { .. } => match work.step {
            0 => Point::SegmentCreated,
            1 => Point::SegmentZeroed,
            2 => Point::SegmentSynced,
            3 => Point::SegmentRenamed,
            _ => Point::SegmentDurable,
        },
        DiskOp::WalRemove { .. } => match progress {
            Progress::More => Point::SegmentUnlinked,
            Progress::Done(_) => Point::SegmentsRemoved,
        },
        DiskOp::Commit { .. } => Point::Committed,
        DiskOp::SnapshotOpen { .. } => Point::ImagePinned,
        DiskOp::SnapshotRead { .. } => Point::ImageRead,
        DiskOp::StageOpen { .. } => Point::StageOpened,
        DiskOp::StageWrite { .. } => Point::StageWritten,
        DiskOp::StageSeal { .. } => Point::StageSealed,
        DiskOp::StageInstall { .. } => Point::StageInstalled,
        DiskOp::Defragment | DiskOp::SnapshotClose { .. } | DiskOp::StageDrop { .. } => {
            return None;
        }
    })
}

fn failed(what: &str) -> DiskError {
    DiskError::new(DiskErrorKind::Io, what)
}
