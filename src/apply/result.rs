//! What applying an entry brings: the answer for whoever proposed it, and what others must hear.

use crate::{
    kernel::{ApiError, DiskError, EntryId, Fault, LogIndex, MemberId, RequestId, Response},
    mvcc::{CompactError, ReadError},
    pb::mvccpb::Event,
    raft::ConfChange,
};

/// The outcome of one entry.
#[derive(Debug)]
pub struct Applied {
    /// Which entry.
    pub id: EntryId,
    /// Whose request it was; `None` for a leader's empty entry.
    pub origin: Option<Origin>,
    /// What the proposer answers its caller.
    pub result: Result<Response, ApiError>,
    /// New revisions with their events, in order.
    pub revisions: Vec<(i64, Vec<Event>)>,
    /// The membership changed.
    pub conf_change: Option<ConfChange>,
    /// What else changed and others must know.
    pub notices: Vec<Notice>,
}

/// Who proposed an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The proposing member.
    pub proposer: MemberId,
    /// Its name for the request.
    pub request: RequestId,
}

/// Changes that are not revisions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// History below a revision is gone; deleting it goes on in slices.
    Compacted { revision: i64, physical: bool },
    /// A lease was granted, ended or its remaining time was recorded, so deadlines have moved.
    Leases,
    /// The member set, a member's attributes or the cluster version changed.
    Members,
    /// Removals up to an index are settled.
    Settled { up_to: LogIndex },
    /// An alarm was raised or cleared.
    Alarms,
}

/// Why a request cannot be done: the client's fault, or the disk's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// Goes to the client.
    Api(ApiError),
    /// Stops the member.
    Disk(DiskError),
}

impl From<ApiError> for ApplyError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<DiskError> for ApplyError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<ReadError> for ApplyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => Self::Api(ApiError::Compacted),
            ReadError::FutureRevision => Self::Api(ApiError::FutureRev),
            ReadError::Disk(error) => Self::Disk(error),
        }
    }
}

impl From<CompactError> for ApplyError {
    fn from(error: CompactError) -> Self {
        match error {
            CompactError::Compacted => Self::Api(ApiError::Compacted),
            CompactError::FutureRevision => Self::Api(ApiError::FutureRev),
        }
    }
}

/// Parts the client's errors from the disk's.
pub fn settle<T>(outcome: Result<T, ApplyError>) -> Result<Result<T, ApiError>, Fault> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(ApplyError::Api(error)) => Ok(Err(error)),
        Err(ApplyError::Disk(error)) => Err(Fault::Disk(error)),
    }
}
