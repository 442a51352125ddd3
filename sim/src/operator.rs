//! The operator: changes the member set as the plan says, while faults go on, and looks after the
//! machines: starts who was added, where it was added, and lets those go that were removed.
//!
//! Every machine is a slot, at most nine of them. A member that joins gets a free slot and an empty
//! disk; its id is the one the cluster gave it. The operator pursues one chain of goals at a time
//! and asks again until a goal is reached, as a person would who looks at the list of members after
//! each attempt.
//!
//! Invariants: a disk is lost, and a voter removed, only where a majority of healthy voters is
//! left; an id that was removed never gets another process than the one it had.

use std::collections::VecDeque;

use fated::{
    kernel::{ApiError, CallId, Entropy, MemberId, Request},
    membership::Member as Seat,
    node::InitialMember,
    pb::etcdserverpb as rpc,
};

use crate::{
    client::changes_nothing,
    draw,
    faults::Point,
    membership::MemberChange,
    plan::Plan,
    world::{Item, World},
};

/// How often the operator looks.
const LOOK_NANOS: u64 = 60_000_000;
/// How long it waits for an answer.
const PATIENCE_NANOS: u64 = 4_000_000_000;
/// How often it asks before it gives a chain up.
const ATTEMPTS_MAX: u32 = 60;

/// What a slot is used for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nobody runs here.
    Free,
    /// A member is to be added here; the cluster has not said so yet.
    Awaited,
    /// A founder's.
    Founder,
    /// A member that was added, and whom it was told of.
    Joined(Vec<InitialMember>),
    /// The disk is gone; the member never comes back.
    Lost,
}

impl Standing {
    /// Whether a process may run here.
    pub fn runs(&self) -> bool {
        match self {
            Self::Founder | Self::Joined(_) => true,
            Self::Free | Self::Awaited | Self::Lost => false,
        }
    }
}

/// What the operator is about.
#[derive(Debug)]
pub struct Operator {
    chains: VecDeque<VecDeque<Goal>>,
    attempt: Option<Attempt>,
    attempts: u32,
    looking: bool,
    /// Requests whose outcome nobody knows: they may still come true.
    pub unsure: u64,
    moves: u64,
    version: u64,
    entropy: Entropy,
}

#[derive(Clone, Debug)]
enum Goal {
    Joined { slot: usize, learner: bool },
    Votes { slot: usize },
    Gone { id: MemberId },
    At { id: MemberId, url: String },
}

#[derive(Debug)]
struct Attempt {
    call: CallId,
    until: u64,
}

impl Operator {
    /// An operator who has not begun.
    pub fn new(entropy: Entropy) -> Self {
        Self {
            chains: VecDeque::new(),
            attempt: None,
            attempts: 0,
            looking: false,
            unsure: 0,
            moves: 0,
            version: 0,
            entropy,
        }
    }

    /// Whether a change may be under way.
    pub fn is_unsure(&self) -> bool {
        self.unsure > 0 || self.attempt.is_some()
    }
}

/// Where a slot is reached; its number comes first, so that a dial finds it.
pub fn url_of(slot: usize, serial: u64) -> String {
    match serial {
        0 => format!("http://m{slot}:2380"),
        serial => format!("http://m{slot}.{serial}:2380"),
    }
}

/// How many slots a plan needs.
pub fn slots(plan: &Plan) -> usize {
    plan.cluster.members + plan.membership.clocks.len()
}

impl World {
    /// Enters every step of the operator into the queue.
    pub fn schedule_changes(&mut self) {
        let plan = self.plan.clone();
        for (number, step) in plan.membership.steps.iter().enumerate() {
            self.after(step.at_ms * 1_000_000, Item::Change(number));
        }
    }

    // ---- who is there ----

    /// The member of a slot as the cluster sees it, if it belongs to it.
    pub fn seat(&self, at: usize) -> Option<&Seat> {
        self.observer.roster.cluster().get(self.members[at].id)
    }

    /// Whether a slot's member belongs to the cluster, runs or may run, and has its disk.
    pub fn belongs(&self, at: usize) -> bool {
        let member = &self.members[at];
        let founding = self.observer.roster.version() == 0;
        let seated = founding || self.seat(at).is_some();
        seated && member.standing.runs() && !member.rotten
    }

