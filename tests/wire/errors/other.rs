//! Rows of the errors of compaction, leases and maintenance.

use super::*;

pub fn compact_rows(scene: &Scene) -> Vec<Row> {
    let compact = |revision, physical| Ask::Compact(CompactionRequest { revision, physical });
    named(vec![
        ("compact, again", compact(scene.compacted, false), COMPACTED),
        (
            "compact, again and wait",
            compact(scene.compacted, true),
            COMPACTED,
        ),
        ("compact, zero", compact(0, false), COMPACTED),
        ("compact, negative", compact(-1, true), COMPACTED),
        ("compact, smallest", compact(i64::MIN, false), COMPACTED),
        (
            "compact, future",
            compact(scene.current + 1000, false),
            FUTURE,
        ),
        ("compact, largest", compact(i64::MAX, true), FUTURE),
    ])
}

pub fn lease_rows(scene: &Scene) -> Vec<Row> {
    let grant = |ttl, id| Ask::Grant(LeaseGrantRequest { ttl, id });
    let revoke = |id| Ask::Revoke(LeaseRevokeRequest { id });
    let left = |id| Ask::TimeToLive(LeaseTimeToLiveRequest { id, keys: true });
    named(vec![
        ("grant, longest", grant(9_000_000_000, 0), None),
        ("grant, too long", grant(9_000_000_001, 0), TTL_TOO_LARGE),
        ("grant, largest", grant(i64::MAX, 0), TTL_TOO_LARGE),
        ("grant, zero", grant(0, 0), None),
        ("grant, negative", grant(-1, 0), None),
        ("grant, smallest", grant(i64::MIN, 0), None),
        ("grant, taken id", grant(60, scene.lease), LEASE_EXIST),
        (
            "grant, too long and taken",
            grant(i64::MAX, scene.lease),
            TTL_TOO_LARGE,
        ),
        ("grant, negative id", grant(60, -7), None),
        ("grant, negative id again", grant(60, -7), LEASE_EXIST),
        ("revoke, negative id", revoke(-7), None),
        ("revoke, gone", revoke(-7), LEASE_NOT_FOUND),
        ("revoke, unknown", revoke(999_999), LEASE_NOT_FOUND),
        ("revoke, zero", revoke(0), LEASE_NOT_FOUND),
        ("revoke, smallest", revoke(i64::MIN), LEASE_NOT_FOUND),
        ("time to live, unknown", left(999_999), None),
        ("time to live, zero", left(0), None),
        ("time to live, smallest", left(i64::MIN), None),
        ("leases", Ask::Leases, None),
    ])
}

pub fn maintenance_rows(scene: &Scene) -> Vec<Row> {
    let alarm = |member_id| {
        Ask::Alarm(AlarmRequest {
            member_id,
            ..Default::default()
        })
    };
    named(vec![
        (
            "hash of keys, next revision",
            Ask::HashKv(scene.current + 1000),
            FUTURE,
        ),
        ("hash of keys, largest", Ask::HashKv(i64::MAX), FUTURE),
        (
            "hash of keys, compacted",
            Ask::HashKv(scene.compacted - 1),
            COMPACTED,
        ),
        ("hash of keys, first", Ask::HashKv(1), COMPACTED),
        (
            "hash of keys, at the compacted",
            Ask::HashKv(scene.compacted),
            None,
        ),
        ("hash of keys, now", Ask::HashKv(0), None),
        ("hash", Ask::Hash, None),
        ("move leader, nobody", Ask::MoveLeader(0), BAD_TRANSFEREE),
        (
            "move leader, stranger",
            Ask::MoveLeader(u64::MAX),
            BAD_TRANSFEREE,
        ),
        ("alarms", alarm(0), None),
        ("alarms of a stranger", alarm(u64::MAX), None),
        ("status", Ask::Status, None),
        ("defragment", Ask::Defragment, None),
        ("members", Ask::Members(true), None),
        ("local members", Ask::Members(false), None),
    ])
}
