//! The exchange of the whole state: an image is cut for others, and one of others becomes the live
//! state.
//!
//! Invariant: an image is installed when no commit to the old state and no part of a rewriting is
//! on its way, and whatever ends one of these looks for an image that waits.

use super::{Applier, Installing};
use crate::{
    backend::Backend,
    kernel::{
        Context, DiskOp, Effect, Fault, SnapshotId,
        effect::{LogLevel, LogLine},
    },
    mutant,
    node::{
        log_bytes::LogBytes,
        mail::{ConsensusInput, IntegrityInput, LeasesInput, Mail, SnapshotsInput, WatchesInput},
    },
    raft::Entry,
};

impl<B: Backend> Applier<B> {
    pub(super) fn on_image(
        &mut self,
        id: SnapshotId,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        self.cut(cx);
        let mut meta = self.machine.snapshot_meta();
        if mutant!("image-index-off-by-one") {
            meta.id.index = meta.id.index.next();
        }
        cx.tell(Mail::Snapshots(SnapshotsInput::Cut { id, meta }));
        Ok(())
    }

    /// Swaps the image in once no commit to the old state is on its way.
    pub(super) fn maybe_install(&mut self, cx: &mut Context<'_, Mail>) {
        let waits = |installing: &Installing| installing.ticket.is_none();
        if !self.commits.is_empty()
            || !self.installing.as_ref().is_some_and(waits)
            || !self.yields_to_image(cx)
        {
            return;
        }
        if let Some(installing) = &mut self.installing {
            let ticket = self.tickets.issue();
            installing.ticket = Some(ticket);
            let op = DiskOp::StageInstall { id: installing.id };
            cx.emit(Effect::Disk { ticket, op });
        }
    }

    pub(super) fn on_installed(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        let installing = self.installing.take().expect("checked by the caller");
        self.machine.reload()?;
        self.remove_replaced(cx);
        self.rewriting.waste.weigh(self.size, cx.now);
        let applied = self.machine.applied();
        assert_eq!(
            applied, installing.meta.id,
            "the image is not what its sender said it was"
        );
        self.meter.on_installed(&self.machine);
        let index = applied.index;
        self.marked = index;
        self.log_bytes = LogBytes::default();
        self.compaction_at = self.machine.store().compaction_running().then_some(cx.now);
        // etcd's texts, in its order.
        for message in ["applySnapshot: opened snapshot backend", "applied snapshot"] {
            cx.emit(Effect::Log(LogLine {
                level: LogLevel::Info,
                caller: "node/applier.rs",
                message: message.to_owned(),
                fields: vec![("applied-index", index.to_string())],
            }));
        }
        let hash = self.machine.state_hash();
        cx.tell(Mail::Integrity(IntegrityInput::Installed { index, hash }));
        cx.tell(Mail::Consensus(ConsensusInput::Applied { index }));
        cx.tell(Mail::Snapshots(SnapshotsInput::Installed {
            snapshot: installing.id,
        }));
        self.restart_ranges(cx)?;
        let revision = self.machine.store().revision();
        cx.tell(Mail::Watches(WatchesInput::Installed { revision }));
        cx.tell(Mail::Leases(LeasesInput::Installed));
        self.tell_members(cx);
        let held: Vec<Entry> = self
            .held
            .drain(..)
            .filter(|entry| entry.id.index > index)
            .collect();
        self.apply_all(held, cx)
    }
}
