//! A cluster, its clients and what lies between them, in virtual time.
//!
//! Everything that will happen stands in one queue in order of time, and of entry where times are
//! equal. Whoever runs the world takes the first item, lets the member it wakes finish its turn,
//! and goes on; so no two members ever run at once and the executor's choices decide nothing.
//!
//! Invariants: what a member was sent in one life never reaches the next one; nothing here draws
//! from a generator that is not forked from the plan's seed by name.

mod crowd;
mod member;
pub use member::disk_image;
mod settings;

use std::{collections::VecDeque, sync::Arc, task::Waker};

use fated::{
    kernel::{
        ApiError, ClusterId, Effect, Entropy, Event, Instant, Lane, LinkId, MemberId, limits,
    },
    node::Node,
    raft::Entry,
};

use crate::{
    client::{ClientItem, Clients},
    counters::Counters,
    faults::Point,
    links::{Flight, Network, Replay},
    nemesis::Nemesis,
    observe::{DiskImage, Observer, Violation},
    operator::{self, Operator},
    plan::Plan,
    queue::Queue,
    store::{Home, Store},
    trace::{self, Trace, View},
    transfers::Transfers,
    watcher::{WatchItem, Watchers},
};

pub use self::member::Member;
use self::{crowd::Calls, member::new_member};

/// The cluster's id.
pub const CLUSTER: ClusterId = ClusterId::new(77);

/// One thing that will happen.
#[derive(Debug)]
pub enum Item {
    /// An event for one life of a member.
    Event { at: usize, boot: u64, event: Event },
    /// A member may be due.
    Wake { at: usize, boot: u64 },
    /// A step of a disk lane.
    Lane { at: usize, boot: u64, lane: Lane },
    /// A dial reaches its member.
    Dial {
        from: usize,
        boot: u64,
        link: LinkId,
        peer: MemberId,
        url: String,
    },
    /// A frame reaches its member.
    Frame(Flight),
    /// A frame comes once more, on whatever link there is.
    Replay(Replay),
    /// The news that a link broke reaches one end.
    Reset { at: usize, link: LinkId },
    /// A member starts, if it may.
    Boot { at: usize },
    /// The operator sets out to do a step of the plan.
    Change(usize),
    /// The operator looks how far it has come.
    Look,
    /// A removed member's machine is switched off.
    SwitchOff { at: usize, boot: u64 },
    /// A member has come to an exact point within its turn.
    At { at: usize, boot: u64, point: Point },
    /// A planned fault begins.
    FaultBegins(usize),
    /// A planned fault ends.
    FaultEnds(usize),
    /// Something between a client and a member.
    Client(ClientItem),
    /// Something between a watcher and a member.
    Watch(WatchItem),
}

/// What the executor must do before the world goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Let a member have its turn.
    Run(usize),
    /// Begin a life.
    Spawn(usize),
    /// End a life.
    Kill(usize),
}

/// The story that clients and members told, where a run goes on behind its end.
#[derive(Clone, Debug)]
pub struct Told {
    /// How many operations of clients.
    pub operations: usize,
    /// How many lines of watches.
    pub watched: usize,
    /// The committed log: what comes behind may lose its end.
    pub log: Vec<(u64, Entry)>,
}

/// The whole of it.
pub struct World {
    pub plan: Arc<Plan>,
    pub now: u64,
    queue: Queue<Item>,
    pub actions: VecDeque<Action>,
    pub members: Vec<Member>,
    /// Where the files of members with LMDB are.
    pub home: Option<Home>,
    pub network: Network,
    pub transfers: Transfers,
    pub clients: Clients,
    pub watchers: Watchers,
    pub nemesis: Nemesis,
    pub operator: Operator,
    pub observer: Observer,
    pub counters: Counters,
    pub trace: Trace,
    pub broken: Option<Violation>,
    /// Where the story of the clients ends, if the run goes on behind it.
    pub told: Option<Told>,
    /// Whether a member is having its turn; whoever runs the world waits meanwhile.
    pub busy: bool,
    pub runner: Option<Waker>,
}

