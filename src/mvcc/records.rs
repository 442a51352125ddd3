//! The records of many keys at once.
//!
//! The index names revisions, and records lie in the order of revisions. So the revisions are
//! sorted first: those that are near each other are met one behind the other in one walk, which
//! costs a fraction of a search for each, and the others are searched for in an order in which the
//! pages of the one before are still at hand. Keys that were loaded in their order, the common case
//! of large ranges, are nearly all near.
//!
//! Invariant: every record is checked against what the index says of its key before it is used.

use std::{cmp::Ordering, ops::ControlFlow};

use prost::Message as _;

use super::{
    key_index::KeyMeta,
    record,
    revision::{RecordKey, Revision, corrupt},
    store::after,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::{DiskError, PartedRange, order::compare},
    pb::mvccpb::KeyValue,
};

/// How far the next revision may be for a walk to go on to it.
const NEAR: i64 = 4;
/// A walk pays off from so many records on.
const RUN_MIN: usize = 4;
/// Records that a walk passes over before a search is cheaper: one revision may have many.
const PASSED_MAX: usize = 8;

/// Records that are read together, so that what is noted of them stays small.
pub(super) const TOGETHER_MAX: usize = 1000;

/// A key, and the record that is wanted of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'i> {
    pub key: &'i [u8],
    pub meta: KeyMeta,
}

impl Wanted<'_> {
    /// What the index alone knows of the key.
    pub fn known(&self) -> KeyValue {
        KeyValue {
            key: bytes::Bytes::copy_from_slice(self.key),
            create_revision: self.meta.create,
            mod_revision: self.meta.modified,
            version: self.meta.version,
            ..KeyValue::default()
        }
    }

    /// Refuses a record that is not the one that is wanted.
    pub fn check(&self, stored: &[u8]) -> Result<(), DiskError> {
        let header = record::header(stored)?;
        let told = (header.created, header.modified, header.version);
        let known = (self.meta.create, self.meta.modified, self.meta.version);
        match told == known && compare(header.key, self.key).is_eq() {
            true => Ok(()),
            false => Err(of_another(self.meta.revision())),
        }
    }
}

/// The records themselves, in the order given. Many share the bytes of one copy.
pub(super) fn read<B: Backend>(
    view: &View<B>,
    wanted: &[Wanted<'_>],
) -> Result<Vec<KeyValue>, DiskError> {
    let mut parts = Vec::with_capacity(wanted.len().div_ceil(TOGETHER_MAX));
    for some in wanted.chunks(TOGETHER_MAX) {
        let (part, _) = append(some, &find(view, some)?, usize::MAX)?;
        parts.push(part.into());
    }
    Ok(PartedRange::records(parts))
}

/// Records as a part of an answer, until it has so many bytes; and how many of them that are.
pub(super) fn append(
    wanted: &[Wanted<'_>],
    stored: &[&[u8]],
    bytes_max: usize,
) -> Result<(Vec<u8>, usize), DiskError> {
    let (mut bytes, mut taken) = (0, 0);
    while taken < stored.len() && bytes < bytes_max {
        bytes += PartedRange::appended_bytes(stored[taken]);
        taken += 1;
    }
    let mut part = Vec::with_capacity(bytes);
    for (wanted, stored) in wanted.iter().zip(stored).take(taken) {
        wanted.check(stored)?;
        PartedRange::append(&mut part, stored);
    }
    Ok((part, taken))
}

/// The same of what the index alone knows.
pub(super) fn append_known(wanted: &[Wanted<'_>], bytes_max: usize) -> (Vec<u8>, usize) {
    let (mut part, mut taken) = (Vec::new(), 0);
    for wanted in wanted {
        if part.len() >= bytes_max {
            break;
        }
        PartedRange::append(&mut part, &wanted.known().encode_to_vec());
        taken += 1;
    }
    (part, taken)
}

/// The stored records where they lie, in the order given.
pub(super) fn find<'v, B: Backend>(
    view: &'v View<B>,
    wanted: &[Wanted<'_>],
) -> Result<Vec<&'v [u8]>, DiskError> {
    let mut order: Vec<Sought> = wanted
        .iter()
        .enumerate()
        .map(|(place, wanted)| (wanted.meta.revision(), place))
        .collect();
    order.sort_unstable();
    let mut found: Vec<&[u8]> = vec![&[]; order.len()];
    let mut rest = &order[..];
    while let Some(((revision, place), behind)) = rest.split_first() {
        let run = run_of(rest);
        if run < RUN_MIN {
            let key = RecordKey::put(*revision).encode();
            let stored = view.find(Bucket::Key, key.as_slice())?;
            found[*place] = stored.ok_or_else(|| gone(*revision))?;
            rest = behind;
        } else {
            let met = walk(view, &rest[..run], &mut found)?;
            rest = &rest[met..];
        }
    }
    Ok(found)
}

/// A revision, and the place of its record among those that are wanted.
type Sought = (Revision, usize);

/// How many of the first are each near the one before.
fn run_of(rest: &[Sought]) -> usize {
    let pairs = rest.windows(2);
    let near = pairs.take_while(|pair| pair[1].0.main - pair[0].0.main <= NEAR);
    1 + near.count()
}

/// Walks over records that are near each other. How many were met, at least one; the others are
/// sought anew.
fn walk<'v, B: Backend>(
    view: &'v View<B>,
    run: &[Sought],
    found: &mut [&'v [u8]],
) -> Result<usize, DiskError> {
    let (first, last) = (run[0].0, run[run.len() - 1].0);
    let from = RecordKey::put(first).encode();
    let to = RecordKey::put(after(last)).encode();
    let (mut met, mut passed, mut next) = (0, 0, from);
    view.range(
        Bucket::Key,
        from.as_slice(),
        Some(to.as_slice()),
        &mut |key, value| match compare(key, next.as_slice()) {
            Ordering::Less => {
                passed += 1;
                match passed > PASSED_MAX {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            }
            Ordering::Equal => {
                found[run[met].1] = value;
                met += 1;
                passed = 0;
                match run.get(met) {
                    Some((revision, _)) => {
                        next = RecordKey::put(*revision).encode();
                        ControlFlow::Continue(())
                    }
                    None => ControlFlow::Break(()),
                }
            }
            Ordering::Greater => ControlFlow::Break(()),
        },
    )?;
    match met {
        0 => Err(gone(first)),
        _ => Ok(met),
    }
}

/// The index was built from the records, so the absence of one is damage.
pub(super) fn gone(revision: Revision) -> DiskError {
    corrupt(format!("record of {revision:?} is gone"))
}

fn of_another(revision: Revision) -> DiskError {
    corrupt(format!("record of {revision:?} is another's"))
}
