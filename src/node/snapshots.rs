//! The actor that moves images of the whole state: out to members that fell behind the log, in from
//! the leader, and out to clients that want a backup.
//!
//! Inputs: `SnapshotsInput`. Timers: repetition of chunks that were not acknowledged.
//! Invariants:
//! - Chunks of one image are staged in order, each once; the receiver says which it wants next, so
//!   a transfer goes on after a lost link.
//! - At most `SNAPSHOT_CHUNKS_INFLIGHT_MAX` chunks of a transfer are in memory.
//! - The last chunk stays with the sender, and is repeated, until the image is installed: one who
//!   dies between having all of it and installing it is found out by the answer of the next life.

mod meter;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use self::meter::Meter;
use super::{
    mail::{ApplierInput, ConsensusInput, FrontendInput, Mail, PeersInput, SnapshotsInput},
    ticket::{Owner, Tickets},
};
use crate::{
    kernel::{
        ApiError, CallId, Context, DiskError, DiskErrorKind, DiskOp, DiskOutcome, Effect, EntryId,
        Fault, Instant, LogIndex, MemberId, Response, SnapshotId, StoreCursor, Term, Ticket,
        effect::{LogLevel, LogLine},
        limits,
    },
    mutant,
    pb::fated::peer::{self, SnapshotAck, SnapshotChunk},
    raft::{ConfState, RoleChange, SnapshotMeta},
};

/// Unacknowledged chunks are sent again after this time.
const RESEND: Duration = Duration::from_millis(500);
/// A transfer of which the receiver says nothing for this long is given up; raft asks again if it
/// still matters.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The actor that moves images.
#[derive(Debug)]
pub struct Snapshots {
    tickets: Tickets,
    next_id: SnapshotId,
    jobs: BTreeMap<Ticket, Job>,
    /// Images that wait for the applier's cut, then for being pinned.
    opening: BTreeMap<SnapshotId, OpenFor>,
    /// Images pinned for clients, and since when.
    pinned: BTreeMap<SnapshotId, Instant>,
    sending: BTreeMap<MemberId, Sending>,
    receiving: Option<Receiving>,
    leading: bool,
    meter: Meter,
}

#[derive(Debug)]
enum Job {
    Opened(SnapshotId),
    ReadForClient(CallId),
    ReadForPeer(MemberId, SnapshotId),
    Staged(SnapshotId),
    Sealed(SnapshotId),
    Ignored,
}

#[derive(Debug)]
enum OpenFor {
    Client(CallId),
    Peer(MemberId),
}

/// An image on its way to a peer.
#[derive(Debug)]
struct Sending {
    id: SnapshotId,
    term: Term,
    meta: SnapshotMeta,
    opened: bool,
    cursor: Option<StoreCursor>,
    reading: bool,
    read_all: bool,
    next_sequence: u64,
    /// Sent and not acknowledged, in order; the last chunk of all, until the image is installed.
    window: VecDeque<SnapshotChunk>,
    resend_at: Instant,
    give_up_at: Instant,
}

/// An image that is coming in.
#[derive(Debug)]
struct Receiving {
    from: MemberId,
    /// The sender's name for it, and its term.
    remote: (u64, u64),
    local: SnapshotId,
    meta: SnapshotMeta,
    /// The chunk that is wanted next.
    next_sequence: u64,
    /// How many chunks are in the staged image.
    staged: u64,
    sealed: bool,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            tickets: Tickets::new(Owner::Snapshots),
            next_id: SnapshotId::ZERO,
            jobs: BTreeMap::new(),
            opening: BTreeMap::new(),
            pinned: BTreeMap::new(),
            sending: BTreeMap::new(),
            receiving: None,
            leading: false,
            meter: Meter::default(),
        }
    }
}

impl Snapshots {
    /// Handles one input.
    pub fn on_input(&mut self, input: SnapshotsInput, cx: &mut Context<'_, Mail>) {
        match input {
            SnapshotsInput::Wanted { peer, term } => self.on_wanted(peer, term, cx),
            SnapshotsInput::Cut { id, meta } => self.on_cut(id, meta, cx),
            SnapshotsInput::Chunk { from, chunk } => self.on_chunk(from, chunk, cx),
            SnapshotsInput::Ack { from, ack } => self.on_ack(from, &ack, cx),
            SnapshotsInput::Stale { snapshot } => self.on_stale(snapshot, cx),
            SnapshotsInput::Installed { snapshot } => self.on_installed(snapshot, cx),
            SnapshotsInput::Done { ticket, outcome } => self.on_done(ticket, outcome, cx),
            SnapshotsInput::Open { call } => self.on_open(call, cx),
            SnapshotsInput::Read { call, id, cursor } => self.on_read(call, id, cursor, cx),
            SnapshotsInput::Close { call, id } => self.on_close(call, id, cx),
            SnapshotsInput::Role(role) => self.on_role(role, cx),
        }
    }

