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

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The longest line that a reader takes, so that a file without line ends cannot eat the memory.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Nanoseconds of the clock of the history.
pub type Time = u64;

/// A key or a value. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<[u8]>);

impl Text {
    /// The bytes of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Text {
    fn default() -> Self {
        Text(Arc::from(&[][..]))
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Text(Arc::from(bytes))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(Arc::from(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Text(Arc::from(bytes))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut object = serializer.serialize_struct("Text", 1)?;
        object.serialize_field("base64", &BASE64.encode(&self.0))?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Encoded {
            base64: String,
        }
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"base64\":\"..\"}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::from(text))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
                let encoded =
                    Encoded::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let bytes = BASE64.decode(encoded.base64).map_err(A::Error::custom)?;
                Ok(Text::from(bytes))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Whether a field has its default and is left out.
fn plain<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares a record of the format: plain data, every field optional, unknown ones refused.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "plain")] pub $field: $type,)*
        }
    };
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Meta {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// The revision before the first operation; 1 for an empty cluster.
    pub revision: i64,
    /// The compacted revision before the first operation; 0 for none.
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
            compact_revision: 0,
            kvs: Vec::new(),
            leases: Vec::new(),
            lease_ttl_min: 2,
            txn_ops_max: 128,
            drift_ppm: 0,
            lease_late_max: None,
        }
    }
}

/// One request of one client and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// One thing that happened on a watch stream, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRecord {
    /// Whose stream.
    pub client: u64,
    /// Which of the client's streams. A stream that was opened anew has a new number.
    pub stream: u64,
    /// When the client saw it.
    pub time: Time,
    /// The member at the other end.
    #[serde(default, skip_serializing_if = "plain")]
    pub endpoint: String,
    /// What happened.
    pub item: WatchItem,
}

/// What happened on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchItem {
    /// The reply that a watch was created (or refused, then `canceled` is set).
    Created(WatchCreated),
    /// A response with events, or without any: a progress notification.
    Response(WatchResponse),
    /// The end of one watch, said by the server.
    Canceled(WatchCanceled),
    /// The end of the stream, for any reason. No line of this stream follows.
    Closed,
}

record! {
    /// A watch that was asked for and answered.
    WatchCreated {
        /// When the client sent the request.
        call: Time,
        /// The number that the server gave; -1 if refused.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// What was asked for.
        request: WatchRequest,
        /// Whether the watch was refused in the same breath.
        canceled: bool,
        /// Why.
        cancel_reason: String,
        /// The compacted revision, if that was why.
        compact_revision: i64,
    }
}

record! {
    /// What a watch was asked to do.
    WatchRequest {
        /// First key.
        key: Text,
        /// First key behind the range.
        range_end: Text,
        /// First revision wanted; 0 for what comes after the creation.
        start_revision: i64,
        /// Whether puts are left out.
        no_put: bool,
        /// Whether deletions are left out.
        no_delete: bool,
        /// Whether events carry the pair before.
        prev_kv: bool,
        /// Whether the server tells its progress from time to time.
        progress_notify: bool,
        /// Whether a large response may come in pieces.
        fragment: bool,
    }
}

record! {
    /// Events, or none: then everything up to `revision` has been sent.
    WatchResponse {
        /// The watch; -1 for the answer to a progress request: all watches of the stream.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// Whether the next response continues this one.
        fragment: bool,
        /// The events.
        events: Vec<WatchEvent>,
    }
}

