//! What is counted about images on their way. Nothing here is read by anything but `/metrics`.

use std::{collections::BTreeMap, time::Duration};

use super::Snapshots;
use crate::kernel::{
    Instant, MemberId,
    figure::{Figure, Histogram, Scale, Sheet},
};

const TRANSFER: Scale = Scale::seconds(100_000, 10);
const BACKUP: Scale = Scale::seconds(10_000, 17);

/// The counters of images.
#[derive(Debug)]
pub(super) struct Meter {
    sent: BTreeMap<MemberId, Transfers>,
    received: BTreeMap<MemberId, Transfers>,
    saved: Histogram,
    backups: Histogram,
}

/// Images to one member, or from one.
#[derive(Debug)]
struct Transfers {
    done: u64,
    failed: u64,
    took: Histogram,
    /// When the one that is on its way began.
    since: Option<Instant>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            done: 0,
            failed: 0,
            took: Histogram::new(TRANSFER),
            since: None,
        }
    }
}

impl Transfers {
    /// The one that is on its way ended; says how long it took if it went well.
    fn end(&mut self, ok: bool, now: Instant) -> Option<Duration> {
        let took = now.since(self.since.take()?);
        if !ok {
            self.failed += 1;
            return None;
        }
        self.done += 1;
        self.took.took(took);
        Some(took)
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            saved: Histogram::new(TRANSFER),
            backups: Histogram::new(BACKUP),
        }
    }
}

impl Meter {
    pub(super) fn on_send(&mut self, to: MemberId, now: Instant) {
        self.sent.entry(to).or_default().since = Some(now);
    }

    pub(super) fn on_sent(&mut self, to: MemberId, ok: bool, now: Instant) {
        self.sent.entry(to).or_default().end(ok, now);
    }

    pub(super) fn on_receive(&mut self, from: MemberId, now: Instant) {
        self.received.entry(from).or_default().since = Some(now);
    }

    /// An image is whole and durable, or was given up.
    pub(super) fn on_received(&mut self, from: MemberId, ok: bool, now: Instant) {
        if let Some(took) = self.received.entry(from).or_default().end(ok, now) {
            self.saved.took(took);
        }
    }

    /// A client has its backup, or does not want it any more.
    pub(super) fn on_backup(&mut self, took: Duration) {
        self.backups.took(took);
    }
}

impl Snapshots {
    /// What is counted about images.
    pub fn figures(&self, sheet: &mut Sheet) {
        let help = "How long clients took to read a backup of the store.";
        let name = "etcd_disk_backend_snapshot_duration_seconds";
        sheet.histogram(name, &self.meter.backups, help);
        let help = "How long it took until an image from the leader was whole and durable.";
        let name = "etcd_snap_db_save_total_duration_seconds";
        sheet.histogram(name, &self.meter.saved, help);
        // The present state is read through one snapshot; each pinned image is another.
        let help = "Read transactions of the store that are open.";
        let open = 1 + self.pinned.len() as u64 + self.sending.len() as u64;
        sheet.gauge("etcd_mvcc_db_open_read_transactions", open, help);
        transfers(sheet, &self.meter.sent, "To", &SEND);
        transfers(sheet, &self.meter.received, "From", &RECEIVE);
    }
}

/// The names of the figures of one direction: success, failures, on the way, duration.
type Names = [&'static str; 4];

const SEND: Names = [
    "etcd_network_snapshot_send_success",
    "etcd_network_snapshot_send_failures",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_network_snapshot_send_total_duration_seconds",
];
const RECEIVE: Names = [
    "etcd_network_snapshot_receive_success",
    "etcd_network_snapshot_receive_failures",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_receive_total_duration_seconds",
];

fn transfers(
    sheet: &mut Sheet,
    all: &BTreeMap<MemberId, Transfers>,
    label: &'static str,
    names: &Names,
) {
    for (id, transfers) in all {
        let labels = || vec![(label, format!("{:x}", id.get()))];
        let [success, failures, inflight, duration] = *names;
        let done = Figure::Counter(transfers.done);
        sheet.add(success, labels(), done, "Images that arrived whole.");
        let failed = Figure::Counter(transfers.failed);
        sheet.add(failures, labels(), failed, "Images that did not arrive.");
        let underway = Figure::Gauge(u64::from(transfers.since.is_some()));
        sheet.add(inflight, labels(), underway, "Images on their way.");
        let took = Figure::Histogram(transfers.took.clone());
        sheet.add(
            duration,
            labels(),
            took,
            "How long images were on their way.",
        );
    }
}