    fn fresh_id(&mut self) -> SnapshotId {
        self.next_id = self.next_id.next();
        self.next_id
    }

    fn submit(&mut self, job: Job, op: DiskOp, cx: &mut Context<'_, Mail>) {
        let ticket = self.tickets.issue();
        self.jobs.insert(ticket, job);
        cx.emit(Effect::Disk { ticket, op });
    }

    // ---- out to a peer ----

    fn on_wanted(&mut self, peer: MemberId, term: Term, cx: &mut Context<'_, Mail>) {
        if self.sending.contains_key(&peer) {
            return;
        }
        let id = self.fresh_id();
        self.opening.insert(id, OpenFor::Peer(peer));
        let sending = Sending {
            id,
            term,
            meta: SnapshotMeta::default(),
            opened: false,
            cursor: None,
            reading: false,
            read_all: false,
            next_sequence: 0,
            window: VecDeque::new(),
            resend_at: cx.now.after(RESEND),
            give_up_at: cx.now.after(GIVE_UP),
        };
        self.sending.insert(peer, sending);
        self.meter.on_send(peer, cx.now);
        cx.tell(Mail::Applier(ApplierInput::Image { id }));
    }

    fn on_cut(&mut self, id: SnapshotId, meta: SnapshotMeta, cx: &mut Context<'_, Mail>) {
        match self.opening.get(&id) {
            Some(OpenFor::Peer(peer)) => match self.sending.get_mut(peer) {
                Some(sending) if sending.id == id => sending.meta = meta,
                Some(_) | None => {
                    self.opening.remove(&id);
                    return;
                }
            },
            Some(OpenFor::Client(_)) => {}
            None => return,
        }
        self.submit(Job::Opened(id), DiskOp::SnapshotOpen { id }, cx);
    }

    fn on_opened(&mut self, id: SnapshotId, bytes_estimate: u64, cx: &mut Context<'_, Mail>) {
        match self.opening.remove(&id) {
            Some(OpenFor::Client(call)) => {
                self.pinned.insert(id, cx.now);
                let result = Ok(Response::SnapshotOpened { id, bytes_estimate });
                cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            }
            Some(OpenFor::Peer(peer)) => {
                if let Some(sending) = self.sending.get_mut(&peer).filter(|of| of.id == id) {
                    sending.opened = true;
                    log_transfer(cx, "sending database snapshot", peer, &sending.meta);
                    self.read_on(peer, cx);
                } else {
                    self.submit(Job::Ignored, DiskOp::SnapshotClose { id }, cx);
                }
            }
            None => self.submit(Job::Ignored, DiskOp::SnapshotClose { id }, cx),
        }
    }

    /// Reads the next chunk for a peer if there is room for it.
    fn read_on(&mut self, peer: MemberId, cx: &mut Context<'_, Mail>) {
        let Some(sending) = self.sending.get_mut(&peer) else {
            return;
        };
        let full = sending.window.len() as u64 >= limits::SNAPSHOT_CHUNKS_INFLIGHT_MAX;
        if !sending.opened || sending.reading || sending.read_all || full {
            return;
        }
        sending.reading = true;
        let op = DiskOp::SnapshotRead {
            id: sending.id,
            cursor: sending.cursor.clone(),
            bytes_max: limits::SNAPSHOT_CHUNK_BYTES,
        };
        let job = Job::ReadForPeer(peer, sending.id);
        self.submit(job, op, cx);
    }

    fn on_peer_chunk(
        &mut self,
        peer: MemberId,
        id: SnapshotId,
        data: Bytes,
        next: Option<StoreCursor>,
        cx: &mut Context<'_, Mail>,
    ) {
        let Some(sending) = self.sending.get_mut(&peer).filter(|of| of.id == id) else {
            return;
        };
        sending.reading = false;
        sending.read_all = next.is_none();
        sending.cursor = next;
        let chunk = SnapshotChunk {
            snapshot_id: id.get(),
            term: sending.term.get(),
            meta: Some(meta_to_wire(&sending.meta)),
            sequence: sending.next_sequence,
            data,
            last: sending.read_all,
        };
        sending.next_sequence += 1;
        sending.window.push_back(chunk.clone());
        cx.tell(Mail::Peers(PeersInput::SnapshotChunk { to: peer, chunk }));
        self.read_on(peer, cx);
    }

