//! The beginning and the unexpected end of a member's life: from what its disk holds to a node, as
//! the production server does it, with crashes between the steps and reads that fail or bring the
//! wrong sector.
//!
//! Invariants:
//! - A member whose log was damaged behind something durable does not come to life again.
//! - A member halts only for a fault that its own disk really had, or because it was removed.

use fated::{
    host::lanes::Lanes,
    kernel::{DiskError, DiskErrorKind, Entropy, Fault, SegmentId},
    mutant,
    node::{Node, boot::settle_image},
    wal::{
        LogFault, Recovered, Recovery, SECTOR_BYTES, first_unsettled, parse_segment_name,
        segment_name,
    },
};

use crate::{
    faults::{DiskFault, Point},
    observe::Violation,
    store::Store,
    world::{Item, World},
};

/// Why a boot did not come to its end.
enum Stop {
    /// The member refuses to start.
    Fault(Fault),
    /// It died on the way.
    Died,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<LogFault> for Stop {
    fn from(fault: LogFault) -> Self {
        Self::Fault(fault.into())
    }
}

impl World {
    /// A node, or nothing when the member died while it started.
    pub fn boot_node(&mut self, at: usize) -> Result<Option<Node<Store>>, Fault> {
        match self.try_boot(at) {
            Ok(node) => Ok(Some(node)),
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::Died) => Ok(None),
        }
    }

    fn try_boot(&mut self, at: usize) -> Result<Node<Store>, Stop> {
        self.observer.on_boot(self.members[at].id);
        let config = self.node_config(at);
        let member = &mut self.members[at];
        for name in member.disk.names() {
            if name.ends_with(".tmp") {
                member.disk.unlink(&name)?;
            }
        }
        self.boot_point(at, Point::BootBegun)?;
        if !mutant!("boot-trusts-names") {
            self.members[at].disk.sync_names();
        }
        let log = self.recover(at)?;
        if log.as_ref().is_some_and(|log| log.torn.is_some()) {
            self.counters.hit("boot: torn tail cut");
        }
        self.boot_point(at, Point::BootLogRead)?;
        let member = &mut self.members[at];
        member.vault = Some(Lanes::new(member.store.clone()));
        let seed = member.entropy.next_u64();
        let backend = member.store.clone();
        let founded = log.is_none();
        let node = Node::boot(&config, log, backend, Entropy::from_seed(seed))?;
        if founded {
            self.boot_point(at, Point::BootFounded)?;
        }
        if self.members[at].must_refuse {
            let story = format!("{:x?} starts from it", self.members[at].id);
            let guarantee = "a damaged log is never accepted";
            self.fail(Violation::new(guarantee, story));
        }
        if let Err(violation) = self.observer.on_booted(&node) {
            self.fail(violation);
        }
        self.counters.hit("boot: member started");
        Ok(node)
    }

    fn recover(&mut self, at: usize) -> Result<Option<Recovered>, Stop> {
        let mut recovery = Recovery::new();
        let disk = &mut self.members[at].disk;
        let mut segments = Vec::new();
        for name in disk.names() {
            if let Some(segment) = parse_segment_name(&name) {
                let start = disk.read(&name)?;
                let mut start = start.iter().take(SECTOR_BYTES as usize);
                segments.push((segment, start.any(|byte| *byte != 0)));
            }
        }
        let unsettled = first_unsettled(&segments);
        for (segment, _) in segments {
            let name = &segment_name(segment);
            let content = self.read_segment(at, name, segment)?;
            // A server syncs those before, for lives without syncs. There are none here, so that
            // what is durable is so by the journal's order.
            if Some(segment) >= unsettled {
                self.settle_segment(at, name, &content)?;
            }
            let member = &mut self.members[at];
            member.must_refuse |= std::mem::take(&mut member.misplaced);
            recovery.feed(segment, &content)?;
        }
        let member = &mut self.members[at];
        member.store = member.store.after_crash();
        let applied = settle_image(&member.store, recovery.mark())?;
        self.boot_point(at, Point::BootImageSettled)?;
        Ok(recovery.finish(applied)?)
    }

    /// Makes durable what was read.
    fn settle_segment(&mut self, at: usize, name: &str, content: &[u8]) -> Result<(), Stop> {
        let trusts = mutant!("boot-trusts-the-cache");
        if !trusts {
            self.members[at].disk.write(name, 0, content)?;
        }
        self.boot_point(at, Point::BootLogWritten)?;
        let member = &mut self.members[at];
        if !trusts {
            member.disk.sync(name)?;
        }
        member.must_refuse |= std::mem::take(&mut member.misplaced);
        self.boot_point(at, Point::BootLogSynced)
    }

    /// Reads a segment; a fault of the device may stand in the way.
    fn read_segment(
        &mut self,
        at: usize,
        name: &str,
        segment: SegmentId,
    ) -> Result<Vec<u8>, DiskError> {
        let member = &mut self.members[at];
        if member.take_failure(DiskFault::Read) {
            member.expects_halt = true;
            self.counters.hit("disk: read failed at boot");
            return Err(DiskError::new(DiskErrorKind::Io, name));
        }
        let mut content = member.disk.read(name)?;
        // Damage to the last write looks like one that was never finished, and nobody can tell.
        let [_, (last, end)] = member.log_writes;
        let known = match segment.cmp(&last) {
            std::cmp::Ordering::Less => content.len(),
            std::cmp::Ordering::Equal => usize::try_from(end).expect("segments are small"),
            std::cmp::Ordering::Greater => 0,
        };
        if member.misreads
            && let Some((wrong, right)) =
                crate::disk::misread(&mut content, known, &mut member.entropy)
        {
            member.misreads = false;
            member.rotten = true;
            // What was read of the last segments goes back to the disk before anybody judges it.
            member.misplaced = true;
            self.counters.hit("disk: misdirected read");
            let name = segment_name(segment);
            self.note(&format!(
                "member {at} reads sector {wrong} of {name} where {right} was asked for"
            ));
        }
        Ok(content)
    }

    fn boot_point(&mut self, at: usize, point: Point) -> Result<(), Stop> {
        self.maybe_crash(at, &[point]);
        match self.members[at].up {
            true => Ok(()),
            false => Err(Stop::Died),
        }
    }

    /// A member could not start, or stopped by itself.
    pub fn on_halt(&mut self, at: usize, fault: &Fault) {
        self.line(at, &format!("halts: {fault}"));
        let member = &mut self.members[at];
        let expected = match fault {
            Fault::Disk(_) => member.expects_halt,
            Fault::Log(_) | Fault::State(_) => member.rotten,
            Fault::Stopped => member.terminating,
            Fault::Removed => self.observer.roster.has_left(member.id),
        };
        if !expected {
            let story = format!("{:x?} halts: {fault}", member.id);
            let guarantee = "a member halts only for a fault of its own disk";
            self.fail(Violation::new(guarantee, story));
        }
        let pause = self.members[at].entropy.between(50_000_000, 2_000_000_000);
        if self.members[at].rotten && matches!(fault, Fault::Log(_) | Fault::State(_)) {
            let halved = std::mem::take(&mut self.members[at].halved);
            self.counters.hit(match halved {
                true => "boot: half a data directory refused",
                false => "boot: damaged log refused",
            });
            self.members[at].must_refuse = false;
            self.members[at].given_up = true;
        }
        self.counters.hit("member halted by itself");
        self.end_life(at);
        if *fault == Fault::Removed {
            self.counters.hit("members: removed member stopped");
        } else {
            self.after(pause, Item::Boot { at });
        }
        self.end_turn();
    }
}
