//! Every bound of the system, with its unit in its name. Reaching one has a defined outcome, said
//! here.

/// Events a host hands over in one step; the rest waits for the next.
pub const EVENTS_PER_STEP_MAX: usize = 1024;
/// Mail items one step may deliver before we call it an endless loop: a bug, so it panics.
pub const MAIL_PER_STEP_MAX: usize = 4_000_000;

/// Default of `--max-request-bytes`; larger proposals are refused with RequestTooLarge.
pub const REQUEST_BYTES_MAX: usize = 1_572_864;
/// What a message may exceed the request limit by, for its envelope.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;
/// Default of `--max-txn-ops`; more are refused with TooManyOps.
pub const TXN_OPS_MAX: usize = 128;

/// Bytes of one append message to a peer, unless a single entry is larger.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Appends on the way to one peer; further ones wait for an acknowledgement.
pub const INFLIGHT_APPENDS_MAX: usize = 512;
/// Bytes on the way to one peer.
pub const INFLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes proposed and not yet committed on a leader; further proposals are refused.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of entries applied in one go, unless a single entry is larger.
pub const APPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Committed and not yet applied entries before new proposals are refused with TooManyRequests.
pub const APPLY_GAP_ENTRIES_MAX: u64 = 5000;

/// Bytes of entries in the log before it is compacted early, and the most that is kept for slow
/// members.
pub const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Size of one WAL segment; a new one is prepared before the old one is full.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes of one WAL write; further batches wait for the next.
pub const WAL_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of it, or of the zeros of a new segment, that the system gets at a time.
pub const WAL_PIECE_BYTES_MAX: usize = 256 * 1024;

/// Default of `--backend-batch-limit`: operations in one backend commit.
pub const BATCH_OPERATIONS_MAX: usize = 10_000;
/// Bytes in one backend commit.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes waiting for backend commits before proposals are refused with TooManyRequests.
pub const OVERLAY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Records a compaction gathers before it removes them in order; what is beyond waits for the next
/// turn. Samples may bring half as many more.
pub const COMPACTION_GATHERED_MAX: usize = 256 * 1024;
/// Bytes that one part of a rewriting of the store copies, beside what was committed since the last
/// part; commits wait for one part at most.
pub const REWRITE_PART_BYTES: usize = 512 * 1024;
/// Bytes that are free in the store's file before it is rewritten without being asked.
pub const REWRITE_FREE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Revisions of history one watcher gets in one catch-up batch.
pub const CATCHUP_REVISIONS_MAX: usize = 1000;
/// Bytes on the way to one watch stream; further responses wait for credit.
pub const STREAM_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes on the way to all watch streams of a member; beyond it the window of each is
/// `STREAM_WINDOW_BYTES_MIN`, so that clients which do not read cost little however many they are.
pub const STREAM_WINDOWS_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes on the way to a watch stream that are always allowed.
pub const STREAM_WINDOW_BYTES_MIN: u64 = 32 * 1024;
/// Watches one stream may hold; further ones are refused.
pub const WATCHES_PER_STREAM_MAX: usize = 1_000_000;

/// Calls in flight at one member; further ones are refused with TooManyRequests.
pub const CALLS_MAX: usize = 200_000;

/// A range of no more keys is read at once: who lists a page waits for others as little as who
/// reads one key.
pub const RANGE_FIRST_KEYS: usize = 1000;
/// Bytes after which that ends all the same. An answer with no more is sent at once, too.
pub const RANGE_FIRST_BYTES: usize = 1024 * 1024;
/// Keys of a larger range that one step reads; such ranges take turns.
pub const RANGE_PART_KEYS: usize = 40;
/// Calls and entries that take about as long as such a part; ranges get so many parts a step as
/// the others allow them, so that neither starves.
pub const CALLS_PER_RANGE_PART: usize = 4;
/// Parts of one step, whatever else it did.
pub const RANGE_PARTS_MAX: usize = 32;
/// Bytes of keys and values after which such a part ends, and that a chunk of a RangeStream aims
/// at.
pub const RANGE_PART_BYTES: usize = 256 * 1024;
/// Memory of records gathered for ranges on their way; beyond it only the oldest range goes on.
pub const RANGES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Large answers to ranges that are built or sent at one time; further ones wait for their turn.
pub const LARGE_READS_MAX: usize = 16;
/// Memory of such answers on their way to clients, from which on no further one begins.
pub const LARGE_READS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Keys that a range may ask for without waiting for such a turn.
pub const SMALL_READ_KEYS: i64 = 1000;
/// Answers to ranges from this size on are sent in pieces.
pub const LARGE_READ_BYTES: usize = 32 * 1024;
/// Bytes of such an answer that are sent at a time.
pub const RANGE_PIECE_BYTES: usize = 16 * 1024;
/// How many calls may be in flight beyond `CALLS_MAX` if they keep leases alive, look at the
/// member or mend it.
pub const VITAL_CALLS_MAX: usize = 50_000;
/// Bytes of proposals in flight at one member; further ones are refused with TooManyRequests.
pub const PROPOSAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of one chunk of a snapshot stream between members.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of one chunk of the Snapshot RPC before the edge splits it. Each takes some changes of
/// thread.
pub const SNAPSHOT_READ_BYTES: usize = 1024 * 1024;
/// Chunks of a peer snapshot on the way.
pub const SNAPSHOT_CHUNKS_INFLIGHT_MAX: u64 = 8;
/// Pinned images for Snapshot calls at one time; further ones are refused with TooManyRequests.
pub const SNAPSHOTS_OPEN_MAX: usize = 16;

/// One frame between members; larger ones close the link.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest lease, in seconds; longer ones are refused with LeaseTtlTooLarge.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Leases in one revoke entry.
pub const LEASE_REVOKE_BATCH_MAX: usize = 1000;

const _: () = assert!(APPEND_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX + REQUEST_OVERHEAD_BYTES < FRAME_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES < FRAME_BYTES_MAX);
