//! Changes of the member set as data: who joins, leaves, is replaced, moves, and when. On for about
//! half of the seeds, from a random stream of its own.
//!
//! A step names members by a number, which is taken modulo those that are there when its time has
//! come.

use fated::kernel::Entropy;
use serde::{Deserialize, Serialize};

use crate::{
    draw,
    plan::{ClockPlan, ClusterPlan},
};

/// Machines a cluster may spread over.
pub const SLOTS_MAX: usize = 9;

/// How the member set changes in a run.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct MembershipPlan {
    /// Clocks of the machines beside the founders'; nobody runs there at first.
    pub clocks: Vec<ClockPlan>,
    /// Whether changes that could cost the quorum are refused.
    pub strict: bool,
    /// Whether changes of the voters go through a joint configuration.
    pub joint: bool,
    /// Learners at one time.
    pub learners_max: usize,
    /// How long a member must be connected to count as healthy.
    pub health_ms: u64,
    /// What the operator does, in order of time.
    pub steps: Vec<MemberStep>,
    /// The end of the run: all members but one are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
}

/// All members lose power at one moment and all but one their disks, and that one goes on alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forced {
    /// Which voter is left.
    pub nth: usize,
    /// Writes that are on their way in that moment.
    pub writes: u64,
    /// How long they have been.
    pub in_flight_us: u64,
    /// When it dies once more while it is being forced, if it does, and whether by power.
    pub dies: Option<(u64, bool)>,
}

/// One thing the operator sets out to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberStep {
    /// Milliseconds after the cluster began to serve.
    pub at_ms: u64,
    /// What.
    pub what: MemberChange,
}

/// What the operator sets out to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberChange {
    /// A new member, as a voter at once or as a learner.
    Add { learner: bool },
    /// A new member joins with one flag: it is added as a learner, and asks for its vote by itself.
    Join,
    /// A learner becomes a voter, again and again until it is ready.
    Promote { nth: usize },
    /// A member leaves.
    Remove { nth: usize },
    /// Whoever leads then leaves.
    RemoveLeader,
    /// A member's disk is lost; it is removed, and another with an empty disk takes its place.
    Replace { nth: usize, learner: bool },
    /// A member gets another peer URL and starts again there.
    Move { nth: usize },
    /// A removed member is started again with the disk it had.
    Zombie { nth: usize },
    /// A member dies right after it next applied a change, before that is in its backend.
    CrashAtChange { nth: usize, power: bool },
}

impl MembershipPlan {
    /// The changes of a plan.
    pub fn draw(cluster: &ClusterPlan, span_ms: u64, entropy: &mut Entropy) -> Self {
        if !entropy.one_in(2) {
            return Self::default();
        }
        let mut clocks = entropy.fork("clocks");
        let skewed = clocks.one_in(2);
        let more = SLOTS_MAX - cluster.members;
        let clocks = (0..more).map(|_| ClockPlan::draw(skewed, &mut clocks));
        let clocks = clocks.collect();
        let strict = !entropy.one_in(4);
        let joint = entropy.one_in(3);
        let learners_max = draw::usize(entropy.between(1, 3));
        let health_ms = draw::log_uniform(50, 5_000, entropy);
        let mean_ms = draw::log_uniform(1_000, 8_000, entropy);
        let mut steps = Vec::new();
        let mut at_ms = entropy.below(2 * mean_ms);
        while at_ms < span_ms {
            let what = MemberChange::draw(entropy);
            steps.push(MemberStep { at_ms, what });
            at_ms += 1 + entropy.below(2 * mean_ms);
        }
        if steps.is_empty() {
            return Self::default();
        }
        let mut joining = entropy.fork("joining");
        for step in &mut steps {
            if step.what == (MemberChange::Add { learner: true }) && joining.one_in(2) {
                step.what = MemberChange::Join;
            }
        }
        let mut forced = entropy.fork("forced");
        let forced = forced.one_in(2).then(|| Forced::draw(&mut forced));
        Self {
            clocks,
            strict,
            joint,
            learners_max,
            health_ms,
            steps,
            forced,
        }
    }

    /// Whether the member set stays as it was founded.
    pub fn is_still(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether nothing of it is to be said, so that a plan on file need not mention it.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Forced {
    /// One such end.
    pub fn draw(entropy: &mut Entropy) -> Self {
        Self {
            nth: draw::usize(entropy.below(64)),
            writes: entropy.below(24),
            in_flight_us: draw::log_uniform(100, 60_000, entropy),
            dies: entropy
                .one_in(2)
                .then(|| (draw::log_uniform(10, 400_000, entropy), entropy.one_in(2))),
        }
    }
}

impl MemberChange {
    fn draw(entropy: &mut Entropy) -> Self {
        let class = entropy.below(14);
        let nth = draw::usize(entropy.below(64));
        let flag = entropy.one_in(2);
        match class {
            0 | 1 => Self::Add { learner: true },
            2 => Self::Add { learner: false },
            3 | 4 => Self::Promote { nth },
            5 | 6 => Self::Remove { nth },
            7 => Self::RemoveLeader,
            8 | 9 => Self::Replace { nth, learner: flag },
            10 => Self::Move { nth },
            11 => Self::Zombie { nth },
            _ => Self::CrashAtChange { nth, power: flag },
        }
    }
}
