//! Bugs in how the members agree and what they keep: elections, replication, the log on disk,
//! images, restarts.

use super::{
    Check::{self, Asserts, Holds},
    Planted, guided, planted,
};

pub mod guides;

const DURABLE: Check = Holds("what was committed is durable");
const ON_QUORUM: Check = Holds("committed means durable on a quorum");
const COMES_BACK: Check = Holds("what was durable comes back");
const PROMISE: Check = Holds("a promise outlives a restart");
const ONE_VOTE: Check = Holds("one vote in a term");
const VOTES: Check = Holds("a leader has the votes of a quorum");
const ELECTION: Check = Holds("election safety");
const COMPLETE: Check = Holds("leader completeness");
const SAFETY: Check = Holds("state-machine safety");
const MATCHING: Check = Holds("log matching");
const ONE_STATE: Check = Holds("one state after one index");
const NO_HALT: Check = Holds("a member halts only for a fault of its own disk");
const REFUSED: Check = Holds("a damaged log is never accepted");
const SERVES: Check = Holds("a healthy majority serves");
const EQUAL: Check = Holds("healed members become equal");
const LINEARIZABLE: Check = Holds("Linearizable");
const COMMITTED: Check = Holds("Committed");
const GETS_ON: Check = Holds("an image on its way gets on");
const CUT: Check = Asserts("a committed entry never goes away");

