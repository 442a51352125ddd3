//! What the applier counts: operations, keys, leases, compactions, and how long things took.
//!
//! Time stands still within a step, so what happens in one step is noted, and `on_stepped` brings
//! how long the host saw that step take: that long at most each of them took, and that long whoever
//! asked waited for it. What spans several steps is measured by the steps' own time.
//! Nothing here is read by anything but `/metrics`.

use std::{collections::BTreeMap, time::Duration};

use super::Applier;
use crate::{
    apply::{Applied, StateMachine},
    backend::Backend,
    kernel::{
        ApiError, Instant, PartedTxn, Response, WallTime,
        figure::{Figure, Histogram, Scale, Sheet},
    },
    pb::{
        etcdserverpb::{AlarmMember, AlarmType, TxnResponse, response_op::Response as OpResponse},
        mvccpb::{Event, event::EventType},
    },
};

const APPLY: Scale = Scale::seconds(100, 20);
const HASH: Scale = Scale::seconds(10_000, 15);
const INDEX_PAUSE: Scale = Scale::milliseconds(500, 14);
const STORE_PAUSE: Scale = Scale::milliseconds(1000, 13);
const COMPACTION: Scale = Scale::milliseconds(100_000, 14);
const TTL: Scale = Scale::whole(1, 24);

/// The counters of the applier.
#[derive(Debug)]
pub(super) struct Meter {
    puts: u64,
    put_bytes: u64,
    deletes: u64,
    ranges: u64,
    txns: u64,
    /// Keys that exist.
    keys: u64,
    granted: u64,
    revoked: u64,
    renewed: u64,
    ttls: Histogram,
    applies: BTreeMap<(&'static str, bool), Histogram>,
    reads: BTreeMap<bool, Histogram>,
    slow_applies: u64,
    /// An entry whose step takes longer is slow.
    slow: Duration,
    hashes: Histogram,
    hashes_at: Histogram,
    removed: u64,
    compacting: Option<Instant>,
    compacted_at: WallTime,
    compactions: Histogram,
    index_pauses: Histogram,
    store_pauses: Histogram,
    step: Step,
}

/// What happened in the running step.
#[derive(Default, Debug)]
struct Step {
    applies: Vec<(&'static str, bool, u64)>,
    reads: [u64; 2],
    hashes: u64,
    slices: u64,
}

impl Meter {
    pub(super) fn new<B: Backend>(machine: &StateMachine<B>, slow: Duration) -> Self {
        Self {
            puts: 0,
            put_bytes: 0,
            deletes: 0,
            ranges: 0,
            txns: 0,
            keys: keys_of(machine),
            granted: 0,
            revoked: 0,
            renewed: 0,
            ttls: Histogram::new(TTL),
            applies: BTreeMap::new(),
            reads: [true, false]
                .map(|success| (success, Histogram::new(APPLY)))
                .into(),
            slow_applies: 0,
            slow,
            hashes: Histogram::new(HASH),
            hashes_at: Histogram::new(HASH),
            removed: 0,
            compacting: None,
            compacted_at: WallTime::default(),
            compactions: Histogram::new(COMPACTION),
            index_pauses: Histogram::new(INDEX_PAUSE),
            store_pauses: Histogram::new(STORE_PAUSE),
            step: Step::default(),
        }
    }

    /// An entry was applied, and the leases became more or fewer by it.
    pub(super) fn on_applied(&mut self, applied: &Applied, leases_before: usize, leases: usize) {
        let success = matches!(&applied.result, Ok(_) | Err(ApiError::Compacted));
        if let Some(op) = applied.op {
            let same = |(known, ok, _): &&mut (&str, bool, u64)| *known == op && *ok == success;
            match self.step.applies.iter_mut().find(same) {
                Some((_, _, count)) => *count += 1,
                None => self.step.applies.push((op, success, 1)),
            }
        }
        self.granted += leases.saturating_sub(leases_before) as u64;
        self.revoked += leases_before.saturating_sub(leases) as u64;
        for event in applied.revisions.iter().flat_map(|(_, events)| events) {
            self.on_event(event);
        }
        let Ok(response) = &applied.result else {
            return;
        };
        self.on_response(response);
        if let Response::LeaseGrant(grant) = response {
            self.ttls.add(grant.ttl.max(0).cast_unsigned(), 1);
        }
    }

    fn on_event(&mut self, event: &Event) {
        let Some(kv) = &event.kv else { return };
        match event.r#type() {
            EventType::Put => {
                self.puts += 1;
                self.put_bytes += (kv.key.len() + kv.value.len()) as u64;
                self.keys += u64::from(kv.version == 1);
            }
            EventType::Delete => self.keys = self.keys.saturating_sub(1),
        }
    }

