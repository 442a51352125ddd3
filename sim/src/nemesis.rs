//! Does what the plan wants broken, and takes it back: at its time, at the end of the phase of
//! faults, or never, for the members that the liveness phase leaves behind.

use std::collections::{BTreeMap, BTreeSet};

use fated::backend::ReadSnapshot;
use fated::kernel::{
    ApiError, CallId, Credentials, EntryId, Event, MemberId, Request, Response, Signal,
};
use fated::pb::etcdserverpb as rpc;

use crate::{
    disk::Disk,
    faults::{DiskFault, FaultKind, Part, Point, Shape, Target},
    lanes::LANES,
    links::Barrier,
    plan::HostilePlan,
    world::{Item, World},
};

/// The first call id of calls that are nobody's history.
const OWN_CALLS: u64 = 1 << 40;

const LEFT_BEHIND: Barrier = Barrier {
    kind: "blocked: left behind",
    hold: false,
};

/// What is broken at the moment.
#[derive(Default, Debug)]
pub struct Nemesis {
    /// How to take back each fault that lasts.
    active: BTreeMap<usize, Undo>,
    calls: u64,
    /// Answers to its own calls, where somebody waits for them.
    pub answers: BTreeMap<CallId, Result<Response, ApiError>>,
    /// Points at which whoever comes there first dies; whether by power.
    crash_first: Vec<(Point, bool)>,
    /// Faults begin only in their phase.
    pub over: bool,
    /// Members cut off for the liveness phase.
    cut_off: BTreeSet<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Undo {
    Boot(Vec<usize>),
    Resume(usize),
    Unblock(Vec<(usize, usize)>, Barrier),
    Quick(usize),
    Room(usize),
    Fast(usize),
}

impl World {
    /// Enters every fault of the plan into the queue.
    pub fn schedule_faults(&mut self) {
        let plan = self.plan.clone();
        for (number, fault) in plan.faults.iter().enumerate() {
            self.after(fault.at_ms * 1_000_000, Item::FaultBegins(number));
        }
    }

    /// A fault begins.
    pub fn on_fault(&mut self, number: usize) {
        if self.nemesis.over {
            return;
        }
        let plan = self.plan.clone();
        let fault = &plan.faults[number];
        self.note(&format!(
            "fault {number}: {:?} for {} ms",
            fault.kind, fault.for_ms
        ));
        if let Some(undo) = self.strike(&fault.kind, fault.for_ms) {
            self.nemesis.active.insert(number, undo);
            self.after(fault.for_ms * 1_000_000, Item::FaultEnds(number));
        }
    }

    /// A fault ends by itself.
    pub fn on_fault_end(&mut self, number: usize) {
        if let Some(undo) = self.nemesis.active.remove(&number) {
            self.undo(undo);
        }
    }

    /// Every fault that lasts ends now, and no further one begins.
    pub fn end_faults(&mut self) {
        self.nemesis.over = true;
        for (_, undo) in std::mem::take(&mut self.nemesis.active) {
            self.undo(undo);
        }
        for member in &mut self.members {
            member.failing = None;
            member.crash_at = None;
            member.miswrites = false;
            member.misreads = false;
            member
                .lanes
                .values_mut()
                .for_each(|lane| lane.stalled_until = 0);
        }
        self.network.break_image.clear();
        self.nemesis.crash_first.clear();
        let quality = &mut self.network.quality;
        quality.hostile = HostilePlan::default();
        (
            quality.loss_ppm,
            quality.corrupt_ppm,
            quality.client_loss_ppm,
        ) = (0, 0, 0);
    }

    fn target(&self, target: Target) -> Option<usize> {
        match target {
            Target::Member(at) => self.members[at].standing.runs().then_some(at),
            Target::Leader => self.leader(),
        }
    }

