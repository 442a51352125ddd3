//! What will happen, in order of time, and of entry where times are equal.
//!
//! Invariant: the items themselves stay where they were put until they come out; only small keys
//! are ordered, because items are large and the queue is turned over at every step.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Items by time.
#[derive(Debug)]
pub struct Queue<T> {
    /// Time, number of the entry, and where the item is.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    items: Vec<Option<T>>,
    free: Vec<usize>,
    entered: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            order: BinaryHeap::new(),
            items: Vec::new(),
            free: Vec::new(),
            entered: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Enters an item.
    pub fn enter(&mut self, when: u64, item: T) {
        self.entered += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.items[place] = Some(item);
                place
            }
            None => {
                self.items.push(Some(item));
                self.items.len() - 1
            }
        };
        self.order.push(Reverse((when, self.entered, place)));
    }

    /// When the next item is due.
    pub fn next_time(&self) -> Option<u64> {
        self.order.peek().map(|Reverse((when, _, _))| *when)
    }

    /// The next item and its time.
    pub fn take_next(&mut self) -> Option<(u64, T)> {
        let Reverse((when, _, place)) = self.order.pop()?;
        let item = self.items[place].take();
        self.free.push(place);
        Some((when, item.expect("each key stands for one item")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: the order is that of a map by time and entry, whatever is entered and taken.
        #[test]
        fn order_is_that_of_a_map(steps in prop::collection::vec(prop::option::of(0..9_u64), 0..99)) {
            let (mut queue, mut map) = (Queue::default(), BTreeMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(when) => {
                        queue.enter(when, number);
                        map.insert((when, number), number);
                    }
                    None => {
                        let next = map.pop_first().map(|((when, _), item)| (when, item));
                        prop_assert_eq!(queue.take_next(), next);
                    }
                }
                let next = map.first_key_value().map(|((when, _), _)| *when);
                prop_assert_eq!(queue.next_time(), next);
            }
        }
    }
}