    /// Whether it votes as well.
    pub fn votes(&self, at: usize) -> bool {
        self.belongs(at) && self.seat(at).is_none_or(|seat| !seat.learner)
    }

    /// The slots of all voters that can still be of use.
    pub fn voters(&self) -> Vec<usize> {
        (0..self.members.len())
            .filter(|at| self.votes(*at))
            .collect()
    }

    /// Whether the voters may change at any moment: somebody asked for it, or a learner asks for its
    /// vote by itself.
    pub fn is_unsure(&self) -> bool {
        // Before a removal is settled, those who stay may still count the one that left.
        let open = self.observer.roster.cluster().unsettled().is_some();
        let asks = |at| self.asks_for_its_vote(at);
        open || self.operator.is_unsure() || (0..self.members.len()).any(asks)
    }

    /// Whether a member joined with one flag and does not vote yet.
    pub fn asks_for_its_vote(&self, at: usize) -> bool {
        let waits = self.members[at].standing == Standing::Awaited;
        self.members[at].joins && (waits || (self.belongs(at) && !self.votes(at)))
    }

    /// How many voters the cluster counts, whatever became of them.
    fn voters_counted(&self) -> usize {
        let members = self.observer.roster.cluster().members();
        members.filter(|member| !member.learner).count()
    }

    /// How many slots make a core: a majority of the voters, or everybody while it is not certain
    /// who votes.
    pub fn core_size(&self) -> usize {
        let joint = &self.observer.roster.cluster().conf_state().voters_outgoing;
        match self.is_unsure() || !joint.is_empty() {
            true => self.members.len(),
            false => self.voters_counted() / 2 + 1,
        }
    }

    /// Whether one healthy voter less, lost or removed, leaves a majority of healthy ones.
    fn can_spare(&self, removed: bool) -> bool {
        let doomed = |at: &usize| {
            let member = &self.members[*at];
            member.miswrites || member.misreads || member.misplaced || member.must_refuse
        };
        // As in etcd, a configuration counts from the moment it is applied. A voter that has not
        // applied the last one asks the wrong ones, so it is no help if it is all that is left.
        let up_to_date = |at: &usize| {
            let member = &self.members[*at];
            let cluster = self.observer.roster.cluster();
            let mut others = cluster.members().filter(|other| other.id != member.id);
            others.all(|other| member.knows.iter().any(|(id, _)| *id == other.id))
        };
        let voters = self.voters().into_iter();
        let healthy = voters.filter(|at| !doomed(at) && up_to_date(at)).count();
        let left = self.voters_counted() - usize::from(removed);
        // A joint configuration needs a majority of those who leave as well, and what is on its way
        // may add a voter that has nothing yet.
        let joint = &self.observer.roster.cluster().conf_state().voters_outgoing;
        let is_settled = joint.is_empty() && !self.is_unsure();
        is_settled && 2 * (healthy.saturating_sub(1)) > left
    }

    /// Whether another disk may be damaged; what a plan draws beforehand knows nothing of members
    /// that left.
    pub fn may_rot(&self, at: usize) -> bool {
        self.plan.membership.is_still() || (self.votes(at) && self.can_spare(false))
    }

    /// The next slot at which a client may try its luck.
    pub fn next_slot(&self, at: usize) -> usize {
        let count = self.members.len();
        let mut next = (at + 1) % count;
        while next != at && !self.members[next].standing.runs() {
            next = (next + 1) % count;
        }
        next
    }

    // ---- steps of the plan ----

    /// The operator sets out to do something.
    pub fn on_change(&mut self, number: usize) {
        if self.nemesis.over {
            return;
        }
        let plan = self.plan.clone();
        let what = &plan.membership.steps[number].what;
        self.note(&format!("change {number}: {what:?}"));
        if let Some(chain) = self.set_out(what) {
            self.operator.chains.push_back(chain.into());
            self.look_later();
        }
    }