    fn strike(&mut self, kind: &FaultKind, for_ms: u64) -> Option<Undo> {
        match kind {
            FaultKind::Kill { target } => {
                let at = self.target(*target)?;
                self.kill(at);
                Some(self.forbid(vec![at]))
            }
            FaultKind::PowerCut { target } => {
                let at = self.target(*target)?;
                self.power_cut(at);
                Some(self.forbid(vec![at]))
            }
            FaultKind::PowerCutAll => Some(self.power_cut_all()),
            FaultKind::Pause { target } => {
                let at = self.target(*target)?;
                let now = self.now;
                let member = &mut self.members[at];
                if member.paused == 0 {
                    (member.paused_at, member.withheld) = (now, false);
                }
                member.paused += 1;
                Some(Undo::Resume(at))
            }
            FaultKind::Terminate { target } => {
                let at = self.target(*target)?;
                if self.members[at].up {
                    self.counters.hit("fault: asked to stop");
                    self.members[at].terminating = true;
                    self.event_now(at, Event::Signal(Signal::Terminate));
                }
                None
            }
            FaultKind::Block { shape, pairs, hold } => {
                let kind = shape_counter(*shape);
                Some(self.block_all(pairs.clone(), Barrier { kind, hold: *hold }))
            }
            FaultKind::Isolate {
                target,
                inbound,
                outbound,
                hold,
            } => {
                let at = self.target(*target)?;
                let others = (0..self.members.len()).filter(|other| *other != at);
                let mut pairs = Vec::new();
                for other in others {
                    pairs.extend(inbound.then_some((other, at)));
                    pairs.extend(outbound.then_some((at, other)));
                }
                let kind = "blocked: one member isolated";
                Some(self.block_all(pairs, Barrier { kind, hold: *hold }))
            }
            FaultKind::Reset { target } => {
                let at = self.target(*target)?;
                self.reset_links(at);
                None
            }
            FaultKind::MoveLeader { to } => {
                self.move_leader(*to);
                None
            }
            FaultKind::CrashAt {
                target,
                point,
                power,
            } => {
                let at = self.target(*target)?;
                if *point == Point::BootFounded {
                    return None; // Members are founded before faults begin.
                }
                self.members[at].crash_at = Some((*point, *power));
                point.is_at_boot().then(|| self.kill_for_a_while(at))
            }
            FaultKind::CrashFirst { point, power } => {
                self.nemesis.crash_first.push((*point, *power));
                None
            }
            FaultKind::ResetImage { target } => {
                let at = self.target(*target)?;
                self.network.break_image.insert(at);
                None
            }
            FaultKind::SlowLinks {
                target,
                bytes_per_ms,
            } => {
                let at = self.target(*target)?;
                self.network.slow.insert(at, *bytes_per_ms);
                Some(Undo::Fast(at))
            }
            FaultKind::SlowDisk { .. }
            | FaultKind::StalledDisk { .. }
            | FaultKind::DiskError { .. }
            | FaultKind::FullDisk { .. }
            | FaultKind::Rot { .. }
            | FaultKind::Miswrite { .. }
            | FaultKind::Misread { .. }
            | FaultKind::LostDisk { .. } => self.strike_disk(kind, for_ms),
            FaultKind::ClockJump { target, ms } => {
                let at = self.target(*target)?;
                self.counters
                    .add("fault: clock jump", u64::from(self.members[at].up));
                let now = self.now;
                self.members[at].clock.jump(now, ms * 1_000_000);
                if let Ok(forward) = u64::try_from(*ms) {
                    self.clients.shared.jumps.push((now, forward * 1_000_000));
                }
                self.consider(at);
                None
            }
            FaultKind::WallJump { member, ms } => {
                if self.members[*member].up {
                    self.counters.hit("fault: civil time to and fro");
                }
                self.members[*member].clock.jump_wall(ms * 1_000_000);
                None
            }
            FaultKind::ClockRate { target, ppm } => {
                let at = self.target(*target)?;
                self.counters
                    .add("fault: clock rate", u64::from(self.members[at].up));
                let now = self.now;
                self.members[at].clock.set_rate(now, *ppm);
                self.consider(at);
                None
            }
        }
    }

