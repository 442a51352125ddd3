//! The figures of a member: what its actors count, written on one sheet for `/metrics`.
//!
//! They are of this moment and of this member, so nobody is asked and nothing waits.

use std::time::Duration;

use super::{Node, mail::Mail};
use crate::{
    backend::Backend,
    kernel::{
        CallId, Context, Effect, Response,
        figure::{Figure, Metric, Sheet},
    },
};

impl<B: Backend> Node<B> {
    /// Tells how long the host saw the last step take, which the step itself could not know.
    pub fn stepped(&mut self, took: Duration) {
        self.applier.on_stepped(took);
    }

    pub(super) fn show_figures(&self, call: CallId, cx: &mut Context<'_, Mail>) {
        let result = Ok(Response::Metrics(self.figures()));
        cx.emit(Effect::Reply { call, result });
    }

    /// Every figure of this member.
    pub fn figures(&self) -> Vec<Metric> {
        let mut sheet = Sheet::default();
        self.frontend.figures(&mut sheet);
        self.applier.figures(&mut sheet);
        self.peers.figures(&mut sheet);
        self.snapshots.figures(&mut sheet);
        let committed = self.consensus.raft().committed().get();
        let help = "Index of the last log entry that is known to be committed.";
        sheet.gauge("etcd_server_proposals_committed_total", committed, help);
        let late = self.consensus.late_heartbeats();
        let help = "Rounds of heartbeats that left late because something held this leader up.";
        sheet.counter("etcd_server_heartbeat_send_failures_total", late, help);
        let help = "Leases this member ended, as the leader, because they ran out.";
        let expired = self.leases.expired();
        sheet.counter("etcd_debugging_server_lease_expired_total", expired, help);
        let watches = self.watches.counters();
        let streams = watches.streams as u64;
        let name = "etcd_debugging_mvcc_watch_stream_total";
        sheet.gauge(name, streams, "Watch streams that are open.");
        let watchers = watches.watchers as u64;
        sheet.gauge(
            "etcd_debugging_mvcc_watcher_total",
            watchers,
            "Watches on them.",
        );
        let behind = watches.watchers_behind as u64;
        let help = "Watches that have history to read.";
        sheet.gauge("etcd_debugging_mvcc_slow_watcher_total", behind, help);
        // Nobody can change users or roles yet; a fresh auth store of etcd stands at one.
        let help = "The revision of users and roles.";
        sheet.gauge("etcd_debugging_auth_revision", 1, help);
        let labels = vec![("server_id", format!("{:x}", self.member.get()))];
        let help = "1 for the id of this member.";
        sheet.add("etcd_server_id", labels, Figure::Gauge(1), help);
        sheet.finish()
    }
}
