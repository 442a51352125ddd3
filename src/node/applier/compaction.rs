//! Slices of a compaction.
//!
//! Removals are scattered over the backend's pages, and a page that is changed needs a free one
//! until the change is durable. So a batch holds no more of them than a share of the pages in use,
//! or the file would grow with every compaction.

use super::Applier;
use crate::{
    backend::Backend,
    kernel::{
        Context, Effect, Fault,
        effect::{LogLevel, LogLine},
    },
    node::mail::Mail,
};

/// What a removal changes, at most.
const PAGE_BYTES: u64 = 4096;
/// One batch changes one page in so many by removals.
const REMOVAL_SHARE: u64 = 64;
/// A small store is allowed so many all the same.
const REMOVALS_MIN: usize = 64;

/// Removals in one batch, for a store in which so many bytes are in use.
pub fn removals_max(used_bytes: u64) -> usize {
    let pages = used_bytes / PAGE_BYTES;
    usize::try_from(pages / REMOVAL_SHARE).map_or(usize::MAX, |most| most.max(REMOVALS_MIN))
}

impl<B: Backend> Applier<B> {
    /// Whether a slice can be taken now, or waits for a commit, or for a range on its way that
    /// still reads what would go.
    pub(super) fn may_remove(&self) -> bool {
        let has_room = self.removed < removals_max(self.size.used_bytes) || self.commits.is_empty();
        let is_read = self
            .ranges
            .reads_below(self.machine.store().readable_from());
        has_room && !is_read && self.installing.is_none()
    }

    pub(super) fn compaction_slice(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        if !self.may_remove() || self.compaction_at.is_none_or(|at| at > cx.now) {
            return Ok(());
        }
        if self.removed >= removals_max(self.size.used_bytes) {
            self.cut(cx);
        }
        let room = removals_max(self.size.used_bytes) - self.removed;
        let (before, _) = self.machine.view().open_size();
        let gone = self.machine.store().records_removed();
        let more = self
            .machine
            .compact_slice(self.settings.compaction_slice.min(room));
        let (after, _) = self.machine.view().open_size();
        self.removed += after - before;
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
