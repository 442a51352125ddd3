//! Cuts a plan down to what it needs to break the same guarantee: delta debugging over plan data.
//!
//! First what stands behind the moment of breaking goes, then halves, quarters and so on down to
//! single faults, steps, watchers and changes of members, then whatever makes the world harder: bad
//! links, skewed clocks, slow disks, members. All of it again until nothing more can go.
//!
//! A shorter plan draws other latencies at other places, so a bug that needs luck may be missed.
//! Hence each candidate is tried under a few seeds before it counts as one that does not break.
//!
//! Invariants:
//! - A candidate is kept only if it breaks the same guarantee as the plan did.
//! - Candidates and their order follow from the plan and the verdicts alone, and of the two that are
//!   tried at a time the first one that breaks is kept; so the result does not depend on how many
//!   threads there are.

use crate::{
    faults::{Fault, FaultKind, Target},
    membership::MembershipPlan,
    plan::{HostilePlan, NetworkPlan, Plan},
    script::Step,
};

/// How a candidate broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// What tells one way of breaking from another.
    pub what: String,
    /// When it showed, in milliseconds after the cluster began to serve, if during the faults.
    pub at_ms: Option<u64>,
    /// How many requests each client of the plan had sent by then.
    pub sent: Vec<usize>,
}

/// What a plan holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size {
    /// Faults and changes of the member set.
    pub faults: usize,
    /// Steps of clients.
    pub operations: usize,
    /// Clients that do something.
    pub clients: usize,
    /// Watchers.
    pub watchers: usize,
    /// Members at first.
    pub members: usize,
}

impl Size {
    /// The size of a plan.
    pub fn of(plan: &Plan) -> Self {
        let busy = plan.clients.iter().filter(|steps| !steps.is_empty());
        Self {
            faults: plan.faults.len() + plan.membership.steps.len() + usize::from(plan.last_cut),
            operations: plan.clients.iter().map(Vec::len).sum(),
            clients: busy.count(),
            watchers: plan.watchers.len(),
            members: plan.cluster.members,
        }
    }
}

/// Runs candidates, all of them or up to the first that breaks in the given way.
pub trait Trial {
    /// The first of these plans that breaks so, and how.
    fn first(&mut self, plans: Vec<Plan>, what: &str) -> Option<(usize, Broken)>;

    /// A smaller plan was found.
    fn tell(&mut self, pass: &str, size: Size);

    /// Whether there is time for more.
    fn may_go_on(&self) -> bool;
}

/// How many candidates are tried at a time.
const WIDTH: usize = 2;
/// How many seeds a candidate is tried under once the plan is small.
const SEEDS: u64 = 4;
/// Up to how many steps a plan is small.
const SMALL: usize = 60;

/// A plan that is being cut down.
pub struct Shrink<'t> {
    plan: Plan,
    broken: Broken,
    trial: &'t mut dyn Trial,
}

impl<'t> Shrink<'t> {
    /// Begins with a plan that breaks in this way.
    pub fn new(plan: Plan, broken: Broken, trial: &'t mut dyn Trial) -> Self {
        Self {
            plan,
            broken,
            trial,
        }
    }

    /// Cuts until nothing more can go.
    pub fn run(mut self) -> Plan {
        self.cut_behind();
        loop {
            let before = (Size::of(&self.plan), self.plan.clone());
            self.cut_whole();
            self.cut_clients();
            self.cut_list("faults", |plan| &mut plan.faults);
            self.cut_list("changes of members", |plan| &mut plan.membership.steps);
            self.cut_list("watchers", |plan| &mut plan.watchers);
            self.cut_steps();
            self.cut_members();
            self.cut_hardships();
            if self.plan == before.1 || !self.trial.may_go_on() {
                return self.plan;
            }
        }
    }

