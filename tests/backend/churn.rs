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

/// Operations of one batch, as of a tenth of a second.
const BATCH: u64 = 1000;
/// The file may be larger than its live data by this factor, in percent.
const FILE_PERCENT_MAX: u64 = 130;

/// What somebody does for long.
#[derive(Clone, Copy)]
struct Habit {
    name: &'static str,
    keys: u64,
    /// Bytes of a value: at least, and by how many more it varies.
    value: u64,
    varies: u64,
    operations: u64,
    batch: u64,
    compact_every: u64,
    kept: i64,
}

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn operation(&mut self, habit: &Habit) -> Body {
        let key: Bytes = format!("{:08}", self.below(habit.keys)).into();
        if self.below(10) == 0 {
            return Body::DeleteRange(DeleteRangeRequest {
                key,
                ..Default::default()
            });
        }
        let length = habit.value + self.below(habit.varies + 1);
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
    peak: u64,
}

impl<B: Backend> Life<B> {
    fn new(backend: B) -> Self {
        let machine = StateMachine::load(backend.clone(), 1).expect("an empty store");
        Self {
            backend,
            machine,
            index: 0,
            removals_max: removals_max(0),
            peak: 0,
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
        self.peak = self.peak.max(size.used_bytes);
    }

    /// One slice of a compaction, in a batch of its own.
    fn slice(&mut self) -> bool {
        let more = self.machine.compact_slice(self.removals_max);
        self.commit();
        more
    }

    fn live(mut self, habit: &Habit, beside: Option<&mut Life<Memory>>) -> Self {
        let mut numbers = Numbers(88_172_645_463_325_252);
        let mut beside = beside;
        for number in 1..=habit.operations {
            let mut bodies = vec![numbers.operation(habit)];
            if number % habit.compact_every == 0 {
                bodies.push(Body::Compact(CompactionRequest {
                    revision: self.machine.store().revision() - habit.kept,
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
            if number % habit.batch == 0 {
                self.commit();
                if let Some(beside) = &mut beside {
                    while beside.slice() {}
                }
            }
        }
        while self.slice() {}
        for _ in 0..20 {
            self.apply(numbers.operation(habit));
            self.commit();
        }
        self
    }
}

/// Goal: probe
#[test]
fn probe() {
    let habit = |name, keys, value, varies, operations| Habit {
        name,
        keys,
        value,
        varies,
        operations,
        batch: BATCH,
        compact_every: 4000,
        kept: 1000,
    };
    let ops: u64 = std::env::var("OPS").map_or(60_000, |o| o.parse().unwrap());
    let habits = [
        habit("8+16", 40_000, 16, 0, ops),
        habit("8+64", 40_000, 64, 0, ops),
        habit("8+256", 40_000, 256, 0, ops),
        habit("mix", 40_000, 50, 1600, ops),
        Habit {
            batch: 200,
            compact_every: 2000,
            kept: 300,
            ..habit("4k", 8_000, 4096, 0, ops / 3)
        },
        Habit {
            batch: 50,
            compact_every: 500,
            kept: 50,
            ..habit("100k", 400, 100 << 10, 0, ops / 30)
        },
    ];
    let only = std::env::var("ONLY").ok();
    for habit in habits {
        if only.as_ref().is_some_and(|o| o != habit.name) {
            continue;
        }
        let began = std::time::Instant::now();
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let lmdb = Lmdb::open(directory.path()).expect("opened");
        let life = Life::new(lmdb.clone()).live(&habit, None);
        let peak = life.peak;
        drop(life);
        let used = lmdb.size().expect("a size");
        let live = lmdb.defragment().expect("rewritten").file_bytes;
        println!("file/peak {} %", used.file_bytes * 100 / peak);
        println!(
            "{}: file {} used {} live {live}: {} %, used/live {} % ({:?})",
            habit.name,
            used.file_bytes,
            used.used_bytes,
            used.file_bytes * 100 / live,
            used.used_bytes * 100 / live,
            began.elapsed()
        );
    }
}
