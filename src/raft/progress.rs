//! What a leader knows of one member of the cluster, and how it may send to it.
//!
//! Invariants: `matched < next`; in `Snapshot` nothing is sent; in `Probe` one append is on the way
//! at a time; in `Replicate` as many as the window holds.

use crate::{kernel::LogIndex, mutant};

use super::inflights::Inflights;

/// One member, seen from the leader. The leader keeps one of itself: `matched` is then what is
/// durable.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Highest index known durable there.
    pub matched: LogIndex,
    /// First index of the next append.
    pub next: LogIndex,
    /// How appends are sent.
    pub state: ProgressState,
    /// Whether it said anything since the last check of the quorum.
    pub recent_active: bool,
    /// Highest round of read confirmation it answered.
    pub read_round: u64,
    /// In `Probe`: the one append is on the way. In `Replicate`: the window is full.
    paused: bool,
    /// The next append is sent even if it is empty.
    ping: bool,
    /// A heartbeat of the timer was sent; its reply asks for a sign of life of the append stream.
    heartbeat_due: bool,
    sent_commit: LogIndex,
    inflights: Inflights,
}

/// How appends are sent to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// One at a time, to find where the logs agree.
    Probe,
    /// A stream.
    Replicate,
    /// Not at all: it needs an image first.
    Snapshot,
}

/// What the owner may see of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgressView {
    /// Highest index known durable there.
    pub matched: LogIndex,
    /// First index of the next append.
    pub next: LogIndex,
    /// How appends are sent.
    pub state: ProgressState,
    /// Whether it said anything since the last check of the quorum.
    pub recent_active: bool,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether the stream waits for an answer.
    pub paused: bool,
    /// Append messages on the way.
    pub inflight: usize,
    /// Entry bytes on the way.
    pub inflight_bytes: usize,
}

impl Progress {
    /// A member about which only a guess is known: where the log may go on.
    pub fn new(next: LogIndex, inflights: Inflights) -> Self {
        assert!(next > LogIndex::ZERO, "the first entry has index one");
        Self {
            matched: LogIndex::ZERO,
            next,
            state: ProgressState::Probe,
            recent_active: false,
            read_round: 0,
            paused: false,
            ping: false,
            heartbeat_due: false,
            sent_commit: LogIndex::ZERO,
            inflights,
        }
    }

    /// What the owner may see.
    pub fn view(&self, learner: bool) -> ProgressView {
        ProgressView {
            matched: self.matched,
            next: self.next,
            state: self.state,
            recent_active: self.recent_active,
            learner,
            paused: self.is_paused(),
            inflight: self.inflights.count(),
            inflight_bytes: self.inflights.bytes(),
        }
    }

    /// Whether nothing may be sent now.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.paused,
            ProgressState::Snapshot => true,
        }
    }

    /// Whether the next append may carry entries.
    pub fn takes_entries(&self) -> bool {
        match self.state {
            ProgressState::Probe => true,
            ProgressState::Replicate => !self.inflights.is_full(),
            ProgressState::Snapshot => false,
        }
    }

    /// Whether an append without entries is worth sending.
    pub fn wants_empty(&self, committed: LogIndex) -> bool {
        // A follower cannot use a commit index beyond the entries that were sent to it.
        let news = committed > self.sent_commit && self.sent_commit < self.next.prev();
        self.ping || news
    }

    /// Notes an append that left.
    pub fn sent(&mut self, last: Option<LogIndex>, bytes: usize, commit: LogIndex) {
        self.ping = false;
        self.sent_commit = commit;
        match self.state {
            ProgressState::Probe => self.paused = true,
            ProgressState::Replicate => {
                if let Some(last) = last {
                    assert!(last >= self.next, "an append must move the stream on");
                    self.next = last.next();
                    self.inflights.add(last, bytes);
                }
                self.paused = self.inflights.is_full();
            }
            ProgressState::Snapshot => unreachable!("nothing is sent beside an image"),
        }
    }

    /// Notes a heartbeat that the timer sent.
    pub fn heartbeat_sent(&mut self) {
        self.heartbeat_due = true;
    }

    /// Notes an answered heartbeat: the member is there, so whatever was lost may be sent again.
    /// Only one answer per timer heartbeat asks for an append; those to read rounds would ask too
    /// often.
    pub fn on_heartbeat_reply(&mut self, last: LogIndex) -> bool {
        if !std::mem::take(&mut self.heartbeat_due) {
            return false;
        }
        self.paused = false;
        let behind = self.matched < last || self.state == ProgressState::Probe;
        self.ping |= behind;
        behind
    }

    /// Notes that everything up to `index` is durable there; returns whether that is news.
    pub fn advance(&mut self, index: LogIndex) -> bool {
        let news = index > self.matched;
        if news {
            self.matched = index;
            self.paused = false;
        }
        self.next = self.next.max(self.matched.next());
        news
    }

    /// The stream goes on: everything up to `index` has arrived.
    pub fn free_inflights(&mut self, index: LogIndex) {
        self.inflights.free_to(index);
    }

    /// Goes back after a refusal; returns whether the refusal is of the present and not an old
    /// echo.
    pub fn retreat(&mut self, rejected: LogIndex, hint: LogIndex) -> bool {
        match self.state {
            ProgressState::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.next = self.matched.next();
            }
            ProgressState::Snapshot => return false,
            ProgressState::Probe => {
                if self.next.prev() != rejected {
                    return false;
                }
                if mutant!("probe-never-goes-back") {
                    return true;
                }
                let guess = rejected.min(hint.next());
                self.next = guess.max(self.matched.next());
                self.paused = false;
            }
        }
        self.sent_commit = self.sent_commit.min(self.next.prev());
        true
    }

    /// Sends one append at a time from what is known to match.
    pub fn become_probe(&mut self) {
        self.reset(ProgressState::Probe);
        self.next = self.matched.next();
        self.sent_commit = self.sent_commit.min(self.matched);
    }

    /// A leader about itself: nothing is ever sent, what is durable is all there is to know.
    pub fn become_leader_itself(&mut self, durable: LogIndex) {
        self.become_replicate();
        self.advance(durable);
        self.recent_active = true;
    }

    /// Sends a stream.
    pub fn become_replicate(&mut self) {
        self.reset(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    /// Sends nothing until the image is through.
    pub fn become_snapshot(&mut self) {
        self.reset(ProgressState::Snapshot);
        self.next = self.matched.next();
        self.sent_commit = LogIndex::ZERO;
    }

    /// The image is through up to `index`, or failed: waits for a sign of life, then probes.
    pub fn snapshot_done(&mut self, index: Option<LogIndex>) {
        assert!(self.state == ProgressState::Snapshot, "no image was sent");
        self.become_probe();
        if let Some(index) = index {
            self.next = self.next.max(index.next());
        }
        self.paused = true;
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.matched < self.next, "next must lie after matched");
        if self.state != ProgressState::Replicate {
            assert!(
                self.inflights.count() == 0,
                "only a stream has appends on the way"
            );
        }
    }

    fn reset(&mut self, state: ProgressState) {
        self.state = state;
        self.paused = false;
        self.inflights.clear();
    }
}
