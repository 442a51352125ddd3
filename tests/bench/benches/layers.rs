//! What the layers of the core cost by themselves: raft, the log's bytes, the store, watches, and
//! applying entries. No disk, no network; the backend is the one in memory.
//!
//! Each figure is for `BATCH` operations, so that what is shared by a batch is shared here too.

use std::{collections::BTreeMap, hint::black_box};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fated::{
    apply::StateMachine,
    backend::{Memory, View},
    kernel::{
        ClusterId, Credentials, Entropy, EntryId, Instant, LogIndex, MemberId, ReadId, RequestId,
        StreamId, StreamItem, Term, limits,
    },
    mvcc::{RangeQuery, Store},
    node::mail::encode_command,
    pb::{
        etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
        fated::command::command::Body,
        mvccpb::{Event, KeyValue},
    },
    raft::{self, ConfState, Entry, EntryKind, Message, Raft},
    wal::{Encoder, Record},
    watch::{History, Hub, Settings},
};

/// Operations of one round.
const BATCH: u64 = 100;
/// Keys of a store that is read.
const KEYS: u64 = 100_000;
const VALUE: [u8; 256] = [b'v'; 256];

fn key(number: u64) -> Bytes {
    format!("k{number:07}").into()
}

fn put(number: u64) -> Bytes {
    let request = PutRequest {
        key: key(number % KEYS),
        value: Bytes::from_static(&VALUE),
        ..PutRequest::default()
    };
    encode_command(RequestId::new(number), MemberId::new(1), Body::Put(request))
}

fn puts(from: u64) -> impl Iterator<Item = Entry> {
    (from..from + BATCH).map(|number| Entry {
        id: EntryId::new(Term::new(1), LogIndex::new(number)),
        kind: EntryKind::Normal,
        data: put(number),
    })
}

// ---- raft ----

/// Members that hear each other at once and whose disks are done at once.
struct Cluster {
    members: BTreeMap<MemberId, Raft>,
    leader: MemberId,
}

impl Cluster {
    fn new(size: u64) -> Self {
        let voters: Vec<MemberId> = (1..=size).map(MemberId::new).collect();
        let conf_state = ConfState {
            voters: voters.iter().copied().collect(),
            ..ConfState::default()
        };
        let raft = |id: MemberId| {
            let recovered = raft::Recovered::fresh(conf_state.clone());
            let config = raft::Config::new(id, 10, 1);
            Raft::new(config, recovered, Entropy::from_seed(id.get()))
        };
        let leader = voters[0];
        let members = voters.iter().map(|id| (*id, raft(*id))).collect();
        let mut cluster = Self { members, leader };
        cluster.leader().campaign();
        cluster.settle();
        assert_eq!(cluster.leader().leader(), Some(leader));
        cluster
    }

    fn leader(&mut self) -> &mut Raft {
        self.members.get_mut(&self.leader).expect("it is a member")
    }

    /// Carries everything out until nobody has anything to say; returns the reads that may go on.
    fn settle(&mut self) -> usize {
        let mut reads = 0;
        loop {
            let mut post: Vec<Message> = Vec::new();
            for member in self.members.values_mut() {
                while member.has_output() {
                    let output = member.take_output();
                    reads += output.read_states.len();
                    post.extend(output.messages);
                    post.extend(output.after_append);
                    if let Some(last) = output.append.last() {
                        member.on_durable(last.id);
                    }
                    if let Some(last) = output.apply.last() {
                        member.on_applied(last.id.index);
                        member.compact(last.id.index.back(1000).max(member.first().index));
                    }
                }
            }
            if post.is_empty() {
                return reads;
            }
            for message in post {
                let to = message.to;
                self.members.get_mut(&to).expect("known").step(message);
            }
        }
    }
}

fn raft_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft");
    group.throughput(Throughput::Elements(BATCH));
    let data: Vec<Bytes> = (0..BATCH).map(put).collect();
    for size in [1, 3] {
        let mut cluster = Cluster::new(size);
        group.bench_function(format!("propose to applied, {size} members"), |bench| {
            bench.iter(|| {
                for data in &data {
                    let proposed = cluster.leader().propose(data.clone());
                    proposed.expect("a leader with room");
                }
                cluster.settle();
            });
        });
        let mut id = ReadId::ZERO;
        group.bench_function(format!("read barrier, {size} members"), |bench| {
            bench.iter(|| {
                id = id.next();
                let asked = cluster.leader().read_index(id);
                asked.expect("a leader is asked");
                assert_eq!(cluster.settle(), 1);
            });
        });
    }
    group.finish();
}

// ---- the log ----

fn wal_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal");
    group.throughput(Throughput::Elements(BATCH));
    let mut encoder = Encoder::create(ClusterId::new(1), MemberId::new(1), limits::SEGMENT_BYTES);
    let mut next = 1;
    let mut entries: Vec<Entry> = puts(next).collect();
    group.bench_function("append encoding", |bench| {
        bench.iter(|| {
            if let Some(wanted) = encoder.take_prepare(0) {
                encoder.on_prepared(wanted.segment);
            }
            for entry in &mut entries {
                entry.id.index = LogIndex::new(next);
                next += 1;
                encoder.append(Record::Entry(entry));
            }
            black_box(encoder.take_writes());
            encoder.on_durable();
        });
    });
    group.finish();
}

