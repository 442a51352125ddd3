//! Bugs in how a busy member chooses whom it refuses.

use fated::kernel::Entropy;

use super::{
    Check::{self, Holds},
    Planted, guided, planted,
};
use crate::{
    draw,
    overload::{self, OverloadPlan},
    plan::{ClockPlan, Plan},
};

const ROOM: Check = Holds("a call is refused only where room is short");
const ALIVE: Check = Holds("what keeps leases alive has room of its own");
const GIVEN_BACK: Check = Holds("a call takes room until it ends and no longer");

/// Their list.
pub const TABLE: &[Planted] = &[
    planted(
        "cancelled-call-keeps-its-room",
        "overload",
        "A call whose client has gone takes room until its time is over.",
        &[GIVEN_BACK],
    ),
    guided(
        planted(
            "keep-alive-admitted-behind-writes",
            "overload",
            "A flood of writes keeps leases from being renewed.",
            &[ALIVE],
        ),
        crowds,
    ),
    guided(
        planted(
            "forwarded-keep-alive-without-its-room",
            "overload",
            "A busy leader refuses the renewals that other members forward.",
            &[ALIVE],
        ),
        crowds,
    ),
    guided(
        planted(
            "refused-though-there-is-room",
            "overload",
            "Half of the room is never given to anybody.",
            &[ROOM],
        ),
        crowds,
    ),
];

/// Hardly any room for calls, and clients that come all at once.
fn crowds(plan: &mut Plan) {
    let mut entropy = Entropy::from_seed(plan.seed).fork("guide of room");
    let even = ClockPlan {
        rate_ppm: 0,
        offset_ms: 0,
    };
    if plan.cluster.members == 1 {
        // Nobody forwards calls to itself.
        plan.cluster.members = 3;
        plan.clocks.resize(3, even);
        plan.core = draw::subset(3, 2, &mut entropy);
    }
    overload::flood(plan, &mut entropy);
    plan.overload = OverloadPlan {
        calls_max: draw::usize(entropy.between(2, 4)),
        vital_max: 64,
        ..OverloadPlan::default()
    };
    plan.faults.clear();
    plan.membership = crate::membership::MembershipPlan::default();
}