    fn set_out(&mut self, what: &MemberChange) -> Option<Vec<Goal>> {
        match what {
            MemberChange::Add { learner } => {
                let slot = self.take_slot()?;
                Some(vec![Goal::Joined {
                    slot,
                    learner: *learner,
                }])
            }
            MemberChange::Join => {
                let slot = self.take_slot()?;
                self.members[slot].joins = true;
                Some(vec![Goal::Joined {
                    slot,
                    learner: true,
                }])
            }
            MemberChange::Promote { nth } => {
                let learns = |at: &usize| self.belongs(*at) && !self.votes(*at);
                let slot = self.nth(*nth, learns)?;
                Some(vec![Goal::Votes { slot }])
            }
            MemberChange::Remove { nth } => {
                let at = self.nth(*nth, |at| self.seat(*at).is_some())?;
                let id = self.members[at].id;
                Some(vec![Goal::Gone { id }])
            }
            MemberChange::RemoveLeader => {
                let id = self.members[self.leader()?].id;
                Some(vec![Goal::Gone { id }])
            }
            MemberChange::Replace { nth, learner } => {
                let at = self.nth(*nth, |at| self.votes(*at))?;
                if !self.can_spare(false) {
                    return None;
                }
                let id = self.members[at].id;
                self.lose_machine(at);
                let slot = self.take_slot()?;
                let joined = Goal::Joined {
                    slot,
                    learner: *learner,
                };
                Some(vec![Goal::Gone { id }, joined, Goal::Votes { slot }])
            }
            MemberChange::Move { nth } => {
                let at = self.nth(*nth, |at| self.belongs(*at))?;
                self.operator.moves += 1;
                let url = url_of(at, self.operator.moves);
                let id = self.members[at].id;
                Some(vec![Goal::At { id, url }])
            }
            MemberChange::Zombie { nth } => {
                let removed = |at: &usize| self.is_removed(*at) && !self.members[*at].up;
                let at = self.nth(*nth, removed)?;
                self.counters.hit("members: removed member started again");
                self.after(0, Item::Boot { at });
                None
            }
            MemberChange::CrashAtChange { nth, power } => {
                let at = self.nth(*nth, |at| self.belongs(*at))?;
                self.members[at].crash_at = Some((Point::ChangeApplied, *power));
                None
            }
        }
    }

