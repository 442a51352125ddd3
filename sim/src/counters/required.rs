//! What a thousand seeds must have gone through, each with its meaning and how often at least.
//!
//! A simulator that stops reaching something stops proving anything about it, and nothing else
//! would say so. To require more, add a line.
//!
//! Invariant: no name stands twice.

use super::Counters;
use crate::faults::{DiskFault, Point};

/// The batch for which everything must have happened.
pub const SEEDS: u64 = 1000;

/// Something that must happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Required {
    /// The counter.
    pub name: &'static str,
    /// What it counts.
    pub meaning: &'static str,
    /// How often it must be counted in a batch.
    pub least: u64,
}

type Line = (&'static str, &'static str, u64);

const SPACE: &[Line] = &[
    (
        "space: a write was refused",
        "a client was told that there is no space",
        200,
    ),
    (
        "space: refused when applied",
        "an entry came to nothing because the alarm stood",
        100,
    ),
    (
        "space: alarm proposed",
        "a member found too little space",
        40,
    ),
    (
        "space: its end proposed",
        "a member found enough space again",
        20,
    ),
    (
        "space: written again after it was short",
        "all voters took a write at the end of a run with refusals",
        5,
    ),
    (
        "compaction: begun by the clock",
        "a leader compacted by itself",
        200,
    ),
];

const ROOM: &[Line] = &[
    (
        "overload: a write was refused",
        "a member had no room for a write",
        2000,
    ),
    (
        "overload: a read was refused",
        "a member had no room for a read",
        1000,
    ),
    (
        "overload: a vital call found a full member",
        "a call that keeps something alive came where all others are refused",
        200,
    ),
    (
        "overload: nothing else was wrong",
        "a run in which nothing broke, and only the load was high",
        40,
    ),
];

const RAFT: &[Line] = &[
    ("raft: leader elected", "a member became leader", 1000),
    (
        "raft: leader stepped down",
        "a living leader became follower",
        100,
    ),
    (
        "raft: leader lost with proposals in flight",
        "a leader ended with entries that were not committed",
        100,
    ),
    (
        "raft: leader stepped down for want of a quorum",
        "CheckQuorum: a leader that heard no majority gave up",
        10,
    ),
    (
        "raft: pre-vote refused",
        "a member would not vote for a candidate",
        100,
    ),
    (
        "raft: append refused",
        "a follower's log did not match",
        100,
    ),
    (
        "raft: uncommitted tail cut",
        "a follower dropped entries of an earlier leader",
        10,
    ),
    (
        "raft: older term committed behind a new entry",
        "an earlier leader's entry was committed by a later one",
        10,
    ),
    (
        "raft: committed before the own disk",
        "a majority without the leader had it durable first",
        10,
    ),
    (
        "raft: leadership handed over",
        "a leader told its successor to campaign",
        10,
    ),
    (
        "read: barrier started again",
        "a read index was asked for again under a new id",
        10,
    ),
    (
        "read: served after a change of leader",
        "a linearizable read was asked for under one leader and answered under another",
        10,
    ),
];

const IMAGES: &[Line] = &[
    (
        "image: sending begun",
        "a member fell behind the log of its leader",
        100,
    ),
    ("image: sent", "and was told so by the receiver", 10),
    (
        "image: installed",
        "an image replaced the state of a member",
        100,
    ),
    (
        "image: thrown away",
        "an image came too late, or another one came",
        5,
    ),
    (
        "image: receiving ended by a crash",
        "the receiver died with half an image",
        5,
    ),
    (
        "image: sending ended by a crash",
        "the sender died meanwhile",
        5,
    ),
];

const DISKS: &[Line] = &[
    (
        "rewriting: part done",
        "a store was rewritten in part, and others had their turn",
        1000,
    ),
    ("rewriting: ended", "a store was rewritten to its end", 1000),
    (
        "power cut: sectors lost",
        "sectors that were not synced",
        100,
    ),
    (
        "power cut: write torn",
        "a write of which only some sectors were kept",
        10,
    ),
    (
        "power cut: later sector kept, earlier one lost",
        "what was written back did not follow the order of writing",
        10,
    ),
    (
        "power cut: new name lost",
        "a created or renamed file without its name",
        5,
    ),
    (
        "power cut: removed name came back",
        "a removal that was not synced",
        1,
    ),
    (
        "boot: torn tail cut",
        "a log that ended with an unfinished write",
        5,
    ),
    (
        "boot: damaged log refused",
        "a checksum or a place did not match, and the member said so",
        5,
    ),
    (
        "boot: half a data directory refused",
        "a log without its store, or a store without its log",
        1,
    ),
    ("disk: no space for a segment", "the log could not grow", 5),
    (
        "disk: misdirected read",
        "a sector from another place of the log",
        1,
    ),
    (
        "disk: misdirected write",
        "a write of the log at another place",
        1,
    ),
    ("disk: operation slowed down", "a step of a slow disk", 100),
    (
        "disk: operation held by a stall",
        "a step that had to wait for a stall to end",
        1,
    ),
    (
        "fault: a bit of the log flipped",
        "while the member was down",
        5,
    ),
    ("fault: log lost", "the log is gone, the store is left", 1),
    ("fault: store lost", "the store is gone, the log is left", 1),
    (
        "fault: whole data directory lost",
        "nothing is left; the member stays down",
        1,
    ),
];

