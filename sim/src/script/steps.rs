//! Steps of the workloads that take more than one request, or a request with many shapes.

use serde::{Deserialize, Serialize};

/// What is done with leases. `pick` chooses among the leases that clients know of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LeaseStep {
    /// A new lease of so many seconds.
    Grant { ttl: i64, naming: Naming },
    /// Renews a lease, be it alive or not.
    KeepAlive { pick: u64 },
    /// Ends a lease.
    Revoke { pick: u64 },
    /// Asks how long a lease still lives.
    TimeToLive { pick: u64, keys: bool },
    /// Lists all leases.
    List,
    /// Writes a key that ends with a lease.
    Put { key: u64, pick: u64, bytes: u64 },
}

/// Who names a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Naming {
    /// The cluster.
    Cluster,
    /// The client, by a name that was never used.
    Fresh,
    /// The client, by a name that was used before.
    Again { pick: u64 },
}

/// A lock taken, used and given back, or an election won, as clients of etcd do it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockStep {
    /// Which lock.
    pub lock: u64,
    /// Seconds of the lease behind it.
    pub ttl: i64,
    /// Whether the winner also proclaims a value under its own key, as in an election.
    pub election: bool,
    /// Writes under the lock, each guarded by it.
    pub writes: u64,
    /// What passes between two of them.
    pub pause_us: u64,
    /// Whether it is given back, rather than left to its lease.
    pub gives_back: bool,
}

/// What is done with a queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QueueStep {
    /// Adds an item.
    Enqueue { queue: u64 },
    /// Takes the first item.
    Dequeue { queue: u64 },
}

/// What Kubernetes does with its objects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KubeStep {
    /// Creates an object that is not there; an event lives only for a while.
    Create { object: u64, event: bool },
    /// Changes an object if it is as it was last seen, else reads it.
    Update { object: u64 },
    /// Deletes an object if it is as it was last seen, else reads it.
    Delete { object: u64 },
    /// Lists all objects, page by page, at one revision.
    List { page: i64 },
    /// Compacts what was there the last time, if no other server does.
    Compact,
}

/// What an operator does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UpkeepStep {
    /// Rewrites a member's store.
    Defragment { member: usize },
    /// Reads a whole snapshot of a member.
    Snapshot { member: usize },
    /// Compares the hashes of all members at this many revisions back.
    Hash { back: i64 },
    /// Asks a member how it is.
    Status { member: usize },
    /// Lists the alarms.
    Alarms,
    /// Asks for a downgrade to the version below, or for its end.
    Downgrade { member: usize, begins: bool },
}

/// A read with filters, order and limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LookStep {
    /// The first key and the first one behind; everything if they are the same.
    pub from: u64,
    pub to: u64,
    /// This many revisions back; 0 for the present.
    pub back: i64,
    pub limit: i64,
    /// Numbers of the API.
    pub sort_order: i32,
    pub sort_target: i32,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    /// Bounds, as revisions back; 0 for none.
    pub mod_from: i64,
    pub mod_to: i64,
    pub create_from: i64,
    pub create_to: i64,
}

/// A txn of many operations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WideStep {
    /// Its conditions; all must hold.
    pub compare: Vec<Condition>,
    /// What is done if they hold.
    pub success: Vec<Part>,
    /// And if not.
    pub failure: Vec<Part>,
}

/// A condition on a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condition {
    pub key: u64,
    /// The first key behind, if it is on a range.
    pub to: Option<u64>,
    /// Number of the API: equal, greater, less, not equal.
    pub result: i32,
    pub of: Of,
}

/// What a condition looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Of {
    /// How often it was written.
    Version(i64),
    /// Its creation, so many revisions back.
    Create(i64),
    /// Its last change, as it was last seen.
    Seen,
    /// Its lease.
    Lease(u64),
    /// Its value, which is never this one.
    Value,
}

/// One operation of a txn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Part {
    Put {
        key: u64,
        prev_kv: bool,
        lease: Option<u64>,
    },
    /// The value stays as it is.
    Touch {
        key: u64,
    },
    Delete {
        key: u64,
    },
    Read {
        from: u64,
        to: u64,
        back: i64,
        limit: i64,
    },
    Txn(WideStep),
}
