//! What a backend must do. LMDB and memory both do it, and a property test holds them equal.
//!
//! Keys are never empty; they and values may be of any length. What is kept for the backend itself
//! (consistent index, state hash) is no key of any bucket.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Bucket, WriteBatch};
use crate::kernel::{BackendSize, DiskError, EntryId, SnapshotId};

/// Called for each key in order; `Break` ends the walk. Values lie in the state that is read and
/// may be kept for as long as that.
pub type Visit<'a, 's> = &'a mut dyn FnMut(&[u8], &'s [u8]) -> ControlFlow<()>;

/// An ordered, durable store. Clones are handles to the same store: the node keeps one to read, a
/// disk lane keeps one to write.
pub trait Backend: Clone + Send + 'static {
    /// One unchanging state of the store.
    type Snapshot: ReadSnapshot;

    /// The state of the last completed commit. Never sees half a batch. Called by the node.
    fn snapshot(&self) -> Result<Self::Snapshot, DiskError>;

    /// Applies a batch atomically and durably. Called on the backend lane only.
    fn commit(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError>;

    /// The next part of giving free pages back to the file system, of about so many bytes; the size
    /// when that was the last one. Commits and snapshots may come between parts; an installation
    /// ends what was begun. After an error the store is what it was, and the next call begins anew.
    /// Called on the backend lane only.
    fn defragment_part(&self, bytes_max: usize) -> Result<Option<BackendSize>, DiskError>;

    /// Removes files in whose place others have come, unless somebody still reads them. Called on
    /// the snapshot lane, because it may take long.
    fn remove_replaced(&self) -> Result<(), DiskError>;

    /// How large the store is.
    fn size(&self) -> Result<BackendSize, DiskError>;

    /// Begins an empty image beside the live one; an unfinished or a sealed one of any id is thrown
    /// away.
    fn stage_open(&self, id: SnapshotId) -> Result<(), DiskError>;

    /// Adds writes to the staged image. Need not be durable yet. A non-zero `consistent` of the
    /// batch becomes the image's.
    fn stage_write(&self, id: SnapshotId, batch: &WriteBatch) -> Result<(), DiskError>;

    /// Makes the staged image durable under a temporary name.
    fn stage_seal(&self, id: SnapshotId) -> Result<(), DiskError>;

    /// The image that was sealed and neither installed nor dropped, with the entry it stands for.
    /// It survives a restart, so that whoever boots can finish or forget an interrupted install.
    fn sealed(&self) -> Result<Option<(SnapshotId, EntryId)>, DiskError>;

    /// The sealed image becomes the live one, durably and atomically; snapshots taken before stay
    /// valid.
    fn stage_install(&self, id: SnapshotId) -> Result<BackendSize, DiskError>;

    /// Throws a staged or sealed image away; nothing happens when there is none of this id.
    fn stage_drop(&self, id: SnapshotId) -> Result<(), DiskError>;
}

/// Reads of one unchanging state. Meta data of the last batch is read with `consistent` and
/// `state_hash`, never through the `Meta` bucket.
pub trait ReadSnapshot: Send + 'static {
    /// The value of a key.
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError>;

    /// The value of a key where it lies, without a copy.
    fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, DiskError>;

    /// Visits keys from `from` on, up to but without `to`, in byte order.
    fn range<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
    ) -> Result<(), DiskError>;

    /// The last entry whose effects are inside.
    fn consistent(&self) -> Result<EntryId, DiskError>;

    /// The state machine's running hash after that entry.
    fn state_hash(&self) -> Result<u64, DiskError>;

    /// How much is inside; answered without a walk.
    fn extent(&self) -> Result<Extent, DiskError>;
}

/// How much an image holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Keys of all buckets, counted exactly.
    pub records: u64,
    /// Key and value bytes, about.
    pub bytes: u64,
}
