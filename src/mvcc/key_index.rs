//! The history of one key: its revisions, cut into generations. A generation begins with the put
//! that brings the key into being and ends with a tombstone.
//!
//! A key with one put and nothing else, the common case by far, is held inline in 24 bytes. All
//! others have an ordered list of marks, and a second list that says where generations begin.
//!
//! Invariants:
//! - marks rise strictly; there is at least one, except between a compaction that emptied the
//!   history and its removal from the index;
//! - a tombstone is the last mark of its generation, and the mark after it begins the next;
//! - what the last mark says is beside the lists, because most reads want that and nothing else.

use std::{collections::VecDeque, num::NonZeroU32};

use super::revision::{RecordKey, Revision};
use crate::mutant;

const _: () = assert!(size_of::<KeyIndex>() == 24);
const _: () = assert!(size_of::<Mark>() == 16);

/// The marks of one key, and what each says of it.
#[cfg(test)]
pub(super) type Dump = Vec<(RecordKey, Option<KeyMeta>)>;

/// What a walk of a compaction goes for: what a compaction at `target` does not keep, up to the
/// revision `limit`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub target: i64,
    pub limit: i64,
}

/// What the index knows of a key at some revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyMeta {
    /// Main revision of the put that brought the key into being.
    pub create: i64,
    /// Main revision of its last put.
    pub modified: i64,
    /// Place of that put within its transaction.
    pub sub: u32,
    /// Puts since the key came into being.
    pub version: i64,
}

/// Everything the index remembers of one key.
#[derive(Clone, Debug)]
pub(super) enum KeyIndex {
    /// One put. All fields but the wide ones are narrow; what does not fit is held as `Many`.
    One {
        main: i64,
        created: i64,
        sub: u32,
        version: NonZeroU32,
    },
    /// Anything else.
    Many(Box<Marks>),
}

/// The long form of a history.
#[derive(Clone, Default, Debug)]
pub(super) struct Marks {
    /// What the last mark says of the key; nothing too while there is none.
    latest: Option<KeyMeta>,
    /// The revision of the last mark; of no meaning while there is none.
    last: Revision,
    marks: VecDeque<Mark>,
    /// Marks compacted away. A mark keeps its position, `dropped` + its place in `marks`, for life.
    dropped: u64,
    /// Where generations begin, by position. The first covers `marks[0]` and may begin before it.
    generations: VecDeque<Generation>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    main: i64,
    sub: u32,
    tombstone: bool,
}

#[derive(Clone, Copy, Debug)]
struct Generation {
    start: u64,
    created: i64,
    /// Version of the put at `start`.
    version: i64,
}

/// A stored put, as far as the index cares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restored {
    /// The record's create revision.
    pub created: i64,
    /// The record's version.
    pub version: i64,
}

impl KeyMeta {
    /// When the last put happened.
    pub fn revision(&self) -> Revision {
        Revision::new(self.modified, self.sub)
    }
}

impl KeyIndex {
    /// A key that came into being at a revision.
    pub fn created(at: Revision) -> Self {
        Self::One {
            main: at.main,
            created: at.main,
            sub: at.sub,
            version: NonZeroU32::MIN,
        }
    }

    /// The oldest remaining record of a key; `None` is a tombstone.
    pub fn restored(at: Revision, put: Option<Restored>) -> Self {
        let narrow = put.and_then(|put| Some((put.created, u32::try_from(put.version).ok()?)));
        if let Some((created, version)) = narrow
            && let Some(version) = NonZeroU32::new(version)
        {
            return Self::One {
                main: at.main,
                created,
                sub: at.sub,
                version,
            };
        }
        let mut history = Marks::default();
        let (created, version) = put.map_or((0, 0), |put| (put.created, put.version));
        history.generations.push_back(Generation {
            start: 0,
            created,
            version,
        });
        history.add(at, put.is_none());
        Self::Many(Box::new(history))
    }

