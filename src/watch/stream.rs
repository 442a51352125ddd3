//! One client stream: its watches, what is on its way to the client, and the answers that wait.
//!
//! Invariants: answers wait only while the stream is blocked; `behind` names exactly the watches
//! whose position is `Behind`, `notified` exactly those that want progress.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Settings;
use super::batch::{header, held_bytes, response_bytes};
use super::watcher::{Position, Watcher};
use crate::kernel::{ApiError, Instant, StreamId, StreamItem, WatchId};
use crate::mutant;
use crate::pb::etcdserverpb as rpc;

/// What the hub hands out.
#[derive(Default, Debug)]
pub(super) struct Output {
    /// Items in order.
    pub items: Vec<(StreamId, StreamItem)>,
    /// Bytes on the way to all clients.
    pub in_flight: u64,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its watches.
    pub watches: BTreeMap<WatchId, Watcher>,
    /// Ids of watches that a compaction ended. As in etcd, each is taken until it is cancelled.
    pub ended: BTreeSet<WatchId>,
    /// Those that must read history.
    pub behind: BTreeSet<WatchId>,
    /// Those that want progress from time to time.
    pub notified: BTreeSet<WatchId>,
    /// Watches that have not reached their start, by `Watcher::reach`; pruned when looked at.
    pub waiting: BTreeSet<(i64, WatchId)>,
    /// Where the next turn of catch-up begins.
    pub cursor: WatchId,
    /// The client wants the stream ended when there is no leader.
    pub require_leader: bool,
    /// When progress is told next.
    pub tick_at: Instant,
    /// Bytes of keys and range ends of all watches.
    pub key_bytes: usize,
    id: StreamId,
    next_id: i64,
    in_flight: u64,
    blocked: bool,
    control: VecDeque<Control>,
}

/// An answer that carries no events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    /// A watch was created.
    Created { id: WatchId, revision: i64 },
    /// A watch could not be created.
    Refused { reason: Refusal, revision: i64 },
    /// A watch ended because its client wanted that.
    Canceled { id: WatchId, revision: i64 },
    /// A watch ended because what it needs was compacted.
    Compacted { id: WatchId, compact_revision: i64 },
    /// Everything up to the revision was sent, to one watch or to all of the stream.
    Progress { id: WatchId, revision: i64 },
}

/// Why a watch is not created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// The start revision is negative.
    NegativeStart,
    /// The user may not read the range.
    NotPermitted(ApiError),
    /// The range holds no key.
    EmptyRange,
    /// The stream has a watch of that id.
    DuplicateId,
    /// The stream holds as many watches, or as long keys, as it may.
    TooMany,
}

impl Refusal {
    /// The reason in etcd's words. Only a permission error is told with its gRPC code.
    fn text(self) -> String {
        match self {
            Self::NegativeStart => ApiError::Compacted.text().to_owned(),
            Self::NotPermitted(error) => {
                let told = match error {
                    ApiError::InvalidAuthToken
                    | ApiError::AuthOldRevision
                    | ApiError::UserEmpty => error,
                    _ => ApiError::PermissionDenied,
                };
                format!("rpc error: code = {:?} desc = {}", told.code(), told.text())
            }
            Self::EmptyRange => "mvcc: watcher range is empty".to_owned(),
            Self::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream".to_owned(),
            Self::TooMany => ApiError::TooManyRequests.text().to_owned(),
        }
    }
}

impl Control {
    fn response(self) -> rpc::WatchResponse {
        let none = rpc::WatchResponse::default();
        match self {
            Self::Created { id, revision } => rpc::WatchResponse {
                header: Some(header(revision)),
                watch_id: id.get(),
                created: true,
                ..none
            },
            Self::Refused { reason, revision } => rpc::WatchResponse {
                header: Some(header(revision)),
                watch_id: WatchId::STREAM.get(),
                created: true,
                canceled: true,
                cancel_reason: reason.text(),
                ..none
            },
            Self::Canceled { id, revision } => rpc::WatchResponse {
                header: Some(header(revision)),
                watch_id: id.get(),
                canceled: true,
                ..none
            },
            Self::Compacted {
                id,
                compact_revision,
            } => rpc::WatchResponse {
                // etcd tells no revision here, and its clients print what they get.
                header: Some(header(0)),
                watch_id: id.get(),
                canceled: true,
                compact_revision,
                ..none
            },
            Self::Progress { id, revision } => rpc::WatchResponse {
                header: Some(header(revision)),
                watch_id: id.get(),
                ..none
            },
        }
    }

    fn is_stream_progress(self) -> bool {
        matches!(
            self,
            Self::Progress {
                id: WatchId::STREAM,
                ..
            }
        )
    }
}

impl Stream {
    /// A stream without watches.
    pub fn new(id: StreamId, require_leader: bool, tick_at: Instant) -> Self {
        Self {
            watches: BTreeMap::new(),
            ended: BTreeSet::new(),
            behind: BTreeSet::new(),
            notified: BTreeSet::new(),
            waiting: BTreeSet::new(),
            cursor: WatchId::new(i64::MIN),
            require_leader,
            tick_at,
            key_bytes: 0,
            id,
            next_id: 0,
            in_flight: 0,
            blocked: false,
            control: VecDeque::new(),
        }
    }

