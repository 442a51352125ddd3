//! Bugs in how the member set changes.

use super::{
    Check::{self, Asserts, Holds},
    Planted,
    consensus::guides,
    guided, planted,
};

const ON_QUORUM: Check = Holds("committed means durable on a quorum");
const VOTES: Check = Holds("a leader has the votes of a quorum");
const AGREE: Check = Holds("raft and stored members agree");
const ONE_SET: Check = Holds("one member set after one index");
const ONE_STATE: Check = Holds("one state after one index");
const ONE_CHANGE: Check = Holds("one change of the members at a time");
const EQUAL: Check = Holds("healed members become equal");

const KEPT: Check = Holds("what a member that goes on alone held is kept");
const COMES_BACK: Check = Holds("what was durable comes back");
const ALONE: Check = Holds("a member that goes on alone is alone");
const COMES_TO_VOTE: Check = Holds("a member that joins comes to vote");

/// Their list.
pub const TABLE: &[Planted] = &[
    guided(
        planted(
            "learner-counts",
            "P25",
            "A leader counts learners when it commits.",
            &[ON_QUORUM],
        ),
        guides::many_learners,
    ),
    Planted {
        seeds_max: 150,
        ..guided(
            planted(
                "joint-needs-one-half",
                "P4",
                "In a joint configuration only the new half is asked.",
                &[ON_QUORUM],
            ),
            guides::joint_changes,
        )
    },
    Planted {
        seeds_max: 150,
        ..guided(
            planted(
                "second-change-let-in",
                "P4",
                "A second change of the members is let in while one is pending.",
                &[ONE_CHANGE, ON_QUORUM, VOTES],
            ),
            guides::quick_changes,
        )
    },
    guided(
        planted(
            "learner-flag-lost-by-a-restart",
            "P25, etcd 19557",
            "A member that restarts takes learners for voters.",
            &[AGREE, ONE_SET, ONE_STATE, ON_QUORUM, VOTES],
        ),
        guides::many_learners,
    ),
    guided(
        planted(
            "moved-learner-votes",
            "P25, etcd 21694",
            "A learner that gets another address is a voter from then on.",
            &[AGREE, ONE_SET],
        ),
        guides::many_learners,
    ),
    guided(
        planted(
            "joiner-takes-the-log",
            "P25",
            "A member that joins takes the log from its beginning, which lacks the founders.",
            &[
                AGREE,
                ONE_SET,
                ONE_STATE,
                Asserts("a configuration contradicts itself"),
            ],
        ),
        guides::joiners_of_a_long_log,
    ),
    guided(
        planted(
            "removed-member-heard",
            "P25, etcd 20995",
            "Members go on talking with one that was removed.",
            &[EQUAL],
        ),
        guides::removals,
    ),
    guided(
        planted(
            "forced-drops-the-tail",
            "etcd's --force-new-cluster",
            "A member that goes on alone drops what it does not know as committed.",
            &[KEPT, COMES_BACK],
        ),
        guides::lost_majorities,
    ),
    guided(
        planted(
            "forced-serves-at-once",
            "etcd 20009",
            "A member that goes on alone serves before its log says that the others are gone.",
            &[ALONE],
        ),
        guides::lost_majorities,
    ),
    guided(
        planted(
            "forced-keeps-learners",
            "etcd 20009",
            "A member that goes on alone removes the voters and forgets the learners.",
            &[ALONE, Asserts("raft and the member set disagree")],
        ),
        guides::lost_majorities,
    ),
    guided(
        planted(
            "promotion-asked-once",
            "--join",
            "A learner that joined by itself asks for its vote once and never again.",
            &[COMES_TO_VOTE],
        ),
        guides::members_that_join,
    ),
    Planted {
        // The swarm comes to it now and then; no guide did better.
        seeds_max: 300,
        ..planted(
            "silent-member-not-told",
            "P25, etcd 20995",
            "A removed member that says no more than that it is there is never told.",
            &[EQUAL],
        )
    },
];
