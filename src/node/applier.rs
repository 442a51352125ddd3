//! The actor that owns the state machine: ordered apply, reads, batches on their way to the
//! backend, slices of compaction, and the exchange of the whole state for an image.
//!
//! Inputs: `ApplierInput`. Timers: the batch interval, the next slice of a compaction, the next
//! part of a rewriting.
//! Invariants:
//! - Entries are applied in order, each once; an entry and its effects share a batch.
//! - `batch.consistent <= applied`: the backend is never ahead of the log.
//! - While an image is being installed nothing is applied and nothing is read.

pub mod compaction;
mod images;
mod meter;
mod ranges;
mod rewriting;
mod upkeep;
pub mod waste;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::{compaction::Removals, meter::Meter, ranges::Ranges, rewriting::Rewriting};
use super::{
    NodeConfig,
    log_bytes::LogBytes,
    mail::{
        ApplierInput, ConsensusInput, FrontendInput, IntegrityInput, LeasesInput, Mail, PeersInput,
        RaftStatus, WatchesInput,
    },
    query,
    reconfigure::Rules,
    ticket::{Owner, Tickets},
};
use crate::{
    apply::{Applied, ApplyError, Notice, StateMachine, settle},
    backend::Backend,
    kernel::{
        ApiError, BackendSize, CallId, Context, DiskError, DiskOp, DiskOutcome, Effect, Fault,
        Instant, LeaseId, LogIndex, MemberId, Request, Response, SnapshotId, Term, Ticket, limits,
    },
    lease::Renewal,
    mutant,
    mvcc::HashKv,
    pb::etcdserverpb::{HashKvResponse, LeaseKeepAliveResponse, RangeRequest},
    raft::{Entry, SnapshotMeta},
};

/// Revisions that one slice of a HashKV looks at before others get their turn.
const HASH_SLICE: usize = 20_000;
/// Whether a range names more than one key and wants records: it may be large.
fn is_a_walk(request: &RangeRequest) -> bool {
    !request.range_end.is_empty() && !request.count_only
}

/// Batches on their way to the backend; further ones wait in the open batch.
const COMMITS_INFLIGHT_MAX: usize = 2;

/// The actor that owns the state machine.
#[derive(Debug)]
pub struct Applier<B: Backend> {
    machine: StateMachine<B>,
    member: MemberId,
    tickets: Tickets,
    settings: Settings,
    /// Commits on their way, oldest first.
    commits: VecDeque<Commit>,
    /// Batches cut since boot.
    cuts: u64,
    removals: Removals,
    /// When the open batch is cut at the latest.
    cut_at: Option<Instant>,
    /// Reads that wait for an index.
    waiting: BTreeMap<LogIndex, Vec<(CallId, Request)>>,
    /// An image that is becoming the live state, and what was committed behind it meanwhile.
    installing: Option<Installing>,
    held: VecDeque<Entry>,
    rewriting: Rewriting,
    compaction_at: Option<Instant>,
    /// A finished compaction and the batch that holds its last deletions.
    compaction_done: Option<(i64, u64)>,
    hashes: VecDeque<(CallId, Instant, HashKv)>,
    ranges: Ranges,
    size: BackendSize,
    /// The last point that was offered as a mark for the log.
    marked: LogIndex,
    log_bytes: LogBytes,
    committed: LogIndex,
    /// Keep-alives of leases that ran out and are not revoked yet.
    ending: Vec<(CallId, i64)>,
    /// Term of the last applied entry.
    term: Term,
    meter: Meter,
}

/// A batch on its way to the backend.
#[derive(Debug)]
struct Commit {
    ticket: Ticket,
    /// What the backend holds after it.
    meta: SnapshotMeta,
    /// Its number in the order of cuts.
    cut: u64,
    /// What it puts.
    bytes: usize,
    began: Instant,
}

#[derive(Debug)]
struct Settings {
    batch_interval: Duration,
    batch_operations_max: usize,
    compaction_slice: usize,
    compaction_pause: Duration,
    snapshot_count: u64,
    catchup_entries: u64,
    version: String,
    quota_bytes: i64,
    rules: Rules,
}

#[derive(Debug)]
struct Installing {
    id: SnapshotId,
    meta: SnapshotMeta,
    ticket: Option<Ticket>,
}