    fn on_response(&mut self, response: &Response) {
        if let Response::Txn(txn) | Response::PartedTxn(PartedTxn { rest: txn, .. }) = response {
            self.txns += 1;
            self.on_txn(txn);
        }
        self.deletes += u64::from(matches!(response, Response::DeleteRange(_)));
        self.ranges += u64::from(matches!(
            response,
            Response::Range(_) | Response::PartedRange(_) | Response::RangeChunk(_)
        ));
    }

    fn on_txn(&mut self, txn: &TxnResponse) {
        for op in &txn.responses {
            match &op.response {
                Some(OpResponse::ResponseRange(_)) => self.ranges += 1,
                Some(OpResponse::ResponseDeleteRange(_)) => self.deletes += 1,
                Some(OpResponse::ResponseTxn(nested)) => self.on_txn(nested),
                Some(OpResponse::ResponsePut(_)) | None => {}
            }
        }
    }

    /// A read was answered.
    pub(super) fn on_read(&mut self, result: &Result<Response, ApiError>, is_range: bool) {
        if is_range {
            self.step.reads[usize::from(result.is_ok())] += 1;
        }
        if let Ok(response) = result {
            self.on_response(response);
            self.step.hashes += u64::from(matches!(response, Response::Hash(_)));
        }
    }

    pub(super) fn on_renewed(&mut self) {
        self.renewed += 1;
    }

    /// A hash of the history that took several steps is done.
    pub(super) fn on_hashed(&mut self, took: Duration) {
        self.hashes_at.took(took);
    }

    /// A slice of a compaction ran.
    pub(super) fn on_slice(&mut self, removed: u64, more: bool, now: Instant, wall: WallTime) {
        self.step.slices += 1;
        self.removed += removed;
        let began = *self.compacting.get_or_insert(now);
        if !more {
            self.compacting = None;
            self.compacted_at = wall;
            self.compactions.took(now.since(began));
        }
    }

    /// Another image is the state now.
    pub(super) fn on_installed<B: Backend>(&mut self, machine: &StateMachine<B>) {
        self.keys = keys_of(machine);
        self.compacting = None;
    }

    /// How long the step took in which all that was noted happened.
    pub(super) fn on_stepped(&mut self, took: Duration) {
        for (op, success, count) in self.step.applies.drain(..) {
            let known = self.applies.entry((op, success));
            let histogram = known.or_insert_with(|| Histogram::new(APPLY));
            histogram.took_each(took, count);
            if took > self.slow {
                self.slow_applies += count;
            }
        }
        let Step {
            reads,
            hashes,
            slices,
            ..
        } = std::mem::take(&mut self.step);
        for (success, histogram) in &mut self.reads {
            histogram.took_each(took, reads[usize::from(*success)]);
        }
        self.hashes.took_each(took, hashes);
        self.index_pauses.took_each(took, slices);
        self.store_pauses.took_each(took, slices);
    }

    fn figures(&self, sheet: &mut Sheet) {
        let help = "Ranges read by clients of this member and by applied transactions.";
        sheet.counter("etcd_mvcc_range_total", self.ranges, help);
        sheet.counter(
            "etcd_mvcc_put_total",
            self.puts,
            "Keys put by applied requests.",
        );
        let help = "Deletions carried out by applied requests.";
        sheet.counter("etcd_mvcc_delete_total", self.deletes, help);
        let help = "Transactions applied or read by this member.";
        sheet.counter("etcd_mvcc_txn_total", self.txns, help);
        let help = "Keys that exist now.";
        sheet.gauge("etcd_debugging_mvcc_keys_total", self.keys, help);
        let name = "etcd_debugging_mvcc_total_put_size_in_bytes";
        sheet.gauge(
            name,
            self.put_bytes,
            "Bytes of keys and values put since the start.",
        );
        let help = "Leases granted.";
        sheet.counter("etcd_debugging_lease_granted_total", self.granted, help);
        let help = "Leases ended, by clients or because they ran out.";
        sheet.counter("etcd_debugging_lease_revoked_total", self.revoked, help);
        let help = "Leases renewed by this member as the leader.";
        sheet.counter("etcd_debugging_lease_renewed_total", self.renewed, help);
        let help = "Times to live of granted leases, in seconds.";
        sheet.histogram("etcd_debugging_lease_ttl_total", &self.ttls, help);
        self.durations(sheet);
        self.compaction(sheet);
    }

