//! Watches with etcd's semantics, as a pure structure: no IO, no clock.
//!
//! A `Hub` holds streams, a stream holds watches. A watch is found by key while it is *synced* and
//! replays history while it is *behind*. There is no queue of events anywhere: an event is either
//! handed out at once, or its watch falls behind and reads it from the store again later. So what a
//! client can make us hold is bounded:
//!
//! - per watch: one `Watcher`, one entry in the group or in its stream's list, its key and end;
//! - per stream: `Settings::control_max` pending answers of a few words each,
//!   `limits::WATCHES_PER_STREAM_MAX` watches, `Settings::key_bytes_max` bytes of keys, and on its
//!   way to the client less than `Settings::window_bytes` plus one batch for one watch;
//! - all streams together: `Settings::windows_bytes_max`, and `Settings::window_bytes_min` for each
//!   stream.
//!
//! Invariants:
//! - Every watch has `next`, the first revision it has not been served, and everything before it
//!   that it wants was handed out, in order and once.
//! - A watch is synced if and only if `next > Hub::revision`: then nothing is withheld from it.
//! - A stream that is not blocked has no pending answers; a blocked one is sent nothing.
//! - A progress answer of revision `r` is made only when `next > r` for every watch it speaks for.

mod batch;
mod catchup;
mod group;
mod hub;
mod interval;
mod stream;
mod watcher;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use hub::{Counters, Hub};

use crate::kernel::{DiskError, limits};
use crate::pb::mvccpb::{Event, KeyValue};

/// Whole revisions in order, each with its events, and the first revision they do not cover.
pub type Replay = (Vec<(i64, Vec<Event>)>, i64);

/// What the hub may read of the store.
pub trait History {
    /// Revision of the store; the hub's own revision may lag behind it, never run ahead.
    fn revision(&self) -> i64;

    /// Revision up to which history was compacted; that revision itself can still be read.
    fn compact_revision(&self) -> i64;

    /// The key as it stood at `revision`; none when it did not exist or that was compacted.
    fn at(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, DiskError>;

    /// The events of all keys from revision `from` to revision `to`, both included: whole
    /// revisions, at most `revisions_max` of them, and no further one once `bytes_max` bytes are
    /// reached. Covers at least revision `from`, which is never below the compact revision.
    fn events(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Replay, DiskError>;
}

/// Bounds and intervals of a hub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time between progress notifications; up to a tenth is added by chance. At least 100 ms.
    pub progress_interval: Duration,
    /// Responses of this size or more are split for watches that ask for it: the request limit and
    /// its overhead.
    pub fragment_bytes: usize,
    /// A stream with this many bytes on the way gets nothing more until half of them were taken.
    pub window_bytes: u64,
    /// With this many bytes on the way to all streams together, the window of each shrinks to
    /// `window_bytes_min`.
    pub windows_bytes_max: u64,
    /// The window of each stream while much is on the way to all of them.
    pub window_bytes_min: u64,
    /// Answers to requests that may wait for a blocked stream; one more ends the stream.
    pub control_max: usize,
    /// Bytes of keys and range ends that one stream may watch; further watches are refused.
    pub key_bytes_max: usize,
    /// Revisions of history that one catch-up slice reads.
    pub catchup_revisions: usize,
    /// Bytes of history after which a catch-up slice reads no further revision.
    pub catchup_bytes: usize,
    /// Watches that one catch-up slice looks at.
    pub catchup_watches: usize,
    /// Events looked at, summed over watches, after which a catch-up slice serves no further watch.
    pub catchup_events: usize,
}

impl Settings {
    /// The window of each stream while so much is on the way to all of them.
    fn window(&self, in_flight: u64) -> u64 {
        match in_flight >= self.windows_bytes_max {
            true => self.window_bytes.min(self.window_bytes_min),
            false => self.window_bytes,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes: limits::REQUEST_BYTES_MAX + limits::REQUEST_OVERHEAD_BYTES,
            window_bytes: limits::STREAM_WINDOW_BYTES,
            windows_bytes_max: limits::STREAM_WINDOWS_BYTES_MAX,
            window_bytes_min: limits::STREAM_WINDOW_BYTES_MIN,
            control_max: 16 * 1024,
            key_bytes_max: 256 * 1024 * 1024,
            catchup_revisions: limits::CATCHUP_REVISIONS_MAX,
            catchup_bytes: 1024 * 1024,
            catchup_watches: 512,
            catchup_events: 32 * 1024,
        }
    }
}