impl World {
    /// A world in which nobody has started.
    pub fn new(plan: Arc<Plan>, trace: Trace) -> Self {
        let root = Entropy::from_seed(plan.seed).fork("run");
        let home = plan.disks.lmdb.then(Home::create);
        let mut counters = Counters::default();
        counters.add("lmdb: run beside memory", u64::from(home.is_some()));
        let members = 0..operator::slots(&plan);
        let members = members.map(|at| new_member(&plan, at, &root, home.as_ref()));
        Self {
            now: 0,
            queue: Queue::default(),
            actions: VecDeque::new(),
            members: members.collect(),
            home,
            transfers: Transfers::default(),
            network: Network::new(plan.network.clone(), root.fork("network")),
            clients: Clients::new(&plan),
            watchers: Watchers::new(&plan, root.fork("watchers")),
            nemesis: Nemesis::default(),
            operator: Operator::new(root.fork("operator")),
            observer: Observer::default(),
            counters,
            trace,
            broken: None,
            told: None,
            busy: false,
            runner: None,
            plan,
        }
    }

    /// Enters something into the queue.
    pub fn at(&mut self, when: u64, item: Item) {
        self.queue.enter(when.max(self.now), item);
    }

    /// Enters something that happens after a while.
    pub fn after(&mut self, nanos: u64, item: Item) {
        self.at(self.now.saturating_add(nanos), item);
    }

    /// An event for the present life of a member, after a while.
    pub fn event_after(&mut self, nanos: u64, at: usize, event: Event) {
        let boot = self.members[at].boot;
        self.after(nanos, Item::Event { at, boot, event });
    }

    /// Whoever leads by its own account; of several, the one of the latest term.
    pub fn leader(&self) -> Option<usize> {
        let members = self.members.iter().enumerate();
        let leading = members.filter(|(_, member)| member.up && member.is_leader);
        leading
            .max_by_key(|(_, member)| member.view.term)
            .map(|(at, _)| at)
    }

    /// A guarantee did not hold. The first one counts.
    pub fn fail(&mut self, violation: Violation) {
        self.note(&format!(
            "BROKEN: {}: {}",
            violation.guarantee, violation.story
        ));
        let now = self.now;
        self.broken.get_or_insert_with(|| violation.shown_at(now));
    }

    /// A line about the world.
    pub fn note(&mut self, what: &str) {
        if self.trace.has_lines() {
            let view = View {
                role: "world",
                ..View::default()
            };
            self.trace.line(self.now, MemberId::ZERO, &view, what);
        }
    }

    /// When the next thing happens.
    pub fn next_time(&self) -> Option<u64> {
        self.queue.next_time()
    }

    /// Lets the next thing happen, at its time.
    pub fn advance(&mut self) {
        let Some((when, item)) = self.queue.take_next() else {
            return;
        };
        self.now = when;
        match item {
            Item::Event { at, boot, event } => {
                if self.members[at].boot == boot {
                    self.event_now(at, event);
                }
            }
            Item::Wake { at, boot } => {
                let member = &mut self.members[at];
                // One that an earlier one has replaced must not bring forth another.
                if member.boot == boot && member.wake_at == Some(when) {
                    member.wake_at = None;
                    self.consider(at);
                }
            }
            Item::Lane { at, boot, lane } => self.on_lane(at, boot, lane),
            Item::Dial {
                from,
                boot,
                link,
                peer,
                url,
            } => self.on_dial((from, boot), link, peer, &url),
            Item::Frame(flight) => self.on_flight(flight),
            Item::Replay(replay) => self.on_replay(replay),
            Item::Reset { at, link } => self.on_reset(at, link),
            Item::Boot { at } => self.on_boot(at),
            Item::Change(number) => self.on_change(number),
            Item::Look => self.on_look(),
            Item::SwitchOff { at, boot } => self.on_switch_off(at, boot),
            Item::At { at, boot, point } => {
                if self.members[at].boot == boot && self.members[at].up {
                    self.maybe_crash(at, &[point]);
                }
            }
            Item::FaultBegins(number) => self.on_fault(number),
            Item::FaultEnds(number) => self.on_fault_end(number),
            Item::Client(item) => self.on_client(item),
            Item::Watch(item) => self.on_watch(item),
        }
    }

    /// An event reaches a member.
    pub fn event_now(&mut self, at: usize, event: Event) {
        if self.members[at].up {
            self.members[at].inbox.push_back(event);
            self.consider(at);
        }
    }

