//! Cuts a plan down to what it needs to break the same guarantee: delta debugging over plan data.
//!
//! First what stands behind the moment of breaking goes, and what came long before it; then whole
//! clients and kinds of things; then halves, quarters and so on down to single faults, steps,
//! watchers and changes of members; then whatever makes the world harder or the run longer: bad
//! links, skewed clocks, slow disks, small limits, members, pauses. All of it again until nothing
//! more can go. Crashes that must hit a moment become crashes at an exact point where that saves
//! steps.
//!
//! A shorter plan draws other latencies at other places, so a bug that needs luck may be missed.
//! Hence each candidate is tried under several seeds before it counts as one that does not break.
//! For the same reason everything is cut coarsely first: in a calm world that holds little, single
//! steps are soon tried, and luck matters less.
//!
//! Invariants:
//! - A candidate is kept only if it breaks the same guarantee as the plan did, so what is left at
//!   any time breaks it too.
//! - Candidates and their order follow from the plan and the verdicts alone, and of those that are
//!   tried at a time the first one that breaks is kept; so the result does not depend on how many
//!   threads there are.

use crate::plan::Plan;

mod cuts;
mod easier;
#[cfg(test)]
mod tests;

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
        let ends = usize::from(plan.last_cut) + usize::from(plan.membership.forced.is_some());
        let ends = if plan.ends_early { 0 } else { ends };
        Self {
            faults: plan.faults.len() + plan.membership.steps.len() + ends,
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

    /// A plan that is easier breaks too.
    fn tell(&mut self, pass: &str, plan: &Plan);

    /// Whether there is time for more.
    fn may_go_on(&self) -> bool;
}

/// How many candidates are tried at a time.
const WIDTH: usize = 2;
/// How hard it is tried, one after the other: up to how many parts a list is cut into, and under how
/// many seeds a candidate is tried.
const LEVELS: [Level; 4] = [
    Level { parts: 4, seeds: 4 },
    Level {
        parts: 16,
        seeds: 4,
    },
    Level {
        parts: usize::MAX,
        seeds: 4,
    },
    Level {
        parts: usize::MAX,
        seeds: 16,
    },
];

/// With no more faults and steps than these a plan can be read at a glance, and more seeds are not
/// worth their time.
const PLAIN: (usize, usize) = (2, 3);

/// How hard it is tried.
#[derive(Clone, Copy, Debug)]
struct Level {
    parts: usize,
    seeds: u64,
}

/// A plan that is being cut down.
pub struct Shrink<'t> {
    plan: Plan,
    broken: Broken,
    trial: &'t mut dyn Trial,
    level: Level,
}

impl<'t> Shrink<'t> {
    /// Begins with a plan that breaks in this way.
    pub fn new(plan: Plan, broken: Broken, trial: &'t mut dyn Trial) -> Self {
        Self {
            plan,
            broken,
            trial,
            level: LEVELS[0],
        }
    }

    /// Cuts until nothing more can go, or there is no time for more.
    pub fn run(mut self) -> Plan {
        self.begin_with_waits();
        self.cut_behind();
        for level in LEVELS {
            self.level = level;
            loop {
                let before = self.plan.clone();
                self.round();
                if self.plan == before || !self.trial.may_go_on() {
                    break;
                }
            }
            let size = Size::of(&self.plan);
            let is_plain = size.faults <= PLAIN.0 && size.operations <= PLAIN.1;
            if (is_plain && level.parts == usize::MAX) || !self.trial.may_go_on() {
                break;
            }
        }
        self.plan
    }

    /// Everything once, what saves most first.
    fn round(&mut self) {
        self.cut_whole();
        self.cut_before();
        self.cut_clients();
        self.cut_kinds();
        self.cut_list("faults", |plan| &mut plan.faults);
        self.cut_list("changes of members", |plan| &mut plan.membership.steps);
        self.cut_list("watchers", |plan| &mut plan.watchers);
        self.cut_steps();
        self.cut_members();
        self.cut_hardships();
        self.cut_times();
        self.aim_crashes();
    }

    /// Tries candidates in order and keeps the first that breaks.
    fn keep_first(&mut self, pass: &str, candidates: Vec<Plan>) -> Option<usize> {
        for (at, chunk) in candidates.chunks(WIDTH).enumerate() {
            for more in 0..self.level.seeds {
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
                    self.trial.tell(pass, &self.plan);
                    return Some(at * WIDTH + first);
                }
            }
        }
        None
    }

    /// Tries one change after the other, each on top of those that were kept.
    fn keep_each(&mut self, pass: &str, changes: &[fn(&mut Plan)]) {
        for change in changes {
            let mut plan = self.plan.clone();
            change(&mut plan);
            if plan != self.plan {
                self.keep_first(pass, vec![plan]);
            }
        }
    }
}