/// Their list.
pub const TABLE: &[Planted] = &[
    // What is on disk.
    guided(
        planted(
            "ack-before-sync",
            "P1",
            "A follower acknowledges entries before they are durable.",
            &[ON_QUORUM, DURABLE],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "count-before-sync",
            "P1",
            "A member counts its own log before it is durable.",
            &[DURABLE, COMES_BACK],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "journal-releases-early",
            "P1, etcd 14370",
            "The log lets replies go when it has written and not yet synced.",
            &[DURABLE, COMES_BACK, PROMISE],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "log-write-unsynced",
            "P1, etcd 14370",
            "Writes of the log are never synced.",
            &[DURABLE, COMES_BACK, PROMISE],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "segment-name-unsynced",
            "P24, etcd 6368",
            "The directory is not synced after a segment got its name.",
            &[DURABLE, COMES_BACK, PROMISE, NO_HALT],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "segments-removed-early",
            "P18",
            "Segments of the log go before the backend holds their entries.",
            &[NO_HALT, DURABLE],
        ),
        guides::lazy_backend,
    ),
    guided(
        planted(
            "mark-before-commit",
            "P18, etcd changelog 11888",
            "The log is marked and cut before the backend has committed.",
            &[NO_HALT, DURABLE],
        ),
        guides::lazy_backend_of_large_entries,
    ),
    guided(
        planted(
            "applied-before-durable",
            "second wave",
            "Entries are applied that are committed elsewhere and not durable here.",
            &[
                Asserts("self.applying <= self.durable"),
                NO_HALT,
                Asserts("an applied entry never goes away"),
            ],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "applied-index-apart",
            "P19, etcd 13766",
            "The applied index is committed before the last write of its entry.",
            &[ONE_STATE, EQUAL, Holds("Serializable"), LINEARIZABLE],
        ),
        guides::crashes,
    ),
    guided(
        planted(
            "damage-cut-as-torn",
            "P23",
            "A damaged write is cut from the log as if it had never been whole.",
            &[COMES_BACK, REFUSED, PROMISE, COMPLETE],
        ),
        guides::rot,
    ),
    guided(
        planted(
            "torn-write-accepted",
            "P23",
            "A write of the log counts although its checksum is wrong.",
            &[NO_HALT, DURABLE, ONE_STATE, MATCHING, SAFETY],
        ),
        guides::torn_writes,
    ),
    guided(
        planted(
            "torn-tail-kept",
            "P23",
            "The rest of a torn write is not zeroed when the log goes on.",
            &[NO_HALT, DURABLE, COMES_BACK],
        ),
        guides::torn_writes,
    ),
    guided(
        planted(
            "late-write-counts",
            "etcd raft: append ABA race",
            "A write whose entries were overwritten meanwhile counts as theirs.",
            &[
                DURABLE,
                COMES_BACK,
                ON_QUORUM,
                Asserts("durable before it was written"),
            ],
        ),
        guides::stalled_leaders,
    ),
    // Elections.
    guided(
        planted(
            "vote-before-sync",
            "P2",
            "A vote leaves before it is durable.",
            &[PROMISE, ONE_VOTE, ELECTION],
        ),
        guides::elections,
    ),
    guided(
        planted(
            "hard-state-unwritten",
            "P2",
            "Term and vote are written only along with entries.",
            &[PROMISE, ONE_VOTE, ELECTION],
        ),
        guides::elections,
    ),
    guided(
        planted(
            "two-votes-in-a-term",
            "P2",
            "A member votes for whoever asks, also twice in a term.",
            &[
                ONE_VOTE,
                ELECTION,
                Asserts("the vote changes within term"),
                Asserts("self.vote == Some(self.config.id)"),
            ],
        ),
        guides::elections,
    ),
    guided(
        planted(
            "pre-vote-counts-as-vote",
            "second wave",
            "A late answer to a pre-vote counts as a vote.",
            &[VOTES, ELECTION],
        ),
        guides::probed_elections,
    ),
    guided(
        planted(
            "votes-ignore-the-log",
            "Raft 5.4.1",
            "Votes are given to candidates whose log misses entries.",
            &[COMPLETE],
        ),
        guides::isolated_leaders,
    ),
    guided(
        planted(
            "leader-never-steps-down",
            "second wave",
            "A leader that hears nobody goes on leading.",
            &[SERVES],
        ),
        guides::deaf_leader,
    ),
    guided(
        planted(
            "transfer-never-given-up",
            "second wave",
            "A transfer of leadership to a dead member blocks proposals for ever.",
            &[SERVES, EQUAL],
        ),
        guides::transfer_to_the_dead,
    ),
    // Replication.
    guided(
        planted(
            "older-term-commit",
            "P3, Raft figure 8",
            "A leader commits entries of earlier terms by counting.",
            &[ON_QUORUM, COMPLETE, SAFETY],
        ),
        guides::small_appends,
    ),
    guided(
        planted(
            "log-match-unchecked",
            "Raft 5.3",
            "An append is accepted although the entry before it differs.",
            &[
                MATCHING,
                COMPLETE,
                SAFETY,
                ON_QUORUM,
                Asserts("terms in the log never fall"),
                Asserts("of a lower term"),
            ],
        ),
        guides::deposed_leaders,
    ),
    guided(
        planted(
            "truncate-on-overlap",
            "P22",
            "An append that overlaps cuts the log, also where nothing conflicts.",
            &[ON_QUORUM, COMPLETE, DURABLE],
        ),
        guides::repeated_frames,
    ),
    guided(
        planted(
            "heartbeat-commit-unbounded",
            "second wave",
            "A heartbeat commits entries at a follower that were never compared.",
            &[SAFETY, CUT],
        ),
        guides::isolated_leaders,
    ),
    planted(
        "reply-counts-all-sent",
        "second wave",
        "A reply to one append acknowledges all that were sent.",
        &[ON_QUORUM],
    ),
    planted(
        "probe-never-goes-back",
        "second wave",
        "A leader does not go back in its log when a follower refuses an append.",
        &[EQUAL, SERVES],
    ),
    guided(
        planted(
            "forward-taken-twice",
            "second wave",
            "A forwarded proposal that the network repeats is appended twice.",
            &[LINEARIZABLE, COMMITTED],
        ),
        guides::repeated_frames,
    ),
    guided(
        planted(
            "frame-checksum-unchecked",
            "second wave",
            "A damaged message between members is taken for what it says.",
            &[Holds("a link takes only whole frames")],
        ),
        guides::damaged_frames,
    ),
    // Reads.
    guided(
        planted(
            "read-without-quorum",
            "P5",
            "A leader answers reads without asking whether it still leads.",
            &[LINEARIZABLE],
        ),
        guides::deposed_leaders,
    ),
    guided(
        planted(
            "read-before-own-commit",
            "P6, etcd 7331",
            "A new leader answers reads before it knows what is committed.",
            &[LINEARIZABLE],
        ),
        guides::muted_leaders,
    ),
    guided(
        planted(
            "read-joins-running-round",
            "P7, etcd 20418",
            "A read is confirmed by answers that are older than the read.",
            &[LINEARIZABLE],
        ),
        guides::held_answers,
    ),
    guided(
        planted(
            "follower-reads-own-commit",
            "P5",
            "A follower answers reads from what it knows committed, without its leader.",
            &[LINEARIZABLE],
        ),
        guides::deposed_leaders,
    ),
    // Images.
    guided(
        planted(
            "image-index-off-by-one",
            "P18",
            "An image says that it holds one entry more than it does.",
            &[
                Asserts("the image is not what its sender said it was"),
                NO_HALT,
            ],
        ),
        guides::images,
    ),
    guided(
        planted(
            "stale-image-installed",
            "etcd 18055",
            "An image replaces a state that is newer.",
            &[Asserts("an image never takes back a commit")],
        ),
        guides::images,
    ),
    guided(
        planted(
            "image-installed-before-mark",
            "P18, etcd changelog 11888",
            "An image becomes the state before the log is marked with it.",
            &[NO_HALT],
        ),
        guides::images,
    ),
    guided(
        planted(
            "acknowledged-images-forgotten",
            "seen by reading",
            "A sender keeps nothing of an image whose chunks were all acknowledged, and hears \
             nothing from a receiver that dies before it installs it.",
            &[GETS_ON],
        ),
        guides::deaths_before_installation,
    ),
];