impl<B: Backend> Applier<B> {
    /// Wraps a loaded state machine.
    pub fn new(machine: StateMachine<B>, size: BackendSize, config: &NodeConfig) -> Self {
        let applied = machine.applied_index();
        let compaction_at = machine
            .store()
            .compaction_running()
            .then_some(Instant::ZERO);
        Self {
            meter: Meter::new(&machine, config.slow_apply),
            machine,
            member: config.member,
            tickets: Tickets::new(Owner::Applier),
            settings: Settings {
                batch_interval: config.batch_interval,
                batch_operations_max: config.batch_operations_max,
                compaction_slice: config.compaction_slice,
                compaction_pause: config.compaction_pause,
                snapshot_count: config.snapshot_count,
                catchup_entries: config.catchup_entries,
                version: config.version.clone(),
                quota_bytes: config.quota_bytes,
                rules: Rules::new(config),
            },
            commits: VecDeque::new(),
            cuts: 0,
            removals: Removals::default(),
            cut_at: None,
            waiting: BTreeMap::new(),
            installing: None,
            held: VecDeque::new(),
            rewriting: Rewriting::new(config.rewrite),
            compaction_at,
            compaction_done: None,
            hashes: VecDeque::new(),
            ranges: Ranges::new(config.range_first, config.range_part),
            size,
            marked: applied,
            log_bytes: LogBytes::default(),
            committed: applied,
            ending: Vec::new(),
            term: Term::ZERO,
        }
    }

    /// The state machine, for reading.
    pub fn machine(&self) -> &StateMachine<B> {
        &self.machine
    }

    /// The state machine, for the leader's lease clock only: nothing replicated is touched through
    /// it.
    pub fn machine_mut(&mut self) -> &mut StateMachine<B> {
        &mut self.machine
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: ApplierInput, cx: &mut Context<'_, Mail>) {
        let outcome = match input {
            ApplierInput::Apply(entries) => self.on_apply(entries, cx),
            ApplierInput::Read { index, calls } => self.on_read(index, calls, cx),
            ApplierInput::Status { call, raft } => {
                self.on_status(call, raft, cx);
                Ok(())
            }
            ApplierInput::Image { id } => self.on_image(id, cx),
            ApplierInput::Install { id, meta } => {
                self.installing = Some(Installing {
                    id,
                    meta,
                    ticket: None,
                });
                self.cut(cx);
                self.maybe_install(cx);
                Ok(())
            }
            ApplierInput::Defragment { call } => {
                self.on_defragment(call, cx);
                Ok(())
            }
            ApplierInput::Done { ticket, outcome } => self.on_done(ticket, outcome, cx),
            ApplierInput::Reconfigure(wanted) => {
                let call = wanted.call;
                let rules = &self.settings.rules;
                let outcome = rules.decide(wanted, self.machine.cluster(), cx.now, cx.wall);
                cx.tell(Mail::Frontend(FrontendInput::Reconfigured {
                    call,
                    outcome,
                }));
                Ok(())
            }
            ApplierInput::FinishReset { call, reset } => {
                let renewal = self.machine.lessor_mut().finish_reset(reset, cx.now);
                self.on_renewal(call, reset.lease().id.get(), renewal, cx);
                Ok(())
            }
        };
        if let Err(fault) = outcome {
            cx.emit(Effect::Halt(fault));
        }
    }

    // ---- apply ----

    fn on_apply(&mut self, entries: Vec<Entry>, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        if let Some(last) = entries.last() {
            self.committed = self.committed.max(last.id.index);
        }
        self.ranges.beside(entries.len());
        if self.installing.is_some() {
            self.held.extend(entries);
            return Ok(());
        }
        self.apply_all(entries, cx)
    }

