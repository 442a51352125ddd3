//! Bugs in how the cluster runs out of space and comes back.

use fated::kernel::Entropy;

use super::{
    Check::{self, Holds},
    Planted, guided, planted, strike_often,
};
use crate::{
    draw,
    faults::{FaultKind, Target},
    membership::MembershipPlan,
    plan::{ClockPlan, Plan, UpkeepPlan},
    script::{Step, What},
};

const ONE_STATE: Check = Holds("one state after one index");
const GROWS: Check = Holds("only what grows is refused for want of space");
const SHORT: Check = Holds("a write is refused only where space is short");
const SERVES: Check = Holds("a healed cluster serves");
const EQUAL: Check = Holds("healed members become equal");

/// Their list.
pub const TABLE: &[Planted] = &[
    guided(
        planted(
            "no-space-refuses-deletes",
            "etcd 9992",
            "A full cluster refuses deletes, and so can never be emptied.",
            &[GROWS],
        ),
        little_space,
    ),
    guided(
        planted(
            "quota-decided-when-applied",
            "etcd's quota applier",
            "Each member refuses an entry by what its own store takes.",
            &[ONE_STATE, SHORT],
        ),
        little_space,
    ),
    guided(
        planted(
            "alarm-never-cleared",
            "etcd 16779",
            "The alarm stands although there is space again.",
            &[SERVES],
        ),
        little_space,
    ),
    guided(
        planted(
            "alarm-cleared-in-memory-only",
            "second wave",
            "An alarm that was cleared stands again after a restart.",
            &[ONE_STATE, SHORT, SERVES, EQUAL],
        ),
        little_space_and_restarts,
    ),
];

/// A small quota, much to write, and much that goes again.
fn little_space(plan: &mut Plan) {
    let even = ClockPlan {
        rate_ppm: 0,
        offset_ms: 0,
    };
    let mut entropy = Entropy::from_seed(plan.seed).fork("guide of space");
    plan.cluster.members = 3;
    plan.clocks.resize(3, even);
    plan.core = draw::subset(3, 2, &mut entropy);
    plan.faults.clear();
    plan.membership = MembershipPlan::default();
    plan.cluster.upkeep = UpkeepPlan {
        quota_bytes: 30_000,
        ..UpkeepPlan::default()
    };
    let steps = 300;
    let pause_us = (plan.faults_ms * 1000 / steps).max(2);
    let script = |_| {
        let step = |_| Step {
            wait_us: entropy.below(pause_us),
            what: step(&mut entropy),
        };
        (0..steps).map(step).collect()
    };
    plan.clients = (0..4).map(script).collect();
}

fn step(entropy: &mut Entropy) -> What {
    let key = entropy.below(12);
    match entropy.below(12) {
        0 | 1 => What::Delete { key },
        2 => What::DeleteRange { from: 0, to: 12 },
        3 => What::Compact { back: 1 },
        _ => What::Put {
            key,
            bytes: 500 + entropy.below(1000),
        },
    }
}

/// The same with members that are killed one at a time.
fn little_space_and_restarts(plan: &mut Plan) {
    little_space(plan);
    strike_often(plan, 3000, 300, |members, entropy| FaultKind::Kill {
        target: Target::Member(draw::index(members, entropy)),
    });
}
