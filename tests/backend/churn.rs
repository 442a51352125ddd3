//! A long life in fast motion: the file must stay close to what it holds, with no defragmentation.

use bytes::Bytes;
use fated::{
    apply::StateMachine,
    backend::{Backend, Memory},
    host::lmdb::Lmdb,
    kernel::{EntryId, Instant, LogIndex, Term},
    node::applier::compaction::removals_max,
    pb::{
        etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest},
        fated::command::{Command, command::Body},
    },
    raft::{Entry, EntryKind},
};
use prost::Message;

const KEYS: u64 = 40_000;
const OPERATIONS: u64 = 210_000;
/// Operations of one batch, as of a tenth of a second.
const BATCH: u64 = 1000;
const COMPACT_EVERY: u64 = 4000;
const KEPT: i64 = 1000;
/// The file may be larger than its live data by this factor, in percent.
const FILE_PERCENT_MAX: u64 = 130;

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn operation(&mut self) -> Body {
        let key: Bytes = format!("/registry/things/{:08}", self.below(KEYS)).into();
        if self.below(10) == 0 {
            return Body::DeleteRange(DeleteRangeRequest {
                key,
                ..Default::default()
            });
        }
        let length = 50 + self.below(1600);
        Body::Put(PutRequest {
            key,
            value: vec![b'v'; length as usize].into(),
            ..Default::default()
        })
    }
}

/// A state machine over one backend, committed and compacted as the applier does it.
struct Life<B: Backend> {
    backend: B,
    machine: StateMachine<B>,
    index: u64,
    removals_max: usize,
}

impl<B: Backend> Life<B> {
    fn new(backend: B) -> Self {
        let machine = StateMachine::load(backend.clone(), 1).expect("an empty store");
        Self {
            backend,
            machine,
            index: 0,
            removals_max: removals_max(0),
        }
    }

    fn apply(&mut self, body: Body) {
        self.index += 1;
        let command = Command {
            request_id: self.index,
            body: Some(body),
            ..Command::default()
        };
        let entry = Entry {
            id: EntryId::new(Term::new(1), LogIndex::new(self.index)),
            kind: EntryKind::Normal,
            data: command.encode_to_vec().into(),
        };
        self.machine.apply(&entry, Instant::ZERO).expect("applied");
    }

    fn commit(&mut self) {
        self.machine.commit_now().expect("committed");
        let size = self.backend.size().expect("a size");
        self.removals_max = removals_max(size.used_bytes);
    }

    /// One slice of a compaction, in a batch of its own.
    fn slice(&mut self) -> bool {
        let more = self.machine.compact_slice(self.removals_max);
        self.commit();
        more
    }

    fn live(mut self, beside: Option<&mut Life<Memory>>) -> Self {
        let mut numbers = Numbers(88_172_645_463_325_252);
        let mut beside = beside;
        for number in 1..=OPERATIONS {
            let mut bodies = vec![numbers.operation()];
            if number % COMPACT_EVERY == 0 {
                bodies.push(Body::Compact(CompactionRequest {
                    revision: self.machine.store().revision() - KEPT,
                    physical: false,
                }));
            }
            for body in bodies {
                if let Some(beside) = &mut beside {
                    beside.apply(body.clone());
                }
                self.apply(body);
            }
            if number % 10 == 0 && self.machine.store().compaction_running() {
                self.slice();
            }
            if number % BATCH == 0 {
                self.commit();
                if let Some(beside) = &mut beside {
                    while beside.slice() {}
                }
            }
        }
        while self.slice() {}
        self
    }
}

/// Goal: after puts, overwrites, deletes and compactions for long, the file is close to what a
/// rewriting would leave of it, and holds what a store in memory holds that lived the same life.
#[test]
fn a_long_life_needs_no_defragmentation() {
    let directory = tempfile::tempdir().expect("a directory");
    let lmdb = Lmdb::open(directory.path()).expect("opened");
    let mut memory = Life::new(Memory::default());
    let life = Life::new(lmdb.clone()).live(Some(&mut memory));
    while memory.slice() {}
    assert_eq!(
        life.machine.hash_backend().expect("read"),
        memory.machine.hash_backend().expect("read"),
        "packing pages changed what they hold"
    );
    drop(life);
    let used = lmdb.size().expect("a size");
    let live = lmdb.defragment().expect("rewritten").file_bytes;
    let percent = used.file_bytes * 100 / live;
    println!("file {}, live data {live}: {percent} %", used.file_bytes);
    assert!(live > 20 << 20, "the life left little: {live}");
    assert!(
        percent <= FILE_PERCENT_MAX,
        "{used:?} for {live}: {percent} %"
    );
}
