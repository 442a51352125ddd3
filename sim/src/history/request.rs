//! Requests and replies of a history, with the field names of etcd's API.

use serde::{Deserialize, Serialize};

use super::{Text, plain};

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Read.
    Range(RangeRequest),
    /// Write one key.
    Put(PutRequest),
    /// Delete keys.
    DeleteRange(DeleteRangeRequest),
    /// Compare, then do one of two lists.
    Txn(TxnRequest),
    /// Forget history.
    Compact(CompactRequest),
    /// Make a lease.
    LeaseGrant(LeaseGrantRequest),
    /// End a lease.
    LeaseRevoke(LeaseRequest),
    /// Renew a lease, once.
    LeaseKeepAlive(LeaseRequest),
    /// Ask for the rest of a lease.
    LeaseTimeToLive(LeaseTimeToLiveRequest),
    /// List all leases.
    LeaseLeases,
}

/// The answers, in the order of [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To a range.
    Range(RangeReply),
    /// To a put.
    Put(PutReply),
    /// To a delete.
    DeleteRange(DeleteRangeReply),
    /// To a txn.
    Txn(TxnReply),
    /// To a compaction.
    Compact,
    /// To a grant.
    LeaseGrant(LeaseReply),
    /// To a revocation.
    LeaseRevoke,
    /// To a keep-alive.
    LeaseKeepAlive(LeaseReply),
    /// To the question for the rest.
    LeaseTimeToLive(LeaseTimeToLiveReply),
    /// All leases.
    LeaseLeases(LeaseLeasesReply),
}

record! {
    /// A read. An empty `range_end` is one key, a zero byte everything from the key on.
    RangeRequest {
        /// First key.
        key: Text,
        /// First key behind the range.
        range_end: Text,
        /// Most pairs in the answer; 0 for all.
        limit: i64,
        /// Revision to read at; 0 for the latest.
        revision: i64,
        /// Order of the answer.
        sort_order: SortOrder,
        /// What the order is by.
        sort_target: SortTarget,
        /// Whether the answer may be stale.
        serializable: bool,
        /// Whether values are left out.
        keys_only: bool,
        /// Whether pairs are left out.
        count_only: bool,
        /// Only pairs not changed before this revision.
        min_mod_revision: i64,
        /// Only pairs not changed after this revision.
        max_mod_revision: i64,
        /// Only pairs not created before this revision.
        min_create_revision: i64,
        /// Only pairs not created after this revision.
        max_create_revision: i64,
    }
}

/// The order of pairs in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    /// By key, or ascending if a target is named.
    #[default]
    None,
    /// Small first.
    Ascend,
    /// Great first.
    Descend,
}

/// What pairs are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// How often the key was written since its creation.
    Version,
    /// The revision of its creation.
    Create,
    /// The revision of its last change.
    Mod,
    /// The value.
    Value,
}

record! {
    /// A write of one key.
    PutRequest {
        /// The key.
        key: Text,
        /// Its new value.
        value: Text,
        /// The lease to attach; 0 detaches.
        lease: i64,
        /// Whether the answer carries the pair before.
        prev_kv: bool,
        /// Whether the value stays as it is.
        ignore_value: bool,
        /// Whether the lease stays as it is.
        ignore_lease: bool,
    }
}

record! {
    /// A deletion.
    DeleteRangeRequest {
        /// First key.
        key: Text,
        /// First key behind the range.
        range_end: Text,
        /// Whether the answer carries the pairs before.
        prev_kv: bool,
    }
}

record! {
    /// All compares hold: `success`, else `failure`.
    TxnRequest {
        /// The conditions.
        compare: Vec<Compare>,
        /// Done if all conditions hold; only range, put, delete range and txn.
        success: Vec<Request>,
        /// Done otherwise.
        failure: Vec<Request>,
    }
}

/// One condition of a txn. With a range end, every key of the range must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// First key.
    pub key: Text,
    /// First key behind the range.
    #[serde(default, skip_serializing_if = "plain")]
    pub range_end: Text,
    /// The relation that must hold between the pair and the target.
    pub result: CompareResult,
    /// What is compared, and with what.
    pub target: CompareTarget,
}

/// The relation of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareResult {
    /// The pair's equals the given one.
    Equal,
    /// The pair's is greater.
    Greater,
    /// The pair's is less.
    Less,
    /// The pair's is another.
    NotEqual,
}

