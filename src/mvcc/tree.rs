//! An ordered map from keys to their histories that knows how many keys of a range exist, without
//! looking at each of them.
//!
//! It is a B+ tree: entries lie in leaves, and a branch keeps beside each child how many of the
//! keys below it exist now, and when one of them last changed. A count as of a revision from that
//! change on needs no look at the keys, so counting costs two paths from the root to a leaf, and a
//! look at those leaves that changed since.
//!
//! Invariants, asserted by `check` in tests:
//! - keys rise, and a child's `first` is above every key of the child before and above none of its
//!   own; all leaves are equally deep;
//! - no node is empty but the leaf of an empty tree;
//! - a sum is what its node holds.

use std::ops::ControlFlow;

use super::{key::Key, key_index::KeyIndex};
use crate::kernel::order::compare;

/// Entries of one leaf, and children of one branch. Small in tests, so that few keys make a deep
/// tree.
const NODE_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// A node with fewer is joined with its neighbour if both together are no more than half full.
const NODE_MIN: usize = NODE_MAX / 4;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Node,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<(Key, KeyIndex)>),
    Branch(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    first: Key,
    sum: Sum,
    node: Node,
}

/// What is known of all keys of a node.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sum {
    /// How many of them exist now.
    exist: u64,
    /// Main revision of the last change of any of them; it may be of one that is no longer here.
    changed: i64,
}

/// What came of entering a key into a node.
#[derive(Debug)]
struct Entered<R> {
    /// What the change said; nothing for a new entry.
    answer: Option<R>,
    /// By how much the number of keys that exist rose or fell.
    rise: i64,
    /// A right neighbour, when the node had to be split.
    right: Option<Child>,
}

/// Keys from `from` on, up to but without `to`; without bounds where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    pub from: Option<&'a [u8]>,
    pub to: Option<&'a [u8]>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Vec::new()),
            len: 0,
        }
    }
}

impl Tree {
    /// How many keys have an entry, existing or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Option<(&Key, &KeyIndex)> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let (key, entry) = &entries[place(entries, key).ok()?];
                    return Some((key, entry));
                }
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// Changes the entry of a key at a main revision; nothing happens when there is none.
    pub fn change<R>(
        &mut self,
        key: &[u8],
        at: i64,
        change: impl FnOnce(&mut KeyIndex) -> R,
    ) -> Option<R> {
        self.root.change(key, at, change).map(|(answer, _)| answer)
    }

    /// Changes the entry of a key at a main revision, or adds one where there is none. The answer
    /// of the change; nothing when an entry was added.
    pub fn enter<R>(
        &mut self,
        key: &[u8],
        at: i64,
        change: impl FnOnce(&mut KeyIndex) -> R,
        make: impl FnOnce() -> KeyIndex,
    ) -> Option<R> {
        let entered = self.root.enter(key, at, true, change, make);
        self.len += usize::from(entered.answer.is_none());
        if let Some(right) = entered.right {
            let left = std::mem::replace(&mut self.root, Node::Branch(Vec::new()));
            let left = Child::of(left, right.sum.changed);
            self.root = Node::Branch(vec![left, right]);
        }
        entered.answer
    }

    /// Removes the entry of a key that does not exist now.
    pub fn remove(&mut self, key: &[u8]) {
        self.len -= usize::from(self.root.remove(key));
        while let Node::Branch(children) = &mut self.root
            && children.len() <= 1
        {
            self.root = children
                .pop()
                .map_or_else(|| Node::Leaf(Vec::new()), |only| only.node);
        }
    }

    /// Visits the entries of a span in the order of keys.
    pub fn visit<'t>(
        &'t self,
        span: Span<'_>,
        mut visit: impl FnMut(&'t Key, &'t KeyIndex) -> ControlFlow<()>,
    ) {
        // Who stops early knows it.
        let _ = self.root.visit(span, &mut visit);
    }

    /// Visits the entries behind a key, or all, in the order of keys. They may be changed in ways
    /// that do not show in what exists at any revision that can be read.
    pub fn visit_mut(
        &mut self,
        after: Option<&Key>,
        mut visit: impl FnMut(&Key, &mut KeyIndex) -> ControlFlow<()>,
    ) {
        // Who stops early knows it.
        let _ = self.root.visit_mut(after, &mut visit);
    }

    /// How many keys of a span exist as of a main revision.
    pub fn count(&self, span: Span<'_>, main: i64) -> u64 {
        self.root.count(span, main)
    }
}

impl Node {
    /// The answer, and by how much the number of keys that exist rose or fell.
    fn change<R>(
        &mut self,
        key: &[u8],
        at: i64,
        change: impl FnOnce(&mut KeyIndex) -> R,
    ) -> Option<(R, i64)> {
        match self {
            Self::Leaf(entries) => {
                let place = place(entries, key).ok()?;
                let entry = &mut entries[place].1;
                let before = exists(entry);
                let answer = change(entry);
                Some((answer, exists(entry) - before))
            }
            Self::Branch(children) => {
                let place = child_of(children, key);
                let child = &mut children[place];
                let (answer, rise) = child.node.change(key, at, change)?;
                let exist = child.sum.exist.checked_add_signed(rise);
                child.sum.exist = exist.expect("no fewer than none exist");
                child.sum.changed = child.sum.changed.max(at);
                Some((answer, rise))
            }
        }
    }

