//! Disk operations as data, and the lanes that order them.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{SegmentId, SnapshotId, WriteBatch};

/// Within a lane operations run and complete in the order they were submitted; between lanes there
/// is no order except through completions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Appends to the log. Nothing slow may stand in front of them.
    Wal,
    /// Making segments ready and removing old ones.
    Keep,
    /// Commits to the live backend.
    Backend,
    /// Reading images out and staging images that arrive.
    Snapshot,
}

/// What the core may ask of a disk.
#[derive(Clone, Debug)]
pub enum DiskOp {
    /// Keep lane: create a segment of `bytes` zero bytes, durable together with its directory
    /// entry.
    WalPrepare { segment: SegmentId, bytes: u64 },
    /// Wal lane: write whole sectors into a prepared segment; when `sync`, durable before
    /// completion.
    WalWrite {
        segment: SegmentId,
        offset: u64,
        bytes: Bytes,
        sync: bool,
    },
    /// Keep lane: remove every segment before this one.
    WalRemove { before: SegmentId },
    /// Backend lane: one atomic, durable transaction.
    Commit { batch: Arc<WriteBatch> },
    /// Backend lane: the next part of rewriting the backend's file without its free pages, of about
    /// so many bytes; the first part begins it, and the last one puts the new file in the place of
    /// the old. Commits stand between parts.
    Defragment { bytes_max: usize },
    /// Snapshot lane: remove files in whose place others have come and that nobody reads any more.
    RemoveReplaced,
    /// Backend lane: pin the state of the last commit under `id`.
    SnapshotOpen { id: SnapshotId },
    /// Snapshot lane: read up to about `bytes_max` encoded bytes after the cursor of a pinned
    /// image.
    SnapshotRead {
        id: SnapshotId,
        cursor: Option<StoreCursor>,
        bytes_max: usize,
    },
    /// Snapshot lane: let a pinned image go.
    SnapshotClose { id: SnapshotId },
    /// Snapshot lane: begin an empty image beside the live one; a half-done one is thrown away.
    StageOpen { id: SnapshotId },
    /// Snapshot lane: add encoded records to the staged image.
    StageWrite { id: SnapshotId, data: Bytes },
    /// Snapshot lane: make the staged image durable and complete under its consistent index.
    StageSeal { id: SnapshotId },
    /// Backend lane: the sealed image becomes the live one, durably.
    StageInstall { id: SnapshotId },
    /// Snapshot lane: throw a staged image away.
    StageDrop { id: SnapshotId },
}

impl DiskOp {
    /// The lane this operation runs on.
    pub fn lane(&self) -> Lane {
        match self {
            Self::WalWrite { .. } => Lane::Wal,
            Self::WalPrepare { .. } | Self::WalRemove { .. } => Lane::Keep,
            Self::Commit { .. }
            | Self::Defragment { .. }
            | Self::SnapshotOpen { .. }
            | Self::StageInstall { .. } => Lane::Backend,
            Self::SnapshotRead { .. }
            | Self::SnapshotClose { .. }
            | Self::RemoveReplaced
            | Self::StageOpen { .. }
            | Self::StageWrite { .. }
            | Self::StageSeal { .. }
            | Self::StageDrop { .. } => Lane::Snapshot,
        }
    }
}

/// Where a reader of an image stands: after this key of this bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreCursor {
    /// Number of the bucket.
    pub bucket: u8,
    /// The last key that was read.
    pub key: Bytes,
}

/// How large the backend is, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendSize {
    /// The file, free pages included.
    pub file_bytes: u64,
    /// Pages that hold data.
    pub used_bytes: u64,
    /// About what the file would take if its pages were full and none were free.
    pub packed_bytes: u64,
}

/// What a completed operation brings back.
#[derive(Clone, Debug)]
pub enum DiskOutcome {
    /// Done, nothing to tell.
    Done,
    /// A commit, a defragmentation or an installation, and the size after it.
    Backend(BackendSize),
    /// A part of a defragmentation; others are to follow.
    Rewriting,
    /// An image is pinned; its encoded stream will be about this long.
    SnapshotOpened { bytes_estimate: u64 },
    /// Encoded records, and where to go on; no cursor means that was all.
    SnapshotChunk {
        data: Bytes,
        next: Option<StoreCursor>,
    },
}

/// Why a disk operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// The device reported an error.
    Io,
    /// No space is left.
    Full,
    /// What was read is not what was written.
    Corrupt,
    /// The file, image or pinned snapshot does not exist.
    Missing,
}

/// A failed disk operation; its text says which file and what the system answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What went wrong.
    pub kind: DiskErrorKind,
    /// The file and the system's own words.
    pub detail: String,
}

impl DiskError {
    /// An error of a kind, with its story.
    pub fn new(kind: DiskErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DiskErrorKind::Io => "input/output error",
            DiskErrorKind::Full => "no space left on device",
            DiskErrorKind::Corrupt => "corrupt data",
            DiskErrorKind::Missing => "missing",
        };
        write!(f, "{kind}: {}", self.detail)
    }
}

impl std::error::Error for DiskError {}