    fn on_ack(&mut self, from: MemberId, ack: &SnapshotAck, cx: &mut Context<'_, Mail>) {
        let Some(sending) = self.sending.get_mut(&from) else {
            return;
        };
        if sending.id.get() != ack.snapshot_id || sending.term.get() != ack.term {
            return;
        }
        if ack.installed || ack.failed {
            self.end_sending(from, ack.installed, cx);
            return;
        }
        let before = sending.window.len();
        while sending
            .window
            .front()
            .is_some_and(|chunk| chunk.sequence < ack.next_sequence && !stays(chunk))
        {
            sending.window.pop_front();
        }
        if sending.window.len() < before {
            sending.resend_at = cx.now.after(RESEND);
        }
        // It lives and knows of the transfer; installing a large image takes its time.
        sending.give_up_at = cx.now.after(GIVE_UP);
        self.read_on(from, cx);
    }

    fn end_sending(&mut self, peer: MemberId, ok: bool, cx: &mut Context<'_, Mail>) {
        let Some(sending) = self.sending.remove(&peer) else {
            return;
        };
        self.meter.on_sent(peer, ok, cx.now);
        if sending.opened {
            self.submit(Job::Ignored, DiskOp::SnapshotClose { id: sending.id }, cx);
        }
        if ok {
            log_transfer(cx, "sent database snapshot", peer, &sending.meta);
        }
        let index = sending.meta.id.index;
        cx.tell(Mail::Consensus(ConsensusInput::SnapshotDone {
            peer,
            index,
            ok,
        }));
    }

    fn on_role(&mut self, role: RoleChange, cx: &mut Context<'_, Mail>) {
        let was = std::mem::replace(&mut self.leading, role.role == crate::raft::Role::Leader);
        if was && !self.leading {
            let peers: Vec<_> = self.sending.keys().copied().collect();
            for peer in peers {
                self.end_sending(peer, false, cx);
            }
        }
    }

    // ---- in from the leader ----

    fn on_chunk(&mut self, from: MemberId, chunk: SnapshotChunk, cx: &mut Context<'_, Mail>) {
        let Some(meta) = chunk.meta.as_ref().and_then(meta_from_wire) else {
            return;
        };
        let remote = (chunk.snapshot_id, chunk.term);
        let known = self
            .receiving
            .as_ref()
            .is_some_and(|receiving| receiving.from == from && receiving.remote == remote);
        if !known {
            let busy = self
                .receiving
                .as_ref()
                .is_some_and(|receiving| receiving.sealed);
            // A sealed image is on its way into the state; another one has to wait for it.
            if busy {
                return;
            }
            // The beginning was lost with an earlier life of this member: the sender starts over.
            if chunk.sequence != 0 {
                let (snapshot_id, term) = remote;
                let ack = SnapshotAck {
                    snapshot_id,
                    term,
                    failed: true,
                    ..Default::default()
                };
                cx.tell(Mail::Peers(PeersInput::SnapshotAck { to: from, ack }));
                return;
            }
            self.begin_receiving(from, remote, meta, cx);
        }
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        if receiving.sealed || chunk.sequence != receiving.next_sequence {
            // Early, late or double: the sender learns which one is wanted.
            self.ack(cx);
            return;
        }
        receiving.next_sequence += 1;
        receiving.sealed = chunk.last;
        let id = receiving.local;
        self.submit(
            Job::Staged(id),
            DiskOp::StageWrite {
                id,
                data: chunk.data,
            },
            cx,
        );
        if chunk.last {
            self.submit(Job::Sealed(id), DiskOp::StageSeal { id }, cx);
        }
    }

    fn begin_receiving(
        &mut self,
        from: MemberId,
        remote: (u64, u64),
        meta: SnapshotMeta,
        cx: &mut Context<'_, Mail>,
    ) {
        if let Some(old) = self.receiving.take() {
            self.meter.on_received(old.from, false, cx.now);
            self.submit(Job::Ignored, DiskOp::StageDrop { id: old.local }, cx);
        }
        let local = self.fresh_id();
        log_transfer(cx, "receiving database snapshot", from, &meta);
        self.meter.on_receive(from, cx.now);
        self.receiving = Some(Receiving {
            from,
            remote,
            local,
            meta,
            next_sequence: 0,
            staged: 0,
            sealed: false,
        });
        self.submit(Job::Ignored, DiskOp::StageOpen { id: local }, cx);
    }