    fn durations(&self, sheet: &mut Sheet) {
        for ((op, success), histogram) in &self.applies {
            let labels = vec![
                ("version", "v3".to_owned()),
                ("op", (*op).to_owned()),
                ("success", success.to_string()),
            ];
            let figure = Figure::Histogram(histogram.clone());
            let help = "How long the step took in which a request was applied.";
            sheet.add("etcd_server_apply_duration_seconds", labels, figure, help);
        }
        for (success, histogram) in &self.reads {
            let labels = vec![("success", success.to_string())];
            let figure = Figure::Histogram(histogram.clone());
            let help = "How long the step took in which a range was read.";
            sheet.add("etcd_server_range_duration_seconds", labels, figure, help);
        }
        let help = "Requests whose application took longer than --warning-apply-duration.";
        sheet.counter("etcd_server_slow_apply_total", self.slow_applies, help);
        let help = "How long hashing the whole store took.";
        sheet.histogram("etcd_mvcc_hash_duration_seconds", &self.hashes, help);
        let help = "How long hashing the history up to a revision took.";
        sheet.histogram("etcd_mvcc_hash_rev_duration_seconds", &self.hashes_at, help);
    }

    fn compaction(&self, sheet: &mut Sheet) {
        let name = "etcd_debugging_mvcc_db_compaction_keys_total";
        sheet.counter(name, self.removed, "Records removed by compactions.");
        let name = "etcd_debugging_mvcc_db_compaction_last";
        let help = "When the last compaction ended, in seconds since 1970; 0 before the first.";
        sheet.gauge(name, self.compacted_at.as_secs(), help);
        let name = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds";
        let help = "How long compactions took from their first slice to their last.";
        sheet.histogram(name, &self.compactions, help);
        let name = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds";
        let help = "How long other work waited for a slice of a compaction.";
        sheet.histogram(name, &self.store_pauses, help);
        let name = "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds";
        sheet.histogram(name, &self.index_pauses, help);
    }
}

fn keys_of<B: Backend>(machine: &StateMachine<B>) -> u64 {
    // A zero byte as both ends is every key there is; the present is never compacted.
    machine.store().count(b"\0", b"\0", 0).unwrap_or_default()
}

impl<B: Backend> Applier<B> {
    /// How long the host saw the last step take.
    pub fn on_stepped(&mut self, took: Duration) {
        self.meter.on_stepped(took);
    }

    /// What the applier counts, and what the state shows.
    pub fn figures(&self, sheet: &mut Sheet) {
        self.meter.figures(sheet);
        let machine = &self.machine;
        let applied = machine.applied_index().get();
        let help = "Index of the last log entry that was applied.";
        sheet.gauge("etcd_server_proposals_applied_total", applied, help);
        let help = "Bytes of the store's file, free pages included.";
        sheet.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            self.size.file_bytes,
            help,
        );
        let name = "etcd_mvcc_db_total_size_in_use_in_bytes";
        sheet.gauge(
            name,
            self.size.used_bytes,
            "Bytes of the store's pages that hold data.",
        );
        let help = "The space quota in bytes; 0 is none.";
        let quota = u64::try_from(self.settings.quota_bytes).unwrap_or(0);
        sheet.gauge("etcd_server_quota_backend_bytes", quota, help);
        let revision = machine.store().revision().cast_unsigned();
        let help = "The store's revision.";
        sheet.gauge("etcd_debugging_mvcc_current_revision", revision, help);
        let compacted = machine.store().compact_revision().max(0).cast_unsigned();
        let help = "The revision of the last compaction; 0 before the first.";
        sheet.gauge("etcd_debugging_mvcc_compact_revision", compacted, help);
        let help = "1 while an image from the leader becomes the state, else 0.";
        let installing = u64::from(self.installing.is_some());
        sheet.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            installing,
            help,
        );
        let help = "1 while the store's file is being rewritten, else 0.";
        let defragmenting = u64::from(self.rewriting.runs());
        sheet.gauge("etcd_disk_defrag_inflight", defragmenting, help);
        if let Some(version) = machine.cluster().cluster_version() {
            // The version of a cluster has no patch level.
            let version = version.to_string();
            let shown = version.rsplit_once('.').map_or("", |(shown, _)| shown);
            let labels = vec![("cluster_version", shown.to_owned())];
            let help = "1 for the version of the cluster.";
            sheet.add("etcd_cluster_version", labels, Figure::Gauge(1), help);
        }
        for AlarmMember { member_id, alarm } in machine.alarms().list(AlarmType::None as i32) {
            let kind = AlarmType::try_from(alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
            let labels = vec![
                ("server_id", format!("{member_id:x}")),
                ("alarm_type", kind.to_owned()),
            ];
            let help = "1 for each alarm of a member.";
            sheet.add(
                "etcd_debugging_server_alarms",
                labels,
                Figure::Gauge(1),
                help,
            );
        }
    }
}
