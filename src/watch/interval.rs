//! Watched ranges, found by a key inside them: a balanced (AVL) tree ordered by start and end,
//! whose nodes also know how far the ranges below them reach.
//!
//! Invariants: the order of the tree is the order of (start, end); each node holds at least one
//! watch; the heights of two siblings differ by at most one, so no choice of ranges makes a walk
//! deeper than about 1.44 times the logarithm of their number; `reach` is the furthest end in the
//! subtree.

use std::cmp::{Ordering, max};
use std::collections::BTreeSet;

use bytes::Bytes;

use super::watcher::{End, WatchKey};

/// The tree.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    root: Tree,
}

type Tree = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    watches: BTreeSet<WatchKey>,
    reach: End,
    height: u8,
    left: Tree,
    right: Tree,
}

impl Intervals {
    /// Adds a watch on `[start, end)`.
    pub fn insert(&mut self, start: &Bytes, end: &End, watch: WatchKey) {
        self.root = Some(insert(self.root.take(), start, end, watch));
    }

    /// Removes a watch, which must be inside.
    pub fn remove(&mut self, start: &Bytes, end: &End, watch: WatchKey) {
        self.root = remove(self.root.take(), start, end, watch);
    }

    /// Tells every watch whose range holds the key.
    pub fn visit(&self, key: &[u8], told: &mut dyn FnMut(WatchKey)) {
        visit(self.root.as_deref(), key, told);
    }

    /// Asserts order, balance and reach; returns how many watches are inside.
    pub fn check(&self) -> usize {
        check(self.root.as_deref())
    }
}

impl Node {
    fn leaf(start: &Bytes, end: &End, watch: WatchKey) -> Box<Self> {
        Box::new(Self {
            start: start.clone(),
            end: end.clone(),
            watches: BTreeSet::from([watch]),
            reach: end.clone(),
            height: 1,
            left: None,
            right: None,
        })
    }

    fn order(&self, start: &Bytes, end: &End) -> Ordering {
        (start, end).cmp(&(&self.start, &self.end))
    }

    fn update(&mut self) {
        self.height = 1 + max(height(&self.left), height(&self.right));
        let below = [&self.left, &self.right].into_iter().flatten();
        let reach = below.map(|node| &node.reach).fold(&self.end, max);
        self.reach = reach.clone();
    }
}

fn height(tree: &Tree) -> u8 {
    tree.as_ref().map_or(0, |node| node.height)
}

fn insert(tree: Tree, start: &Bytes, end: &End, watch: WatchKey) -> Box<Node> {
    let Some(mut node) = tree else {
        return Node::leaf(start, end, watch);
    };
    match node.order(start, end) {
        Ordering::Less => node.left = Some(insert(node.left.take(), start, end, watch)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), start, end, watch)),
        Ordering::Equal => {
            assert!(node.watches.insert(watch), "a watch is added once");
            return node;
        }
    }
    balance(node)
}

fn remove(tree: Tree, start: &Bytes, end: &End, watch: WatchKey) -> Tree {
    let mut node = tree.expect("only watches that were added are removed");
    match node.order(start, end) {
        Ordering::Less => node.left = remove(node.left.take(), start, end, watch),
        Ordering::Greater => node.right = remove(node.right.take(), start, end, watch),
        Ordering::Equal => {
            assert!(node.watches.remove(&watch), "a watch is removed once");
            if node.watches.is_empty() {
                return join(node.left.take(), node.right.take());
            }
            return Some(node);
        }
    }
    Some(balance(node))
}

/// The tree of two siblings that lost their parent.
fn join(left: Tree, right: Tree) -> Tree {
    let Some(right) = right else { return left };
    let (mut root, rest) = take_first(right);
    root.left = left;
    root.right = rest;
    Some(balance(root))
}

fn take_first(mut node: Box<Node>) -> (Box<Node>, Tree) {
    match node.left.take() {
        None => {
            let rest = node.right.take();
            (node, rest)
        }
        Some(left) => {
            let (first, rest) = take_first(left);
            node.left = rest;
            (first, Some(balance(node)))
        }
    }
}

