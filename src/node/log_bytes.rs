//! How many bytes the log holds, so that large values do not make it large: beside a number of
//! entries, bytes too decide when it is compacted and how much stays for slow members.
//!
//! Invariant: `points` is ordered by index and by bytes.

use std::collections::VecDeque;

use crate::kernel::{LogIndex, limits};

/// Bytes of applied entries since boot, and where in the log they lie.
#[derive(Debug, Default)]
pub struct LogBytes {
    total: u64,
    /// The total at the last mark.
    marked: u64,
    /// The total after each applied run of entries that may still be in the log.
    points: VecDeque<(LogIndex, u64)>,
}

impl LogBytes {
    /// Entries up to `index` were applied; they held this many bytes.
    pub fn applied(&mut self, index: LogIndex, bytes: u64) {
        self.total += bytes;
        self.points.push_back((index, self.total));
    }

    /// Whether so much was applied since the last mark that the log should be compacted early.
    pub fn is_due(&self) -> bool {
        self.total - self.marked >= limits::LOG_BYTES_MAX
    }

    /// The log was marked; says up to where it must go for its bytes alone.
    pub fn mark(&mut self) -> LogIndex {
        self.marked = self.total;
        let allowed = self.total.saturating_sub(limits::LOG_BYTES_MAX);
        let mut point = LogIndex::ZERO;
        while let Some((index, total)) = self.points.front().copied()
            && total <= allowed
        {
            self.points.pop_front();
            point = index;
        }
        point
    }

    /// Entries up to here are no longer in the log, so nothing need be known about them.
    pub fn compacted(&mut self, upto: LogIndex) {
        while let Some((index, _)) = self.points.front()
            && *index <= upto
        {
            self.points.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_a_bounded_number_of_bytes() {
        let mut log = LogBytes::default();
        let piece = limits::LOG_BYTES_MAX / 4;
        for index in 1..=4 {
            assert!(!log.is_due());
            log.applied(LogIndex::new(index), piece);
        }
        assert!(log.is_due());
        assert_eq!(log.mark(), LogIndex::ZERO, "all of it fits");
        for index in 5..=8 {
            log.applied(LogIndex::new(index), piece);
        }
        assert!(log.is_due());
        assert_eq!(log.mark(), LogIndex::new(4), "the last four pieces fit");
        log.compacted(LogIndex::new(8));
        assert!(log.points.is_empty());
    }
}