    /// The id for a new watch: the client's, or with zero the next that is not in use.
    pub fn name(&mut self, wanted: WatchId) -> Result<WatchId, Refusal> {
        if wanted.get() != 0 {
            let taken = self.is_taken(wanted);
            return (!taken).then_some(wanted).ok_or(Refusal::DuplicateId);
        }
        while self.is_taken(WatchId::new(self.next_id)) {
            self.next_id += 1;
        }
        let id = WatchId::new(self.next_id);
        self.next_id += 1;
        Ok(id)
    }

    fn is_taken(&self, id: WatchId) -> bool {
        self.watches.contains_key(&id) || self.ended.contains(&id)
    }

    /// Bytes on the way to the client.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether the client must take something before it is sent more.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether catch-up can do something for it.
    pub fn is_ready(&self) -> bool {
        !self.blocked && !self.behind.is_empty()
    }

    /// How many answers wait.
    pub fn waiting_answers(&self) -> usize {
        self.control.len()
    }

    /// Hands a response out. The stream must not be blocked, except between the parts of a whole.
    pub fn send(
        &mut self,
        response: rpc::WatchResponse,
        bytes: u64,
        settings: &Settings,
        output: &mut Output,
    ) {
        let bytes = bytes + held_bytes(&response);
        self.count(bytes, settings, output);
        let response = Box::new(response);
        let item = StreamItem::Watch { response, bytes };
        output.items.push((self.id, item));
    }

    /// The same with a response that other watches get as well.
    pub fn send_alike(
        &mut self,
        watch: WatchId,
        (response, bytes): (Arc<rpc::WatchResponse>, u64),
        settings: &Settings,
        output: &mut Output,
    ) {
        let bytes = bytes + held_bytes(&response);
        self.count(bytes, settings, output);
        let item = StreamItem::Alike {
            watch,
            response,
            bytes,
        };
        output.items.push((self.id, item));
    }

    fn count(&mut self, bytes: u64, settings: &Settings, output: &mut Output) {
        self.in_flight += bytes;
        output.in_flight += bytes;
        self.blocked |= self.in_flight >= settings.window(output.in_flight);
    }

    /// Sends an answer, or keeps it for later. Fails when too many are kept.
    pub fn answer(
        &mut self,
        control: Control,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), ApiError> {
        if !self.blocked {
            self.send_control(control, settings, output);
            return Ok(());
        }
        if control.is_stream_progress() {
            // A newer one says all that an older one did; only the newest is kept.
            self.control.retain(|waiting| !waiting.is_stream_progress());
        }
        if self.control.len() >= settings.control_max {
            return Err(ApiError::TooManyRequests);
        }
        self.control.push_back(control);
        Ok(())
    }

    /// The client took bytes: sends answers that waited, as far as that allows.
    pub fn credit(&mut self, bytes: u64, settings: &Settings, output: &mut Output) {
        let taken = bytes.min(self.in_flight);
        self.in_flight -= taken;
        output.in_flight -= taken;
        // Half a window at a time, so that history is not read again for each small step.
        if self.in_flight > settings.window(output.in_flight) / 2 {
            return;
        }
        self.blocked = false;
        while !self.blocked
            && let Some(control) = self.control.pop_front()
        {
            self.send_control(control, settings, output);
        }
    }

    /// Whether everything up to the revision was sent to every watch, and there is one.
    pub fn may_tell_progress(&mut self, revision: i64) -> bool {
        while let Some((reach, id)) = self.waiting.first().copied() {
            if reach > revision && !mutant!("progress-before-the-start") {
                return false;
            }
            self.waiting.remove(&(reach, id));
        }
        let told = self.behind.is_empty() || mutant!("progress-while-behind");
        !self.watches.is_empty() && told
    }

    /// Asserts what can be seen from the inside.
    pub fn check(&self, revision: i64) {
        assert!(
            self.ended.iter().all(|id| !self.watches.contains_key(id)),
            "an id stands for one watch"
        );
        assert!(
            self.blocked || self.control.is_empty(),
            "answers wait only for a reason"
        );
        let mut key_bytes = 0;
        for (id, watcher) in &self.watches {
            let next = match watcher.position {
                Position::Synced { .. } => None,
                Position::Behind { next } => Some(next),
            };
            assert!(
                next.is_none_or(|next| next <= revision),
                "only the past is read again"
            );
            assert_eq!(next.is_some(), self.behind.contains(id));
            assert_eq!(watcher.progress_notify, self.notified.contains(id));
            key_bytes += watcher.span.bytes();
        }
        assert_eq!(key_bytes, self.key_bytes);
        let listed = [&self.behind, &self.notified].into_iter().flatten();
        let listed = listed.chain(self.waiting.iter().map(|(_, id)| id));
        for id in listed {
            assert!(
                self.watches.contains_key(id),
                "lists name watches that exist"
            );
        }
    }

    fn send_control(&mut self, control: Control, settings: &Settings, output: &mut Output) {
        let response = control.response();
        let bytes = response_bytes(&response);
        self.send(response, bytes, settings, output);
    }
}