/// Restores balance where one child may be two levels higher than the other.
fn balance(mut node: Box<Node>) -> Box<Node> {
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        let child = node.left.take().expect("the higher side is not empty");
        let bent = height(&child.left) < height(&child.right);
        node.left = Some(if bent { rotate_left(child) } else { child });
        return rotate_right(node);
    }
    if right > left + 1 {
        let child = node.right.take().expect("the higher side is not empty");
        let bent = height(&child.right) < height(&child.left);
        node.right = Some(if bent { rotate_right(child) } else { child });
        return rotate_left(node);
    }
    node.update();
    node
}

fn rotate_left(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.right.take().expect("a left turn needs a right child");
    node.right = top.left.take();
    node.update();
    top.left = Some(node);
    top.update();
    top
}

fn rotate_right(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.left.take().expect("a right turn needs a left child");
    node.left = top.right.take();
    node.update();
    top.right = Some(node);
    top.update();
    top
}

fn visit(tree: Option<&Node>, key: &[u8], told: &mut dyn FnMut(WatchKey)) {
    let Some(node) = tree.filter(|node| node.reach.is_after(key)) else {
        return;
    };
    visit(node.left.as_deref(), key, told);
    if node.start[..] <= *key {
        if node.end.is_after(key) {
            node.watches.iter().for_each(|watch| told(*watch));
        }
        visit(node.right.as_deref(), key, told);
    }
}

fn check(tree: Option<&Node>) -> usize {
    let Some(node) = tree else { return 0 };
    let (left, right) = (node.left.as_deref(), node.right.as_deref());
    assert!(
        height(&node.left).abs_diff(height(&node.right)) <= 1,
        "siblings are balanced"
    );
    assert!(left.is_none_or(|left| (&left.start, &left.end) < (&node.start, &node.end)));
    assert!(right.is_none_or(|right| (&right.start, &right.end) > (&node.start, &node.end)));
    assert!(!node.watches.is_empty(), "an empty range is removed");
    let below = [left, right].into_iter().flatten();
    assert_eq!(
        &node.reach,
        below.map(|child| &child.reach).fold(&node.end, max)
    );
    node.watches.len() + check(left) + check(right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::{StreamId, WatchId};

    fn watch(id: i64) -> WatchKey {
        WatchKey {
            stream: StreamId::new(1),
            id: WatchId::new(id),
        }
    }

    fn end(raw: u8) -> End {
        match raw {
            0 => End::Infinite,
            raw => End::Key(Bytes::copy_from_slice(&[raw])),
        }
    }

    /// Goal: nested ranges in order do not make a list. Method: check the depth of a thousand.
    #[test]
    fn ordered_insertion_stays_flat() {
        let mut tree = Intervals::default();
        for id in 0..1000_i64 {
            let start = Bytes::copy_from_slice(&id.to_be_bytes());
            tree.insert(&start, &End::Infinite, watch(id));
        }
        assert_eq!(tree.check(), 1000);
        assert!(height(&tree.root) <= 14, "1.44 * log2(1000) is 14.4");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Goal: the tree finds what a scan finds. Method: random changes, every key asked.
        #[test]
        fn finds_what_a_scan_finds(
            steps in prop::collection::vec((0..12_u8, 0..12_u8, 0..4_i64), 0..80),
        ) {
            let mut tree = Intervals::default();
            let mut naive = BTreeSet::new();
            for (low, high, id) in steps {
                let (start, end) = (Bytes::copy_from_slice(&[low]), end(high));
                if naive.insert((low, high, id)) {
                    tree.insert(&start, &end, watch(id));
                } else {
                    naive.remove(&(low, high, id));
                    tree.remove(&start, &end, watch(id));
                }
                prop_assert_eq!(tree.check(), naive.len());
            }
            for key in 0..13_u8 {
                let mut found = Vec::new();
                tree.visit(&[key], &mut |watch| found.push(watch.id.get()));
                let hit = |range: &&(u8, u8, i64)| {
                    range.0 <= key && (range.1 == 0 || key < range.1)
                };
                let mut expected: Vec<i64> =
                    naive.iter().filter(hit).map(|range| range.2).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
