//! Append messages on the way to one follower, bounded by count and by bytes.
//!
//! Invariant: indexes grow from front to back; `bytes` is the sum over all messages.

use std::collections::VecDeque;

use crate::kernel::LogIndex;

/// A window of unacknowledged appends.
#[derive(Clone, Debug)]
pub struct Inflights {
    /// Last index and entry bytes of each message.
    window: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Inflights {
    /// An empty window.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        assert!(count_max > 0, "a window must hold one message");
        Self {
            window: VecDeque::new(),
            bytes: 0,
            count_max,
            bytes_max,
        }
    }

    /// Notes a message whose last entry is `last`.
    pub fn add(&mut self, last: LogIndex, bytes: usize) {
        assert!(!self.is_full(), "an append was sent into a full window");
        assert!(
            self.window.back().is_none_or(|(index, _)| *index < last),
            "appends leave in log order"
        );
        self.window.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Forgets every message the follower has answered up to `index`.
    pub fn free_to(&mut self, index: LogIndex) {
        while let Some(&(last, bytes)) = self.window.front() {
            if last > index {
                break;
            }
            self.window.pop_front();
            self.bytes -= bytes;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.window.clear();
        self.bytes = 0;
    }

    /// Whether nothing more may be sent. A message may overshoot the byte bound once.
    pub fn is_full(&self) -> bool {
        self.window.len() >= self.count_max || (self.bytes_max > 0 && self.bytes >= self.bytes_max)
    }

    /// Messages on the way.
    pub fn count(&self) -> usize {
        self.window.len()
    }

    /// Entry bytes on the way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_and_bytes_fill_the_window() {
        let mut window = Inflights::new(3, 10);
        window.add(LogIndex::new(1), 4);
        window.add(LogIndex::new(2), 5);
        assert!(
            !window.is_full(),
            "nine of ten bytes, two of three messages"
        );
        window.add(LogIndex::new(5), 1);
        assert!(window.is_full());
        window.free_to(LogIndex::new(4));
        assert_eq!((window.count(), window.bytes()), (1, 1));
        window.add(LogIndex::new(6), 100);
        assert!(
            window.is_full(),
            "one message may overshoot, then the window is full"
        );
        window.free_to(LogIndex::new(6));
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }
}