    fn strike_disk(&mut self, kind: &FaultKind, for_ms: u64) -> Option<Undo> {
        match kind {
            FaultKind::SlowDisk { target, times } => {
                let at = self.target(*target)?;
                self.members[at].slow_times = *times;
                Some(Undo::Quick(at))
            }
            FaultKind::StalledDisk { target } => {
                let at = self.target(*target)?;
                let until = self.now + for_ms * 1_000_000;
                for lane in LANES {
                    let state = self.members[at].lanes.entry(lane).or_default();
                    state.stalled_until = until;
                }
                None
            }
            FaultKind::DiskError { target, on } => {
                let at = self.target(*target)?;
                self.members[at].failing = Some(*on);
                (*on == DiskFault::Read).then(|| self.kill_for_a_while(at))
            }
            FaultKind::FullDisk { target } => {
                let at = self.target(*target)?;
                let disk = &mut self.members[at].disk;
                disk.capacity = Some(disk.used_bytes());
                Some(Undo::Room(at))
            }
            FaultKind::Miswrite { member }
            | FaultKind::Misread { member }
            | FaultKind::LostDisk { member, .. }
            | FaultKind::Rot { member }
                if !self.may_rot(*member) =>
            {
                None
            }
            FaultKind::Miswrite { member } => {
                self.members[*member].miswrites = true;
                None
            }
            FaultKind::Misread { member } => {
                self.members[*member].misreads = true;
                Some(self.kill_for_a_while(*member))
            }
            FaultKind::LostDisk { member, part } => Some(self.lose_disk(*member, *part)),
            FaultKind::Rot { member } => {
                let at = *member;
                self.kill(at);
                let member = &mut self.members[at];
                if let Some((name, offset)) = member.disk.rot(&mut member.entropy) {
                    member.rotten = true;
                    self.counters.hit("fault: a bit of the log flipped");
                    self.note(&format!("a bit flips in {name} at {offset} of member {at}"));
                }
                Some(self.forbid(vec![at]))
            }
            FaultKind::Kill { .. }
            | FaultKind::PowerCut { .. }
            | FaultKind::PowerCutAll
            | FaultKind::Pause { .. }
            | FaultKind::Terminate { .. }
            | FaultKind::Block { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::Reset { .. }
            | FaultKind::ResetImage { .. }
            | FaultKind::SlowLinks { .. }
            | FaultKind::ClockJump { .. }
            | FaultKind::WallJump { .. }
            | FaultKind::ClockRate { .. }
            | FaultKind::CrashAt { .. }
            | FaultKind::CrashFirst { .. }
            | FaultKind::MoveLeader { .. } => unreachable!("no fault of a disk: {kind:?}"),
        }
    }

    /// Members that are to die while they are founded. Called before anybody starts.
    pub fn arm_founders(&mut self) {
        for fault in &self.plan.clone().faults {
            if let FaultKind::CrashAt {
                target,
                point: Point::BootFounded,
                power,
            } = fault.kind
            {
                let at = match target {
                    Target::Member(at) => at,
                    Target::Leader => 0,
                };
                self.members[at].crash_at = Some((Point::BootFounded, power));
            }
        }
    }

    fn kill_for_a_while(&mut self, at: usize) -> Undo {
        self.kill(at);
        self.forbid(vec![at])
    }

    /// A part of a data directory is gone. A member that finds the other part refuses to start. One
    /// that finds nothing cannot know that it ever voted, so it must not start as who it was: it
    /// stays down, as an operator has to see to, until it is replaced as a member.
    fn lose_disk(&mut self, at: usize, part: Part) -> Undo {
        let undo = self.kill_for_a_while(at);
        let member = &mut self.members[at];
        member.rotten = true;
        let applied = member.store.image().consistent();
        let applied = applied.expect("an image does not fail") != EntryId::ZERO;
        let logged = !member.disk.names().is_empty();
        if part != Part::Store {
            member.disk = Disk::default();
        }
        if part != Part::Log {
            member.store = member.store.after_loss();
        }
        let left = match part {
            Part::Log => applied,
            Part::Store => logged,
            Part::All => false,
        };
        member.must_refuse = left;
        member.halved = left;
        if !left {
            member.given_up = true;
        }
        self.counters.hit(match part {
            _ if !left => "fault: whole data directory lost",
            Part::Log => "fault: log lost",
            Part::Store | Part::All => "fault: store lost",
        });
        self.note(&format!("member {at} loses {part:?} of its disk"));
        undo
    }

    /// A member has come to a point at which it is to die.
    pub fn maybe_crash(&mut self, at: usize, points: &[Point]) {
        let wanted = |armed: &mut (Point, bool)| points.contains(&armed.0);
        let mut armed = self.members[at].crash_at.take_if(wanted);
        if armed.is_none() {
            let mut first = self.nemesis.crash_first.iter();
            let place = first.position(|(point, _)| points.contains(point));
            armed = place.map(|place| self.nemesis.crash_first.remove(place));
        }
        let Some((point, power)) = armed else {
            return;
        };
        self.counters.hit(point.counter());
        self.note(&format!("member {at} crashes at {point:?}, power: {power}"));
        match power {
            true => self.power_cut(at),
            false => self.kill(at),
        }
        let pause = self.members[at].entropy.between(1_000_000, 2_000_000_000);
        self.after(pause, Item::Boot { at });
    }

    /// All machines lose power at once.
    fn power_cut_all(&mut self) -> Undo {
        let any = self.members.iter().any(|member| member.up);
        let name = "fault: power cut of all members";
        self.counters.add(name, u64::from(any));
        let runs = |at: &usize| self.members[*at].standing.runs();
        let all: Vec<usize> = (0..self.members.len()).filter(runs).collect();
        for at in &all {
            self.power_cut(*at);
        }
        self.forbid(all)
    }

    /// All machines lose power and come back at once, after everything else.
    pub fn cut_all_and_boot(&mut self) {
        let undo = self.power_cut_all();
        self.undo(undo);
    }

    fn forbid(&mut self, members: Vec<usize>) -> Undo {
        for at in &members {
            self.members[*at].forbidden += 1;
        }
        Undo::Boot(members)
    }

    fn block_all(&mut self, pairs: Vec<(usize, usize)>, barrier: Barrier) -> Undo {
        for (from, to) in &pairs {
            self.block(*from, *to, barrier);
        }
        Undo::Unblock(pairs, barrier)
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Boot(members) => {
                for at in members {
                    self.members[at].forbidden -= 1;
                    let delay = self.members[at].entropy.below(50_000_000);
                    self.after(delay, Item::Boot { at });
                }
            }
            Undo::Resume(at) => {
                self.members[at].paused -= 1;
                if self.members[at].paused == 0 {
                    self.count_pause(at);
                    self.transfers.wait_anew(at, self.now);
                }
                self.consider(at);
            }
            Undo::Unblock(pairs, barrier) => {
                for (from, to) in pairs {
                    self.unblock(from, to, barrier);
                }
            }
            Undo::Quick(at) => self.members[at].slow_times = 1,
            Undo::Room(at) => self.members[at].disk.capacity = None,
            Undo::Fast(at) => drop(self.network.slow.remove(&at)),
        }
    }

