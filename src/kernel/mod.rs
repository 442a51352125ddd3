//! The vocabulary of the core: time, identity, what comes in, what goes out, what can fail.
//! Depends on nothing but the generated protobuf messages.

pub mod actor;
pub mod digest;
pub mod disk;
pub mod effect;
pub mod entropy;
pub mod error;
pub mod event;
pub mod figure;
pub mod id;
pub mod limits;
pub mod mutant;
pub mod order;
mod parted;
mod parted_txn;
pub mod store;
pub mod time;
pub mod trace;
pub mod writes;

pub use actor::{Context, Outbox};
pub use digest::Digest;
pub use disk::{BackendSize, DiskError, DiskErrorKind, DiskOp, DiskOutcome, Lane, StoreCursor};
pub use effect::{Effect, LinkOp, RangeChunkResponse, Response, StreamItem};
pub use entropy::Entropy;
pub use error::{ApiError, Fault};
pub use event::{Credentials, Event, RangeChunk, Request, Signal, StreamRequest};
pub use id::{
    CallId, ClusterId, EntryId, LeaseId, LinkId, LogIndex, MemberId, ReadId, RequestId, SegmentId,
    SnapshotId, StreamId, Term, Ticket, WatchId,
};
pub use parted::PartedRange;
pub use parted_txn::PartedTxn;
pub use store::{Bucket, WriteBatch};
pub use time::{Instant, WallTime};
pub use writes::Writes;