// ---- the store ----

fn filled(keys: u64) -> (Store, View<Memory>) {
    let mut view = View::new(Memory::default()).expect("memory does not fail");
    let mut store = Store::load(&view).expect("an empty store");
    for number in 0..keys {
        put_one(&mut store, &mut view, number);
    }
    (store, view)
}

fn put_one(store: &mut Store, view: &mut View<Memory>, number: u64) {
    let mut txn = store.write(view);
    txn.put(key(number), Bytes::from_static(&VALUE), 0);
    black_box(txn.finish());
}

fn mvcc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mvcc");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("put over 1000 keys", |bench| {
        bench.iter_batched_ref(
            || filled(1000),
            |(store, view)| (0..BATCH).for_each(|number| put_one(store, view, number * 7)),
            BatchSize::LargeInput,
        );
    });
    let (store, view) = filled(KEYS);
    let read = |key: &[u8], range_end: &[u8], limit| {
        let query = RangeQuery {
            key,
            range_end,
            limit,
            ..RangeQuery::default()
        };
        store.range(&view, &query).expect("it is readable")
    };
    group.bench_function("range of one key", |bench| {
        let mut at = 0;
        bench.iter(|| {
            for _ in 0..BATCH {
                at = (at + 7919) % KEYS;
                assert_eq!(read(&key(at), b"", 0).kvs.len(), 1);
            }
        });
    });
    group.throughput(Throughput::Elements(1000));
    group.bench_function("range of 1000 keys", |bench| {
        bench.iter(|| assert_eq!(read(&key(5000), &key(6000), 0).kvs.len(), 1000));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("count of 100000 keys", |bench| {
        bench.iter(|| {
            let count = store.count(black_box(b"k"), b"l", 0);
            assert_eq!(count, Ok(KEYS));
        });
    });
    group.finish();
}

// ---- watches ----

/// As much of a store as synced watches need: its revision.
struct Revision(i64);

impl History for Revision {
    fn revision(&self) -> i64 {
        self.0
    }

    fn compact_revision(&self) -> i64 {
        0
    }

    fn at(&self, _: &[u8], _: i64) -> Result<Option<KeyValue>, fated::kernel::DiskError> {
        Ok(None)
    }

    fn events(
        &self,
        from: i64,
        _: i64,
        _: usize,
        _: usize,
    ) -> Result<fated::watch::Replay, fated::kernel::DiskError> {
        Ok((Vec::new(), from))
    }
}

fn watch_fan_out(criterion: &mut Criterion) {
    const WATCHERS: u64 = 1000;
    let mut group = criterion.benchmark_group("watch");
    group.throughput(Throughput::Elements(WATCHERS));
    let mut store = Revision(1);
    let mut hub = Hub::new(Settings::default(), &store);
    let mut entropy = Entropy::from_seed(1);
    for stream in (1..=WATCHERS).map(StreamId::new) {
        hub.open(stream, &Credentials::default(), Instant::ZERO, &mut entropy);
        let create = WatchCreateRequest {
            key: key(1),
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        hub.request(stream, request, Ok(()), &store);
    }
    deliver(&mut hub);
    group.bench_function("one event to 1000 streams", |bench| {
        bench.iter(|| {
            store.0 += 1;
            let kv = KeyValue {
                key: key(1),
                create_revision: 2,
                mod_revision: store.0,
                version: store.0 - 1,
                value: Bytes::from_static(&VALUE),
                lease: 0,
            };
            let event = Event {
                kv: Some(kv),
                ..Event::default()
            };
            let told = hub.on_revision(store.0, &[event], &store);
            told.expect("nothing is read");
            assert_eq!(deliver(&mut hub), WATCHERS);
        });
    });
    group.finish();
}

/// Takes what the hub has to say, and gives the credit back; how many items there were.
fn deliver(hub: &mut Hub) -> u64 {
    let mut items = 0;
    for (stream, item) in hub.take_output() {
        items += 1;
        match black_box(item) {
            StreamItem::Watch { bytes, .. } | StreamItem::Alike { bytes, .. } => {
                hub.credit(stream, bytes);
            }
            StreamItem::End(_) => {}
        }
    }
    items
}

// ---- applying ----

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("put entries", |bench| {
        bench.iter_batched_ref(
            || {
                let machine = StateMachine::load(Memory::default(), 1).expect("it is empty");
                let entries: Vec<Entry> = puts(1).collect();
                (machine, entries)
            },
            |(machine, entries)| {
                for entry in entries {
                    black_box(machine.apply(entry, Instant::ZERO)).expect("no disk");
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(layers, raft_step, wal_append, mvcc, watch_fan_out, apply);
criterion_main!(layers);
