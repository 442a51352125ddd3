//! The three kinds of failure, never mixed: `ApiError` is the client's, `Fault` stops this member,
//! and a panic is our bug.

use std::fmt;

use super::DiskError;

/// gRPC status codes, by their numbers on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! api_errors {
    ($($name:ident $code:ident $text:literal)*) => {
        /// A client's error: etcd's exact code and text. The number travels between members.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum ApiError {
            $(#[doc = $text] $name,)*
        }

        impl ApiError {
            /// Every error, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The gRPC code.
            pub const fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// The message as clients compare it.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("etcdserver: ", $text),)*
                }
            }
        }
    };
}

// `TooManyRequests` and `MemberNotEnoughStarted` go out as Unknown: etcd returns its client-side
// error type for these two, and clients know them by their text.
api_errors! {
    EmptyKey InvalidArgument "key is not provided"
    KeyNotFound InvalidArgument "key not found"
    ValueProvided InvalidArgument "value is provided"
    LeaseProvided InvalidArgument "lease is provided"
    TooManyOps InvalidArgument "too many operations in txn request"
    DuplicateKey InvalidArgument "duplicate key given in txn request"
    InvalidClientApiVersion InvalidArgument "invalid client api version"
    InvalidSortOption InvalidArgument "invalid sort option"
    MemberBadUrls InvalidArgument "given member URLs are invalid"
    RequestTooLarge InvalidArgument "request is too large"
    UserEmpty InvalidArgument "user name is empty"
    RoleEmpty InvalidArgument "role name is empty"
    AuthFailed InvalidArgument "authentication failed, invalid user ID or password"
    PermissionNotGiven InvalidArgument "permission not given"
    InvalidAuthMgmt InvalidArgument "invalid auth management"
    AuthOldRevision InvalidArgument "revision of auth store is old"
    WrongDowngradeVersionFormat InvalidArgument "wrong downgrade target version format"
    InvalidDowngradeTargetVersion InvalidArgument "invalid downgrade target version"
    LeaseNotFound NotFound "requested lease not found"
    MemberNotFound NotFound "member not found"
    PermissionDenied PermissionDenied "permission denied"
    InvalidAuthToken Unauthenticated "invalid auth token"
    Compacted OutOfRange "mvcc: required revision has been compacted"
    FutureRev OutOfRange "mvcc: required revision is a future revision"
    LeaseTtlTooLarge OutOfRange "too large lease TTL"
    NoSpace ResourceExhausted "mvcc: database space exceeded"
    TooManyRequests Unknown "too many requests"
    LeaseExist FailedPrecondition "lease already exists"
    MemberExist FailedPrecondition "member ID already exist"
    PeerUrlExist FailedPrecondition "Peer URLs already exists"
    MemberNotEnoughStarted Unknown "re-configuration failed due to not enough started members"
    MemberNotLearner FailedPrecondition "can only promote a learner member"
    LearnerNotReady FailedPrecondition
        "can only promote a learner member which is in sync with leader"
    TooManyLearners FailedPrecondition "too many learner members in cluster"
    ClusterIdMismatch FailedPrecondition "cluster ID mismatch"
    NotLeader FailedPrecondition "not leader"
    NotCapable FailedPrecondition "not capable"
    NotSupportedForLearner FailedPrecondition "rpc not supported for learner"
    BadLeaderTransferee FailedPrecondition "bad leader transferee"
    RootUserNotExist FailedPrecondition "root user does not exist"
    RootRoleNotExist FailedPrecondition "root user does not have root role"
    UserAlreadyExist FailedPrecondition "user name already exists"
    UserNotFound FailedPrecondition "user name not found"
    RoleAlreadyExist FailedPrecondition "role name already exists"
    RoleNotFound FailedPrecondition "role name not found"
    RoleNotGranted FailedPrecondition "role is not granted to the user"
    PermissionNotGranted FailedPrecondition "permission is not granted to the role"
    AuthNotEnabled FailedPrecondition "authentication is not enabled"
    ClusterVersionUnavailable FailedPrecondition "cluster version not found during downgrade"
    DowngradeInProcess FailedPrecondition "cluster has a downgrade job in progress"
    NoInflightDowngrade FailedPrecondition "no inflight downgrade job"
    NoLeader Unavailable "no leader"
    LeaderChanged Unavailable "leader changed"
    Stopped Unavailable "server stopped"
    Timeout Unavailable "request timed out"
    TimeoutDueToLeaderFail Unavailable "request timed out, possibly due to previous leader failure"
    TimeoutDueToConnectionLost Unavailable "request timed out, possibly due to connection lost"
    TimeoutWaitAppliedIndex Unavailable
        "request timed out, waiting for the applied index took too long"
    Unhealthy Unavailable "unhealthy cluster"
    Corrupt DataLoss "corrupt cluster"
    WatchCanceled Canceled "watch canceled"
    Canceled Canceled "request canceled"
    DeadlineExceeded DeadlineExceeded "context deadline exceeded"
}

impl ApiError {
    /// The number by which members tell each other about this error; never zero.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// The error of a number another member sent; `None` for zero and for numbers we do not know.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .get(usize::try_from(number.checked_sub(1)?).ok()?)
            .copied()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ApiError {}

/// This member cannot go on: its disk, configuration or data is at fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A disk operation failed. An fsync is never retried: after a failure nobody knows what is
    /// durable.
    Disk(DiskError),
    /// The log cannot be trusted; the text names file and offset and says what to do.
    Log(String),
    /// What is stored contradicts itself or the configuration.
    State(String),
    /// The operator asked for a stop and everything was handed over.
    Stopped,
    /// The cluster removed this member.
    Removed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(
                f,
                "the disk failed, so nothing more can be acknowledged ({error}); \
                 mend or replace the disk and start the member again"
            ),
            Self::Log(text) | Self::State(text) => f.write_str(text),
            Self::Stopped => f.write_str("stopped by request"),
            Self::Removed => {
                f.write_str("the member has been permanently removed from the cluster")
            }
        }
    }
}

impl std::error::Error for Fault {}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

#[cfg(test)]
mod tests {
    use super::ApiError;

    #[test]
    fn numbers_come_back() {
        for error in ApiError::ALL {
            assert_eq!(ApiError::from_number(error.number()), Some(*error));
        }
        assert_eq!(ApiError::from_number(0), None);
        assert_eq!(ApiError::from_number(10_000), None);
    }
}