    /// The key as of a main revision; nothing when it did not exist then.
    pub fn at(&self, main: i64) -> Option<KeyMeta> {
        match self {
            Self::One { main: at, .. } => (*at <= main).then(|| self.latest()).flatten(),
            Self::Many(history) if history.last.main <= main => history.latest,
            Self::Many(history) => history.meta(history.upto(main).checked_sub(1)?),
        }
    }

    /// The key now; nothing when it is deleted.
    pub fn latest(&self) -> Option<KeyMeta> {
        match self {
            Self::One {
                main,
                created,
                sub,
                version,
            } => Some(KeyMeta {
                create: *created,
                modified: *main,
                sub: *sub,
                version: i64::from(version.get()),
            }),
            Self::Many(history) => history.latest,
        }
    }

    /// Adds a put and says what the key is now.
    pub fn put(&mut self, at: Revision) -> KeyMeta {
        self.push(at, false);
        self.latest().expect("a key that was just put exists")
    }

    /// Adds a tombstone. The key must exist.
    pub fn delete(&mut self, at: Revision) {
        assert!(self.latest().is_some(), "a tombstone on a missing key");
        self.push(at, true);
    }

    /// Adds a stored record younger than all so far. False when it contradicts them.
    pub fn restore(&mut self, at: Revision, put: Option<Restored>) -> bool {
        if at <= self.last_revision() {
            return false;
        }
        match put {
            Some(put) => {
                let now = self.put(at);
                (now.create, now.version) == (put.created, put.version)
            }
            // Two tombstones in a row are never written, and say nothing wrong either.
            None => {
                self.push(at, true);
                true
            }
        }
    }

    /// Drops, oldest first, what a walk of a compaction goes for, until `budget` is used up.
    /// Whether nothing of it is left to drop.
    ///
    /// A compaction keeps every record of its target itself, tombstones too, because a watch may
    /// begin there; and of the older ones the last, unless it is a tombstone or superseded there.
    pub fn compact(
        &mut self,
        walk: Walk,
        budget: &mut usize,
        mut remove: impl FnMut(RecordKey),
    ) -> bool {
        let Self::Many(history) = self else {
            return true;
        };
        let mut doomed = history.doomed(walk.target).min(history.upto(walk.limit));
        while doomed > 0 && *budget > 0 {
            remove(history.pop_front());
            doomed -= 1;
            *budget -= 1;
        }
        if doomed == 0 {
            self.shrink();
        }
        doomed == 0
    }

    /// Whether a compaction at `target` keeps the record of this revision.
    pub fn keeps(&self, at: Revision, target: i64) -> bool {
        at.main >= target || self.at(target).is_some_and(|kept| kept.revision() == at)
    }

    /// Whether a compaction left nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::One { .. } => false,
            Self::Many(history) => history.marks.is_empty(),
        }
    }

    fn last_revision(&self) -> Revision {
        match self {
            Self::One { main, sub, .. } => Revision::new(*main, *sub),
            Self::Many(history) if history.marks.is_empty() => Revision::default(),
            Self::Many(history) => history.last,
        }
    }

    fn push(&mut self, at: Revision, tombstone: bool) {
        assert!(at > self.last_revision(), "a key's revisions rise");
        if let Self::One {
            main,
            created,
            sub,
            version,
        } = *self
        {
            let mut history = Marks::default();
            history.generations.push_back(Generation {
                start: 0,
                created,
                version: i64::from(version.get()),
            });
            history.add(Revision::new(main, sub), false);
            *self = Self::Many(Box::new(history));
        }
        let Self::Many(history) = self else {
            unreachable!("a single put was just turned into a history");
        };
        history.push(at, tombstone);
    }

    /// Gives memory back after a compaction.
    fn shrink(&mut self) {
        let Self::Many(history) = self else {
            return;
        };
        if history.marks.len() == 1
            && let Some(meta) = history.meta(0)
        {
            let put = Restored {
                created: meta.create,
                version: meta.version,
            };
            *self = Self::restored(meta.revision(), Some(put));
            return;
        }
        let marks = &mut history.marks;
        if marks.capacity() > 8 + 4 * marks.len() {
            marks.shrink_to(2 * marks.len());
        }
    }

    /// Every mark with what it says, for tests.
    #[cfg(test)]
    pub fn dump(&self) -> Dump {
        match self {
            Self::One { .. } => {
                let meta = self.latest().unwrap();
                vec![(RecordKey::put(meta.revision()), Some(meta))]
            }
            Self::Many(history) => history
                .marks
                .iter()
                .enumerate()
                .map(|(i, mark)| (mark.record_key(), history.meta(i)))
                .collect(),
        }
    }
}

