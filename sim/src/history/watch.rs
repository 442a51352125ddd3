//! Watch streams as their clients saw them.

use serde::{Deserialize, Serialize};

use super::{KeyValue, Text, Time, plain};

/// One thing that happened on a watch stream, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRecord {
    /// Whose stream.
    pub client: u64,
    /// Which of the client's streams. A stream that was opened anew has a new number.
    pub stream: u64,
    /// When the client saw it.
    pub time: Time,
    /// The member at the other end.
    #[serde(default, skip_serializing_if = "plain")]
    pub endpoint: String,
    /// What happened.
    pub item: WatchItem,
}

/// What happened on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchItem {
    /// The reply that a watch was created (or refused, then `canceled` is set).
    Created(WatchCreated),
    /// A response with events, or without any: a progress notification.
    Response(WatchResponse),
    /// The end of one watch, said by the server.
    Canceled(WatchCanceled),
    /// The end of the stream, for any reason. No line of this stream follows.
    Closed,
}

record! {
    /// A watch that was asked for and answered.
    WatchCreated {
        /// When the client sent the request.
        call: Time,
        /// The number that the server gave; -1 if refused.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// What was asked for.
        request: WatchRequest,
        /// Whether the watch was refused in the same breath.
        canceled: bool,
        /// Why.
        cancel_reason: String,
        /// The compacted revision, if that was why.
        compact_revision: i64,
    }
}

record! {
    /// What a watch was asked to do.
    WatchRequest {
        /// First key.
        key: Text,
        /// First key behind the range.
        range_end: Text,
        /// First revision wanted; 0 for what comes after the creation.
        start_revision: i64,
        /// Whether puts are left out.
        no_put: bool,
        /// Whether deletions are left out.
        no_delete: bool,
        /// Whether events carry the pair before.
        prev_kv: bool,
        /// Whether the server tells its progress from time to time.
        progress_notify: bool,
        /// Whether a large response may come in pieces.
        fragment: bool,
    }
}

record! {
    /// Events, or none: then everything up to `revision` has been sent.
    WatchResponse {
        /// The watch; -1 for the answer to a progress request: all watches of the stream.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// Whether the next response continues this one.
        fragment: bool,
        /// The events.
        events: Vec<WatchEvent>,
    }
}

record! {
    /// The end of one watch.
    WatchCanceled {
        /// The watch.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// Non-zero if the watch fell behind a compaction.
        compact_revision: i64,
        /// Why.
        cancel_reason: String,
    }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchEvent {
    /// What happened to the key.
    pub kind: EventKind,
    /// The pair after; of a deletion only key and `mod_revision`.
    pub kv: KeyValue,
    /// The pair before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, by request, by a txn, or with its lease.
    Delete,
}
