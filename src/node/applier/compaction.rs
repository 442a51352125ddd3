//! Slices of a compaction.
//!
//! Removals are scattered over the backend's pages, and a page that is changed needs a free one
//! until the change is durable. So a batch holds no more of them than change a share of the pages
//! in use, or the file would grow with every compaction.
//!
//! Removals go along with the batches that writes need anyway. Where that is too slow a batch is
//! cut for them too, but commits made so early take a share of the disk's time only: a compaction
//! should not be felt. When another one waits for it, it hurries.

use std::time::Duration;

use super::Applier;
use crate::{
    backend::Backend,
    kernel::{
        Context, Effect, Fault, Instant,
        effect::{LogLevel, LogLine},
    },
    mvcc::{QUARTERS_PER_PAGE, SliceMax},
    node::mail::Mail,
};

/// What a removal changes, at most.
const PAGE_BYTES: u64 = 4096;
/// One batch changes one page in so many by removals.
const REMOVAL_SHARE: u64 = 96;
/// A small store is allowed so many pages all the same.
const PAGES_MIN: usize = 42;
/// After a commit no batch is cut for removals for so many times as long as it took.
const PAUSE_TIMES: u32 = 5;

/// What removals may change in one batch, in quarters of a page, for a store in which so many bytes
/// are in use.
pub fn quarters_max(used_bytes: u64) -> usize {
    let pages = usize::try_from(used_bytes / PAGE_BYTES / REMOVAL_SHARE);
    let pages = pages.map_or(usize::MAX, |most| most.max(PAGES_MIN));
    pages.saturating_mul(QUARTERS_PER_PAGE)
}

/// What compaction does to the open batch.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// What they change, in quarters of a page.
    pub(super) quarters: usize,
    /// When the open batch may be cut for more of them.
    pub(super) cut_at: Instant,
}

impl Removals {
    /// A commit took so long.
    pub(super) fn on_committed(&mut self, took: Duration, now: Instant) {
        self.cut_at = now.after(took.saturating_mul(PAUSE_TIMES));
    }
}

impl<B: Backend> Applier<B> {
    /// When the next slice can be taken, as far as is known now: it may wait for a commit, or for a
    /// range on its way that still reads what would go.
    pub(super) fn slice_at(&self) -> Option<Instant> {
        let at = self.compaction_at?;
        let store = self.machine.store();
        let is_read = self.ranges.reads_below(store.readable_from());
        if is_read || self.installing.is_some() {
            return None;
        }
        if self.removals.quarters < quarters_max(self.size.used_bytes) {
            return Some(at);
        }
        let may_cut = self.commits.is_empty();
        let cut_at = match store.compaction_waits() {
            true => at,
            false => at.max(self.removals.cut_at),
        };
        may_cut.then_some(cut_at)
    }

    pub(super) fn compaction_slice(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        if self.slice_at().is_none_or(|at| at > cx.now) {
            return Ok(());
        }
        let quarters_max = quarters_max(self.size.used_bytes);
        if self.removals.quarters >= quarters_max {
            self.cut(cx);
        }
        let gone = self.machine.store().records_removed();
        let sliced = self.machine.compact_slice(SliceMax {
            records: self.settings.compaction_slice,
            quarters: quarters_max - self.removals.quarters,
        });
        self.removals.quarters += sliced.quarters;
        let more = sliced.more;
        let gone = self.machine.store().records_removed() - gone;
        self.meter.on_slice(gone, more, cx.now, cx.wall);
        self.compaction_at = more.then(|| cx.now.after(self.settings.compaction_pause));
        if !more {
            let revision = self.machine.store().compaction_finished();
            self.compaction_done = Some((revision, self.cuts + 1));
            cx.emit(Effect::Log(LogLine {
                level: LogLevel::Info,
                caller: "node/applier.rs",
                message: "finished scheduled compaction".to_owned(),
                fields: vec![("compact-revision", revision.to_string())],
            }));
        }
        let cut_at = cx.now.after(self.settings.batch_interval);
        self.cut_at.get_or_insert(cut_at);
        Ok(())
    }
}
