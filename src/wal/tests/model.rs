//! Goal: after any history of batches, truncations, marks, rotations, removals and crashes,
//! recovery returns what a naive log holds. Method: random steps on both; a crash leaves any
//! sectors of the write on its way, and removing leaves any of the old files.

use std::mem;

use proptest::prelude::*;

use super::disk::{CLUSTER, Disk, MEMBER, entry, hard_state, id, mark};
use crate::{
    kernel::{EntryId, LogIndex},
    raft::{Entry, HardState, SnapshotMeta},
    wal::{Encoder, Record, Recovered, Recovery, SECTOR_BYTES, SegmentWrite, frame},
};

const SEGMENT_BYTES: u64 = 4096;

/// A step; the numbers choose within what is legal at that point.
#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, bytes: usize },
    Overwrite { back: u64, bytes: usize },
    HardState { commit: u64, vote: u64 },
    MarkInside { index: u64 },
    MarkInstead { forward: u64 },
    Flush,
    Remove { keep_after: u64, survive: u64 },
    Crash { whole: usize, sectors: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![9 => 0_usize..700, 1 => 3000_usize..9000];
    prop_oneof![
        6 => (1_u64..6, bytes()).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => (0_u64..8, bytes()).prop_map(|(back, bytes)| Step::Overwrite { back, bytes }),
        3 => (any::<u64>(), 0_u64..4).prop_map(|(commit, vote)| Step::HardState { commit, vote }),
        2 => any::<u64>().prop_map(|index| Step::MarkInside { index }),
        1 => (0_u64..9).prop_map(|forward| Step::MarkInstead { forward }),
        5 => Just(Step::Flush),
        2 => (any::<u64>(), any::<u64>())
            .prop_map(|(keep_after, survive)| Step::Remove { keep_after, survive }),
        2 => (0_usize..3, prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)])
            .prop_map(|(whole, sectors)| Step::Crash { whole, sectors }),
    ]
}

/// The naive log: everything since the last image that replaced it.
#[derive(Clone, Default, Debug)]
struct Model {
    base: EntryId,
    entries: Vec<Entry>,
    hard_state: HardState,
    mark: Option<SnapshotMeta>,
}

impl Model {
    fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    fn id_at(&self, index: u64) -> EntryId {
        let mut ids = self.entries.iter().map(|entry| entry.id);
        ids.find(|id| id.index.get() == index).unwrap_or(self.base)
    }

    fn committed(&self) -> u64 {
        let mark = self.mark.as_ref().map_or(0, |mark| mark.id.index.get());
        self.hard_state.commit.get().max(mark)
    }

    /// What a restart makes of it.
    fn restarted(&self) -> Self {
        let mut state = self.hard_state;
        if self.last().term > state.term {
            state = HardState {
                term: self.last().term,
                vote: None,
                ..state
            };
        }
        state.commit = LogIndex::new(self.committed());
        Self {
            hard_state: state,
            ..self.clone()
        }
    }

    /// Whether recovery returned this log; older entries may be gone with their segments.
    fn matches(&self, recovered: &Recovered) -> bool {
        let expected = self.restarted();
        let kept = self.entries.len().saturating_sub(recovered.entries.len());
        let first = self.entries[..kept]
            .last()
            .map_or(self.base, |entry| entry.id);
        recovered.hard_state == expected.hard_state
            && recovered.mark == self.mark.clone().unwrap_or_default()
            && recovered.entries == self.entries[kept..]
            && recovered.first == first
    }
}

struct World {
    disk: Disk,
    encoder: Encoder,
    model: Model,
    /// The model at the last durable batch and after each record since.
    candidates: Vec<Model>,
    term: u64,
    /// The largest index whose segments were ever given up.
    given_up: u64,
}