    /// Lets a member run if it is due, or sees to it that it is looked at again.
    pub fn consider(&mut self, at: usize) {
        let now = self.now;
        let member = &mut self.members[at];
        member.withheld |= member.up && member.paused > 0;
        if !member.up || member.paused > 0 || member.granted {
            return;
        }
        let wanted = if member.inbox.is_empty() {
            member.until.map(|until| member.clock.virtual_at(until))
        } else {
            Some(now)
        };
        let Some(due) = wanted.map(|when| when.max(member.busy_until)) else {
            return;
        };
        if due <= now {
            member.granted = true;
            self.actions.push_back(Action::Run(at));
        } else if member.wake_at.is_none_or(|wake| due < wake) {
            member.wake_at = Some(due);
            let boot = member.boot;
            self.at(due, Item::Wake { at, boot });
        }
    }

    /// Whose turn it is wakes up.
    pub fn grant(&mut self, at: usize) -> bool {
        let member = &mut self.members[at];
        if !member.up || !member.granted {
            return false;
        }
        self.busy = true;
        if let Some(waker) = member.waker.take() {
            waker.wake();
        }
        true
    }

    /// A member has finished its turn and waits.
    pub fn begin_wait(&mut self, at: usize, until: Option<Instant>) {
        let step_us = self.plan.cluster.step_us;
        let member = &mut self.members[at];
        member.busy_until = self.now + 1000 + member.entropy.below(step_us * 1000);
        member.until = until;
        self.consider(at);
        self.end_turn();
    }

    /// The turn is over; the world goes on.
    pub fn end_turn(&mut self) {
        self.busy = false;
        if let Some(runner) = self.runner.take() {
            runner.wake();
        }
    }

    /// What a member gets when its turn has come; nothing before.
    pub fn take_turn(&mut self, at: usize, waker: &Waker, events: &mut Vec<Event>) -> bool {
        let member = &mut self.members[at];
        if !member.granted {
            member.waker = Some(waker.clone());
            return false;
        }
        member.granted = false;
        let count = member.inbox.len().min(limits::EVENTS_PER_STEP_MAX);
        events.extend(member.inbox.drain(..count));
        member.calls.on_turn(events);
        self.count_crowd(at);
        for event in &*events {
            self.trace
                .note(self.now, at as u64, trace::digest_event(event));
        }
        if self.trace.has_lines() {
            for event in &*events {
                self.line(at, &trace::show_event(event));
            }
        }
        true
    }

    /// Does one effect of a member.
    pub fn execute(&mut self, at: usize, effect: Effect) {
        let digest = trace::digest_effect(&effect);
        self.trace.note(self.now, at as u64, digest);
        if self.trace.has_lines() {
            self.line(at, &trace::show_effect(&effect));
        }
        match effect {
            Effect::Disk { ticket, op } => self.execute_disk(at, ticket, op),
            Effect::Link(op) => self.execute_link(at, op),
            Effect::Reply { call, result } => {
                if result == Err(ApiError::TooManyRequests) {
                    self.on_too_many(at, call);
                }
                self.members[at].calls.on_reply(call);
                self.on_reply(at, call, result);
            }
            Effect::Stream { stream, item } => self.on_stream_out(stream, item),
            Effect::Log(line) => {
                self.members[at].on_log(&line.message);
                if let Some(counter) = log_counter(&line.message) {
                    self.counters.hit(counter);
                }
            }
            Effect::Ready => self.members[at].serving = true,
            Effect::Halt(fault) => unreachable!("the event loop keeps {fault} to itself"),
        }
    }

    /// A line about a member.
    pub fn line(&mut self, at: usize, what: &str) {
        let member = &self.members[at];
        self.trace.line(self.now, member.id, &member.view, what);
    }