const MEMBERS: &[Line] = &[
    ("fault: process killed", "the page cache stayed", 1000),
    ("fault: power cut", "the page cache was lost", 1000),
    ("fault: power cut of all members", "at one moment", 100),
    ("fault: pause", "a living process stood still", 100),
    (
        "fault: pause longer than an election timeout",
        "and others must have gone on",
        10,
    ),
    (
        "fault: asked to stop",
        "a member was told to stop in good order",
        100,
    ),
    (
        "fault: leadership moved",
        "a leader was asked to hand over",
        100,
    ),
    ("fault: clock jump", "of a living member", 10),
    ("fault: clock rate", "of a living member", 10),
    ("fault: civil time to and fro", "a strobe of civil time", 10),
    (
        "crash: inside a log write",
        "the running step may or may not have been done",
        100,
    ),
    ("crash: inside segment keeping", "as above", 10),
    ("crash: inside a backend operation", "as above", 100),
    ("crash: inside an image operation", "as above", 5),
];

const NETWORK: &[Line] = &[
    (
        "blocked: one direction",
        "frames that a one-way partition stopped",
        100,
    ),
    (
        "blocked: one pair",
        "frames between two members that lost each other",
        100,
    ),
    ("blocked: split", "frames between two halves", 100),
    (
        "blocked: ring",
        "frames where each sees its neighbours only",
        100,
    ),
    (
        "blocked: bridge",
        "frames where one member alone sees both halves",
        100,
    ),
    (
        "blocked: one member isolated",
        "frames from or to a member that is cut off",
        100,
    ),
    (
        "blocked: swizzle",
        "frames of members cut off one by one",
        100,
    ),
    (
        "blocked: left behind",
        "frames of members that the liveness phase leaves cut off",
        10,
    ),
    (
        "network: frame blocked one way only",
        "while the other direction was open",
        100,
    ),
    (
        "network: held frame delivered late",
        "behind a partition that held it",
        100,
    ),
    ("network: frame lost", "without a trace", 1000),
    (
        "network: frame delivered twice",
        "the second one arrived",
        1000,
    ),
    (
        "network: frame overtaken",
        "it arrived behind a later one",
        1000,
    ),
    (
        "network: frame slowed down",
        "on a link with little room",
        100,
    ),
    (
        "network: frame dropped by a full queue",
        "on a link with little room",
        1,
    ),
    ("network: link reset", "both ends were told", 100),
    (
        "network: link reset within an image",
        "between two pieces of it",
        1,
    ),
    ("network: damaged frame refused", "one bit was wrong", 100),
    (
        "network: frame cut short refused",
        "the link ended within it",
        10,
    ),
    (
        "network: oversized frame refused",
        "its head claimed too much",
        10,
    ),
    (
        "network: frame under another head refused",
        "the checksum was that of another frame",
        10,
    ),
    (
        "network: link from another cluster refused",
        "by its greeting",
        1,
    ),
    (
        "network: link to another member refused",
        "by its greeting",
        1,
    ),
    (
        "network: old frame delivered once more",
        "the members had to bear it",
        100,
    ),
    (
        "network: frame of an earlier life delivered",
        "after a restart of either side",
        10,
    ),
];

const STATE: &[Line] = &[
    ("work: downgrade begun", "an operator was told so", 50),
    (
        "work: downgrade refused",
        "one was under way, or had come to its end",
        10,
    ),
    ("work: downgrade taken back", "an operator was told so", 50),
    (
        "version: a downgrade came to its end",
        "at the end of a run all members stood below their own version",
        20,
    ),
    (
        "version: raised again behind a downgrade",
        "it was taken back, and all members stood at their own version",
        20,
    ),
    ("compaction: finished", "its last slice was committed", 1000),
    (
        "compaction: interrupted by the end of a life",
        "it had to be taken up again",
        10,
    ),
    ("watch: events", "events that watchers read", 1000),
    (
        "watch: caught up",
        "a watch read history and became synced",
        1000,
    ),
    (
        "watch: fell behind",
        "a synced watch whose stream was blocked (a victim)",
        10,
    ),
    (
        "watch: set back by an image",
        "a synced watch that had to read history again",
        1,
    ),
    (
        "watch: ended by a compaction",
        "a watcher needed what was compacted",
        100,
    ),
    ("watch: progress told", "a notification without events", 100),
    (
        "client: txn took its first branch",
        "its comparisons held",
        100,
    ),
    ("client: txn took its second branch", "they did not", 100),
    (
        "client: unknown outcome was applied",
        "a write that nobody answered is in the log",
        100,
    ),
    ("client: unknown outcome was not applied", "it is not", 100),
    (
        "client: answered by the next member",
        "after the one before had not answered",
        100,
    ),
    (
        "work: txn took its first branch of two",
        "a txn with work in both branches",
        100,
    ),
    (
        "work: txn took its second branch of two",
        "the same, the other way",
        100,
    ),
    (
        "work: lease ended by the leader that granted it",
        "nobody renewed it",
        100,
    ),
    (
        "work: lease ended by a later leader",
        "it outlived the leader that granted it, and ended",
        100,
    ),
    (
        "work: leases checkpointed",
        "a leader wrote down what is left of them",
        10,
    ),
    ("client: request lost", "on its way", 100),
    ("client: answer lost", "on its way", 100),
];

