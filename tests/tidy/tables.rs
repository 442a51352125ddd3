//! What the laws allow and forbid, as tables to be read in one go.

/// Layers 0 to 4: deterministic, without any runtime.
pub const CORE: &str = "kernel raft wal backend mvcc watch lease membership apply node";

/// What each module may name of the crate; where that is no lower layer, why. Whatever is not
/// listed is forbidden: the siblings of layer 2 (raft to membership) do not know each other.
pub const ARROWS: &[(&str, &str, &str)] = &[
    // layer 0
    ("kernel", "pb", "requests and responses of the core are the API's own messages"),
    // layer 1
    ("backend", "kernel", ""),
    // layer 2
    ("raft", "kernel", ""),
    ("wal", "kernel", ""),
    ("wal", "raft::Entry raft::EntryKind raft::HardState raft::ConfState raft::SnapshotMeta",
        "the log stores what raft wants stored"),
    ("wal", "pb::fated::record pb::fated::peer", "rare records are protobuf; a mark names members"),
    ("mvcc", "kernel backend", ""),
    ("mvcc", "pb::mvccpb", "the stored record is the API's key-value; a copy would cost each read"),
    ("watch", "kernel", ""),
    ("watch", "pb::mvccpb pb::etcdserverpb", "requests and events pass through as they are"),
    ("lease", "kernel backend", ""),
    ("membership", "kernel backend", ""),
    ("membership", "pb::etcdserverpb::Member pb::fated::peer", "members are stored as protobuf"),
    // layer 3
    ("apply", "kernel pb backend raft mvcc watch lease membership", ""),
    // layer 4
    ("node", "kernel pb backend raft wal mvcc watch lease membership apply", ""),
    // layer 5
    ("host/port", "kernel", ""),
    ("host/lanes", "kernel backend", ""),
    ("host/lmdb", "kernel backend", ""),
    ("host/lmdb", "host::failpoint", "one place lies inside; in usual builds it is empty"),
    ("host/wire", "kernel", ""),
    ("reactor", "kernel backend node host::port", ""),
    // layer 6
    ("host/tokio", "kernel backend wal host", ""),
    ("api", "kernel pb", ""),
    ("api", "backend::stream::padding", "a download is filled up in the form its reader knows"),
    ("cli", "kernel pb backend wal membership node reactor host api", "the program, put together"),
];

/// External crates by module; what is not listed is forbidden there. Layer 6 may use all.
pub const CRATES: &[(&str, &str)] = &[
    ("kernel", "bytes prost"),
    ("backend", "bytes crc32fast"),
    ("raft", "bytes"),
    ("wal", "bytes crc32fast prost"),
    ("mvcc", "bytes crc32c prost"),
    ("watch", "bytes prost"),
    ("lease", "bytes"),
    ("membership", "bytes prost sha1"),
    ("apply", "bytes crc32c prost"),
    ("node", "bytes prost"),
    ("host/port", "bytes"),
    ("host/lanes", "bytes"),
    ("host/lmdb", "bytes crc32fast heed rustix"),
    ("host/wire", "crc32fast"),
    ("reactor", ""),
];

/// All of the standard library that the core may name.
pub const CORE_STD: &str = "array borrow cmp collections::BTreeMap collections::BTreeSet \
    collections::BinaryHeap collections::VecDeque collections::btree_map collections::btree_set \
    collections::vec_deque convert error::Error fmt iter marker mem net::Ipv6Addr num ops slice \
    str string sync::Arc time::Duration vec";

/// Words that the core may not say, one a line.
pub const CORE_BANNED: &[&str] = &[
    "async", ".await",
    "HashMap", "HashSet",
    "f32", "f64", "rand",
    "Mutex", "RwLock", "RefCell", "OnceCell", "OnceLock", "LazyLock",
    "thread_local!", "static mut", "unsafe",
    "print!", "println!", "eprint!", "eprintln!", "dbg!",
    ".unwrap()", "Drop for", "SystemTime",
];

/// Where the core may break the lists above: file, word, reason.
pub const CORE_EXCUSED: &[(&str, &str, &str)] = &[
    ("src/backend/memory.rs", "RwLock",
     "the handle outlives the node, as a disk does; a lane writes while the node reads"),
    ("src/kernel/mutant.rs", "thread_local!",
     "one run is one thread; only simulation builds have it, and it is set before a run"),
    ("src/kernel/mutant.rs", "cell", "see above"),
];

/// Enums that only we define, by how a pattern over one begins. A match over one names every
/// variant, so that a new variant is a compile error wherever it matters.
pub const VOCABULARY: &[&str] = &[
    "Event::", "Effect::", "Mail::", "Input::", "DiskOp::", "LinkOp::", "Body::", "Message::",
    "EntryKind::", "Notice::", "Request::", "Response::", "Record::", "Owner::", "Lane::",
];

/// Words of work left for later; put together here, so that this file does not find itself.
pub const LATER: &[&str] = &[
    concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK"),
    concat!("to", "do!"), concat!("unimpl", "emented!"), concat!("#[ig", "nore"),
];

/// Places on somebody's machine, and hosts of registries; put together here as well.
pub const MACHINES: &[&str] = &[
    concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/"),
    concat!("/tm", "p/wt"), concat!("arti", "factory"), concat!("jfr", "og"), concat!("nex", "us"),
    concat!("index.cra", "tes.io"), concat!("static.cra", "tes.io"), concat!("npm", "js"),
    concat!("py", "pi.org"), concat!("proxy.gol", "ang"), concat!("gop", "roxy"),
];

pub const FILE_LINES_MAX: usize = 700;
pub const LINE_CHARS_MAX: usize = 100;
pub const FUNCTION_LINES_MAX: usize = 90;

/// Files whose lines may be longer, and why.
pub const LONG_LINES: &[(&str, &str)] = &[
    ("src/cli/server/flags.rs", "one flag a line: the table is read as columns"),
];