    fn apply_all(&mut self, entries: Vec<Entry>, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        let mut revisions = Vec::new();
        let mut applied_bytes = 0;
        let mut delayed = Vec::new();
        let mut hashes = Vec::with_capacity(entries.len());
        for entry in entries {
            let bytes = entry.data.len() as u64;
            let leases = self.machine.lessor().len();
            let applied = self.machine.apply(&entry, cx.now)?;
            let lessor = self.machine.lessor();
            self.meter.on_applied(&applied, leases, lessor.len());
            hashes.push(self.machine.state_hash());
            applied_bytes += bytes;
            if entry.id.term != self.term {
                self.term = entry.id.term;
                cx.tell(Mail::Leases(LeasesInput::Term(self.term)));
            }
            if mutant!("header-of-the-whole-batch") {
                delayed.push(applied);
                continue;
            }
            self.distribute(applied, &mut revisions, cx);
        }
        for mut applied in delayed {
            if let Ok(Response::Put(response)) = &mut applied.result {
                response.header = crate::apply::kv::header(self.machine.store().revision());
            }
            self.distribute(applied, &mut revisions, cx);
        }
        let index = self.machine.applied_index();
        self.log_bytes.applied(index, applied_bytes);
        if !revisions.is_empty() {
            cx.tell(Mail::Watches(WatchesInput::Revisions(revisions)));
        }
        cx.tell(Mail::Integrity(IntegrityInput::Applied { index, hashes }));
        cx.tell(Mail::Consensus(ConsensusInput::Applied { index }));
        self.serve_waiting(cx)?;
        self.maybe_cut(cx);
        Ok(())
    }

    fn distribute(
        &mut self,
        applied: Applied,
        revisions: &mut Vec<(i64, Vec<crate::pb::mvccpb::Event>)>,
        cx: &mut Context<'_, Mail>,
    ) {
        revisions.extend(applied.revisions);
        if let Some(change) = applied.conf_change {
            cx.tell(Mail::Consensus(ConsensusInput::ConfChange(change)));
        }
        for notice in applied.notices {
            match notice {
                Notice::Compacted { .. } => {
                    self.compaction_at = Some(cx.now);
                    cx.tell(Mail::Watches(WatchesInput::Compacted));
                }
                Notice::Leases => self.answer_ended(cx),
                Notice::Members => self.tell_members(cx),
                Notice::Settled { up_to } => {
                    self.tell_members(cx);
                    cx.tell(Mail::Frontend(FrontendInput::Settled { up_to }));
                }
                Notice::Alarms => {}
            }
        }
        if let Some(origin) = applied.origin
            && (origin.proposer == self.member || mutant!("request-ids-shared-by-members"))
        {
            cx.tell(Mail::Frontend(FrontendInput::Applied {
                request: origin.request,
                index: applied.id.index,
                result: applied.result,
            }));
        }
    }

    fn tell_members(&self, cx: &mut Context<'_, Mail>) {
        let cluster = self.machine.cluster();
        cx.tell(Mail::Peers(PeersInput::Members {
            members: self.machine.addresses(),
            removed: cluster.settled().collect(),
        }));
        let removal = cluster.unsettled();
        cx.tell(Mail::Consensus(ConsensusInput::Unsettled { removal }));
        if cluster.is_removed(self.member) {
            cx.tell(Mail::Frontend(FrontendInput::Removed { told: false }));
        }
    }

    // ---- reads ----

    fn on_read(
        &mut self,
        index: LogIndex,
        calls: Vec<(CallId, Request)>,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        let is_behind = index > self.machine.applied_index();
        if (is_behind && !mutant!("read-before-applied")) || self.installing.is_some() {
            self.waiting.entry(index).or_default().extend(calls);
            return Ok(());
        }
        self.ranges.beside(calls.len());
        for (call, request) in calls {
            self.read(call, request, cx)?;
        }
        Ok(())
    }