    fn nth(&self, nth: usize, fits: impl Fn(&usize) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.members.len()).filter(fits).collect();
        (!found.is_empty()).then(|| found[nth % found.len()])
    }

    /// Whether a slot's member was removed, and its disk is still there.
    pub fn is_removed(&self, at: usize) -> bool {
        let member = &self.members[at];
        member.standing.runs() && self.observer.roster.cluster().is_removed(member.id)
    }

    /// Whether those who stay know of a removal for good. Before that no operator can, and the member
    /// may be the only one that could still tell.
    fn is_known_removed(&self, at: usize) -> bool {
        let mut settled = self.observer.roster.cluster().settled();
        settled.any(|id| id == self.members[at].id)
    }

    /// A machine for a new member: one that is free, or that of a member which was removed. Its
    /// disk is empty.
    fn take_slot(&mut self) -> Option<usize> {
        let members = 0..self.members.len();
        let cluster = self.observer.roster.cluster();
        let gone =
            |at: &usize| cluster.is_removed(self.members[*at].id) && self.is_known_removed(*at);
        let free = |at: &usize| self.members[*at].standing == Standing::Free;
        let at = members
            .clone()
            .find(free)
            .or_else(|| members.clone().find(gone))?;
        self.kill(at);
        let entropy = &mut self.operator.entropy;
        let serial = match self.members[at].boot {
            0 => 0,
            // Sometimes another member comes to the address of the one before.
            _ if entropy.one_in(3) => 0,
            _ => {
                self.operator.moves += 1;
                self.operator.moves
            }
        };
        let url = url_of(at, serial);
        let member = &mut self.members[at];
        member.wipe();
        member.standing = Standing::Awaited;
        member.id = MemberId::ZERO;
        member.url = url;
        Some(at)
    }

    fn lose_machine(&mut self, at: usize) {
        self.counters.hit("members: machine lost for good");
        self.note(&format!("member {at} loses its disk"));
        self.kill(at);
        let member = &mut self.members[at];
        member.wipe();
        member.standing = Standing::Lost;
    }

    // ---- goals ----

    fn look_later(&mut self) {
        if !self.operator.looking {
            self.operator.looking = true;
            self.after(LOOK_NANOS, Item::Look);
        }
    }

    /// The operator looks how far it has come.
    pub fn on_look(&mut self) {
        self.operator.looking = false;
        if self.nemesis.over {
            return;
        }
        self.hear();
        while let Some(chain) = self.operator.chains.front_mut() {
            let Some(goal) = chain.front().cloned() else {
                self.operator.chains.pop_front();
                self.operator.attempts = 0;
                continue;
            };
            if self.is_reached(&goal) {
                self.operator.attempts = 0;
                self.operator.chains[0].pop_front();
                continue;
            }
            if self.operator.attempt.is_none() {
                self.try_for(&goal);
            }
            self.look_later();
            return;
        }
    }

    /// Takes an answer, or the lack of one, for what it is.
    fn hear(&mut self) {
        let Some(Attempt { call, until }) = self.operator.attempt else {
            return;
        };
        let answer = self.nemesis.answers.remove(&call);
        if answer.is_none() && self.now < until {
            return;
        }
        self.operator.attempt = None;
        let error = match answer {
            Some(Ok(_)) => return self.counters.hit("members: change answered"),
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.counters.hit(match error {
            Some(ApiError::LearnerNotReady) => "members: promotion refused, not ready",
            Some(ApiError::Unhealthy) => "members: change refused, unhealthy",
            Some(ApiError::MemberNotEnoughStarted) => "members: change refused, not enough started",
            Some(ApiError::TooManyLearners) => "members: change refused, too many learners",
            Some(error) if changes_nothing(error) => "members: change refused otherwise",
            Some(_) | None => "members: change with unknown outcome",
        });
        if error.is_none_or(|error| !changes_nothing(error)) {
            self.operator.unsure += 1;
        }
    }

    fn is_reached(&self, goal: &Goal) -> bool {
        let cluster = self.observer.roster.cluster();
        match goal {
            Goal::Joined { slot, .. } => self.seat(*slot).is_some(),
            Goal::Votes { slot } => self.seat(*slot).is_some_and(|seat| !seat.learner),
            Goal::Gone { id } => cluster.is_removed(*id),
            Goal::At { id, url } => {
                let there = |member: &Seat| member.peer_urls.contains(url);
                cluster.get(*id).is_none_or(there)
            }
        }
    }

    fn try_for(&mut self, goal: &Goal) {
        self.operator.attempts += 1;
        if self.operator.attempts > ATTEMPTS_MAX {
            self.counters.hit("members: change given up");
            self.give_up();
            return;
        }
        let Some(request) = self.request_for(goal) else {
            return;
        };
        let serving: Vec<usize> = (0..self.members.len())
            .filter(|at| self.members[*at].serving && self.members[*at].paused == 0)
            .collect();
        if serving.is_empty() {
            return;
        }
        let via = serving[draw::index(serving.len(), &mut self.operator.entropy)];
        let call = self.own_call(via, request);
        let until = self.now + PATIENCE_NANOS;
        self.operator.attempt = Some(Attempt { call, until });
    }

    fn request_for(&self, goal: &Goal) -> Option<Request> {
        match goal {
            Goal::Joined { slot, learner } => Some(Request::MemberAdd(rpc::MemberAddRequest {
                peer_ur_ls: vec![self.members[*slot].url.clone()],
                is_learner: *learner,
            })),
            Goal::Votes { slot } => {
                let id = self.members[*slot].id.get();
                Some(Request::MemberPromote(rpc::MemberPromoteRequest { id }))
            }
            Goal::Gone { id } => {
                let mut slots = 0..self.members.len();
                let at = slots.find(|at| self.members[*at].id == *id);
                let healthy = at.is_some_and(|at| self.votes(at));
                let asks = Request::MemberRemove(rpc::MemberRemoveRequest { id: id.get() });
                (!healthy || self.can_spare(true)).then_some(asks)
            }
            Goal::At { id, url } => Some(Request::MemberUpdate(rpc::MemberUpdateRequest {
                id: id.get(),
                peer_ur_ls: vec![url.clone()],
            })),
        }
    }

    /// The chain is not pursued any further. A slot that waits for a member is free again, unless
    /// the member may still be added.
    fn give_up(&mut self) {
        self.operator.attempts = 0;
        let goals = self.operator.chains.pop_front().unwrap_or_default();
        for goal in goals {
            if let Goal::Joined { slot, .. } = goal
                && self.members[slot].standing == Standing::Awaited
                && self.operator.unsure == 0
            {
                self.members[slot].standing = Standing::Free;
            }
        }
    }

    // ---- what follows ----

    /// The member set changed: machines follow it.
    pub fn follow_roster(&mut self) {
        let version = self.observer.roster.version();
        if std::mem::replace(&mut self.operator.version, version) == version {
            return;
        }
        let cluster = self.observer.roster.cluster();
        let seats: Vec<Seat> = cluster.members().cloned().collect();
        for seat in &seats {
            let of_id = |at: &usize| self.members[*at].id == seat.id;
            match (0..self.members.len()).find(of_id) {
                Some(at) if self.members[at].url == seat.peer_urls[0] => {}
                Some(at) => self.move_in(at, &seat.peer_urls[0]),
                None => self.install(seat, &seats),
            }
        }
        for at in 0..self.members.len() {
            if self.members[at].joins && self.votes(at) {
                self.members[at].joins = false;
                self.counters
                    .hit("members: joined with one flag and came to vote");
            }
            if self.is_removed(at) && self.members[at].up && self.operator.entropy.one_in(3) {
                // Some operators switch a machine off as soon as its member is removed.
                let pause = self.operator.entropy.below(500_000_000);
                let boot = self.members[at].boot;
                self.after(pause, Item::SwitchOff { at, boot });
            }
        }
    }

    /// A member that was added is started at its machine.
    fn install(&mut self, seat: &Seat, seats: &[Seat]) {
        let awaited = |at: &usize| {
            let member = &self.members[*at];
            member.standing == Standing::Awaited && member.url == seat.peer_urls[0]
        };
        let Some(at) = (0..self.members.len()).find(awaited) else {
            return;
        };
        let told = seats.iter().map(|seat| InitialMember {
            id: seat.id,
            name: seat.name.clone(),
            peer_urls: seat.peer_urls.clone(),
        });
        let standing = Standing::Joined(told.collect());
        let member = &mut self.members[at];
        member.id = seat.id;
        member.standing = standing;
        let pause = self.operator.entropy.below(1_000_000_000);
        self.after(pause, Item::Boot { at });
    }

    /// A member starts again at its new address.
    fn move_in(&mut self, at: usize, url: &str) {
        self.kill(at);
        self.members[at].url = url.to_owned();
        let pause = self.operator.entropy.below(300_000_000);
        self.after(pause, Item::Boot { at });
    }

    /// A removed member's machine is switched off, if it still runs.
    pub fn on_switch_off(&mut self, at: usize, boot: u64) {
        if self.members[at].boot != boot {
            return;
        }
        if self.is_known_removed(at) {
            self.kill(at);
        } else {
            self.after(100_000_000, Item::SwitchOff { at, boot });
        }
    }

    /// Removed members that run although somebody who runs and knows of the removal is where they
    /// would look for it.
    pub fn lingering(&self) -> Vec<usize> {
        let cluster = self.observer.roster.cluster();
        let slots = 0..self.members.len();
        let removed = slots.filter(|at| self.is_removed(*at) && self.members[*at].up);
        let knows = |at: &usize| {
            let mut known = self.members[*at].knows.iter();
            known.any(|(id, urls)| {
                cluster.get(*id).is_some_and(|seat| seat.peer_urls == *urls)
                    && (0..self.members.len())
                        .any(|other| self.members[other].id == *id && self.belongs(other))
            })
        };
        removed.filter(knows).collect()
    }
}
