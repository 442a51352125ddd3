//! What is counted about responses of watch streams between the core and their client's connection.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, exponential_buckets};

use super::register;
use crate::pb::etcdserverpb::WatchResponse;

/// The figures of watch streams.
#[derive(Clone, Debug)]
pub struct WatchMeter {
    events: IntCounter,
    pending: IntGauge,
    responses: Histogram,
    per_event: Histogram,
    control: Histogram,
    progress: Histogram,
}

impl WatchMeter {
    pub(super) fn new(registry: &Registry) -> Self {
        let events = IntCounter::new(
            "etcd_debugging_mvcc_events_total",
            "Events handed to the connections of their clients.",
        );
        let pending = IntGauge::new(
            "etcd_debugging_mvcc_pending_events_total",
            "Events that wait for the connections of their clients.",
        );
        let histogram = |kind: &str, help| {
            let name = format!("etcd_debugging_server_watch_send_loop_{kind}_seconds");
            let buckets = exponential_buckets(0.001, 2.0, 14).expect("bounds that rise");
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets));
            register(registry, made.expect("the name is plain"))
        };
        Self {
            events: register(registry, events.expect("the name is plain")),
            pending: register(registry, pending.expect("the name is plain")),
            responses: histogram(
                "watch_stream_duration",
                "How long responses with events waited for the connection of their client.",
            ),
            per_event: histogram(
                "watch_stream_duration_per_event",
                "The same, divided by the number of events.",
            ),
            control: histogram(
                "control_stream_duration",
                "How long answers to watch requests waited for the connection of their client.",
            ),
            progress: histogram(
                "progress_duration",
                "How long progress notifications waited for the connection of their client.",
            ),
        }
    }

    /// The core has a response for a client.
    pub fn arrived(&self, response: &WatchResponse) {
        self.pending.add(events(response));
    }

    /// The response was never taken: the client is gone.
    pub fn lost(&self, response: &WatchResponse) {
        self.pending.sub(events(response));
    }

    /// The client's connection takes responses, the first of which has waited so long.
    pub fn taking(&self, waited: Duration) -> Taking<'_> {
        Taking {
            meter: self,
            waited: waited.as_secs_f64(),
            events: 0,
            single: 0,
        }
    }
}

/// Responses that are taken together. Each counts as having waited as long as the first.
#[derive(Debug)]
pub struct Taking<'a> {
    meter: &'a WatchMeter,
    waited: f64,
    events: u64,
    /// Responses with one event, which are most of many.
    single: u32,
}

impl Taking<'_> {
    /// One of them.
    pub fn add(&mut self, response: &WatchResponse) {
        let count = response.events.len();
        self.events += count as u64;
        if count == 1 {
            self.single += 1;
        } else if count > 0 {
            self.meter.responses.observe(self.waited);
            self.meter.per_event.observe(self.waited / count as f64);
        } else if response.created || response.canceled {
            self.meter.control.observe(self.waited);
        } else {
            self.meter.progress.observe(self.waited);
        }
    }

    /// That was all.
    pub fn end(self) {
        let meter = self.meter;
        meter
            .pending
            .sub(i64::try_from(self.events).unwrap_or(i64::MAX));
        meter.events.inc_by(self.events);
        for histogram in [&meter.responses, &meter.per_event] {
            if self.single == 1 {
                histogram.observe(self.waited);
            } else if self.single > 1 {
                // Counted apart and added at once.
                let several = histogram.local();
                (0..self.single).for_each(|_| several.observe(self.waited));
                several.flush();
            }
        }
    }
}

fn events(response: &WatchResponse) -> i64 {
    i64::try_from(response.events.len()).unwrap_or(i64::MAX)
}