const CHECKS: &[Line] = &[
    ("run: came to its end", "all phases of a run", 900),
    (
        "check: disks read for committed entries",
        "at a kill or a power cut",
        1000,
    ),
    (
        "check: order found from what clients saw alone",
        "the search over answers alone came to an end",
        500,
    ),
    (
        "lmdb: run beside memory",
        "a run in which LMDB held every state too",
        20,
    ),
];

const CHANGES: &[Line] = &[
    (
        "members: learner added",
        "a member joined without a vote",
        400,
    ),
    ("members: voter added", "a member joined with a vote", 150),
    ("members: learner promoted", "a learner came to vote", 300),
    ("members: removed", "a member left the cluster", 400),
    (
        "members: life ended with a change in the log, not committed",
        "a member died with a change that nobody may know",
        100,
    ),
    (
        "members: life ended with a change committed, not applied",
        "a member died between knowing of a change and acting on it",
        1,
    ),
    (
        "crash at: change of members applied",
        "a member died before its backend had the change",
        100,
    ),
    ("members: moved", "a member got another address", 200),
    (
        "members: removed member stopped",
        "one that was removed ended by itself",
        400,
    ),
    (
        "members: removed member started again",
        "with the disk it had",
        50,
    ),
    (
        "members: machine lost for good",
        "a disk was lost and another member took its place",
        40,
    ),
    (
        "members: joint configuration entered",
        "two quorums were needed at once",
        100,
    ),
    (
        "members: joint configuration left",
        "one quorum was enough again",
        100,
    ),
    (
        "members: joined with one flag and came to vote",
        "a learner asked for its vote by itself and got it",
        150,
    ),
    (
        "members: all lost but one",
        "a run ended with one member that went on alone",
        80,
    ),
    (
        "members: last write to be kept",
        "it was acknowledged in the last moment and durable where it counts",
        100,
    ),
    (
        "members: forced, and died before it served",
        "a member died on its way to being alone",
        10,
    ),
    (
        "members: forced, and died when it served",
        "a member died right behind it",
        10,
    ),
];

/// All of them, in the order in which they are shown.
pub fn all() -> Vec<Required> {
    let lines = [
        RAFT, IMAGES, DISKS, MEMBERS, CHANGES, NETWORK, STATE, CHECKS, SPACE, ROOM,
    ]
    .concat();
    let mut all: Vec<Required> = lines
        .into_iter()
        .map(|(name, meaning, least)| Required {
            name,
            meaning,
            least,
        })
        .collect();
    all.extend(DiskFault::ALL.iter().map(|on| Required {
        name: on.counter(),
        meaning: "an operation of a disk failed, and the member halted",
        least: 5,
    }));
    all.extend(Point::ALL.iter().map(|point| Required {
        name: point.counter(),
        meaning: "a member died at exactly this point",
        least: 1,
    }));
    all
}

/// What did not happen often enough in so many seeds. A small batch must have everything once.
pub fn missing(counters: &Counters, seeds: u64) -> Vec<Required> {
    let scaled = |required: Required| Required {
        least: (required.least * seeds / SEEDS).max(1),
        ..required
    };
    let short = |required: &Required| counters.get(required.name) < required.least;
    all().into_iter().map(scaled).filter(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_stand_once() {
        let names: Vec<&str> = all().iter().map(|required| required.name).collect();
        let once: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(once.len(), names.len());
        assert!(all().iter().all(|required| required.least > 0));
    }

    /// Goal: what never happened is found, and nothing else.
    #[test]
    fn what_is_missing_is_named() {
        let mut counters = Counters::default();
        for required in all() {
            counters.add(required.name, required.least);
        }
        assert_eq!(missing(&counters, SEEDS), []);
        let mut short = Counters::default();
        for required in all().iter().skip(1) {
            short.add(required.name, required.least);
        }
        assert_eq!(missing(&short, SEEDS), all()[..1]);
        assert_eq!(missing(&short, 1).len(), 1, "zero is too few for any batch");
    }
}