    /// Tries candidates in order and keeps the first that breaks.
    fn keep_first(&mut self, pass: &str, candidates: Vec<Plan>) -> Option<usize> {
        let small = Size::of(&self.plan).operations <= SMALL;
        let seeds = if small { SEEDS } else { 1 };
        for (at, chunk) in candidates.chunks(WIDTH).enumerate() {
            for more in 0..seeds {
                if !self.trial.may_go_on() {
                    return None;
                }
                let reseed = |plan: &Plan| Plan {
                    seed: plan.seed.wrapping_add(more),
                    ..plan.clone()
                };
                let plans: Vec<Plan> = chunk.iter().map(reseed).collect();
                let what = self.broken.what.clone();
                if let Some((first, broken)) = self.trial.first(plans, &what) {
                    self.plan = reseed(&chunk[first]);
                    self.broken = broken;
                    self.trial.tell(pass, Size::of(&self.plan));
                    return Some(at * WIDTH + first);
                }
            }
        }
        None
    }

    /// What comes after the moment of breaking did not break it.
    fn cut_behind(&mut self) {
        let mut plan = self.plan.clone();
        if let Some(at_ms) = self.broken.at_ms {
            plan.faults.retain(|fault| fault.at_ms <= at_ms);
            plan.membership.steps.retain(|step| step.at_ms <= at_ms);
            plan.faults_ms = plan.faults_ms.min(at_ms + 1);
            for (steps, sent) in plan.clients.iter_mut().zip(&self.broken.sent) {
                steps.truncate(*sent);
            }
        }
        plan.operations_min = 0;
        let mut less = plan.clone();
        less.last_cut = false;
        // Not all that a client sends is recorded.
        let mut more = plan.clone();
        more.clients.clone_from(&self.plan.clients);
        self.keep_first("what came later", vec![less, plan, more]);
    }

    /// Whole kinds of things at once.
    fn cut_whole(&mut self) {
        let mut candidates = Vec::new();
        let mut with = |cut: &dyn Fn(&mut Plan)| {
            let mut plan = self.plan.clone();
            cut(&mut plan);
            if plan != self.plan {
                candidates.push(plan);
            }
        };
        with(&|plan| plan.faults.clear());
        with(&|plan| plan.membership = MembershipPlan::default());
        with(&|plan| plan.watchers.clear());
        with(&|plan| plan.operations_min = 0);
        with(&|plan| plan.last_cut = false);
        with(&|plan| plan.deaf = false);
        while let Some(kept) = self.keep_first("whole kinds", candidates.clone()) {
            let rest = candidates.split_off(kept + 1);
            let done = self.plan.clone();
            candidates = rest.into_iter().map(|plan| meet(&done, &plan)).collect();
            candidates.retain(|plan| *plan != done);
        }
    }

    /// Whole clients. Their places stay, because their numbers are part of what is drawn.
    fn cut_clients(&mut self) {
        let mut at = 0;
        while at < self.plan.clients.len() {
            if !self.plan.clients[at].is_empty() {
                let mut plan = self.plan.clone();
                plan.clients[at].clear();
                self.keep_first("clients", vec![plan]);
            }
            at += 1;
        }
        let mut plan = self.plan.clone();
        while plan.clients.len() > 1 && plan.clients.last().is_some_and(Vec::is_empty) {
            plan.clients.pop();
        }
        if plan != self.plan {
            self.keep_first("clients", vec![plan]);
        }
    }

