//! Pure consensus: no clock, no entropy source, no IO.

pub mod entry;

pub use entry::{ConfState, Entry, EntryKind, HardState, SnapshotMeta};
