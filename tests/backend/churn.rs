//! A long life in fast motion: the file must stay close to what it holds, with no defragmentation.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use fated::{
    apply::StateMachine,
    backend::{Backend, Bucket, Memory, ReadSnapshot},
    host::lmdb::Lmdb,
    kernel::{BackendSize, EntryId, Instant, LogIndex, Term},
    mvcc::SliceMax,
    node::{
        RewriteRules,
        applier::{compaction::quarters_max, waste::Waste},
    },
    pb::{
        etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest},
        fated::command::{Command, command::Body},
    },
    raft::{Entry, EntryKind},
};
use prost::Message;

/// The file may be larger than its live data by this factor, in percent. Live data are the records
/// the store must hold, current ones and history that nobody has given up, in full pages.
const FILE_PERCENT_MAX: u64 = 130;
/// Rewriting by itself may write so much of what was put, in percent.
const REWRITTEN_PERCENT_MAX: u64 = 100;
/// How long a batch is gathered.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

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
    quarters_max: usize,
    now: Instant,
    /// The member's own rule, and whether a rewriting goes on by it since when.
    waste: Waste,
    rewriting: Option<Instant>,
    put_bytes: u64,
    rewritten_bytes: u64,
}

impl<B: Backend> Life<B> {
    fn new(backend: B) -> Self {
        let machine = StateMachine::load(backend.clone(), 1).expect("an empty store");
        Self {
            backend,
            machine,
            index: 0,
            quarters_max: quarters_max(0),
            now: Instant::ZERO,
            waste: Waste::new(RewriteRules::default()),
            rewriting: None,
            put_bytes: 0,
            rewritten_bytes: 0,
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

    /// A commit, and what the applier does behind it.
    fn commit(&mut self) {
        let (_, bytes) = self.machine.view().open_size();
        self.machine.commit_now().expect("committed");
        let size = self.backend.size().expect("a size");
        self.quarters_max = quarters_max(size.used_bytes);
        self.put_bytes += bytes as u64;
        self.waste.pay(bytes);
        self.waste.weigh(size, self.now);
        self.now = self.now.after(BATCH_INTERVAL);
        if self.rewriting.is_none() && self.waste.due().is_some_and(|due| due <= self.now) {
            self.waste.on_begun();
            self.rewriting = Some(self.now);
        }
        let Some(began) = self.rewriting else {
            return;
        };
        let part_bytes = self.waste.rules().part_bytes;
        if let Some(size) = self.backend.defragment_part(part_bytes).expect("a part") {
            self.rewriting = None;
            self.rewritten_bytes += size.file_bytes;
            self.machine.refresh().expect("a snapshot");
            self.backend.remove_replaced().expect("removed");
            let took = self.now.since(began);
            self.waste.on_rewritten(took, size, self.now);
        }
    }

    /// One slice of a compaction, in a batch of its own.
    fn slice(&mut self) -> bool {
        let sliced = self.machine.compact_slice(SliceMax {
            records: usize::MAX,
            quarters: self.quarters_max,
        });
        self.commit();
        sliced.more
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
    /// What a file takes that holds the same records in full pages.
    packed: u64,
    put: u64,
    rewritten: u64,
}

/// LMDB's head of a record, with its place in the page.
const RECORD_HEAD_BYTES: u64 = 10;

impl Habit {
    /// Lives so, and is stopped between two compactions: history that nobody has given up is live.
    fn end(&self, mut beside: Option<&mut Life<Memory>>) -> End {
        let directory = super::directory();
        let lmdb = Lmdb::open(directory.path()).expect("opened");
        let life = Life::new(lmdb.clone()).live(self, beside.as_deref_mut());
        if let Some(memory) = beside {
            assert_eq!(
                life.machine.hash_backend().expect("read"),
                memory.machine.hash_backend().expect("read"),
                "packing pages changed what they hold"
            );
        }
        let (put, rewritten) = (life.put_bytes, life.rewritten_bytes);
        drop(life);
        let BackendSize {
            file_bytes: file,
            packed_bytes: estimate,
            ..
        } = lmdb.size().expect("a size");
        let records = record_bytes(&lmdb.snapshot().expect("a snapshot"));
        let packed = lmdb.defragment().expect("rewritten").file_bytes;
        println!(
            "{}: file {file}, packed {packed}: {} %, estimated {estimate}; \
             records {records}: {} %; put {put}, rewritten {rewritten}",
            self.name,
            file * 100 / packed,
            file * 100 / records,
        );
        assert!(
            estimate.abs_diff(packed) * 20 <= packed,
            "{}: {estimate} estimated, {packed} packed",
            self.name
        );
        End {
            file,
            packed,
            put,
            rewritten,
        }
    }
}

/// Keys, values, and a head for each; no page has an end here.
fn record_bytes<S: ReadSnapshot>(snapshot: &S) -> u64 {
    let mut bytes = 0;
    for bucket in Bucket::ALL {
        let mut add = |key: &[u8], value: &[u8]| {
            bytes += RECORD_HEAD_BYTES + (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        };
        snapshot.range(bucket, &[], None, &mut add).expect("read");
    }
    bytes
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

/// Goal: after puts, overwrites, deletes and compactions for long, the file is close to what its
/// records take in full pages, whatever the size of values, and rewriting by itself is no constant
/// work; and the store holds what a store in memory holds that lived the same life. Method: the
/// member's own rule decides when it is rewritten, with a tenth of a second between two commits.
#[test]
fn a_long_life_needs_no_defragmentation() {
    let habits = [
        Habit {
            name: "16 bytes",
            value: 16,
            keys: 60_000,
            operations: 130_000,
            ..COMMON
        },
        Habit {
            name: "64 bytes",
            value: 64,
            keys: 40_000,
            operations: 90_000,
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
            keys: 20_000,
            operations: 60_000,
            batch: 400,
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
        let End {
            file,
            packed,
            put,
            rewritten,
        } = habit.end((number == 3).then_some(&mut memory));
        assert!(
            rewritten <= put * REWRITTEN_PERCENT_MAX / 100,
            "{}: {rewritten} bytes rewritten for {put}",
            habit.name
        );
        assert!(packed > 4 << 20, "{} left little: {packed}", habit.name);
        assert!(
            file <= packed * FILE_PERCENT_MAX / 100,
            "{}: {file} bytes for {packed}",
            habit.name
        );
    }
}
