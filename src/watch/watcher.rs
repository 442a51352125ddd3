//! One watch: what it watches, what it wants of it, and where it stands.

use bytes::Bytes;

use crate::kernel::{StreamId, WatchId};
use crate::mutant;
use crate::pb::etcdserverpb as rpc;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::mvccpb::{Event, event::EventType};

/// A watch among those of all streams.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WatchKey {
    /// Its stream.
    pub stream: StreamId,
    /// Its name on the stream.
    pub id: WatchId,
}

/// Where a range ends. The order of the variants matters: every key is before `Infinite`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    /// Before this key.
    Key(Bytes),
    /// Never.
    Infinite,
}

impl End {
    /// Whether the key is before the end.
    pub fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(end) => *key < end[..],
            Self::Infinite => true,
        }
    }
}

/// Which keys are watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Span {
    /// One key.
    Key(Bytes),
    /// All keys of `[start, end)`.
    Range { start: Bytes, end: End },
}

impl Span {
    /// etcd's reading of `key` and `range_end`; none for a range that holds no key.
    ///
    /// The bytes are copied: the request's are slices of a whole network buffer, which a watch
    /// would otherwise keep for as long as it lives.
    pub fn parse(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let key = if key.is_empty() { b"\0" } else { key };
        let start = Bytes::copy_from_slice(key);
        match range_end {
            b"" => Some(Self::Key(start)),
            b"\0" => Some(Self::Range {
                start,
                end: End::Infinite,
            }),
            end if key < end => Some(Self::Range {
                start,
                end: End::Key(Bytes::copy_from_slice(end)),
            }),
            _ => None,
        }
    }

    /// How many bytes its keys take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Key(key) => key.len(),
            Self::Range { start, end } => {
                start.len()
                    + match end {
                        End::Key(end) => end.len(),
                        End::Infinite => 0,
                    }
            }
        }
    }
}

/// Where a watch stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// Nothing is withheld: `next` is the later of `from` and the revision after the hub's.
    Synced { from: i64 },
    /// History from `next` on must be read. Invariant: `next` is not beyond the hub's revision.
    Behind { next: i64 },
}

/// One watch.
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    /// The keys.
    pub span: Span,
    /// Where it stands.
    pub position: Position,
    /// No progress is told before the hub reached this revision: the start revision, or for a watch
    /// from now on the revision its creation was answered with.
    pub reach: i64,
    /// Wants the value each key had before.
    pub prev_kv: bool,
    /// Wants large responses split.
    pub fragment: bool,
    /// Wants progress from time to time.
    pub progress_notify: bool,
    /// Got events since the last progress tick, so the next one passes it by.
    pub busy: bool,
    no_put: bool,
    no_delete: bool,
}

impl Watcher {
    /// A watch as its client asked for it.
    pub fn new(
        request: &rpc::WatchCreateRequest,
        span: Span,
        position: Position,
        reach: i64,
    ) -> Self {
        // Filters that we do not know are ignored.
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        Self {
            span,
            position,
            reach,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            busy: false,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
        }
    }

    /// Whether its filters let the event pass.
    pub fn wants(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => !self.no_put || mutant!("watch-filter-ignored"),
            EventType::Delete => !self.no_delete,
        }
    }

    /// Whether a progress answer at the hub's revision would be true for it.
    pub fn may_tell_progress(&self, revision: i64) -> bool {
        match self.position {
            Position::Synced { .. } => {
                self.reach <= revision || mutant!("progress-before-the-start")
            }
            Position::Behind { .. } => mutant!("progress-while-behind"),
        }
    }
}
