//! What clients saw: one JSON object a line, from the simulator as well as from a real cluster.
//!
//! Every line has exactly one member, which says what it is:
//!
//! | line | meaning |
//! |---|---|
//! | `{"meta":{..}}` | [`Meta`]: how the cluster began and what bounds its clocks; first line or absent |
//! | `{"op":{..}}` | [`Operation`]: one request of one client, with its outcome |
//! | `{"watch":{..}}` | [`WatchRecord`]: one thing that happened on a watch stream |
//! | `{"commit":{..}}` | [`Commit`]: one entry of the committed log, for who can see it (a simulator) |
//!
//! ```json
//! {"meta":{"version":1}}
//! {"op":{"id":1,"client":3,"call":1000,"ret":2500,"endpoint":"a","request":{"put":{"key":"k","value":"v"}},"outcome":{"ok":{"header":{"revision":2},"reply":{"put":{}}}}}}
//! {"op":{"id":2,"client":4,"call":1100,"endpoint":"b","request":{"delete_range":{"key":"k"}},"outcome":"unknown"}}
//! {"watch":{"client":4,"stream":1,"time":3000,"endpoint":"b","item":{"response":{"watch_id":0,"revision":2,"events":[{"kind":"put","kv":{"key":"k","value":"v","create_revision":2,"mod_revision":2,"version":1}}]}}}}
//! ```
//!
//! Rules of the format:
//! - Times are nanoseconds of one clock that all clients of the history share; its zero is free.
//! - `ret` is absent exactly if the outcome is `"unknown"`: nobody can tell whether the request
//!   took or will take effect. An error is `{"failed":{..}}` only if it is certain that the
//!   request had no effect and will have none.
//! - `id` is unique in a file. The operations of one `client` and `process` do not overlap.
//! - Field names are those of etcd's API. Fields that are zero, empty or false are left out.
//! - Byte strings are JSON strings if they are UTF-8, else `{"base64":".."}`.
//! - Lines may stand in any order, except that the lines of one watch stream stand as received.
//! - Unknown fields are refused, so that a misspelt one is not taken for a default.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// Whether a field has its default and is left out.
fn plain<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares a record of the format: plain data, every field optional, unknown ones refused.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "plain")] pub $field: $type,)*
        }
    };
}

mod lines;
mod request;
#[cfg(test)]
mod tests;
mod text;
mod watch;

pub use lines::{ReadError, Reader, Writer, validate};
pub use request::*;
pub use text::Text;
pub use watch::*;

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The longest line that a reader takes, so that a file without line ends cannot eat the memory.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Nanoseconds of the clock of the history.
pub type Time = u64;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// How the cluster began.
    Meta(Meta),
    /// One request of one client.
    Op(Operation),
    /// One thing that happened on a watch stream.
    Watch(WatchRecord),
    /// One entry of the committed log.
    Commit(Commit),
}

/// How the cluster began, and the bounds under which leases are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Meta {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// The revision before the first operation; 1 for an empty cluster.
    pub revision: i64,
    /// The compacted revision before the first operation; -1 for none.
    pub compact_revision: i64,
    /// The pairs alive before the first operation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kvs: Vec<KeyValue>,
    /// The leases alive before the first operation, with their granted TTL in seconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<(i64, i64)>,
    /// The least TTL in seconds that the cluster grants; a smaller wish is raised to it.
    pub lease_ttl_min: i64,
    /// The most operations that one txn may hold in a list; `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// How far a member's clock may run fast, in parts per million. A lease may end earlier by
    /// this share of its TTL.
    pub drift_ppm: u64,
    /// Forward jumps of members' clocks: when, and by how many nanoseconds. A lease that lives
    /// through one may end earlier by it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clock_jumps: Vec<(Time, Time)>,
    /// If set, a lease must be gone this long after its TTL has run out. Only for histories of
    /// clusters that were healthy all the time, or healed long before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_late_max: Option<Time>,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            version: FORMAT_VERSION,
            revision: 1,
            compact_revision: -1,
            kvs: Vec::new(),
            leases: Vec::new(),
            lease_ttl_min: 2,
            txn_ops_max: 128,
            drift_ppm: 0,
            clock_jumps: Vec::new(),
            lease_late_max: None,
        }
    }
}

/// One request of one client and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history.
    pub id: u64,
    /// Who asked.
    pub client: u64,
    /// Which of the client's threads asked.
    #[serde(default, skip_serializing_if = "plain")]
    pub process: u64,
    /// When the client sent the request.
    pub call: Time,
    /// When the client had the answer. Absent exactly if the outcome is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Time>,
    /// The member that was asked, by any name.
    #[serde(default, skip_serializing_if = "plain")]
    pub endpoint: String,
    /// What was asked.
    pub request: Request,
    /// What came back.
    pub outcome: Outcome,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An answer.
    Ok(Response),
    /// An error that guarantees that the request had and will have no effect.
    Failed(Failure),
    /// Nobody can tell: a timeout, a broken connection, the end of the run.
    Unknown,
}

record! {
    /// An error as the client saw it.
    Failure {
        /// The number of the gRPC status.
        code: u32,
        /// The message, as `etcdserver: key is not provided`.
        text: String,
    }
}

/// An answer with its header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// The header that every answer carries.
    #[serde(default, skip_serializing_if = "plain")]
    pub header: Header,
    /// The answer proper.
    pub reply: Reply,
}

record! {
    /// The header of an answer.
    Header {
        /// The revision that the member named; 0 if the answer had none.
        revision: i64,
        /// The member that answered.
        member_id: u64,
        /// Its Raft term.
        raft_term: u64,
    }
}

/// One entry of the committed log that the cluster agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Its place; rising, gaps allowed (entries that are none of the client's concern). Only
    /// revocations may share one: an entry may end several leases.
    pub index: u64,
    /// The operation it carries out; absent for what the cluster does by itself (lease expiry).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<u64>,
    /// When the first member applied it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// What it does, with ids that the cluster chose filled in.
    pub request: Request,
}

/// A whole history in memory, sorted by what the lines are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How the cluster began.
    pub meta: Meta,
    /// All operations, in the order of the file.
    pub ops: Vec<Operation>,
    /// All watch lines, in the order of the file.
    pub watches: Vec<WatchRecord>,
    /// The committed log; empty if nobody could see it.
    pub commits: Vec<Commit>,
}

impl History {
    /// Reads a whole history.
    pub fn read(input: impl BufRead) -> Result<History, ReadError> {
        let mut history = History::default();
        let mut meta_seen = false;
        let mut reader = Reader::new(input);
        while let Some(record) = reader.next() {
            match record? {
                Record::Meta(meta) => {
                    if std::mem::replace(&mut meta_seen, true) {
                        return Err(reader.refuse("a second meta line".into()));
                    }
                    history.meta = meta;
                }
                Record::Op(op) => history.ops.push(op),
                Record::Watch(watch) => history.watches.push(watch),
                Record::Commit(commit) => history.commits.push(commit),
            }
        }
        Ok(history)
    }

    /// Writes all of it, a line each.
    pub fn write(&self, output: impl Write) -> io::Result<()> {
        let mut writer = Writer::new(output);
        writer.write(&Record::Meta(self.meta.clone()))?;
        for op in &self.ops {
            writer.write(&Record::Op(op.clone()))?;
        }
        for watch in &self.watches {
            writer.write(&Record::Watch(watch.clone()))?;
        }
        for commit in &self.commits {
            writer.write(&Record::Commit(commit.clone()))?;
        }
        writer.flush()
    }
}
