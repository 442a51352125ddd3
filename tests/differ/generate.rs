//! Makes requests: every call, with all combinations of options, hostile ones included.
//!
//! What would make the two servers wait for each other's clocks (leases that run out) or would end
//! a cluster of one (members that are added as voters) is kept out.

use fated::pb::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest,
    DowngradeRequest, HashKvRequest, HashRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberAddRequest,
    MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, PutRequest, RangeRequest, SnapshotRequest, StatusRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    alarm_request::AlarmAction, watch_request::RequestUnion,
};

use crate::{ask::Ask, locks, txns, world::World};

/// Streams that are open at one time.
const STREAMS_MAX: usize = 5;
/// Watches of one stream.
const WATCHES_MAX: usize = 8;
/// A time to live that does not run out while an episode lasts.
const LONG_SECONDS: i64 = 100_000;

/// What is switched on besides what every version has.
#[derive(Clone, Copy, Default)]
pub struct Switches {
    /// Lock and Election calls.
    pub locks: bool,
    /// Setting and clearing alarms.
    pub alarms: bool,
    /// Downgrade calls.
    pub downgrades: bool,
}

/// The next request.
pub fn next(world: &mut World, switches: Switches) -> Ask {
    if let Some(ask) = world.queue.pop_front() {
        return ask;
    }
    world.calm_in = world.calm_in.saturating_sub(1);
    if world.calm_in == 0
        && let Some(ask) = world.calm.pop()
    {
        return ask;
    }
    match world.random.below(1000) {
        0..220 => Ask::Put(put(world)),
        220..400 => Ask::Range(range(world)),
        400..430 => Ask::RangeStream(range(world)),
        430..510 => Ask::DeleteRange(delete_range(world)),
        510..700 => Ask::Txn(txns::txn(world)),
        700..712 => compact(world),
        712..755 => grant(world),
        755..775 => Ask::LeaseRevoke(LeaseRevokeRequest { id: world.lease() }),
        775..795 => Ask::LeaseTimeToLive(LeaseTimeToLiveRequest {
            id: world.lease(),
            keys: world.random.one_in(2),
        }),
        795..800 => Ask::LeaseLeases(LeaseLeasesRequest {}),
        800..815 => Ask::LeaseKeepAlive(LeaseKeepAliveRequest { id: world.lease() }),
        815..845 => member(world),
        845..885 => maintenance(world, switches),
        // Keys of locks hold the ids of their leases.
        885..905 if switches.locks && !world.own_ids => locks::next(world),
        _ => watch(world),
    }
}

pub(crate) fn put(world: &mut World) -> PutRequest {
    let lease = world.lease_or_none();
    PutRequest {
        key: world.key(),
        value: world.value(),
        lease,
        prev_kv: world.random.one_in(3),
        ignore_value: world.random.one_in(8),
        ignore_lease: world.random.one_in(8),
    }
}

pub(crate) fn range(world: &mut World) -> RangeRequest {
    let key = world.key();
    let range_end = world.range_end(&key);
    let sorted = world.random.one_in(2);
    RangeRequest {
        key,
        range_end,
        limit: world.limit(),
        revision: world.any_revision(),
        sort_order: if sorted { world.number(3) } else { 0 },
        sort_target: if sorted { world.number(5) } else { 0 },
        serializable: world.random.one_in(4),
        keys_only: world.random.one_in(6),
        count_only: world.random.one_in(8),
        min_mod_revision: world.filter(),
        max_mod_revision: world.filter(),
        min_create_revision: world.filter(),
        max_create_revision: world.filter(),
    }
}

pub(crate) fn delete_range(world: &mut World) -> DeleteRangeRequest {
    let key = world.key();
    // Whole ranges go seldom, or there would be nothing left to read.
    let range_end = match world.random.one_in(3) {
        true => world.range_end(&key),
        false => bytes::Bytes::new(),
    };
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv: world.random.one_in(2),
    }
}

fn compact(world: &mut World) -> Ask {
    let back = world.random.up_to(30);
    let revision = match world.random.one_in(3) {
        true => world.any_revision(),
        false => (world.revision - back).max(1),
    };
    // A watch that still reads history would be told either events or the compaction.
    world.queue.push_back(Ask::Compact(CompactionRequest {
        revision,
        physical: world.random.one_in(3),
    }));
    match std::mem::take(&mut world.reads_history) {
        true => Ask::SettleBehind,
        false => Ask::Settle,
    }
}

