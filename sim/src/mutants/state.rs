//! Bugs in what the members agree on: revisions, watches, leases, reads and applying.

use super::{
    Check::{self, Asserts, Holds},
    Planted, guided, planted,
};

mod guides;

const LINEARIZABLE: Check = Holds("Linearizable");
const COMMITTED: Check = Holds("Committed");
const SERIALIZABLE: Check = Holds("Serializable");
const ONE_STATE: Check = Holds("one state after one index");
const EQUAL: Check = Holds("healed members become equal");
const FILTER: Check = Holds("WatchFilter");
const ORDERED: Check = Holds("WatchOrdered");
const UNIQUE: Check = Holds("WatchUnique");
const ATOMIC: Check = Holds("WatchAtomic");
const BOOKMARK: Check = Holds("WatchBookmarkable");
const RESUMABLE: Check = Holds("WatchResumable");
const RELIABLE: Check = Holds("WatchReliable");
const PREV_KV: Check = Holds("WatchPrevKv");
const LIFETIME: Check = Holds("WatchLifetime");
const LEADER: Check = Holds("a stream that wants a leader ends without one");
const SERVES: Check = Holds("a healthy majority serves");
const CONVERGE: Check = Holds("a healed cluster serves");
const EARLY: Check = Holds("LeaseEarly");
const LATE: Check = Holds("LeaseLate");
const NO_HALT: Check = Holds("a member halts only for a fault of its own disk");
const LEASE_ANSWER: Check = Holds("LeaseAnswer");
const VERSION: Check = Holds("the version of the cluster follows its downgrade");