    /// `last` tells that nothing stands behind the node: keys are likely to come in order there,
    /// and full nodes stay full.
    fn enter<R>(
        &mut self,
        key: &[u8],
        at: i64,
        last: bool,
        change: impl FnOnce(&mut KeyIndex) -> R,
        make: impl FnOnce() -> KeyIndex,
    ) -> Entered<R> {
        match self {
            Self::Leaf(entries) => match place_in_order(entries, key, last) {
                Ok(place) => {
                    let entry = &mut entries[place].1;
                    let before = exists(entry);
                    let answer = Some(change(entry));
                    let rise = exists(entry) - before;
                    Entered {
                        answer,
                        rise,
                        right: None,
                    }
                }
                Err(place) => {
                    let entry = make();
                    let rise = exists(&entry);
                    let right = add(entries, place, (Key::from(key), entry), last);
                    Entered {
                        answer: None,
                        rise,
                        right: right.map(|right| Child::of(Self::Leaf(right), at)),
                    }
                }
            },
            Self::Branch(children) => {
                let place = child_in_order(children, key, last);
                let is_last = last && place + 1 == children.len();
                let child = &mut children[place];
                if place == 0 && compare(key, child.first.as_slice()).is_lt() {
                    child.first = Key::from(key);
                }
                let mut entered = child.node.enter(key, at, is_last, change, make);
                let exist = child.sum.exist.checked_add_signed(entered.rise);
                child.sum.exist = exist.expect("no fewer than none exist");
                child.sum.changed = child.sum.changed.max(at);
                if let Some(mut added) = entered.right.take() {
                    // What is known of the whole holds for both parts.
                    added.sum.changed = child.sum.changed;
                    child.sum.exist -= added.sum.exist;
                    let right = add(children, place + 1, added, last);
                    entered.right = right.map(|right| Child::of(Self::Branch(right), at));
                }
                entered
            }
        }
    }