fn grant(world: &mut World) -> Ask {
    let id = match world.random.below(10) {
        0 => match world.lease() {
            0 if !world.own_ids => 4321,
            id => id,
        },
        1 => world.random.of(&[-5, i64::MIN]),
        2..=6 if world.own_ids => 0,
        _ => 1000 + world.random.up_to(1000),
    };
    // Those that are raised to the shortest are revoked at once: nothing may run out.
    let hostile = [0, -1, 1, i64::MIN, i64::MAX, 9_000_000_000, 9_000_000_001];
    let ttl = match world.random.one_in(5) {
        true => world.random.of(&hostile),
        false => LONG_SECONDS + world.random.up_to(100),
    };
    Ask::LeaseGrant(LeaseGrantRequest { ttl, id })
}

fn urls(world: &mut World) -> Vec<String> {
    let one = [
        "http://127.0.0.1:3/",
        "http://127.0.0.1:1",
        "http://localhost",
        "127.0.0.1:3",
        "ftp://127.0.0.1:3",
        "http://127.0.0.1:3/path",
        "",
        "http://127.0.0.1",
        "http://:80",
        "http://me@127.0.0.1:3",
        "http://127.0.0.1:port",
        "://",
        "%zz",
    ];
    let count = world.random.of(&[0, 1, 1, 1, 1, 2]);
    // An id is made of the address and the second, so no address comes twice.
    world.addresses += 1;
    let fresh = format!("http://127.0.0.1:{}", 1000 + world.addresses);
    let mut url = || match world.random.one_in(3) {
        true => world.random.of(&one).to_owned(),
        false => fresh.clone(),
    };
    (0..count).map(|_| url()).collect()
}

fn member(world: &mut World) -> Ask {
    match world.random.below(6) {
        0 | 1 => Ask::MemberList(MemberListRequest {
            linearizable: world.random.one_in(2),
        }),
        2 => Ask::MemberAdd(MemberAddRequest {
            peer_ur_ls: urls(world),
            // A second voter that does not run would stop a cluster of one.
            is_learner: true,
        }),
        3 => Ask::MemberRemove(MemberRemoveRequest {
            id: world.any_member(),
        }),
        4 => {
            // etcd takes any text for the address of a member that exists, which we do not; and
            // 3.5.1 makes a voter of a learner whose address is changed.
            let own = vec![format!("http://127.0.0.1:{}", 1 + world.random.below(3))];
            match world.random.one_in(3) {
                true => Ask::MemberUpdate(MemberUpdateRequest {
                    id: world.member,
                    peer_ur_ls: own,
                }),
                false => Ask::MemberUpdate(MemberUpdateRequest {
                    id: world.random.of(&[0, 1, 12345, u64::MAX]),
                    peer_ur_ls: urls(world),
                }),
            }
        }
        _ => Ask::MemberPromote(MemberPromoteRequest {
            id: world.any_member(),
        }),
    }
}

fn maintenance(world: &mut World, switches: Switches) -> Ask {
    match world.random.below(40) {
        // The hash covers the ids of leases.
        0..=9 if !world.own_ids => {
            let revision = match world.random.one_in(5) {
                true => world.compacted,
                false => world.any_revision(),
            };
            Ask::HashKv(HashKvRequest { revision })
        }
        10..=15 => Ask::Status(StatusRequest {}),
        16 => Ask::Hash(HashRequest {}),
        17 => Ask::Defragment(DefragmentRequest {}),
        18 => Ask::Snapshot(SnapshotRequest {}),
        19..=24 => {
            let target_id = match world.random.one_in(3) {
                true => world.member,
                false => world.any_member(),
            };
            Ask::MoveLeader(MoveLeaderRequest { target_id })
        }
        25..=30 if switches.downgrades => {
            // What is allowed depends on the version of the server; these never are.
            let versions = ["", "3", "x", "2.0", "9.0", "-1.0", "v3.5"];
            Ask::Downgrade(DowngradeRequest {
                action: world.number(3),
                version: world.random.of(&versions).to_owned(),
            })
        }
        31..=36 if switches.alarms => alarm(world),
        _ => Ask::Alarm(AlarmRequest {
            action: AlarmAction::Get as i32,
            member_id: world.any_member(),
            alarm: world.number(3),
        }),
    }
}

