//! An ordered map that is cheap to fork: leaves are shared until one is written, so a snapshot held
//! over a commit costs the written leaves and not the table.
//!
//! Invariants: the first leaf has the empty bound; every key of a leaf lies at or above its bound
//! and below the next one; only the first leaf may be empty.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;

/// Pairs in one leaf before it splits. Small enough to copy, large enough that bounds stay few.
const LEAF_PAIRS_MAX: usize = 64;

type Pair = (Bytes, Bytes);

/// Ordered pairs in shared leaves.
#[derive(Clone, Debug)]
pub(super) struct Table {
    leaves: BTreeMap<Bytes, Arc<Vec<Pair>>>,
    records: u64,
    bytes: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            leaves: BTreeMap::from([(Bytes::new(), Arc::default())]),
            records: 0,
            bytes: 0,
        }
    }
}

/// Equal content; where the leaves happen to be cut does not count.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records && self.from(&[]).eq(other.from(&[]))
    }
}

impl Eq for Table {}

impl Table {
    /// Sets a key.
    pub fn insert(&mut self, key: Bytes, value: Bytes) {
        self.bytes += (key.len() + value.len()) as u64;
        let (bound, leaf) = self.leaf_mut(&key);
        match leaf.binary_search_by(|(present, _)| present.cmp(&key)) {
            Ok(at) => {
                let before = std::mem::replace(&mut leaf[at].1, value);
                self.bytes -= (key.len() + before.len()) as u64;
                return;
            }
            Err(at) => leaf.insert(at, (key, value)),
        }
        let crowded = leaf.len() > LEAF_PAIRS_MAX;
        self.records += 1;
        if crowded {
            self.split(&bound);
        }
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &[u8]) {
        let (bound, leaf) = self.leaf_mut(key);
        let Ok(at) = leaf.binary_search_by(|(present, _)| present[..].cmp(key)) else {
            return;
        };
        let (key, value) = leaf.remove(at);
        let drained = leaf.is_empty() && !bound.is_empty();
        self.records -= 1;
        self.bytes -= (key.len() + value.len()) as u64;
        if drained {
            self.leaves.remove(&bound);
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let (_, leaf) = self.leaf(key);
        let at = leaf
            .binary_search_by(|(present, _)| present[..].cmp(key))
            .ok()?;
        Some(&leaf[at].1)
    }

    /// Pairs in order, from a key on.
    pub fn from(&self, from: &[u8]) -> impl Iterator<Item = &Pair> {
        let (bound, leaf) = self.leaf(from);
        let start = leaf.partition_point(|(present, _)| present[..] < *from);
        let after = self
            .leaves
            .range::<[u8], _>((Bound::Excluded(&bound[..]), Bound::Unbounded));
        leaf[start..]
            .iter()
            .chain(after.flat_map(|(_, leaf)| leaf.iter()))
    }

    /// How many keys there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Key and value bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn leaf(&self, key: &[u8]) -> (&Bytes, &Vec<Pair>) {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (bound, leaf) = self
            .leaves
            .range::<[u8], _>(upto)
            .next_back()
            .expect("the first leaf has the empty bound, which is below every key");
        (bound, leaf)
    }

    fn leaf_mut(&mut self, key: &[u8]) -> (Bytes, &mut Vec<Pair>) {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (bound, leaf) = self
            .leaves
            .range_mut::<[u8], _>(upto)
            .next_back()
            .expect("the first leaf has the empty bound, which is below every key");
        (bound.clone(), Arc::make_mut(leaf))
    }

    /// Cuts a full leaf in two. The last leaf keeps all but one pair, because keys mostly ascend.
    fn split(&mut self, bound: &Bytes) {
        let ascending = self
            .leaves
            .last_key_value()
            .is_some_and(|(last, _)| last == bound);
        let leaf = self
            .leaves
            .get_mut(bound)
            .expect("the caller has just written this leaf");
        let leaf = Arc::make_mut(leaf);
        let at = if ascending {
            leaf.len() - 1
        } else {
            leaf.len() / 2
        };
        let upper = leaf.split_off(at);
        assert!(!leaf.is_empty(), "a split left nothing below");
        let previous = self.leaves.insert(upper[0].0.clone(), Arc::new(upper));
        assert!(previous.is_none(), "two leaves share a bound");
    }
}