    /// Whether there was an entry.
    fn remove(&mut self, key: &[u8]) -> bool {
        match self {
            Self::Leaf(entries) => {
                let Ok(place) = place(entries, key) else {
                    return false;
                };
                let (_, entry) = entries.remove(place);
                assert_eq!(exists(&entry), 0, "an entry of a key that exists");
                give_back(entries);
                true
            }
            Self::Branch(children) => {
                let place = child_of(children, key);
                let removed = children[place].node.remove(key);
                if removed {
                    settle(children, place);
                }
                removed
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Takes in the neighbour behind it, which is equally deep.
    fn join(&mut self, right: Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.extend(right),
            (Self::Branch(left), Self::Branch(right)) => left.extend(right),
            (Self::Leaf(_), Self::Branch(_)) | (Self::Branch(_), Self::Leaf(_)) => {
                unreachable!("all leaves are equally deep")
            }
        }
    }

    fn visit<'t>(
        &'t self,
        span: Span<'_>,
        visit: &mut impl FnMut(&'t Key, &'t KeyIndex) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Self::Leaf(entries) => {
                let (start, end) = span.of(entries);
                for (key, entry) in &entries[start..end] {
                    visit(key, entry)?;
                }
            }
            Self::Branch(children) => {
                let start = span.from.map_or(0, |from| child_of(children, from));
                for child in &children[start..] {
                    if span.ends_before(&child.first) {
                        break;
                    }
                    child.node.visit(span, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn visit_mut(
        &mut self,
        after: Option<&Key>,
        visit: &mut impl FnMut(&Key, &mut KeyIndex) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Self::Leaf(entries) => {
                let behind = |after| entries.partition_point(|(key, _)| key <= after);
                let start = after.map_or(0, behind);
                for (key, entry) in &mut entries[start..] {
                    visit(key, entry)?;
                }
            }
            Self::Branch(children) => {
                let start = after.map_or(0, |after| child_of(children, after.as_slice()));
                for child in &mut children[start..] {
                    child.node.visit_mut(after, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn count(&self, span: Span<'_>, main: i64) -> u64 {
        match self {
            Self::Leaf(entries) => {
                let (start, end) = span.of(entries);
                let exist = entries[start..end]
                    .iter()
                    .filter(|(_, entry)| entry.at(main).is_some());
                exist.count() as u64
            }
            Self::Branch(children) => {
                let start = span.from.map_or(0, |from| child_of(children, from));
                let mut count = 0;
                for (place, child) in children.iter().enumerate().skip(start) {
                    if span.ends_before(&child.first) {
                        break;
                    }
                    let within = Span {
                        from: span.from.filter(|from| child.first.as_slice() < *from),
                        to: match children.get(place + 1) {
                            Some(next) => span.to.filter(|to| *to < next.first.as_slice()),
                            None => span.to,
                        },
                    };
                    let whole = within.from.is_none() && within.to.is_none();
                    count += match whole && child.sum.changed <= main {
                        true => child.sum.exist,
                        false => child.node.count(within, main),
                    };
                }
                count
            }
        }
    }

    fn exist(&self) -> u64 {
        match self {
            Self::Leaf(entries) => {
                let exist = entries.iter().map(|(_, entry)| exists(entry));
                exist.sum::<i64>().unsigned_abs()
            }
            Self::Branch(children) => children.iter().map(|child| child.sum.exist).sum(),
        }
    }
}

impl Child {
    /// A node that is not empty, of which nothing changed after a main revision.
    fn of(node: Node, changed: i64) -> Self {
        let first = match &node {
            Node::Leaf(entries) => entries[0].0.clone(),
            Node::Branch(children) => children[0].first.clone(),
        };
        let exist = node.exist();
        Self {
            first,
            sum: Sum { exist, changed },
            node,
        }
    }
}

impl Span<'_> {
    /// Where the span begins and ends in a leaf.
    fn of(&self, entries: &[(Key, KeyIndex)]) -> (usize, usize) {
        let before =
            |bound| entries.partition_point(|(key, _)| compare(key.as_slice(), bound).is_lt());
        let start = self.from.map_or(0, before);
        let end = self.to.map_or(entries.len(), before);
        (start, end.max(start))
    }

    fn ends_before(&self, key: &Key) -> bool {
        self.to.is_some_and(|to| to <= key.as_slice())
    }
}

fn exists(entry: &KeyIndex) -> i64 {
    i64::from(entry.latest().is_some())
}

fn place(entries: &[(Key, KeyIndex)], key: &[u8]) -> Result<usize, usize> {
    entries.binary_search_by(|(at, _)| compare(at.as_slice(), key))
}

/// The same; at the end of the tree keys are likely to come in order, and one look may do.
fn place_in_order(entries: &[(Key, KeyIndex)], key: &[u8], last: bool) -> Result<usize, usize> {
    match entries.last() {
        Some((end, _)) if last && compare(end.as_slice(), key).is_lt() => Err(entries.len()),
        Some(_) | None => place(entries, key),
    }
}

/// The child that has the key, or that would have it.
fn child_of(children: &[Child], key: &[u8]) -> usize {
    let behind = children.partition_point(|child| compare(child.first.as_slice(), key).is_le());
    behind.saturating_sub(1)
}

/// The same; at the end of the tree keys are likely to come in order, and one look may do.
fn child_in_order(children: &[Child], key: &[u8], last: bool) -> usize {
    match children.last() {
        Some(end) if last && compare(end.first.as_slice(), key).is_le() => children.len() - 1,
        Some(_) | None => child_of(children, key),
    }
}

/// Adds something at a place. A right neighbour, when the node had to be split.
fn add<T>(items: &mut Vec<T>, place: usize, item: T, last: bool) -> Option<Vec<T>> {
    let mut right = split(items, place, last);
    match (&mut right, place.checked_sub(items.len())) {
        (Some(right), Some(behind)) => right.insert(behind, item),
        (Some(_) | None, _) => items.insert(place, item),
    }
    right
}

/// Cuts a full node in two before something is added at a place.
fn split<T>(items: &mut Vec<T>, place: usize, last: bool) -> Option<Vec<T>> {
    if items.len() < NODE_MAX {
        return None;
    }
    let at = match (place == items.len(), last) {
        (true, true) => items.len(),
        // Keys may go on in order here as well, but there are others behind.
        (true, false) => items.len() * 3 / 4,
        (false, _) => items.len() / 2,
    };
    let right = items.split_off(at);
    items.shrink_to_fit();
    Some(right)
}

/// Brings the node of a child in order that became smaller.
fn settle(children: &mut Vec<Child>, place: usize) {
    let len = children[place].node.len();
    if len == 0 {
        children.remove(place);
    } else if len < NODE_MIN {
        let left = match place + 1 < children.len() {
            true => place,
            false => place.saturating_sub(1),
        };
        let together = children[left..]
            .iter()
            .take(2)
            .map(|child| child.node.len());
        if left + 1 < children.len() && together.sum::<usize>() <= NODE_MAX / 2 {
            let right = children.remove(left + 1);
            let child = &mut children[left];
            child.node.join(right.node);
            child.sum.exist += right.sum.exist;
            child.sum.changed = child.sum.changed.max(right.sum.changed);
        }
    }
    give_back(children);
}

/// Gives memory back that a node no longer needs.
fn give_back<T>(items: &mut Vec<T>) {
    if items.capacity() > 4 + 4 * items.len() {
        items.shrink_to(2 * items.len());
    }
}

#[cfg(test)]
mod tests;