    fn ack(&mut self, cx: &mut Context<'_, Mail>) {
        let Some(receiving) = &self.receiving else {
            return;
        };
        send_ack(receiving, receiving.staged, false, false, cx);
    }

    fn on_staged(&mut self, id: SnapshotId, cx: &mut Context<'_, Mail>) {
        if let Some(receiving) = self.receiving.as_mut().filter(|of| of.local == id) {
            receiving.staged += 1;
            self.ack(cx);
        }
    }

    fn on_sealed(&mut self, id: SnapshotId, cx: &mut Context<'_, Mail>) {
        if let Some(receiving) = self.receiving.as_ref().filter(|of| of.local == id) {
            self.meter.on_received(receiving.from, true, cx.now);
            cx.tell(Mail::Consensus(ConsensusInput::Restore {
                snapshot: id,
                meta: receiving.meta.clone(),
                from: receiving.from,
                term: Term::new(receiving.remote.1),
            }));
        }
    }

    /// The log got ahead of the image meanwhile; it is not needed any more.
    fn on_stale(&mut self, id: SnapshotId, cx: &mut Context<'_, Mail>) {
        if let Some(receiving) = self.receiving.take_if(|of| of.local == id) {
            self.submit(Job::Ignored, DiskOp::StageDrop { id }, cx);
            send_ack(&receiving, receiving.next_sequence, true, false, cx);
        }
    }

    fn on_installed(&mut self, id: SnapshotId, cx: &mut Context<'_, Mail>) {
        if let Some(receiving) = self.receiving.take_if(|of| of.local == id) {
            send_ack(&receiving, receiving.next_sequence, true, false, cx);
        }
    }

    // ---- out to clients ----

    fn on_open(&mut self, call: CallId, cx: &mut Context<'_, Mail>) {
        if self.pinned.len() + self.opening.len() >= limits::SNAPSHOTS_OPEN_MAX {
            let result = Err(ApiError::TooManyRequests);
            cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            return;
        }
        let id = self.fresh_id();
        self.opening.insert(id, OpenFor::Client(call));
        cx.tell(Mail::Applier(ApplierInput::Image { id }));
    }

    fn on_read(
        &mut self,
        call: CallId,
        id: SnapshotId,
        cursor: Option<StoreCursor>,
        cx: &mut Context<'_, Mail>,
    ) {
        if !self.pinned.contains_key(&id) {
            let result = Err(ApiError::Canceled);
            cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            return;
        }
        let op = DiskOp::SnapshotRead {
            id,
            cursor,
            bytes_max: limits::SNAPSHOT_READ_BYTES,
        };
        self.submit(Job::ReadForClient(call), op, cx);
    }

    fn on_close(&mut self, call: Option<CallId>, id: SnapshotId, cx: &mut Context<'_, Mail>) {
        if let Some(since) = self.pinned.remove(&id) {
            self.meter.on_backup(cx.now.since(since));
            self.submit(Job::Ignored, DiskOp::SnapshotClose { id }, cx);
        }
        if let Some(call) = call {
            let result = Ok(Response::SnapshotClosed);
            cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
        }
    }

    // ---- completions and timers ----

