//! The actor that owns the log on disk: it groups what arrives while a write is on its way into the
//! next write, and lets mail go only when everything before it is durable.
//!
//! Inputs: `JournalInput`. No timers.
//! Invariants:
//! - At most one write round is on its way; `then` of a round is delivered when all its writes are
//!   done.
//! - A segment is written only after its preparation completed.
//! - A failed operation halts the member: nobody knows what a failed fsync left behind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    mail::{Append, JournalInput, Mail},
    ticket::{Owner, Tickets},
};
use crate::{
    kernel::{
        Context, DiskError, DiskOp, DiskOutcome, Effect, Fault, LogIndex, SegmentId, Ticket, limits,
    },
    mutant,
    raft::SnapshotMeta,
    wal::{Encoder, Record},
};

/// The actor that owns the log on disk.
#[derive(Debug)]
pub struct Journal {
    encoder: Encoder,
    tickets: Tickets,
    /// What waits for the next round.
    queue: VecDeque<Item>,
    /// Writes of the current round that have not completed.
    writing: BTreeSet<Ticket>,
    /// Mail of the current round.
    then: Vec<Mail>,
    preparing: BTreeMap<Ticket, SegmentId>,
    removing: Option<Ticket>,
}

#[derive(Debug)]
enum Item {
    Append(Append),
    Mark {
        meta: SnapshotMeta,
        keep_after: LogIndex,
        then: Vec<Mail>,
    },
}

impl Item {
    /// Bytes its records take in the log.
    fn bytes(&self) -> u64 {
        match self {
            Self::Append(append) => {
                let entries = append.entries.iter();
                let entries: u64 = entries
                    .map(|entry| Record::Entry(entry).encoded_bytes())
                    .sum();
                let hard_state = append.hard_state.as_ref();
                entries + hard_state.map_or(0, |state| Record::HardState(state).encoded_bytes())
            }
            Self::Mark { meta, .. } => Record::Mark(meta).encoded_bytes(),
        }
    }
}

impl Journal {
    /// A journal that goes on where the encoder stands.
    pub fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            tickets: Tickets::new(Owner::Journal),
            queue: VecDeque::new(),
            writing: BTreeSet::new(),
            then: Vec::new(),
            preparing: BTreeMap::new(),
            removing: None,
        }
    }

    /// Has the first segments made, and the torn end of an earlier life zeroed.
    pub fn start(&mut self, cx: &mut Context<'_, Mail>) {
        self.prepare(0, cx);
        self.write(cx);
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: JournalInput, cx: &mut Context<'_, Mail>) {
        match input {
            JournalInput::Append(append) => self.queue.push_back(Item::Append(append)),
            JournalInput::Mark {
                meta,
                keep_after,
                then,
            } => {
                self.queue.push_back(Item::Mark {
                    meta,
                    keep_after,
                    then,
                });
            }
            JournalInput::Remove { keep_after } => self.remove_old(keep_after, cx),
            JournalInput::Done { ticket, outcome } => self.on_done(ticket, outcome, cx),
        }
    }

    fn on_done(
        &mut self,
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
        cx: &mut Context<'_, Mail>,
    ) {
        if let Err(error) = outcome
            && !mutant!("failed-sync-ignored")
        {
            cx.emit(Effect::Halt(Fault::Disk(error)));
            return;
        }
        if self.removing == Some(ticket) {
            self.removing = None;
            return;
        }
        if let Some(segment) = self.preparing.remove(&ticket) {
            self.encoder.on_prepared(segment);
            return;
        }
        assert!(
            self.writing.remove(&ticket),
            "a write completed that nobody submitted"
        );
        if self.writing.is_empty() {
            self.encoder.on_durable();
            self.release(cx);
        }
    }

    fn release(&mut self, cx: &mut Context<'_, Mail>) {
        for mail in self.then.drain(..) {
            cx.tell(mail);
        }
    }

    /// Starts the next round if none is on its way. Returns whether anything happened.
    pub fn flush(&mut self, cx: &mut Context<'_, Mail>) -> bool {
        if !self.writing.is_empty() {
            return false;
        }
        let mut taken = 0;
        let waiting = self.queue.iter().map(Item::bytes).sum();
        self.encoder.expect(waiting);
        while self.encoder.batch_bytes() < limits::WAL_WRITE_BYTES_MAX as u64
            && let Some(item) = self.queue.front()
        {
            let bytes = item.bytes();
            // Mail without records needs no room, but must not overtake what stands before it.
            if bytes > 0 && !self.encoder.has_room(bytes) {
                self.prepare(bytes, cx);
                break;
            }
            let item = self.queue.pop_front().expect("the front was just seen");
            self.encode(item);
            taken += 1;
        }
        if taken == 0 {
            return false;
        }
        self.write(cx);
        self.prepare(0, cx);
        true
    }

    /// Hands the batch to the disk; without a batch, the mail goes at once.
    fn write(&mut self, cx: &mut Context<'_, Mail>) {
        for write in self.encoder.take_writes() {
            let ticket = self.tickets.issue();
            self.writing.insert(ticket);
            let (segment, offset, bytes) = (write.segment, write.offset, write.bytes);
            let op = DiskOp::WalWrite {
                segment,
                offset,
                bytes,
                sync: !mutant!("log-write-unsynced"),
            };
            cx.emit(Effect::Disk { ticket, op });
        }
        if self.writing.is_empty() || mutant!("journal-releases-early") {
            self.release(cx);
        }
    }

    fn encode(&mut self, item: Item) {
        match item {
            Item::Append(Append {
                entries,
                hard_state,
                then,
            }) => {
                for entry in &entries {
                    self.encoder.append(Record::Entry(entry));
                }
                if let Some(hard_state) = &hard_state {
                    self.encoder.append(Record::HardState(hard_state));
                }
                self.then.extend(then);
            }
            Item::Mark {
                meta,
                keep_after,
                then,
            } => {
                self.encoder.append(Record::Mark(&meta));
                self.then.extend(then);
                // Only a durable mark allows the log before it to go.
                self.then
                    .push(Mail::Journal(JournalInput::Remove { keep_after }));
            }
        }
    }

    /// Removes segments whose entries nobody needs any more.
    fn remove_old(&mut self, keep_after: LogIndex, cx: &mut Context<'_, Mail>) {
        if self.removing.is_some() {
            return;
        }
        if let Some(before) = self.encoder.take_removable(keep_after) {
            let ticket = self.tickets.issue();
            self.removing = Some(ticket);
            cx.emit(Effect::Disk {
                ticket,
                op: DiskOp::WalRemove { before },
            });
        }
    }

    /// Keeps one segment ready ahead of need, and one large enough for what waits.
    fn prepare(&mut self, upcoming: u64, cx: &mut Context<'_, Mail>) {
        if let Some(wanted) = self.encoder.take_prepare(upcoming) {
            let ticket = self.tickets.issue();
            self.preparing.insert(ticket, wanted.segment);
            let op = DiskOp::WalPrepare {
                segment: wanted.segment,
                bytes: wanted.bytes,
            };
            cx.emit(Effect::Disk { ticket, op });
        }
    }

    /// Whether everything that was handed in is durable.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.writing.is_empty()
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        self.encoder.check();
        assert!(
            self.then.is_empty() || !self.writing.is_empty(),
            "mail waits for a round that is not on its way"
        );
        assert_eq!(
            self.encoder.is_in_flight(),
            !self.writing.is_empty(),
            "the encoder and the journal disagree about what is on its way"
        );
    }
}