record! {
    /// The end of one watch.
    WatchCanceled {
        /// The watch.
        watch_id: i64,
        /// The revision of the header.
        revision: i64,
        /// Non-zero if the watch fell behind a compaction.
        compact_revision: i64,
        /// Why.
        cancel_reason: String,
    }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchEvent {
    /// What happened to the key.
    pub kind: EventKind,
    /// The pair after; of a deletion only key and `mod_revision`.
    pub kv: KeyValue,
    /// The pair before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, by request, by a txn, or with its lease.
    Delete,
}

/// One entry of the committed log that the cluster agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Its place; strictly rising, gaps allowed (entries that are none of the client's concern).
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

/// Why a history cannot be read.
#[derive(Debug)]
pub struct ReadError {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub text: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl std::error::Error for ReadError {}

/// Reads line by line; holds one line at a time.
pub struct Reader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the start of the input.
    pub fn new(input: R) -> Self {
        Reader {
            input,
            line: 0,
            buffer: Vec::new(),
        }
    }

    fn refuse(&self, text: String) -> ReadError {
        ReadError {
            line: self.line,
            text,
        }
    }

    /// Whether there was another line. It is in the buffer then, without its end.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        self.line += 1;
        self.buffer.clear();
        let mut limited = io::Read::take(&mut self.input, LINE_BYTES_MAX as u64 + 1);
        let count = limited.read_until(b'\n', &mut self.buffer);
        match count {
            Err(error) => Err(self.refuse(error.to_string())),
            Ok(count) if count > LINE_BYTES_MAX => {
                Err(self.refuse(format!("longer than {LINE_BYTES_MAX} bytes")))
            }
            Ok(count) => Ok(count > 0),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read_line() {
                Err(error) => return Some(Err(error)),
                Ok(false) => return None,
                Ok(true) if self.buffer.trim_ascii().is_empty() => (),
                Ok(true) => break,
            }
        }
        let parsed = serde_json::from_slice::<Record>(&self.buffer)
            .map_err(|error| error.to_string())
            .and_then(|record| validate(&record).map(|()| record));
        Some(parsed.map_err(|text| self.refuse(text)))
    }
}

/// Writes a record a line.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// A writer that appends to the output.
    pub fn new(output: W) -> Self {
        Writer { output }
    }

    /// Appends one line. The record must keep the rules of the format.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        if let Err(text) = validate(record) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        serde_json::to_writer(&mut self.output, record)?;
        self.output.write_all(b"\n")
    }

    /// Hands everything on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The rules that one line can break by itself.
pub fn validate(record: &Record) -> Result<(), String> {
    match record {
        Record::Meta(meta) if meta.version != FORMAT_VERSION => {
            Err(format!("format version {} is unknown", meta.version))
        }
        Record::Meta(meta) if meta.revision < 1 => Err("a cluster begins at revision 1".into()),
        Record::Meta(_) => Ok(()),
        Record::Op(op) => validate_operation(op),
        Record::Watch(_) => Ok(()),
        Record::Commit(commit) => validate_txn(&commit.request, 0),
    }
}

fn validate_operation(op: &Operation) -> Result<(), String> {
    if op.ret.is_none() != (op.outcome == Outcome::Unknown) {
        return Err("a return time is absent exactly if the outcome is unknown".into());
    }
    if op.ret.is_some_and(|ret| ret < op.call) {
        return Err("returned before it was called".into());
    }
    if let Outcome::Ok(response) = &op.outcome {
        let reply = name_of_reply(&response.reply);
        if reply != name_of(&op.request) {
            return Err(format!(
                "a {reply} cannot answer a {}",
                name_of(&op.request)
            ));
        }
    }
    validate_txn(&op.request, 0)
}

/// How deep txns may nest in a history.
const TXN_DEPTH_MAX: usize = 16;

fn validate_txn(request: &Request, depth: usize) -> Result<(), String> {
    let Request::Txn(txn) = request else {
        return Ok(());
    };
    if depth > TXN_DEPTH_MAX {
        return Err(format!("txns nest deeper than {TXN_DEPTH_MAX}"));
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) => (),
            Request::Txn(_) => validate_txn(op, depth + 1)?,
            Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => {
                return Err(format!("a txn cannot hold a {}", name_of(op)));
            }
        }
    }
    Ok(())
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

fn name_of_reply(reply: &Reply) -> &'static str {
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