/// What a condition looks at, with the value to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareTarget {
    /// How often the key was written since its creation.
    Version(i64),
    /// The revision of its creation.
    Create(i64),
    /// The revision of its last change.
    Mod(i64),
    /// The value.
    Value(Text),
    /// The lease.
    Lease(i64),
}

record! {
    /// A compaction.
    CompactRequest {
        /// History before it goes.
        revision: i64,
        /// Whether to wait until the disk has forgotten too.
        physical: bool,
    }
}

record! {
    /// A wish for a lease.
    LeaseGrantRequest {
        /// Seconds.
        ttl: i64,
        /// Wanted id; 0 lets the cluster choose.
        id: i64,
    }
}

record! {
    /// A revocation or a keep-alive.
    LeaseRequest {
        /// The lease.
        id: i64,
    }
}

record! {
    /// The question for the rest of a lease.
    LeaseTimeToLiveRequest {
        /// The lease.
        id: i64,
        /// Whether the answer lists the keys.
        keys: bool,
    }
}

record! {
    /// The answer to a range.
    RangeReply {
        /// The pairs.
        kvs: Vec<KeyValue>,
        /// Whether the limit cut something off.
        more: bool,
        /// Pairs in the range, whatever limit and filters say.
        count: i64,
    }
}

record! {
    /// The answer to a put.
    PutReply {
        /// The pair before, if asked for and there.
        prev_kv: Option<KeyValue>,
    }
}

record! {
    /// The answer to a delete.
    DeleteRangeReply {
        /// How many keys went.
        deleted: i64,
        /// The pairs before, if asked for.
        prev_kvs: Vec<KeyValue>,
    }
}

record! {
    /// The answer to a txn.
    TxnReply {
        /// Whether all conditions held.
        succeeded: bool,
        /// The answers of the list that was done.
        responses: Vec<Reply>,
    }
}

record! {
    /// The answer to a grant or a keep-alive.
    LeaseReply {
        /// The lease.
        id: i64,
        /// Seconds that it lives from now on; 0 in a keep-alive means that there is none.
        ttl: i64,
    }
}

record! {
    /// The rest of a lease.
    LeaseTimeToLiveReply {
        /// The lease.
        id: i64,
        /// Seconds left; -1 if there is no such lease.
        ttl: i64,
        /// The TTL that was granted.
        granted_ttl: i64,
        /// Keys attached, if asked for.
        keys: Vec<Text>,
    }
}

record! {
    /// All leases that the member knows.
    LeaseLeasesReply {
        /// Their ids.
        leases: Vec<i64>,
    }
}

record! {
    /// A pair with its revisions. In the event of a deletion only key and `mod_revision`.
    KeyValue {
        /// The key.
        key: Text,
        /// The revision of its creation.
        create_revision: i64,
        /// The revision of its last change.
        mod_revision: i64,
        /// How often it was written since its creation.
        version: i64,
        /// The value.
        value: Text,
        /// The lease it is attached to; 0 for none.
        lease: i64,
    }
}

/// The name of a request in the format.
pub fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Range(_) => "range",
        Request::Put(_) => "put",
        Request::DeleteRange(_) => "delete_range",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::LeaseGrant(_) => "lease_grant",
        Request::LeaseRevoke(_) => "lease_revoke",
        Request::LeaseKeepAlive(_) => "lease_keep_alive",
        Request::LeaseTimeToLive(_) => "lease_time_to_live",
        Request::LeaseLeases => "lease_leases",
    }
}

/// The name of a reply in the format: that of the request it answers.
pub fn name_of_reply(reply: &Reply) -> &'static str {
    match reply {
        Reply::Range(_) => "range",
        Reply::Put(_) => "put",
        Reply::DeleteRange(_) => "delete_range",
        Reply::Txn(_) => "txn",
        Reply::Compact => "compact",
        Reply::LeaseGrant(_) => "lease_grant",
        Reply::LeaseRevoke => "lease_revoke",
        Reply::LeaseKeepAlive(_) => "lease_keep_alive",
        Reply::LeaseTimeToLive(_) => "lease_time_to_live",
        Reply::LeaseLeases(_) => "lease_leases",
    }
}