impl Mark {
    fn revision(&self) -> Revision {
        Revision::new(self.main, self.sub)
    }

    fn record_key(&self) -> RecordKey {
        RecordKey {
            revision: self.revision(),
            tombstone: self.tombstone,
        }
    }
}

impl Marks {
    /// How many marks are not after a main revision.
    fn upto(&self, main: i64) -> usize {
        self.marks.partition_point(|mark| mark.main <= main)
    }

    /// What a mark says of the key; nothing when it is a tombstone.
    fn meta(&self, place: usize) -> Option<KeyMeta> {
        let mark = self.marks.get(place)?;
        if mark.tombstone {
            return None;
        }
        let position = self.dropped + place as u64;
        let count = self
            .generations
            .partition_point(|generation| generation.start <= position);
        let generation = &self.generations[count - 1];
        let steps = position - generation.start;
        Some(KeyMeta {
            create: generation.created,
            modified: mark.main,
            sub: mark.sub,
            version: generation.version + steps as i64,
        })
    }

    fn push(&mut self, at: Revision, tombstone: bool) {
        if self.latest.is_none() {
            let (mut created, mut version) = if tombstone { (0, 0) } else { (at.main, 1) };
            let last = self.marks.len().checked_sub(2).and_then(|i| self.meta(i));
            if let Some(last) = last.filter(|_| !tombstone) {
                if mutant!("version-goes-on-after-delete") {
                    version = last.version + 1;
                }
                if mutant!("created-before-the-delete") {
                    created = last.create;
                }
            }
            self.generations.push_back(Generation {
                start: self.dropped + self.marks.len() as u64,
                created,
                version,
            });
        }
        self.add(at, tombstone);
    }

    /// Adds a mark to the last generation.
    fn add(&mut self, at: Revision, tombstone: bool) {
        self.marks.push_back(Mark {
            main: at.main,
            sub: at.sub,
            tombstone,
        });
        self.latest = match self.latest {
            _ if tombstone => None,
            // What a put adds is known without a look at the lists, which lie elsewhere.
            Some(before) => Some(KeyMeta {
                create: before.create,
                modified: at.main,
                sub: at.sub,
                version: before.version + 1,
            }),
            None => self.meta(self.marks.len() - 1),
        };
        self.last = at;
    }

    /// How many of the oldest marks a compaction drops.
    fn doomed(&self, target: i64) -> usize {
        let mut older = self.marks.partition_point(|mark| mark.main < target);
        let next = self.marks.get(older).filter(|mark| mark.main == target);
        let drops = (next.is_some_and(|mark| mark.tombstone)
            && (mutant!("compaction-drops-the-tombstone")
                || mutant!("revision-falls-to-the-last-record")))
            || (next.is_some_and(|mark| !mark.tombstone)
                && older + 1 == self.marks.len()
                && mutant!("compaction-drops-the-last-put"));
        if drops {
            older += 1;
            return older;
        }
        let superseded = self
            .marks
            .get(older)
            .is_some_and(|mark| mark.main == target);
        match older.checked_sub(1) {
            Some(last) if !superseded && !self.marks[last].tombstone => last,
            Some(_) | None => older,
        }
    }

    fn pop_front(&mut self) -> RecordKey {
        let mark = self
            .marks
            .pop_front()
            .expect("only counted marks are dropped");
        self.dropped += 1;
        if self.marks.is_empty() {
            self.latest = None;
        }
        if self
            .generations
            .get(1)
            .is_some_and(|next| next.start <= self.dropped)
        {
            self.generations.pop_front();
        }
        mark.record_key()
    }
}
