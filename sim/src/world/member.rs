//! One member as the world sees it: its machine, its disk, its clock, and whether it has a turn.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use fated::{
    backend::{Backend, ReadSnapshot},
    host::lanes::Lanes,
    kernel::{Entropy, Event, Instant, Lane, MemberId, SegmentId},
};

use super::crowd::Calls;
use crate::{
    clock::Clock,
    disk::Disk,
    faults::{DiskFault, Point},
    lanes::LaneState,
    observe::DiskImage,
    operator::{self, Standing},
    plan::Plan,
    store::{Home, Store},
    trace::View,
};

/// One member and its machine.
pub struct Member {
    pub id: MemberId,
    /// What its machine is used for.
    pub standing: Standing,
    /// Where its machine is reached by members.
    pub url: String,
    /// Whom it knows, and where.
    pub knows: Vec<(MemberId, Vec<String>)>,
    /// Whether it joined with one flag, and so asks for its vote by itself.
    pub joins: bool,
    /// Whether it is started to go on alone.
    pub forced: bool,
    /// Whether its process runs.
    pub up: bool,
    /// Whether it serves clients.
    pub serving: bool,
    /// Whether its machine can answer for it.
    pub powered: bool,
    /// Counts its lives.
    pub boot: u64,
    /// Its operator does not start it any more.
    pub given_up: bool,
    /// It may not start while this is not zero.
    pub forbidden: u32,
    /// It stands still while this is not zero.
    pub paused: u32,
    /// Since when it stands still, and whether it had something to do meanwhile.
    pub paused_at: u64,
    pub withheld: bool,
    /// Its disk was damaged beyond what it may forgive: it may refuse to start.
    pub rotten: bool,
    /// What it reads at its next start cannot be trusted, and it has to say so.
    pub must_refuse: bool,
    /// Its log or its store is gone, and the other is left.
    pub halved: bool,
    /// A sector of its log comes from another place at its next start.
    pub misreads: bool,
    /// The next write of its log goes to another place.
    pub miswrites: bool,
    /// A write of the running operation went to another place.
    pub misplaced: bool,
    /// Where its last two log writes began.
    pub log_writes: [(SegmentId, u64); 2],
    /// Whether an image is on its way to it, or from it.
    pub receives_image: bool,
    pub sends_image: bool,
    /// Its disk failed, so it has to halt.
    pub expects_halt: bool,
    /// It was asked to stop.
    pub terminating: bool,
    pub clock: Clock,
    pub disk: Disk,
    pub store: Store,
    pub vault: Option<Lanes<Store>>,
    pub lanes: BTreeMap<Lane, LaneState>,
    /// The next operation of this kind fails.
    pub failing: Option<DiskFault>,
    /// It dies when its disk comes to this point; whether by power.
    pub crash_at: Option<(Point, bool)>,
    pub slow_times: u64,
    pub entropy: Entropy,
    pub view: View,
    pub is_leader: bool,
    pub state_hash: u64,
    /// How many leases it knows of.
    pub leases: usize,
    /// Whether the alarm about space stands in its state, and the bytes of its live data.
    pub space: (bool, u64),
    /// The calls it has to answer.
    pub calls: Calls,
    pub(super) inbox: VecDeque<Event>,
    pub(super) busy_until: u64,
    /// When it wants a turn although nothing happened, by its own clock.
    pub(super) until: Option<Instant>,
    pub(super) wake_at: Option<u64>,
    pub(super) granted: bool,
    pub(super) waker: Option<Waker>,
}

impl Member {
    /// Images begin and end with a line for the operator.
    pub(super) fn on_log(&mut self, message: &str) {
        match message {
            "sending database snapshot" => self.sends_image = true,
            "sent database snapshot" => self.sends_image = false,
            "receiving database snapshot" => self.receives_image = true,
            "applied snapshot" | "refused a damaged snapshot" => self.receives_image = false,
            _ => {}
        }
    }

    /// The executor of the backend.
    pub fn vault(&self) -> &Lanes<Store> {
        self.vault
            .as_ref()
            .expect("a lane works while its member lives")
    }

    /// Its disk is empty, and nothing of what was planned for it counts any more.
    pub fn wipe(&mut self) {
        self.disk = Disk::default();
        self.store = self.store.after_loss();
        self.knows.clear();
        self.joins = false;
        self.failing = None;
        self.crash_at = None;
        self.rotten = false;
        self.given_up = false;
        self.must_refuse = false;
        self.halved = false;
        self.misreads = false;
        self.miswrites = false;
        self.misplaced = false;
        self.log_writes = Default::default();
        self.expects_halt = false;
        self.terminating = false;
    }
}

pub fn disk_image(member: &Member) -> DiskImage<'_> {
    let live = member.store.image().consistent();
    let sealed = member.store.sealed().expect("a whole store");
    DiskImage {
        member: member.id,
        segments: member.disk.worst_case(),
        backend: live.expect("an image does not fail"),
        sealed: sealed.map(|(_, id)| id),
        gone: member.rotten || member.standing == Standing::Lost,
    }
}

pub(super) fn founder_id(at: usize) -> MemberId {
    MemberId::new(at as u64 + 1)
}

pub(super) fn new_member(plan: &Plan, at: usize, root: &Entropy, home: Option<&Home>) -> Member {
    let clock = plan.clocks.iter().chain(&plan.membership.clocks).nth(at);
    let clock = clock.expect("every machine has a clock");
    let founder = at < plan.cluster.members;
    Member {
        id: match founder {
            true => founder_id(at),
            false => MemberId::ZERO,
        },
        standing: match founder {
            true => Standing::Founder,
            false => Standing::Free,
        },
        url: operator::url_of(at, 0),
        knows: Vec::new(),
        joins: false,
        forced: false,
        up: false,
        serving: false,
        powered: true,
        boot: 0,
        given_up: false,
        forbidden: 0,
        paused: 0,
        paused_at: 0,
        withheld: false,
        rotten: false,
        must_refuse: false,
        halved: false,
        receives_image: false,
        sends_image: false,
        misreads: false,
        miswrites: false,
        misplaced: false,
        log_writes: [(SegmentId::ZERO, 0); 2],
        expects_halt: false,
        terminating: false,
        clock: Clock::new(clock.rate_ppm, clock.offset_ms * 1_000_000),
        disk: Disk::default(),
        store: Store::new(home, at),
        vault: None,
        lanes: BTreeMap::new(),
        failing: None,
        crash_at: None,
        slow_times: 1,
        entropy: root.fork(&format!("member {at}")),
        view: View::default(),
        is_leader: false,
        state_hash: 0,
        leases: 0,
        space: (false, 0),
        calls: Calls::default(),
        inbox: VecDeque::new(),
        busy_until: 0,
        until: None,
        wake_at: None,
        granted: false,
        waker: None,
    }
}
