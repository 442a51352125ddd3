//! A long life in fast motion: the file must stay close to what it holds, with no defragmentation.

use std::path::Path;

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
    /// Operations of one batch, as of a tenth of a second.
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
        let key: Bytes = format!("/registry/things/{:08}", self.below(habit.keys)).into();
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
        self.commit();
        if let Some(beside) = beside {
            while beside.slice() {}
            beside.commit();
        }
        self
    }
}

/// What a life ends with.
struct End {
    file: u64,
    /// What a rewriting leaves of it.
    live: u64,
}

impl Habit {
    /// Lives so, and is stopped between two compactions: history that nobody has given up is live.
    fn end(&self, mut beside: Option<&mut Life<Memory>>) -> End {
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let directory = directory.expect("a directory");
        let lmdb = Lmdb::open(directory.path()).expect("opened");
        let life = Life::new(lmdb.clone()).live(self, beside.as_deref_mut());
        if let Some(memory) = beside {
            assert_eq!(
                life.machine.hash_backend().expect("read"),
                memory.machine.hash_backend().expect("read"),
                "packing pages changed what they hold"
            );
        }
        drop(life);
        let file = lmdb.size().expect("a size").file_bytes;
        let live = lmdb.defragment().expect("rewritten").file_bytes;
        println!(
            "{}: file {file}, live data {live}: {} %",
            self.name,
            file * 100 / live
        );
        End { file, live }
    }
}

const COMMON: Habit = Habit {
    name: "",
    keys: 20_000,
    value: 0,
    varies: 0,
    operations: 58_000,
    batch: 1000,
    compact_every: 4000,
    kept: 1000,
};

/// Goal: after puts, overwrites, deletes and compactions for long, the file is close to what a
/// rewriting would leave of it, whatever the size of values; and it holds what a store in memory
/// holds that lived the same life.
#[test]
fn a_long_life_needs_no_defragmentation() {
    let habits = [
        Habit {
            name: "16 bytes",
            value: 16,
            ..COMMON
        },
        Habit {
            name: "64 bytes",
            value: 64,
            ..COMMON
        },
        Habit {
            name: "256 bytes",
            value: 256,
            ..COMMON
        },
        Habit {
            name: "50 to 1650 bytes",
            value: 50,
            varies: 1600,
            keys: 10_000,
            operations: 40_000,
            ..COMMON
        },
        Habit {
            name: "4 KiB",
            value: 4096,
            keys: 4000,
            operations: 12_600,
            batch: 200,
            compact_every: 1200,
            kept: 300,
            ..COMMON
        },
        Habit {
            name: "100 KiB",
            value: 100 << 10,
            keys: 300,
            operations: 1470,
            batch: 20,
            compact_every: 100,
            kept: 30,
            ..COMMON
        },
    ];
    let mut memory = Life::new(Memory::default());
    for (number, habit) in habits.iter().enumerate() {
        let End { file, live } = habit.end((number == 3).then_some(&mut memory));
        assert!(live > 1 << 20, "{} left little: {live}", habit.name);
        assert!(
            file <= live * FILE_PERCENT_MAX / 100,
            "{}: {file} bytes for {live}",
            habit.name
        );
    }
}
