//! How well each peer is reached: round trips, failures, bytes are the host's to count.
//!
//! Every few seconds each peer is asked for a sign of life. What is measured is the way through
//! both event loops, so a member that is up and does not get round to anything shows as well.
//! Nothing here is read by anything but `/metrics`.

use std::time::Duration;

use super::{Peers, State};
use crate::{
    kernel::{
        Context, Instant, MemberId,
        figure::{Figure, Histogram, Scale, Sheet},
    },
    node::mail::Mail,
    pb::fated::peer::{Ping, Pong, peer_message::Body},
};

/// How often each peer is asked.
const PING_INTERVAL: Duration = Duration::from_secs(4);
const ROUND_TRIP: Scale = Scale::seconds(100, 16);

/// What is known about the way to one peer.
#[derive(Debug)]
pub(super) struct Quality {
    pub sent_failures: u64,
    pub received_failures: u64,
    pub lost: u64,
    round_trips: Histogram,
    /// The question that has no answer yet, and when it left.
    asked: Option<(u64, Instant)>,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            sent_failures: 0,
            received_failures: 0,
            lost: 0,
            round_trips: Histogram::new(ROUND_TRIP),
            asked: None,
        }
    }
}

impl Peers {
    /// Asks every peer there is a link to. A question that was not answered is forgotten.
    pub(super) fn ping(&mut self, cx: &mut Context<'_, Mail>) {
        self.ping_at = (!self.peers.is_empty()).then(|| cx.now.after(PING_INTERVAL));
        let connected = self.peers.iter().filter(|(_, peer)| peer.is_up());
        let connected: Vec<MemberId> = connected.map(|(id, _)| *id).collect();
        for id in connected {
            self.pings += 1;
            let number = self.pings;
            self.send_body(id, Body::Ping(Ping { number }), cx);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.quality.asked = Some((number, cx.now));
            }
        }
    }

    /// A peer asks, or answers.
    pub(super) fn on_sign_of_life(
        &mut self,
        from: MemberId,
        body: &Body,
        cx: &mut Context<'_, Mail>,
    ) {
        if let Body::Ping(Ping { number }) = body {
            let number = *number;
            self.send_body(from, Body::Pong(Pong { number }), cx);
        } else if let Body::Pong(Pong { number }) = body
            && let Some(peer) = self.peers.get_mut(&from)
        {
            let quality = &mut peer.quality;
            if let Some((_, left)) = quality.asked.take_if(|(asked, _)| asked == number) {
                quality.round_trips.took(cx.now.since(left));
            }
        }
    }

    /// What is counted about each peer.
    pub fn figures(&self, sheet: &mut Sheet) {
        let local = format!("{:x}", self.member.get());
        for (id, peer) in &self.peers {
            let remote = format!("{:x}", id.get());
            let quality = &peer.quality;
            let pair = || vec![("Local", local.clone()), ("Remote", remote.clone())];
            let to = |label: &'static str| vec![(label, remote.clone())];
            let help = "1 for each other member.";
            sheet.add("etcd_network_known_peers", pair(), Figure::Gauge(1), help);
            let up = Figure::Gauge(u64::from(peer.is_up()));
            let help = "1 for each other member that this one has a link to.";
            sheet.add("etcd_network_active_peers", pair(), up, help);
            let lost = Figure::Counter(quality.lost);
            let help = "Links to other members that ended.";
            sheet.add("etcd_network_disconnected_peers_total", pair(), lost, help);
            let failures = Figure::Counter(quality.sent_failures);
            let help = "Messages to another member that could not be sent.";
            sheet.add(
                "etcd_network_peer_sent_failures_total",
                to("To"),
                failures,
                help,
            );
            let failures = Figure::Counter(quality.received_failures);
            let help = "Messages of another member that were no messages.";
            let name = "etcd_network_peer_received_failures_total";
            sheet.add(name, to("From"), failures, help);
            let trips = Figure::Histogram(quality.round_trips.clone());
            let help = "How long a question to another member took to come back.";
            let name = "etcd_network_peer_round_trip_time_seconds";
            sheet.add(name, to("To"), trips, help);
        }
    }
}

impl super::Peer {
    fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }
}
