//! Identifiers as types of their own: no arithmetic, no conversion by accident, named moves only.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The smallest value; for counters it means "none yet".
            pub const ZERO: Self = Self(0);

            /// Wraps a raw number. For codecs and the edge; inside, identifiers are passed along.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number, for codecs and printing.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whether this is the value that means "none".
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// The value after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value before this one; stays at zero.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// `count` values further on.
            #[must_use]
            pub const fn forward(self, count: u64) -> Self {
                Self(self.0 + count)
            }

            /// `count` values back; stays at zero.
            #[must_use]
            pub const fn back(self, count: u64) -> Self {
                Self(self.0.saturating_sub(count))
            }

            /// How many steps `later` lies after this one; zero when it does not.
            pub const fn distance_to(self, later: Self) -> u64 {
                later.0.saturating_sub(self.0)
            }
        }
    };
}

id!(/** Raft term. */ Term);
id!(/** Position in the raft log; the first entry has index 1. */ LogIndex);
id!(/** A member of the cluster. Never reused. */ MemberId);
id!(/** The cluster. */ ClusterId);
id!(/** One disk operation of this boot. */ Ticket);
id!(/** A client call waiting at the edge; made by the host. */ CallId);
id!(/** A client stream open at the edge; made by the host. */ StreamId);
id!(/** A connection between two members, as the host counts them. */ LinkId);
id!(/** One proposal: unique over members and boots. */ RequestId);
id!(/** One round of read-index confirmation; ever-increasing within a member's boot. */ ReadId);
id!(/** One WAL segment file. */ SegmentId);
id!(/** One opened or staged image of the backend, unique per boot. */ SnapshotId);
counter!(Term);
counter!(LogIndex);
counter!(Ticket);
counter!(CallId);
counter!(StreamId);
counter!(LinkId);
counter!(RequestId);
counter!(ReadId);
counter!(SegmentId);
counter!(SnapshotId);

/// A lease as clients name it. etcd types it as a signed number; zero means "no lease".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(i64);

impl LeaseId {
    /// No lease.
    pub const NONE: Self = Self(0);

    /// Wraps the number from the wire.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// The number for the wire.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whether this means "no lease".
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A watch as its stream names it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WatchId(i64);

impl WatchId {
    /// The id in answers that belong to the stream and not to one watch.
    pub const STREAM: Self = Self(-1);

    /// Wraps the number from the wire.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// The number for the wire.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// An entry of the log. An index alone never acknowledges, because indexes get rewritten.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId {
    /// Term in which the entry was proposed. First, so that the order is Raft's "up to date".
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: Self = Self {
        term: Term::ZERO,
        index: LogIndex::ZERO,
    };

    /// An entry by term and index.
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}