    /// Parts of a list: halves first, single ones last.
    fn cut_list<T: Clone>(&mut self, pass: &str, list: fn(&mut Plan) -> &mut Vec<T>) {
        let length = |plan: &Plan| list(&mut plan.clone()).len();
        let mut size = length(&self.plan).div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < length(&self.plan) {
                let starts = (from..length(&self.plan)).step_by(size).take(WIDTH);
                let without = |start: usize| {
                    let mut plan = self.plan.clone();
                    let whole = list(&mut plan);
                    let end = (start + size).min(whole.len());
                    whole.drain(start..end);
                    plan
                };
                let candidates: Vec<Plan> = starts.map(without).collect();
                let tried = candidates.len();
                match self.keep_first(pass, candidates) {
                    // What follows has moved up to where the part stood.
                    Some(kept) => from += kept * size,
                    None => from += tried * size,
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
            if !self.trial.may_go_on() {
                return;
            }
        }
    }

    /// Parts of what each client does. Who leaves a step out waits for as long.
    fn cut_steps(&mut self) {
        let longest = self.plan.clients.iter().map(Vec::len).max().unwrap_or(0);
        let mut size = longest.div_ceil(2);
        while size > 0 {
            for client in 0..self.plan.clients.len() {
                let mut from = 0;
                while from < self.plan.clients[client].len() {
                    let length = self.plan.clients[client].len();
                    let starts = (from..length).step_by(size).take(WIDTH);
                    let without = |start: usize| {
                        let mut plan = self.plan.clone();
                        leave_out(&mut plan.clients[client], start, size);
                        plan
                    };
                    let candidates: Vec<Plan> = starts.map(without).collect();
                    let tried = candidates.len();
                    match self.keep_first("steps", candidates) {
                        Some(kept) => from += kept * size,
                        None => from += tried * size,
                    }
                    if !self.trial.may_go_on() {
                        return;
                    }
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Smaller clusters, the smallest first.
    fn cut_members(&mut self) {
        let sizes = [1, 2, 3, 5];
        let smaller = sizes
            .into_iter()
            .filter(|size| *size < self.plan.cluster.members);
        let candidates = smaller.map(|size| with_members(&self.plan, size)).collect();
        self.keep_first("members", candidates);
    }

    /// Whatever makes the world harder without being a fault, one after the other.
    fn cut_hardships(&mut self) {
        let easier: [fn(&mut Plan); 9] = [
            |plan| {
                plan.network = still(&plan.network);
            },
            |plan| plan.network.loss_ppm = 0,
            |plan| plan.network.duplicate_ppm = 0,
            |plan| plan.network.reorder_ppm = 0,
            |plan| plan.network.corrupt_ppm = 0,
            |plan| plan.network.client_loss_ppm = 0,
            |plan| plan.network.jitter_us = 0,
            |plan| {
                let clocks = plan.clocks.iter_mut().chain(&mut plan.membership.clocks);
                clocks.for_each(|clock| (clock.rate_ppm, clock.offset_ms) = (0, 0));
            },
            |plan| {
                let last = plan
                    .faults
                    .last()
                    .map_or(0, |fault| fault.at_ms + fault.for_ms);
                let last = last.max(plan.membership.steps.last().map_or(0, |step| step.at_ms));
                plan.faults_ms = plan.faults_ms.min(last + 1_000);
            },
        ];
        for easier in easier {
            let mut plan = self.plan.clone();
            easier(&mut plan);
            if plan != self.plan {
                self.keep_first("hardships", vec![plan]);
            }
        }
    }
}

/// A network that does what it is asked to.
fn still(network: &NetworkPlan) -> NetworkPlan {
    NetworkPlan {
        loss_ppm: 0,
        duplicate_ppm: 0,
        reorder_ppm: 0,
        corrupt_ppm: 0,
        client_loss_ppm: 0,
        hostile: HostilePlan::default(),
        ..network.clone()
    }
}

/// What both plans have left of whole kinds of things.
fn meet(one: &Plan, other: &Plan) -> Plan {
    let mut plan = one.clone();
    if other.faults.is_empty() {
        plan.faults.clear();
    }
    if other.membership.is_still() {
        plan.membership = MembershipPlan::default();
    }
    if other.watchers.is_empty() {
        plan.watchers.clear();
    }
    plan.operations_min = plan.operations_min.min(other.operations_min);
    plan.last_cut &= other.last_cut;
    plan.deaf &= other.deaf;
    plan
}

/// Leaves out steps from a place on; the next one waits for them too.
fn leave_out(steps: &mut Vec<Step>, start: usize, size: usize) {
    let end = (start + size).min(steps.len());
    let waits: u64 = steps.drain(start..end).map(|step| step.wait_us).sum();
    if let Some(next) = steps.get_mut(start) {
        next.wait_us += waits;
    }
}

/// The same for the first members alone. What hit others hits one of those that are left.
fn with_members(plan: &Plan, members: usize) -> Plan {
    let mut plan = plan.clone();
    plan.cluster.members = members;
    plan.clocks.truncate(members);
    plan.core = (0..=members / 2).collect();
    plan.faults.retain_mut(|fault| stays_within(fault, members));
    plan
}

/// Whether a fault still means something among so many members.
fn stays_within(fault: &mut Fault, members: usize) -> bool {
    match &mut fault.kind {
        FaultKind::Kill { target }
        | FaultKind::PowerCut { target }
        | FaultKind::Pause { target }
        | FaultKind::Terminate { target }
        | FaultKind::Isolate { target, .. }
        | FaultKind::Reset { target }
        | FaultKind::ResetImage { target }
        | FaultKind::SlowLinks { target, .. }
        | FaultKind::SlowDisk { target, .. }
        | FaultKind::StalledDisk { target }
        | FaultKind::DiskError { target, .. }
        | FaultKind::FullDisk { target }
        | FaultKind::ClockJump { target, .. }
        | FaultKind::ClockRate { target, .. }
        | FaultKind::CrashAt { target, .. } => {
            if let Target::Member(at) = target {
                *at %= members;
            }
            true
        }
        FaultKind::Block { pairs, .. } => {
            pairs.retain(|(from, to)| *from < members && *to < members);
            !pairs.is_empty()
        }
        FaultKind::Rot { member }
        | FaultKind::Miswrite { member }
        | FaultKind::Misread { member }
        | FaultKind::LostDisk { member, .. }
        | FaultKind::WallJump { member, .. } => {
            *member %= members;
            true
        }
        FaultKind::MoveLeader { to } => {
            *to %= members;
            true
        }
        FaultKind::PowerCutAll | FaultKind::CrashFirst { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::What;

    /// A bug that needs two kills, one of them of the leader, a put of key 3 and a compaction.
    struct Made {
        runs: usize,
    }

    impl Made {
        fn breaks(plan: &Plan) -> bool {
            let kill = |fault: &&Fault| matches!(fault.kind, FaultKind::Kill { .. });
            let leader = |fault: &Fault| {
                matches!(
                    fault.kind,
                    FaultKind::Kill {
                        target: Target::Leader
                    }
                )
            };
            let steps = || plan.clients.iter().flatten();
            plan.faults.iter().filter(kill).count() >= 2
                && plan.faults.iter().any(leader)
                && steps().any(|step| matches!(step.what, What::Put { key: 3, .. }))
                && steps().any(|step| matches!(step.what, What::Compact { .. }))
        }
    }

    impl Trial for Made {
        fn first(&mut self, plans: Vec<Plan>, _: &str) -> Option<(usize, Broken)> {
            self.runs += plans.len();
            let first = plans.iter().position(Self::breaks)?;
            Some((first, broken()))
        }

        fn tell(&mut self, _: &str, _: Size) {}

        fn may_go_on(&self) -> bool {
            true
        }
    }

    fn broken() -> Broken {
        Broken {
            what: "made up".into(),
            at_ms: None,
            sent: Vec::new(),
        }
    }

    /// Goal: what a bug needs is left and nothing else, each time the same. Method: a
    /// bug made up, on drawn plans that break.
    #[test]
    fn what_is_needed_is_left() {
        let mut plans = (0..400).map(Plan::draw);
        for _ in 0..3 {
            let plan = plans.find(Made::breaks).expect("many plans have all of it");
            let shrink = || {
                let mut made = Made { runs: 0 };
                let small = Shrink::new(plan.clone(), broken(), &mut made).run();
                (small, made.runs)
            };
            let (small, runs) = shrink();
            let size = Size::of(&small);
            assert_eq!(
                (size.faults, size.operations, size.watchers),
                (2, 2, 0),
                "{size:?}"
            );
            assert_eq!((size.members, small.network.loss_ppm), (1, 0));
            assert!(runs < 2_000, "{runs}");
            assert_eq!(shrink(), (small, runs));
        }
    }
}