/// Their list.
pub const TABLE: &[Planted] = &[
    // What is read and applied.
    planted(
        "compare-at-propose",
        "P20",
        "The compares of a transaction are decided when it is proposed.",
        &[LINEARIZABLE],
    ),
    planted(
        "else-runs-then",
        "second wave",
        "A transaction whose compares fail runs its first branch.",
        &[LINEARIZABLE],
    ),
    planted(
        "compare-of-nothing-holds",
        "second wave",
        "Every compare holds for a key that does not exist.",
        &[LINEARIZABLE],
    ),
    planted(
        "failed-txn-keeps-its-start",
        "P21",
        "An operation that fails leaves the earlier ones of its transaction done.",
        &[LINEARIZABLE, COMMITTED],
    ),
    guided(
        planted(
            "answers-by-how-far-compaction-got",
            "P21, etcd 18667",
            "What can be read depends on how far this member has got with a compaction.",
            &[LINEARIZABLE, ONE_STATE],
        ),
        guides::slow_compactions,
    ),
    planted(
        "compacted-revision-served",
        "second wave",
        "A compacted revision is read all the same.",
        &[LINEARIZABLE, SERIALIZABLE],
    ),
    guided(
        planted(
            "future-revision-served",
            "second wave",
            "A revision to come is read as if it were there.",
            &[LINEARIZABLE],
        ),
        guides::future_reads,
    ),
    planted(
        "count-of-now",
        "second wave",
        "A count at an old revision counts the keys of now.",
        &[SERIALIZABLE, LINEARIZABLE],
    ),
    planted(
        "count-of-what-is-returned",
        "second wave",
        "The count of a range ends at the limit.",
        &[LINEARIZABLE, SERIALIZABLE],
    ),
    planted(
        "more-at-the-exact-limit",
        "second wave",
        "A range that fits its limit exactly says that there is more.",
        &[LINEARIZABLE, SERIALIZABLE],
    ),
    planted(
        "limit-before-sort",
        "second wave",
        "The limit counts keys before they are sorted.",
        &[LINEARIZABLE, SERIALIZABLE],
    ),
    planted(
        "header-of-the-whole-batch",
        "second wave",
        "An answer names the revision behind all that was applied with it.",
        &[LINEARIZABLE],
    ),
    planted(
        "delete-in-several-revisions",
        "second wave",
        "Each key of a deleted range goes in a revision of its own.",
        &[LINEARIZABLE],
    ),
    planted(
        "previous-pair-of-the-new-revision",
        "second wave",
        "A put returns the pair that it wrote as the one before.",
        &[LINEARIZABLE],
    ),
    guided(
        planted(
            "ignore-value-ignored",
            "second wave",
            "A put that is to keep the value empties it.",
            &[LINEARIZABLE],
        ),
        guides::touched_keys,
    ),
    guided(
        planted(
            "ignore-lease-ignored",
            "second wave",
            "A put that is to keep the lease takes it away.",
            &[LINEARIZABLE, LEASE_ANSWER],
        ),
        guides::touched_keys,
    ),
    planted(
        "version-goes-on-after-delete",
        "second wave",
        "A key that is created again counts its versions on.",
        &[LINEARIZABLE, ONE_STATE],
    ),
    planted(
        "created-before-the-delete",
        "second wave",
        "A key that is created again keeps its old creation.",
        &[LINEARIZABLE, ONE_STATE],
    ),
    planted(
        "read-before-applied",
        "second wave",
        "A read does not wait until its index is applied.",
        &[LINEARIZABLE],
    ),
    guided(
        planted(
            "reads-before-the-replay-ends",
            "second wave",
            "A member serves reads before it has replayed its log.",
            &[LINEARIZABLE],
        ),
        guides::replays,
    ),
    guided(
        planted(
            "leader-reads-without-a-round",
            "P8",
            "A leader serves reads without asking whether it still leads.",
            &[LINEARIZABLE],
        ),
        guides::deposed_leaders,
    ),
    guided(
        planted(
            "reads-served-after-stepping-down",
            "P8",
            "Reads that wait when a leader steps down are served from what it has.",
            &[LINEARIZABLE],
        ),
        guides::deposed_leaders,
    ),
    planted(
        "proposal-offered-again",
        "second wave, Jepsen 14890",
        "A write that was not answered is proposed again.",
        &[COMMITTED, LINEARIZABLE],
    ),
    planted(
        "request-ids-shared-by-members",
        "second wave",
        "Members number their requests alike and do not ask whose an entry is.",
        &[COMMITTED, LINEARIZABLE],
    ),
    guided(
        planted(
            "compaction-drops-the-tombstone",
            "P16, etcd 18089, 19179",
            "A compaction removes the deletion at its own revision.",
            &[RESUMABLE, RELIABLE],
        ),
        guides::tombstones,
    ),
    planted(
        "compaction-drops-the-last-put",
        "P16",
        "A compaction removes a pair written at its own revision.",
        &[LINEARIZABLE, ONE_STATE, SERIALIZABLE],
    ),
    guided(
        planted(
            "revision-falls-to-the-last-record",
            "P17, etcd 17780",
            "After a restart the revision is that of the last record left.",
            &[ONE_STATE],
        ),
        guides::compacted_to_death,
    ),
    guided(
        planted(
            "compaction-forgotten-by-a-crash",
            "P17",
            "A compaction is written down only when it is done.",
            &[ONE_STATE, SERIALIZABLE, LINEARIZABLE],
        ),
        guides::slow_compactions,
    ),
    guided(
        planted(
            "interrupted-compaction-never-ends",
            "P17",
            "A compaction that a crash interrupts counts as done.",
            &[EQUAL],
        ),
        guides::slow_compactions,
    ),
    guided(
        planted(
            "defragmentation-forgets-the-image",
            "seed 810, etcd 20271",
            "An image that waits for the end of a defragmentation waits for ever.",
            &[SERVES, CONVERGE, EQUAL],
        ),
        guides::rewritten_images,
    ),
    guided(
        planted(
            "rewriting-forgets-commits",
            "defragmentation in parts",
            "What is committed while the store is rewritten is not in the new file.",
            &[Asserts("LMDB reads")],
        ),
        guides::rewritten,
    ),
    // Watches.
    guided(
        planted(
            "synced-after-an-empty-window",
            "P12",
            "A watch that finds nothing in a part of the past counts as up to date.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "catch-up-skips-its-first-revision",
            "P12",
            "Reading the past begins one revision late.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "blocked-watch-loses-events",
            "etcd 17529",
            "What a blocked stream cannot take is not read again.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-splits-a-revision",
            "P13",
            "A response holds one event, and says nothing of those that follow.",
            &[ATOMIC, RELIABLE, RESUMABLE],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-loses-a-fragment",
            "second wave",
            "Only the last piece of a large response is sent.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-misses-what-an-image-holds",
            "P14",
            "Watches do not read what came with an image.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::images,
    ),
    guided(
        planted(
            "watch-starts-over-after-an-image",
            "P14, etcd 15271",
            "After an image a watch begins again at its start.",
            &[ORDERED, UNIQUE, BOOKMARK, ATOMIC],
        ),
        guides::images,
    ),
    guided(
        planted(
            "progress-while-behind",
            "P15, etcd 15220",
            "Progress is told although older events are still to come.",
            &[BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "progress-before-the-start",
            "P15, etcd 20221",
            "Progress is told for a watch that has not reached its start.",
            &[BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-from-now-takes-now-for-past",
            "second wave",
            "A watch from the current revision begins behind it.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-resumes-one-early",
            "second wave, etcd 17247",
            "A watch that goes on repeats the revision before.",
            &[RESUMABLE],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "compacted-watch-not-told",
            "second wave",
            "A watch that needs what is compacted goes on behind it.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::tombstones,
    ),
    guided(
        planted(
            "cancelled-watch-goes-on",
            "second wave",
            "A watch that is cancelled still gets events.",
            &[LIFETIME],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-filter-ignored",
            "second wave",
            "A watch without puts gets puts.",
            &[FILTER],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "watch-gets-anothers-flavour",
            "second wave",
            "Of watches with equal events all get the pair before, or none.",
            &[PREV_KV],
        ),
        guides::watched_in_pairs,
    ),
    guided(
        planted(
            "watch-shows-the-new-pair-as-old",
            "second wave",
            "The pair before an event is the one after it.",
            &[PREV_KV],
        ),
        guides::watched,
    ),
    guided(
        planted(
            "stream-outlives-its-leader",
            "second wave",
            "A stream that wants a leader goes on without one.",
            &[LEADER],
        ),
        guides::lonely,
    ),
    // Leases.
    guided(
        planted(
            "promotion-takes-unknown-for-over",
            "P10",
            "A new leader ends every lease that has no checkpoint.",
            &[EARLY],
        ),
        guides::moved_short_leases,
    ),
    guided(
        planted(
            "promotion-starts-in-full",
            "P10, etcd 9888",
            "A new leader gives every lease its whole time again.",
            &[LATE],
        ),
        guides::moved_leases,
    ),
    guided(
        planted(
            "checkpoint-lost",
            "P10, etcd 13491",
            "Checkpoints of leases are not written down.",
            &[LATE],
        ),
        guides::moved_leases,
    ),
    guided(
        planted(
            "renewal-leaves-the-checkpoint",
            "P10",
            "A renewal is answered although a checkpoint can still shorten it.",
            &[EARLY],
        ),
        guides::moved_short_leases,
    ),
    planted(
        "deposed-leader-ends-leases",
        "P9, etcd 15247",
        "A leader goes on ending leases after it was deposed.",
        &[EARLY],
    ),
    guided(
        planted(
            "keep-alive-of-a-gone-lease",
            "P11",
            "A keep-alive of a lease that is gone is answered as if it lived.",
            &[LEASE_ANSWER],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "keep-alive-of-an-ended-lease",
            "P11, etcd 20616",
            "A keep-alive is answered although the end of the lease is under way.",
            &[EARLY, LEASE_ANSWER],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "follower-answers-keep-alive",
            "P11",
            "Every member answers keep-alives, and the leader hears nothing.",
            &[EARLY, LEASE_ANSWER],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "living-lease-granted-again",
            "second wave",
            "An id that is in use is granted again.",
            &[LINEARIZABLE, LEASE_ANSWER, COMMITTED],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "forwards-numbered-from-one",
            "seed 4001547",
            "What a leader answers to an earlier life of a member answers another call of this one.",
            &[LEASE_ANSWER],
        ),
        guides::quick_restarts,
    ),
    guided(
        planted(
            "taken-lease-id-told",
            "seed 7000295",
            "Who leaves a lease's id open is told that the id which was chosen is taken.",
            &[LINEARIZABLE],
        ),
        guides::clocks_set_back,
    ),
    planted(
        "overwritten-key-keeps-lease",
        "second wave",
        "A key that is written without a lease keeps the one it had.",
        &[LINEARIZABLE, ONE_STATE],
    ),
    guided(
        planted(
            "revoke-leaves-a-key",
            "second wave",
            "The end of a lease leaves a key of it.",
            &[LINEARIZABLE, NO_HALT],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "revoke-in-several-revisions",
            "second wave",
            "Each key of a lease that ends goes in a revision of its own.",
            &[LINEARIZABLE],
        ),
        guides::short_leases,
    ),
    guided(
        planted(
            "revoke-without-events",
            "second wave",
            "Watches are not told of keys that went with their lease.",
            &[RESUMABLE, RELIABLE, BOOKMARK],
        ),
        guides::touched_keys,
    ),
    planted(
        "leases-of-before-the-image",
        "second wave",
        "A member that got an image keeps the leases it had.",
        &[ONE_STATE],
    ),
    // The version of the cluster.
    guided(
        planted(
            "downgrade-without-effect",
            "second wave",
            "The leader does not lower the version of a cluster that is to be downgraded.",
            &[VERSION],
        ),
        guides::downgrades,
    ),
    guided(
        planted(
            "version-stays-low",
            "second wave",
            "The leader does not raise the version again once a downgrade is taken back.",
            &[VERSION],
        ),
        guides::downgrades,
    ),
];
