//! The vocabulary of the backend: its buckets, and a batch of writes as data.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{EntryId, LogIndex, Term, Writes};

/// The ordered tables of the backend. The number is part of the stored format: never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Bucket {
    /// Revision key -> encoded key-value record.
    Key = 0,
    /// Lease id, big-endian -> granted and remaining time to live.
    Lease = 1,
    /// Named single values: consistent index, compaction marks.
    Meta = 2,
    /// Member id and alarm type -> nothing.
    Alarm = 3,
    /// Cluster-wide settings such as the cluster version.
    Cluster = 4,
    /// Member id -> member.
    Members = 5,
    /// Member id -> nothing; ids are never reused.
    MembersRemoved = 6,
    /// Auth settings.
    Auth = 7,
    /// User name -> user.
    AuthUsers = 8,
    /// Role name -> role.
    AuthRoles = 9,
}

impl Bucket {
    /// Every bucket, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::Key,
        Self::Lease,
        Self::Meta,
        Self::Alarm,
        Self::Cluster,
        Self::Members,
        Self::MembersRemoved,
        Self::Auth,
        Self::AuthUsers,
        Self::AuthRoles,
    ];

    /// The number in the stored format.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The bucket of a stored number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// etcd's name for the bucket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Meta => "meta",
            Self::Alarm => "alarm",
            Self::Cluster => "cluster",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Auth => "auth",
            Self::AuthUsers => "authUsers",
            Self::AuthRoles => "authRoles",
        }
    }
}

/// Writes that become durable together, with the log position they bring the store to.
///
/// Invariant: a key occurs once; the last write of it wins. `None` removes the key.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct WriteBatch {
    /// The writes, ordered by bucket and key.
    pub writes: BTreeMap<Bucket, Writes>,
    /// The last entry whose effects are inside; stored in the same transaction.
    pub consistent: EntryId,
    /// Running hash of the state machine after that entry; stored beside it.
    pub state_hash: u64,
    /// How many writes were put in, overwritten ones included.
    pub operations: usize,
    /// Key and value bytes that were put in, overwritten ones included.
    pub bytes: usize,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, bucket: Bucket, key: Bytes, value: Bytes) {
        self.operations += 1;
        self.bytes += key.len() + value.len();
        self.writes
            .entry(bucket)
            .or_default()
            .insert(key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, bucket: Bucket, key: Bytes) {
        self.operations += 1;
        self.bytes += key.len();
        self.writes.entry(bucket).or_default().insert(key, None);
    }

    /// What this batch says of a key: nothing, removed, or a value.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Option<&Bytes>> {
        Some(self.writes.get(&bucket)?.get(key)?.as_ref())
    }

    /// Whether nothing is inside, not even a move of the consistent index.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.consistent == EntryId::new(Term::ZERO, LogIndex::ZERO)
    }
}