    fn on_done(
        &mut self,
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
        cx: &mut Context<'_, Mail>,
    ) {
        let job = self
            .jobs
            .remove(&ticket)
            .expect("an operation completed that nobody submitted");
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.on_failed(&job, error, cx),
        };
        match (job, outcome) {
            (Job::Opened(id), DiskOutcome::SnapshotOpened { bytes_estimate }) => {
                self.on_opened(id, bytes_estimate, cx);
            }
            (Job::ReadForClient(call), DiskOutcome::SnapshotChunk { data, next }) => {
                let result = Ok(Response::SnapshotChunk { data, next });
                cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            }
            (Job::ReadForPeer(peer, id), DiskOutcome::SnapshotChunk { data, next }) => {
                self.on_peer_chunk(peer, id, data, next, cx);
            }
            (Job::Staged(id), _) => self.on_staged(id, cx),
            (Job::Sealed(id), _) => self.on_sealed(id, cx),
            (Job::Ignored, _) => {}
            (job, outcome) => unreachable!("{job:?} completed with {outcome:?}"),
        }
    }

    /// What arrives damaged is asked for again; a device that fails stops the member.
    fn on_failed(&mut self, job: &Job, error: DiskError, cx: &mut Context<'_, Mail>) {
        match (job, error.kind) {
            (
                Job::Staged(id) | Job::Sealed(id),
                DiskErrorKind::Corrupt | DiskErrorKind::Missing,
            ) => {
                if let Some(receiving) = self.receiving.take_if(|of| of.local == *id) {
                    self.meter.on_received(receiving.from, false, cx.now);
                    log_transfer(
                        cx,
                        "refused a damaged snapshot",
                        receiving.from,
                        &receiving.meta,
                    );
                    send_ack(&receiving, 0, false, true, cx);
                    self.submit(Job::Ignored, DiskOp::StageDrop { id: *id }, cx);
                }
            }
            (Job::ReadForClient(call), DiskErrorKind::Missing) => {
                let result = Err(ApiError::Canceled);
                cx.tell(Mail::Frontend(FrontendInput::Answer {
                    call: *call,
                    result,
                }));
            }
            (Job::ReadForPeer(peer, id), DiskErrorKind::Missing) => {
                if self.sending.get(peer).is_some_and(|of| of.id == *id) {
                    self.end_sending(*peer, false, cx);
                }
            }
            (Job::Ignored, DiskErrorKind::Missing) => {}
            (_, _) => cx.emit(Effect::Halt(Fault::Disk(error))),
        }
    }

    /// When to repeat or give up next.
    pub fn deadline(&self) -> Option<Instant> {
        self.sending
            .values()
            .map(|sending| sending.resend_at.min(sending.give_up_at))
            .min()
    }

    /// Repeats what was not acknowledged, gives up where nobody answers.
    pub fn on_deadline(&mut self, cx: &mut Context<'_, Mail>) {
        let mut stuck = Vec::new();
        for (peer, sending) in &mut self.sending {
            if sending.give_up_at <= cx.now {
                stuck.push(*peer);
            } else if sending.resend_at <= cx.now {
                sending.resend_at = cx.now.after(RESEND);
                for chunk in &sending.window {
                    let chunk = chunk.clone();
                    cx.tell(Mail::Peers(PeersInput::SnapshotChunk { to: *peer, chunk }));
                }
            }
        }
        for peer in stuck {
            self.end_sending(peer, false, cx);
        }
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        for sending in self.sending.values() {
            assert!(
                sending.window.len() as u64 <= limits::SNAPSHOT_CHUNKS_INFLIGHT_MAX,
                "more chunks are on their way than may be"
            );
        }
    }
}

/// Whether a chunk is kept although it was acknowledged.
fn stays(chunk: &SnapshotChunk) -> bool {
    chunk.last && !mutant!("acknowledged-images-forgotten")
}

fn send_ack(
    receiving: &Receiving,
    next_sequence: u64,
    installed: bool,
    failed: bool,
    cx: &mut Context<'_, Mail>,
) {
    let (snapshot_id, term) = receiving.remote;
    let ack = SnapshotAck {
        snapshot_id,
        term,
        next_sequence,
        installed,
        failed,
    };
    cx.tell(Mail::Peers(PeersInput::SnapshotAck {
        to: receiving.from,
        ack,
    }));
}

fn log_transfer(cx: &mut Context<'_, Mail>, message: &str, peer: MemberId, meta: &SnapshotMeta) {
    cx.emit(Effect::Log(LogLine {
        level: LogLevel::Info,
        caller: "node/snapshots.rs",
        message: message.to_owned(),
        fields: vec![
            ("remote-peer-id", format!("{:x}", peer.get())),
            ("snapshot-index", meta.id.index.to_string()),
        ],
    }));
}

fn meta_to_wire(meta: &SnapshotMeta) -> peer::SnapshotMeta {
    let ids = |set: &std::collections::BTreeSet<MemberId>| set.iter().map(|id| id.get()).collect();
    peer::SnapshotMeta {
        term: meta.id.term.get(),
        index: meta.id.index.get(),
        conf_state: Some(peer::ConfState {
            voters: ids(&meta.conf_state.voters),
            voters_outgoing: ids(&meta.conf_state.voters_outgoing),
            learners: ids(&meta.conf_state.learners),
            learners_next: ids(&meta.conf_state.learners_next),
            auto_leave: meta.conf_state.auto_leave,
        }),
    }
}

fn meta_from_wire(meta: &peer::SnapshotMeta) -> Option<SnapshotMeta> {
    let conf = meta.conf_state.as_ref()?;
    let ids = |ids: &[u64]| ids.iter().map(|id| MemberId::new(*id)).collect();
    Some(SnapshotMeta {
        id: EntryId::new(Term::new(meta.term), LogIndex::new(meta.index)),
        conf_state: ConfState {
            voters: ids(&conf.voters),
            voters_outgoing: ids(&conf.voters_outgoing),
            learners: ids(&conf.learners),
            learners_next: ids(&conf.learners_next),
            auto_leave: conf.auto_leave,
        },
    })
}
