//! The writes of a batch to one bucket, in the order of their keys.
//!
//! Records come in the order of their revisions, and so nearly all batches in the order of keys: a
//! list that only grows at its end is a fraction of the work of a tree, and a read of an older
//! record is done after one look at its first key. A write that comes out of order, as those of a
//! compaction do, moves everything into a tree once.
//!
//! Invariant: keys rise, and each occurs once.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
    slice,
};

use bytes::Bytes;

use super::order::compare;

/// A key and its value; nothing removes the key.
type Pair = (Bytes, Option<Bytes>);

/// Writes to one bucket; the last one of a key counts.
#[derive(Clone, Debug)]
pub struct Writes(Form);

#[derive(Clone, Debug)]
enum Form {
    Rising(Vec<Pair>),
    Any(BTreeMap<Bytes, Option<Bytes>>),
}

/// Writes in the order of their keys.
#[derive(Clone, Debug)]
pub struct Iter<'a>(Walk<'a>);

#[derive(Clone, Debug)]
enum Walk<'a> {
    Rising(slice::Iter<'a, Pair>),
    Any(btree_map::Range<'a, Bytes, Option<Bytes>>),
}

impl Default for Writes {
    fn default() -> Self {
        Self(Form::Rising(Vec::new()))
    }
}

/// Equal writes; how they are kept does not count.
impl PartialEq for Writes {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Writes {}

impl Writes {
    /// Sets what becomes of a key.
    pub fn insert(&mut self, key: Bytes, write: Option<Bytes>) {
        match &mut self.0 {
            Form::Rising(pairs) => {
                if pairs
                    .last()
                    .is_none_or(|(last, _)| compare(last, &key).is_lt())
                {
                    pairs.push((key, write));
                    return;
                }
                let mut tree: BTreeMap<_, _> = std::mem::take(pairs).into_iter().collect();
                tree.insert(key, write);
                self.0 = Form::Any(tree);
            }
            Form::Any(tree) => {
                tree.insert(key, write);
            }
        }
    }

    /// What becomes of a key; nothing when it is not written.
    pub fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        match &self.0 {
            Form::Rising(pairs) => {
                let (first, _) = pairs.first()?;
                if compare(key, first).is_lt() {
                    return None;
                }
                let place = pairs.binary_search_by(|(at, _)| compare(at, key));
                place.ok().map(|place| &pairs[place].1)
            }
            Form::Any(tree) => tree.get(key),
        }
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_> {
        self.range(&[], None)
    }

    /// Those of keys from `from` on, up to but without `to`, which is not below `from`.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Iter<'_> {
        Iter(match &self.0 {
            Form::Rising(pairs) => {
                let before =
                    |bound: &[u8]| pairs.partition_point(|(key, _)| compare(key, bound).is_lt());
                let end = to.map_or(pairs.len(), before);
                Walk::Rising(pairs[before(from)..end].iter())
            }
            Form::Any(tree) => {
                let to = to.map_or(Bound::Unbounded, Bound::Excluded);
                Walk::Any(tree.range::<[u8], _>((Bound::Included(from), to)))
            }
        })
    }

    /// How many keys are written.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Rising(pairs) => pairs.len(),
            Form::Any(tree) => tree.len(),
        }
    }

    /// Whether no key is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys are removed.
    pub fn removals(&self) -> usize {
        self.iter().filter(|(_, write)| write.is_none()).count()
    }

    /// Takes the write of the last key out.
    pub fn pop_last(&mut self) -> Option<(Bytes, Option<Bytes>)> {
        match &mut self.0 {
            Form::Rising(pairs) => pairs.pop(),
            Form::Any(tree) => tree.pop_last(),
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Bytes, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Walk::Rising(pairs) => pairs.next().map(|(key, write)| (key, write)),
            Walk::Any(range) => range.next(),
        }
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Walk::Rising(pairs) => pairs.next_back().map(|(key, write)| (key, write)),
            Walk::Any(range) => range.next_back(),
        }
    }
}

impl<'a> IntoIterator for &'a Writes {
    type Item = (&'a Bytes, &'a Option<Bytes>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key, and whether it is removed.
    fn written() -> impl Strategy<Value = (Vec<u8>, bool)> {
        (prop::collection::vec(0..4u8, 1..4), any::<bool>())
    }

    fn bytes(key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(key)
    }

    proptest! {
        // Goal: both forms say what a plain map says. Method: keys that mostly rise, looked up one
        // by one and by ranges.
        #[test]
        fn they_are_a_map(
            keys in prop::collection::vec(written(), 0..40),
            rising in any::<bool>(),
            bounds in prop::collection::vec(prop::collection::vec(0..5u8, 0..4), 2..4),
        ) {
            let mut keys = keys;
            if rising {
                keys.sort();
                keys.dedup_by(|left, right| left.0 == right.0);
            }
            let (mut writes, mut model) = (Writes::default(), BTreeMap::new());
            for (place, (key, removed)) in keys.iter().enumerate() {
                let write = (!removed).then(|| Bytes::from(vec![place as u8]));
                writes.insert(bytes(key), write.clone());
                model.insert(bytes(key), write);
            }
            let rises = keys.is_sorted_by(|left, right| left.0 < right.0);
            prop_assert_eq!(matches!(writes.0, Form::Rising(_)), rises);
            prop_assert!(writes.iter().eq(&model));
            prop_assert!(writes.iter().rev().eq(model.iter().rev()));
            prop_assert_eq!(writes.len(), model.len());
            prop_assert_eq!(writes.is_empty(), model.is_empty());
            let removals = model.values().filter(|write| write.is_none());
            prop_assert_eq!(writes.removals(), removals.count());
            for key in keys.iter().map(|(key, _)| key).chain(&bounds) {
                prop_assert_eq!(writes.get(key), model.get(&key[..]));
            }
            let mut bounds = bounds;
            bounds.sort();
            let (from, to) = (&bounds[0], &bounds[1]);
            let from_here = Bound::Included(&from[..]);
            let within = model.range::<[u8], _>((from_here, Bound::Excluded(&to[..])));
            prop_assert!(writes.range(from, Some(to)).eq(within));
            let behind = model.range::<[u8], _>((from_here, Bound::Unbounded));
            prop_assert!(writes.range(from, None).eq(behind));
            let mut same = Writes::default();
            for (key, write) in model.iter().rev() {
                same.insert(key.clone(), write.clone());
            }
            prop_assert_eq!(&same, &writes);
            prop_assert_eq!(writes.pop_last(), model.pop_last());
            prop_assert!(writes.iter().eq(&model));
        }
    }
}
