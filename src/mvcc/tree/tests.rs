//! The tree against the standard library's map, under random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::mvcc::{key_index::Walk, revision::Revision};

impl Tree {
    /// Asserts every invariant.
    fn check(&self) {
        let mut keys = Vec::new();
        let (_, _) = self.root.check(&mut keys);
        assert!(keys.is_sorted(), "keys rise");
        assert_eq!(keys.len(), self.len);
    }
}

impl Node {
    /// The depth and the sum of a node; adds its keys.
    fn check<'t>(&'t self, keys: &mut Vec<&'t [u8]>) -> (usize, u64) {
        match self {
            Self::Leaf(entries) => {
                keys.extend(entries.iter().map(|(key, _)| key.as_slice()));
                assert!(entries.len() <= NODE_MAX);
                (0, self.exist())
            }
            Self::Branch(children) => {
                assert!((1..=NODE_MAX).contains(&children.len()));
                let mut depths = Vec::new();
                for child in children {
                    let before = keys.len();
                    let (depth, exist) = child.node.check(keys);
                    assert!(keys.len() > before, "no node is empty");
                    assert!(child.first.as_slice() <= keys[before]);
                    assert!(before == 0 || keys[before - 1] < child.first.as_slice());
                    assert_eq!(child.sum.exist, exist, "a sum is what its node holds");
                    depths.push(depth);
                }
                assert!(depths.iter().all(|depth| *depth == depths[0]));
                (depths[0] + 1, self.exist())
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Compact,
    Count(u8, u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Put),
        5 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Compact),
        3 => any::<(u8, u8, u8)>().prop_map(|(from, to, back)| Step::Count(from, to, back)),
    ]
}

#[derive(Default)]
struct Pair {
    tree: Tree,
    model: BTreeMap<u8, KeyIndex>,
    revision: i64,
    compacted: i64,
}

impl Pair {
    fn put(&mut self, key: u8) {
        self.revision += 1;
        let at = Revision::new(self.revision, 0);
        let created = || KeyIndex::created(at);
        let changed = self
            .tree
            .enter(&[key], at.main, |entry| entry.put(at), created);
        assert_eq!(changed.is_some(), self.model.contains_key(&key));
        let entry = self.model.entry(key);
        entry
            .and_modify(|entry| {
                entry.put(at);
            })
            .or_insert_with(created);
    }

    fn delete(&mut self, key: u8) {
        let Some(entry) = self.model.get_mut(&key) else {
            return;
        };
        if entry.latest().is_some() {
            self.revision += 1;
            let at = Revision::new(self.revision, 0);
            entry.delete(at);
            let deleted = self.tree.change(&[key], at.main, |entry| entry.delete(at));
            assert!(deleted.is_some());
        }
    }

    /// Drops the keys that do not exist, and lets nothing older be asked for.
    fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        let mut emptied = Vec::new();
        let mut budget = usize::MAX;
        let walk = Walk {
            target: self.compacted,
            limit: self.compacted,
        };
        self.tree.visit_mut(None, |key, entry| {
            entry.compact(walk, &mut budget, |_| {});
            if entry.is_empty() {
                emptied.push(key.clone());
            }
            ControlFlow::Continue(())
        });
        for key in emptied {
            self.tree.remove(key.as_slice());
        }
        self.model.retain(|_, entry| entry.latest().is_some());
    }

    fn count(&self, from: u8, to: u8, back: u8) {
        let main = (self.revision - i64::from(back)).max(self.compacted);
        let model = self.model.iter();
        let exist =
            model.filter(|(key, entry)| (from..to).contains(*key) && entry.at(main).is_some());
        let span = Span {
            from: Some(&[from]),
            to: Some(&[to]),
        };
        let to_the_end = Span { to: None, ..span };
        if from < to {
            assert_eq!(self.tree.count(span, main), exist.count() as u64);
        }
        let model = self.model.range(from..);
        let exist = model.filter(|(_, entry)| entry.at(main).is_some()).count();
        assert_eq!(self.tree.count(to_the_end, main), exist as u64);
        let mut seen = Vec::new();
        self.tree.visit(span, |key, _| {
            seen.push(key.as_slice()[0]);
            ControlFlow::Continue(())
        });
        let model = self.model.keys().copied();
        let within = model.filter(|key| (from..to).contains(key));
        assert!(seen.into_iter().eq(within));
    }
}

proptest! {
    /// Goal: what is there, in which order, and how many of it exist at any revision that can be
    /// read, is what a plain map says. Method: nodes are small in tests, and compactions empty
    /// them again.
    #[test]
    fn the_tree_is_a_map_that_counts(steps in prop::collection::vec(step(), 0..400)) {
        let mut pair = Pair::default();
        for step in steps {
            match step {
                Step::Put(key) => pair.put(key),
                Step::Delete(key) => pair.delete(key),
                Step::Compact => pair.compact(),
                Step::Count(from, to, back) => pair.count(from, to, back),
            }
            pair.tree.check();
            prop_assert_eq!(pair.tree.len(), pair.model.len());
        }
        for key in 0..=u8::MAX {
            let found = pair.tree.get(&[key]).and_then(|(_, entry)| entry.latest());
            let model = pair.model.get(&key).and_then(KeyIndex::latest);
            prop_assert_eq!(found, model);
        }
    }
}

/// Goal: keys that come in order fill their nodes.
#[test]
fn keys_in_order_fill_the_leaves() {
    let mut tree = Tree::default();
    for number in 0..64_i64 {
        let at = Revision::new(number + 1, 0);
        let key = number.to_be_bytes();
        let again = tree.enter(&key, at.main, |_| (), || KeyIndex::created(at));
        assert_eq!(again, None);
        tree.check();
    }
    let mut node = &tree.root;
    while let Node::Branch(children) = node {
        assert_eq!(children.len(), NODE_MAX);
        node = &children[0].node;
    }
    assert_eq!(node.len(), NODE_MAX);
}
