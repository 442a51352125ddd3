//! When the store's file is rewritten without being asked.
//!
//! A file is too large when it takes a quarter more than its records would in full pages. Free
//! pages count, and so does what is empty of pages in use. A rewriting is paid for: it writes what
//! is packed, and the next one waits until as much was put, unless it halves the file or long
//! enough has passed. So it stays a share of what clients write, however a store is used.
//!
//! Invariant: nothing here looks at a clock; who asks says what time it is.

use std::time::Duration;

use crate::{
    kernel::{BackendSize, Instant},
    node::RewriteRules,
};

/// Too much is wasted when it is more than this share of what would be left: one in so many.
const WASTE_SHARE: u64 = 4;
/// After a rewriting the store is left alone for so many times what it took.
const REST_TIMES: u32 = 20;
/// And so many times the usual rest when the file system had no room for the copy.
const REST_TIMES_FULL: u32 = 10;

/// What is known of the waste in a file, and of what was done about it.
#[derive(Debug)]
pub struct Waste {
    rules: RewriteRules,
    /// When the file is rewritten for what it wastes.
    due: Option<Instant>,
    /// Nothing is rewritten unasked before this moment.
    not_before: Instant,
    /// Bytes to be put before the last rewriting is paid for, and when it counts as paid anyway.
    owed: u64,
    paid_at: Instant,
}

impl Waste {
    /// Nothing is known yet.
    pub fn new(rules: RewriteRules) -> Self {
        Self {
            rules,
            due: None,
            not_before: Instant::ZERO,
            owed: 0,
            paid_at: Instant::ZERO,
        }
    }

    /// The rules it goes by.
    pub fn rules(&self) -> &RewriteRules {
        &self.rules
    }

    /// So many bytes were put.
    pub fn pay(&mut self, put_bytes: usize) {
        self.owed = self.owed.saturating_sub(put_bytes as u64);
    }

    /// Looks at how large the file is.
    pub fn weigh(&mut self, size: BackendSize, now: Instant) {
        let wasted = size.file_bytes.saturating_sub(size.packed_bytes);
        let too_much = self.rules.free_bytes_min.is_some_and(|min| wasted >= min)
            && wasted > size.packed_bytes / WASTE_SHARE;
        if !too_much {
            self.due = None;
            return;
        }
        let settled = now.after(self.rules.settle).max(self.not_before);
        let at = self.due.unwrap_or(settled);
        let is_paid = self.owed == 0 || wasted >= size.packed_bytes;
        self.due = Some(if is_paid {
            at.min(settled)
        } else {
            at.max(self.paid_at)
        });
    }

    /// When a rewriting is due, as far as is known now.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A rewriting begins, asked for or not.
    pub fn on_begun(&mut self) {
        self.due = None;
    }

    /// A rewriting has taken so long and left a file of this size.
    pub fn on_rewritten(&mut self, took: Duration, size: BackendSize, now: Instant) {
        let rest = took.saturating_mul(REST_TIMES).max(self.rules.rest);
        self.not_before = now.after(rest);
        self.owed = size.packed_bytes;
        self.paid_at = now.after(self.rules.rest_unpaid);
        self.due = None;
        self.weigh(size, now);
    }

    /// There was no room for the copy.
    pub fn on_no_room(&mut self, now: Instant) {
        self.not_before = now.after(self.rules.rest.saturating_mul(REST_TIMES_FULL));
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size(file: u64, packed: u64) -> BackendSize {
        BackendSize {
            file_bytes: file * MIB,
            used_bytes: packed * MIB,
            packed_bytes: packed * MIB,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(seconds))
    }

    /// Goal: a file is rewritten when it has been too large for a while, and not for less.
    #[test]
    fn a_file_that_is_too_large_for_long_is_due() {
        let mut waste = Waste::new(RewriteRules::default());
        let settle = RewriteRules::default().settle;
        waste.weigh(size(125, 100), at(1));
        assert_eq!(waste.due(), None);
        waste.weigh(size(127, 100), at(2));
        assert_eq!(waste.due(), Some(at(2).after(settle)));
        waste.weigh(size(127, 100), at(3));
        assert_eq!(waste.due(), Some(at(2).after(settle)), "it went on");
        waste.weigh(size(124, 100), at(4));
        assert_eq!(waste.due(), None);
        waste.weigh(size(5, 2), at(5));
        assert_eq!(waste.due(), None, "a small file");
    }

    /// Goal: the next rewriting waits until as much was put as the last one wrote, unless most of
    /// the file is waste or an hour has passed.
    #[test]
    fn a_rewriting_is_paid_for() {
        let mut waste = Waste::new(RewriteRules::default());
        let took = Duration::from_secs(1);
        waste.on_rewritten(took, size(100, 100), at(0));
        waste.weigh(size(140, 100), at(100));
        assert_eq!(waste.due(), Some(at(3600)));
        waste.pay((99 * MIB) as usize);
        waste.weigh(size(140, 100), at(110));
        assert_eq!(waste.due(), Some(at(3600)));
        waste.pay(MIB as usize);
        waste.weigh(size(140, 100), at(120));
        assert_eq!(waste.due(), Some(at(123)));
        waste.on_rewritten(took, size(100, 100), at(130));
        waste.weigh(size(200, 100), at(131));
        assert_eq!(waste.due(), Some(at(190)), "it rests all the same");
    }
}
