//! Calls that wait for their answer. Each call has exactly one exit: an answer, a cancel or its
//! deadline.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::kernel::{CallId, Instant, MemberId, RequestId};

/// The bit that marks calls this node made for a peer's client, to keep them apart from the host's.
const PEER_BIT: u64 = 1 << 63;

/// What a waiting call is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An entry of ours to be applied.
    Write(RequestId),
    /// The read barrier, the applier, or a peer.
    Other,
}

/// Who gets the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A client at our edge.
    Client,
    /// A member that forwarded its client's call, and its number for it.
    Peer(MemberId, u64),
    /// This member.
    Itself,
}

/// A grant whose id this member chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The seconds that were asked for.
    pub ttl: i64,
    /// How many of the ids it was given were taken.
    pub taken: u32,
}

/// One waiting call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Bytes of its proposal.
    pub bytes: usize,
    /// What it waits for.
    pub kind: Kind,
    /// Who gets the answer.
    pub asker: Asker,
    /// How many leader changes this member had seen when the call came.
    pub leader_changes: u64,
    /// The revision of a physical compaction that was asked for.
    pub physical: Option<i64>,
    /// The same once the compaction is applied and only its deletions are awaited.
    pub compaction: Option<i64>,
    /// What is granted, where this member chooses the lease's id.
    pub chosen: Option<Chosen>,
    /// What kind of call it is and when it came, where its duration is counted.
    pub timed: Option<(&'static str, Instant)>,
}

/// The table of waiting calls.
#[derive(Debug)]
pub struct Pending {
    calls: BTreeMap<CallId, Waiting>,
    requests: BTreeMap<RequestId, CallId>,
    /// Deadlines in order: all calls have the same time to live.
    deadlines: VecDeque<(Instant, CallId)>,
    time_to_live: Duration,
    peer_calls: u64,
    /// Bytes of all proposals.
    bytes: usize,
}

impl Pending {
    /// An empty table whose calls live this long.
    pub fn new(time_to_live: Duration) -> Self {
        Self {
            calls: BTreeMap::new(),
            requests: BTreeMap::new(),
            deadlines: VecDeque::new(),
            time_to_live,
            peer_calls: 0,
            bytes: 0,
        }
    }

    /// Adds a call; `timed` says whether it has a deadline.
    pub fn insert(&mut self, call: CallId, waiting: Waiting, now: Instant, timed: bool) {
        if let Kind::Write(request) = waiting.kind {
            self.requests.insert(request, call);
        }
        self.bytes += waiting.bytes;
        let before = self.calls.insert(call, waiting);
        assert!(before.is_none(), "a call came in twice");
        if timed {
            self.deadlines
                .push_back((now.after(self.time_to_live), call));
        }
    }

    /// A waiting call turns out to wait for a proposal.
    pub fn assign(&mut self, call: CallId, request: RequestId) {
        let waiting = self.calls.get_mut(&call).expect("the call still waits");
        assert_eq!(waiting.kind, Kind::Other, "a call waits for one proposal");
        waiting.kind = Kind::Write(request);
        self.requests.insert(request, call);
    }

    /// A call waits for another proposal, of so many bytes: what it waited for is decided and is
    /// not its answer. Its deadline stays.
    pub fn reassign(&mut self, call: CallId, request: RequestId, bytes: usize) {
        let waiting = self.calls.get_mut(&call).expect("the call still waits");
        if let Kind::Write(before) = waiting.kind {
            self.requests.remove(&before);
        }
        waiting.kind = Kind::Write(request);
        self.requests.insert(request, call);
        self.bytes = self.bytes - waiting.bytes + bytes;
        waiting.bytes = bytes;
    }

    /// Has the duration of a call counted, unless it has its answer already.
    pub fn time(&mut self, call: CallId, kind: Option<&'static str>, now: Instant) {
        if let Some(waiting) = self.calls.get_mut(&call) {
            waiting.timed = kind.map(|kind| (kind, now));
        }
    }

    /// How many calls wait for an entry of ours.
    pub fn writes(&self) -> usize {
        self.requests.len()
    }

    /// Makes a call id for a peer's client.
    pub fn peer_call(&mut self) -> CallId {
        self.peer_calls += 1;
        CallId::new(PEER_BIT | self.peer_calls)
    }

    /// The call that waits for a proposal.
    pub fn call_of(&self, request: RequestId) -> Option<CallId> {
        self.requests.get(&request).copied()
    }

    /// Whether a call still waits.
    pub fn contains(&self, call: CallId) -> bool {
        self.calls.contains_key(&call)
    }

    /// The state of a waiting call.
    pub fn get_mut(&mut self, call: CallId) -> Option<&mut Waiting> {
        self.calls.get_mut(&call)
    }

    /// Takes a call out: its one exit.
    pub fn remove(&mut self, call: CallId) -> Option<Waiting> {
        let waiting = self.calls.remove(&call)?;
        self.bytes -= waiting.bytes;
        if let Kind::Write(request) = waiting.kind {
            self.requests.remove(&request);
        }
        Some(waiting)
    }

    /// The earliest deadline; it may belong to a call that is gone.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// The next call whose time is over.
    pub fn next_overdue(&mut self, now: Instant) -> Option<CallId> {
        while let Some((deadline, call)) = self.deadlines.front().copied() {
            let gone = !self.calls.contains_key(&call);
            if deadline > now && !gone {
                return None;
            }
            self.deadlines.pop_front();
            if !gone {
                return Some(call);
            }
        }
        None
    }

    /// Calls that wait for this compaction or an earlier one.
    pub fn compacted(&self, revision: i64) -> Vec<CallId> {
        self.calls
            .iter()
            .filter(|(_, waiting)| waiting.compaction.is_some_and(|wanted| wanted <= revision))
            .map(|(call, _)| *call)
            .collect()
    }

    /// Every waiting call.
    pub fn all(&self) -> Vec<CallId> {
        self.calls.keys().copied().collect()
    }

    /// Bytes of the proposals of all calls that wait.
    pub fn proposal_bytes(&self) -> usize {
        self.bytes
    }

    /// How many calls wait.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// How many of them wait for this asker.
    pub fn count(&self, asker: Asker) -> usize {
        let calls = self.calls.values();
        calls.filter(|waiting| waiting.asker == asker).count()
    }

    /// Whether no call waits.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        let bytes: usize = self.calls.values().map(|waiting| waiting.bytes).sum();
        assert_eq!(bytes, self.bytes, "bytes of proposals are counted once");
        for (request, call) in &self.requests {
            let waiting = self
                .calls
                .get(call)
                .expect("a request belongs to a waiting call");
            assert_eq!(
                waiting.kind,
                Kind::Write(*request),
                "a request points to another call"
            );
        }
    }
}