impl World {
    fn new() -> Self {
        Self {
            disk: Disk::default(),
            encoder: Encoder::create(CLUSTER, MEMBER, SEGMENT_BYTES),
            model: Model::default(),
            candidates: vec![Model::default()],
            term: 1,
            given_up: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        let (last, committed) = (self.model.last().index.get(), self.model.committed());
        match *step {
            Step::Append { count, bytes } => self.append_from(last + 1, count, bytes),
            Step::Overwrite { back, bytes } => {
                self.term += 1;
                self.append_from((last + 1).saturating_sub(back).max(committed + 1), 1, bytes);
            }
            Step::HardState { commit, vote } => {
                let commit = committed + commit % (last - committed + 1);
                self.term += 1;
                let state = hard_state(self.term, vote, commit);
                self.record(Record::HardState(&state));
            }
            Step::MarkInside { index } => {
                let index = committed + index % (last - committed + 1);
                let at = self.model.id_at(index);
                let older = self
                    .model
                    .mark
                    .as_ref()
                    .map_or(EntryId::ZERO, |mark| mark.id);
                if at.index > older.index {
                    self.record(Record::Mark(&mark(at.term.get(), at.index.get())));
                }
            }
            Step::MarkInstead { forward } => {
                self.term += 1;
                self.record(Record::Mark(&mark(self.term, committed + 1 + forward)));
            }
            Step::Flush => self.flush(),
            Step::Remove {
                keep_after,
                survive,
            } => self.remove(keep_after % (last + 1), survive),
            Step::Crash { whole, sectors } => self.crash(whole, sectors),
        }
        self.encoder.check();
    }

    fn append_from(&mut self, from: u64, count: u64, bytes: usize) {
        for index in from..from + count {
            let data = vec![(index % 251) as u8; bytes];
            self.record(Record::Entry(&entry(self.term, index, data)));
        }
    }

    fn record(&mut self, record: Record<'_>) {
        let bytes = record.encoded_bytes();
        while let Some(prepare) = self.encoder.take_prepare(bytes) {
            let bytes = vec![0; prepare.bytes as usize];
            if let Some(old) = self.disk.0.insert(prepare.segment, bytes) {
                let first = frame::read(&old, prepare.segment, 0, None);
                let used = matches!(first, frame::Reading::Write { .. });
                assert!(!used, "a segment in use was made anew");
            }
            self.encoder.on_prepared(prepare.segment);
        }
        assert!(self.encoder.has_room(bytes));
        self.encoder.append(record);
        match record {
            Record::Entry(entry) => {
                self.model
                    .entries
                    .retain(|old| old.id.index < entry.id.index);
                self.model.entries.push(entry.clone());
            }
            Record::HardState(state) => self.model.hard_state = *state,
            Record::Mark(mark) => {
                let inside = self.model.id_at(mark.id.index.get()) == mark.id;
                if !inside {
                    self.model.base = mark.id;
                    self.model.entries.clear();
                }
                self.model.mark = Some(mark.clone());
            }
        }
        self.candidates.push(self.model.clone());
    }

    fn flush(&mut self) {
        let writes = self.encoder.take_writes();
        writes.iter().for_each(|write| self.disk.write(write));
        if !writes.is_empty() {
            self.encoder.on_durable();
        }
        self.candidates = vec![self.model.clone()];
    }

    fn remove(&mut self, keep_after: u64, survive: u64) {
        if let Some(stays) = self.encoder.take_removable(LogIndex::new(keep_after)) {
            self.given_up = self.given_up.max(keep_after);
            let mut number = 0;
            self.disk.0.retain(|segment, _| {
                number += 1;
                *segment >= stays || survive & (1 << (number % 64)) != 0
            });
        }
    }

    /// The first writes of the batch arrive, then some sectors of the next one.
    fn crash(&mut self, whole: usize, sectors: u64) {
        let writes = self.encoder.take_writes();
        writes
            .iter()
            .take(whole)
            .for_each(|write| self.disk.write(write));
        if let Some(write) = writes.get(whole) {
            for (number, part) in write.bytes.chunks(SECTOR_BYTES as usize).enumerate() {
                if sectors & (1 << (number % 64)) != 0 {
                    self.disk.write(&SegmentWrite {
                        segment: write.segment,
                        offset: write.offset + number as u64 * SECTOR_BYTES,
                        bytes: write.bytes.slice_ref(part),
                    });
                }
            }
        }
        let everything =
            whole >= writes.len() || (whole + 1 == writes.len() && sectors == u64::MAX);
        self.restart(everything);
    }

    fn restart(&mut self, everything: bool) {
        let mut recovery = Recovery::new();
        for (segment, bytes) in &self.disk.0 {
            recovery
                .feed(*segment, bytes)
                .expect("a crash is no reason to refuse");
        }
        let backend = recovery.mark().map_or(EntryId::ZERO, |mark| mark.id);
        let recovered = recovery
            .finish(backend)
            .expect("a crash is no reason to refuse");
        let Some(recovered) = recovered else {
            assert_eq!(
                self.candidates[0].last(),
                EntryId::ZERO,
                "a durable log vanished"
            );
            let disk = mem::take(&mut self.disk);
            *self = Self {
                disk,
                ..Self::new()
            };
            return;
        };
        if everything {
            self.candidates.drain(..self.candidates.len() - 1);
        }
        let found = self
            .candidates
            .iter()
            .find(|model| model.matches(&recovered));
        let model =
            found.unwrap_or_else(|| panic!("{recovered:?} is not in {:?}", self.candidates));
        let bound = self.given_up.max(model.base.index.get());
        assert!(
            recovered.first.index.get() <= bound,
            "entries that were wanted are gone"
        );
        self.model = model.restarted();
        self.candidates = vec![self.model.clone()];
        self.encoder = Encoder::resume(&recovered, SEGMENT_BYTES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn recovery_returns_what_a_naive_log_holds(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.flush();
        world.restart(true);
        world.take(&Step::Append { count: 3, bytes: 100 });
        world.flush();
        world.restart(true);
    }
}

/// Goal: the random histories really rotate, remove and overwrite what removed segments held.
/// Method: one long history by hand, in which the outcome of each is visible.
#[test]
fn segments_go_once_the_mark_covers_them() {
    let mut world = World::new();
    for _ in 0..30 {
        world.take(&Step::Append {
            count: 1,
            bytes: 900,
        });
        world.flush();
    }
    assert!(world.disk.0.len() > 8);
    world.remove(30, 0);
    assert!(
        world.disk.0.len() > 8,
        "nothing is removable without a mark"
    );
    world.record(Record::Mark(&mark(1, 20)));
    world.remove(30, 0);
    assert!(world.disk.0.len() > 8, "a mark counts once it is durable");
    world.flush();
    world.remove(30, 0);
    let first = world
        .disk
        .recover(id(1, 20))
        .unwrap()
        .unwrap()
        .first
        .index
        .get();
    assert!((17..=20).contains(&first), "{first}");
    world.restart(true);
}

#[test]
fn an_overwrite_below_the_first_kept_segment_is_followed() {
    let mut world = World::new();
    world.take(&Step::Append {
        count: 10,
        bytes: 900,
    });
    world.flush();
    // The next segment begins after the last entry and then overwrites four from before it.
    let last = world.model.last().index.get();
    while world.encoder.position().offset + SECTOR_BYTES < SEGMENT_BYTES {
        world.record(Record::HardState(&hard_state(1, 0, 0)));
        world.flush();
    }
    let old = world.encoder.position().segment;
    world.term = 2;
    world.append_from(last - 3, 6, 700);
    world.flush();
    world.record(Record::Mark(&mark(2, last + 1)));
    world.flush();
    world.remove(last, 0);
    assert!(!world.disk.0.contains_key(&old), "the old entries are gone");
    let recovered = world.disk.recover(id(2, last + 1)).unwrap().unwrap();
    assert_eq!(recovered.first, id(2, last - 3));
    world.restart(true);
    assert_eq!(world.model.last(), id(2, last + 2));
}