    /// Looks at a member after its turn.
    pub fn observe(&mut self, at: usize, node: &Node<Store>) {
        node.check();
        let line = node.trace(Instant::ZERO, String::new());
        let member = &mut self.members[at];
        member.is_leader = line.role == "leader";
        member.state_hash = node.machine().state_hash();
        member.leases = node.machine().lessor().len();
        member.view = View {
            role: line.role,
            term: line.term,
            commit: line.commit,
            applied: line.applied,
            durable: line.durable,
            revision: line.revision,
        };
        self.observer.now = self.now;
        if let Err(violation) = self.observer.on_turn(node, &mut self.counters) {
            self.fail(violation);
        }
        self.judge_refusals(at, node);
        self.judge_crowd(at, node);
        self.judge_transfers(at, node);
        self.note_leader(at, node.raft().leader().is_some());
        self.after_turn(at, node);
    }

    /// Changes of the members are followed, once a turn has shown them.
    fn after_turn(&mut self, at: usize, node: &Node<Store>) {
        if self.plan.membership.is_still() {
            return;
        }
        if self.members[at].knows.is_empty() || self.observer.change_applied {
            self.members[at].knows = node.machine().addresses();
        }
        if self.observer.change_applied {
            let (boot, point) = (self.members[at].boot, Point::ChangeApplied);
            self.after(0, Item::At { at, boot, point });
        }
        self.follow_roster();
    }

    fn on_boot(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.up || member.forbidden > 0 || member.given_up || !member.standing.runs() {
            return;
        }
        member.up = true;
        member.powered = true;
        member.boot += 1;
        member.terminating = false;
        // What a life applied and did not keep, the next has to hear anew.
        member.knows.clear();
        member.clock.on_boot(self.now);
        self.actions.push_back(Action::Spawn(at));
    }

    /// The process is gone, by whatever cause.
    pub fn end_life(&mut self, at: usize) {
        self.drop_lanes(at);
        let id = self.members[at].id;
        self.observer.on_end(id, &mut self.counters);
        let member = &mut self.members[at];
        for (begun, name) in [
            (
                &mut member.receives_image,
                "image: receiving ended by a crash",
            ),
            (&mut member.sends_image, "image: sending ended by a crash"),
        ] {
            self.counters.add(name, u64::from(std::mem::take(begun)));
        }
        member.up = false;
        member.serving = false;
        member.is_leader = false;
        member.view = View::default();
        member.inbox.clear();
        member.calls = Calls::default();
        member.granted = false;
        member.waker = None;
        member.wake_at = None;
        member.until = None;
        member.busy_until = 0;
        member.vault = None;
        member.misplaced = false;
        self.drop_links(at);
        self.drop_calls(at);
        self.drop_streams(at);
    }

    /// Kills a member's process; the page cache stays.
    pub fn kill(&mut self, at: usize) {
        if self.members[at].up {
            self.counters.hit("fault: process killed");
            self.line(at, "killed");
            self.end_life(at);
            self.actions.push_back(Action::Kill(at));
        }
        self.check_disks();
    }

    /// A member's machine loses power.
    pub fn power_cut(&mut self, at: usize) {
        let changes = self.members[at].up || self.members[at].disk.is_pending();
        self.counters.add("fault: power cut", u64::from(changes));
        self.line(at, "loses power");
        self.members[at].powered = false;
        if self.members[at].up {
            self.end_life(at);
            self.actions.push_back(Action::Kill(at));
        }
        let member = &mut self.members[at];
        let Member { disk, entropy, .. } = member;
        disk.power_cut(entropy, &mut self.counters);
        self.check_disks();
    }

    /// Computes from the disks alone whether everything committed is on a quorum of them.
    fn check_disks(&mut self) {
        let members = self.members.iter().filter(|member| !member.id.is_zero());
        let images: Vec<DiskImage<'_>> = members.map(disk_image).collect();
        let verdict = self.observer.check_disks(&images, &mut self.counters);
        if let Err(violation) = verdict {
            self.fail(violation);
        }
    }
}

/// Lines for the operator that tell of something worth counting.
fn log_counter(message: &str) -> Option<&'static str> {
    Some(match message {
        "sending database snapshot" => "image: sending begun",
        "sent database snapshot" => "image: sent",
        "receiving database snapshot" => "image: receiving begun",
        "applied snapshot" => "image: installed",
        "refused a damaged snapshot" => "image: refused as damaged",
        "finished scheduled compaction" => "compaction: finished",
        "starting auto compaction" => "compaction: begun by the clock",
        "raising alarm" => "space: alarm proposed",
        "clearing alarm" => "space: its end proposed",
        _ => return None,
    })
}