    /// A member goes on. That it stood still counts if it was wanted meanwhile, and as long only if it
    /// really was.
    fn count_pause(&mut self, at: usize) {
        let member = &mut self.members[at];
        if !std::mem::take(&mut member.withheld) || !member.up {
            return;
        }
        self.counters.hit("fault: pause");
        let long = self.now - member.paused_at > self.plan.cluster.election_ms * 1_000_000;
        let name = "fault: pause longer than an election timeout";
        self.counters.add(name, u64::from(long));
    }

    /// Leaves the members outside the core dead, cut off, or only slow.
    pub fn leave_behind(&mut self, core: &[usize]) {
        let others: Vec<usize> = (0..self.members.len())
            .filter(|at| !core.contains(at) && self.members[*at].standing.runs())
            .collect();
        for at in others {
            match self.members[at].entropy.below(3) {
                0 => {
                    self.kill(at);
                    self.members[at].forbidden += 1;
                    self.nemesis
                        .active
                        .insert(usize::MAX - at, Undo::Boot(vec![at]));
                }
                1 => {
                    for other in 0..self.members.len() {
                        if other != at {
                            if !self.plan.deaf {
                                self.nemesis.cut_off.insert((at, other));
                            }
                            self.nemesis.cut_off.insert((other, at));
                        }
                    }
                }
                _ => {
                    self.members[at].slow_times = 50;
                    self.nemesis.active.insert(usize::MAX - at, Undo::Quick(at));
                }
            }
        }
        for (from, to) in self.nemesis.cut_off.clone() {
            self.block(from, to, LEFT_BEHIND);
        }
    }

    /// Nothing is broken any more, but for disks that cannot be mended.
    pub fn heal(&mut self) {
        self.end_faults();
        for (from, to) in std::mem::take(&mut self.nemesis.cut_off) {
            self.unblock(from, to, LEFT_BEHIND);
        }
    }

    fn move_leader(&mut self, to: usize) {
        let Some(at) = self.leader().filter(|at| self.members[*at].serving) else {
            return;
        };
        let moves = u64::from(at != to);
        self.counters.add("fault: leadership moved", moves);
        let request = Request::MoveLeader(rpc::MoveLeaderRequest {
            target_id: MemberId::get(self.members[to].id),
        });
        self.own_call(at, request);
    }

    /// A call that is not part of the history.
    pub fn own_call(&mut self, at: usize, request: Request) -> CallId {
        self.nemesis.calls += 1;
        let call = CallId::new(OWN_CALLS + self.nemesis.calls);
        self.event_now(
            at,
            Event::Call {
                call,
                credentials: Credentials::default(),
                request,
            },
        );
        call
    }

    /// An answer to a call of its own, or to one that its client has given up.
    pub fn on_nemesis_reply(
        &mut self,
        at: usize,
        call: CallId,
        result: Result<Response, ApiError>,
    ) {
        assert!(
            at < self.members.len(),
            "a member that does not exist answers"
        );
        if call.get() >= OWN_CALLS {
            self.nemesis.answers.insert(call, result);
        }
    }
}

fn shape_counter(shape: Shape) -> &'static str {
    match shape {
        Shape::OneWay => "blocked: one direction",
        Shape::Pair => "blocked: one pair",
        Shape::Split => "blocked: split",
        Shape::Ring => "blocked: ring",
        Shape::Bridge => "blocked: bridge",
        Shape::Swizzle => "blocked: swizzle",
    }
}