/// Sets an alarm for a few requests, or does something odd with alarms.
fn alarm(world: &mut World) -> Ask {
    let member_id = match world.random.one_in(2) {
        true => world.member,
        // Member 0 stands for all when we clear alarms, as etcd's API says and its code does not.
        false => world.any_member().max(1),
    };
    let ask = |action: AlarmAction, alarm: i32| {
        Ask::Alarm(AlarmRequest {
            action: action as i32,
            member_id,
            alarm,
        })
    };
    // With two kinds at once, the older one goes by which was set last.
    if !world.calm.is_empty() || world.random.one_in(4) {
        return ask(AlarmAction::Deactivate, world.number(3));
    }
    let kind = match world.random.one_in(2) {
        true => AlarmType::Nospace as i32,
        // etcd ends with a panic on a kind that it does not know.
        false => world.random.of(&[0, AlarmType::Corrupt as i32]),
    };
    world.calm = [AlarmType::Nospace as i32, AlarmType::Corrupt as i32, kind]
        .map(|kind| ask(AlarmAction::Deactivate, kind))
        .into();
    world.calm_in = 1 + world.random.below(12);
    ask(AlarmAction::Activate, kind)
}

fn watch(world: &mut World) -> Ask {
    let numbers: Vec<usize> = world.streams.keys().copied().collect();
    if numbers.len() < STREAMS_MAX && (numbers.is_empty() || world.random.one_in(8)) {
        world.opened += 1;
        return Ask::OpenStream(world.opened);
    }
    let number = world.random.of(&numbers);
    let watches = world.streams[&number].clone();
    if watches.len() >= WATCHES_MAX * 2 || world.random.one_in(40) {
        // What it has sent is compared before it goes.
        world.queue.push_back(Ask::CloseStream(number));
        return Ask::Settle;
    }
    let asks = |union: RequestUnion| {
        let request_union = Some(union);
        Ask::Watch(number, WatchRequest { request_union })
    };
    match world.random.below(10) {
        0..=5 if watches.len() < WATCHES_MAX => {
            // It stands before the next write, or the servers may disagree on what it sees.
            world.queue.push_back(Ask::Settle);
            let create = create(world, &watches);
            world.reads_history |= create.start_revision > 0;
            asks(RequestUnion::CreateRequest(create))
        }
        6 | 7 => {
            let watch_id = match world.random.one_in(4) {
                true => world.random.of(&[-1, 99, i64::MAX]),
                false => world.random.up_to(6),
            };
            let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
            // Not every cancel is answered, but the refusal of an empty range is, behind it.
            let fence = RequestUnion::CreateRequest(WatchCreateRequest {
                key: bytes::Bytes::from_static(b"b"),
                range_end: bytes::Bytes::from_static(b"a"),
                ..Default::default()
            });
            world.queue.extend([asks(cancel), asks(fence), Ask::Settle]);
            Ask::Settle
        }
        8 => {
            // Progress is asked for when nothing is on its way, so that it says the same.
            let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
            world.queue.extend([asks(progress), Ask::Settle]);
            Ask::Settle
        }
        _ => Ask::Settle,
    }
}

fn create(world: &mut World, watches: &[i64]) -> WatchCreateRequest {
    let key = world.key();
    let range_end = world.range_end(&key);
    let filters = world.random.of(&[0, 0, 0, 1, 1, 2, 3]);
    WatchCreateRequest {
        key,
        range_end,
        start_revision: world.any_revision(),
        progress_notify: world.random.one_in(4),
        filters: (0..filters).map(|_| world.number(2)).collect(),
        prev_kv: world.random.one_in(2),
        watch_id: match world.random.below(6) {
            // Answers to the watch -1 could not be told from those of the stream itself.
            0 => world.random.of(&[-2, 5, 1 << 40, i64::MAX, i64::MIN]),
            1 if !watches.is_empty() => world.random.of(watches),
            _ => 0,
        },
        fragment: world.random.one_in(3),
    }
}