    fn serve_waiting(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        while let Some(first) = self.waiting.first_entry()
            && *first.key() <= self.machine.applied_index()
        {
            for (call, request) in first.remove() {
                self.read(call, request, cx)?;
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        call: CallId,
        request: Request,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        let result = match request {
            Request::HashKv(request) => {
                match settle(
                    self.machine
                        .store()
                        .hash_kv(request.revision)
                        .map_err(ApplyError::from),
                )? {
                    Ok(hash) => {
                        self.hashes.push_back((call, cx.now, hash));
                        return Ok(());
                    }
                    Err(error) => Err(error),
                }
            }
            Request::LeaseKeepAlive(request) => {
                self.on_keep_alive(call, request.id, cx);
                return Ok(());
            }
            Request::Downgrade(request) => {
                self.on_downgrade(call, request, cx);
                return Ok(());
            }
            Request::Range(request) if is_a_walk(&request) => {
                return self.start_range(call, request, cx);
            }
            request => {
                let is_range = matches!(request, Request::Range(_) | Request::RangeChunk(_));
                let result = settle(query::answer(&self.machine, request, cx.now))?;
                self.meter.on_read(&result, is_range);
                result
            }
        };
        cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
        Ok(())
    }

    /// Goes on with hashing, a slice per step.
    fn hash_slice(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        let Some((call, began, mut hash)) = self.hashes.pop_front() else {
            return Ok(());
        };
        let step = hash.step(self.machine.store(), self.machine.view(), HASH_SLICE);
        match settle(step.map_err(ApplyError::from))? {
            Ok(None) => self.hashes.push_back((call, began, hash)),
            Err(error) => {
                let result = Err(error);
                cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            }
            Ok(Some(done)) => {
                self.meter.on_hashed(cx.now.since(began));
                let response = HashKvResponse {
                    header: crate::apply::kv::header(self.machine.store().revision()),
                    hash: done.hash,
                    compact_revision: done.compact_revision,
                    hash_revision: done.hash_revision,
                };
                let result = Ok(Response::HashKv(response));
                cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            }
        }
        Ok(())
    }

    fn on_status(&mut self, call: CallId, raft: RaftStatus, cx: &mut Context<'_, Mail>) {
        let facts = query::Facts {
            raft,
            size: self.size,
            version: &self.settings.version,
            quota_bytes: self.settings.quota_bytes,
        };
        let response = Response::Status(query::status(&self.machine, &facts));
        cx.tell(Mail::Frontend(FrontendInput::Answer {
            call,
            result: Ok(response),
        }));
    }

    fn on_keep_alive(&mut self, call: CallId, id: i64, cx: &mut Context<'_, Mail>) {
        let renewal = self.machine.lessor_mut().renew(LeaseId::new(id), cx.now);
        self.on_renewal(call, id, renewal, cx);
    }

    fn on_renewal(
        &mut self,
        call: CallId,
        id: i64,
        renewal: Result<Renewal, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        let header = crate::apply::kv::header(self.machine.store().revision());
        let answer = |ttl| Response::LeaseKeepAlive(LeaseKeepAliveResponse { header, id, ttl });
        let result = match renewal {
            Ok(Renewal::Renewed { ttl }) => {
                self.meter.on_renewed();
                Ok(answer(ttl))
            }
            Ok(Renewal::ResetFirst(reset)) => {
                cx.tell(Mail::Frontend(FrontendInput::ResetLease { call, reset }));
                return;
            }
            // The answer waits until the lease is really gone, with its keys.
            Ok(Renewal::Expired) => {
                self.ending.push((call, id));
                return;
            }
            // A lease that is not there is answered with no time left.
            Err(ApiError::LeaseNotFound) if mutant!("keep-alive-of-a-gone-lease") => Ok(answer(1)),
            Err(ApiError::LeaseNotFound) => Ok(answer(0)),
            Err(error) => Err(error),
        };
        cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
    }

    /// Answers keep-alives whose lease has ended since.
    fn answer_ended(&mut self, cx: &mut Context<'_, Mail>) {
        for (call, id) in std::mem::take(&mut self.ending) {
            self.on_keep_alive(call, id, cx);
        }
    }

    // ---- batches ----

    fn maybe_cut(&mut self, cx: &mut Context<'_, Mail>) {
        let (operations, bytes) = self.machine.view().open_size();
        let full =
            operations >= self.settings.batch_operations_max || bytes >= limits::BATCH_BYTES_MAX;
        if full && self.commits.len() < COMMITS_INFLIGHT_MAX {
            self.cut(cx);
        } else {
            let cut_at = cx.now.after(self.settings.batch_interval);
            self.cut_at.get_or_insert(cut_at);
        }
        self.tell_load(cx);
    }

    fn cut(&mut self, cx: &mut Context<'_, Mail>) {
        self.cut_at = None;
        self.removals.quarters = 0;
        let meta = self.machine.snapshot_meta();
        if let Some(batch) = self.machine.cut() {
            if mutant!("mark-before-commit") {
                self.offer_mark(meta.clone(), cx);
            }
            let ticket = self.tickets.issue();
            self.cuts += 1;
            self.commits.push_back(Commit {
                ticket,
                meta,
                cut: self.cuts,
                bytes: batch.bytes,
                began: cx.now,
            });
            cx.emit(Effect::Disk {
                ticket,
                op: DiskOp::Commit { batch },
            });
        }
    }

    fn on_done(
        &mut self,
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        if self.on_rewriting_done(ticket, &outcome, cx)? {
            return Ok(());
        }
        if let DiskOutcome::Backend(size) = outcome?
            && size != BackendSize::default()
        {
            self.size = size;
        }
        if self
            .installing
            .as_ref()
            .is_some_and(|installing| installing.ticket == Some(ticket))
        {
            return self.on_installed(cx);
        }
        let commit = self
            .commits
            .pop_front()
            .expect("a commit completed that nobody submitted");
        assert_eq!(commit.ticket, ticket, "commits complete in order");
        self.machine.committed()?;
        self.removals
            .on_committed(cx.now.since(commit.began), cx.now);
        self.rewriting.waste.pay(commit.bytes);
        self.rewriting.waste.weigh(self.size, cx.now);
        self.after_commit(commit, cx);
        self.maybe_install(cx);
        if self.cut_at.is_some_and(|cut_at| cut_at <= cx.now) {
            self.maybe_cut(cx);
        }
        Ok(())
    }

    fn after_commit(&mut self, commit: Commit, cx: &mut Context<'_, Mail>) {
        let Commit { meta, cut, .. } = commit;
        if let Some((revision, _)) = self.compaction_done.take_if(|(_, needed)| *needed <= cut) {
            let current = self.machine.store().revision();
            cx.tell(Mail::Frontend(FrontendInput::CompactionDone {
                revision,
                current,
            }));
        }
        if !mutant!("mark-before-commit") {
            self.offer_mark(meta, cx);
        }
        self.tell_load(cx);
    }

    /// Lets the log forget what the backend now holds, every `snapshot_count` entries.
    fn offer_mark(&mut self, meta: SnapshotMeta, cx: &mut Context<'_, Mail>) {
        let index = meta.id.index;
        let entries = self.marked.distance_to(index);
        let bytes_due = self.log_bytes.is_due();
        if entries == 0 || (entries < self.settings.snapshot_count && !bytes_due) {
            return;
        }
        self.marked = index;
        // A number of entries stays for slow members, but not more bytes than the bound.
        let by_count = index.back(self.settings.catchup_entries);
        let compact = by_count.max(self.log_bytes.mark()).min(index);
        self.log_bytes.compacted(compact);
        cx.tell(Mail::Consensus(ConsensusInput::Compact {
            mark: meta,
            compact,
        }));
    }

    // ---- timers ----

    /// When it wants `on_deadline`.
    pub fn deadline(&self) -> Option<Instant> {
        let reads = !self.ranges.is_empty() && self.installing.is_none();
        let busy = reads || !self.hashes.is_empty();
        let busy = busy.then_some(Instant::ZERO);
        let cut_at = self
            .cut_at
            .filter(|_| self.commits.len() < COMMITS_INFLIGHT_MAX);
        let compaction = self.slice_at();
        let rewriting = self.rewriting.deadline();
        let rewriting = rewriting.filter(|_| self.installing.is_none());
        [busy, cut_at, compaction, rewriting]
            .into_iter()
            .flatten()
            .min()
    }

    /// Cuts the batch, goes on with compaction, rewriting and hashing.
    pub fn on_deadline(&mut self, cx: &mut Context<'_, Mail>) {
        self.rewriting_goes_on(cx);
        let outcome = self
            .ranges_go_on(cx)
            .and_then(|()| self.hash_slice(cx))
            .and_then(|()| self.compaction_slice(cx));
        if let Err(fault) = outcome {
            cx.emit(Effect::Halt(fault));
            return;
        }
        if self.cut_at.is_some_and(|cut_at| cut_at <= cx.now)
            && self.commits.len() < COMMITS_INFLIGHT_MAX
        {
            self.cut(cx);
        }
    }

    /// Cuts what is open; part of a clean stop.
    pub fn finish(&mut self, cx: &mut Context<'_, Mail>) {
        self.cut(cx);
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        assert!(
            self.waiting.keys().next().is_none_or(|index| {
                *index > self.machine.applied_index() || self.installing.is_some()
            }),
            "a read waits for an index that is applied"
        );
        assert!(
            self.held.is_empty() || self.installing.is_some(),
            "entries are held although nothing is being installed"
        );
    }
}
