//! The multi-version store: every change of a key is a record under its revision, and an index in
//! memory says which revision of which key was current when.
//!
//! Bucket `Key` holds the records in etcd's own layout (`revision`, `record`), so that `HashKV`
//! gives etcd's number for the same history. The index is not stored; `Store::load` rebuilds it by
//! one scan. The store owns no backend: every call is handed the view it reads or writes.
//!
//! Invariants:
//! - the index and bucket `Key` tell the same history, record by record, after every call;
//! - the revision never goes back, not over a restart, not by compaction;
//! - a revision >= the compact revision can be read; one below is refused from the moment the
//!   compaction is recorded, whether or not its records are gone;
//! - an answer never depends on how far a running compaction has come.

mod compact;
mod hash;
mod history;
mod index;
mod key;
mod key_index;
mod read;
mod record;
mod records;
pub mod revision;
mod store;
mod tree;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use compact::{CompactError, QUARTERS_PER_PAGE, SliceMax, Sliced};
pub use hash::{HashKv, HashResult};
pub use history::{History, HistoryQuery};
pub use key::KeyRange;
pub use key_index::KeyMeta;
pub use read::{RangeQuery, RangeResult, ReadError};
pub use revision::Revision;
pub use store::Store;
pub use walk::{Part, RangeWalk, Walked};
pub use write::{Committed, WriteTxn};
