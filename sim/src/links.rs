//! The network between members, at the level of frames: what is lost, late, double, overtaken or
//! damaged, and who cannot see whom.
//!
//! A link is two ends. An end whose other end is gone is half open: its owner learns of it when
//! the peer's machine answers, that is at once after a kill, on its next word after a reboot, and
//! not at all through a partition.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fated::{
    kernel::{ClusterId, Entropy, Event, LinkId, LinkOp, MemberId},
    node::wire as frames,
    pb::fated::peer::peer_message::Body,
};

use crate::{
    draw,
    plan::NetworkPlan,
    world::{Item, Member, World},
};

mod hostile;
pub use hostile::Replay;

/// Bytes arrive no later than this after they were sent; a queue that grows longer drops them.
const QUEUE_NANOS_MAX: u64 = 5_000_000_000;

/// What stands between two members: the kind of partition, and whether it holds what it stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// The counter of what it stops.
    pub kind: &'static str,
    /// Whether what it stops arrives when it ends.
    pub hold: bool,
}

/// State of the network.
#[derive(Debug)]
pub struct Network {
    /// Settings of the moment.
    pub quality: NetworkPlan,
    entropy: Entropy,
    /// The partitions that stand in the way from one member to another.
    blocked: BTreeMap<(usize, usize), Vec<Barrier>>,
    /// Members to which at most so many bytes go in a millisecond.
    pub slow: BTreeMap<usize, u64>,
    /// Members whose next link that carries an image breaks.
    pub break_image: BTreeSet<usize>,
    ends: BTreeMap<(usize, LinkId), End>,
    held: Vec<Flight>,
    accepted: u64,
}

#[derive(Clone, Copy, Debug)]
struct End {
    peer: usize,
    link: LinkId,
    /// When the last frame that keeps its place arrives at the peer.
    last_arrival: u64,
    /// Frames sent from here.
    sent: u64,
    /// The last frame that arrived here.
    arrived: u64,
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    from: usize,
    to: usize,
    link: LinkId,
    bytes: Bytes,
    number: u64,
    again: bool,
}

impl Network {
    /// A network without links.
    pub fn new(quality: NetworkPlan, entropy: Entropy) -> Self {
        Self {
            quality,
            entropy,
            blocked: BTreeMap::new(),
            slow: BTreeMap::new(),
            break_image: BTreeSet::new(),
            ends: BTreeMap::new(),
            held: Vec::new(),
            accepted: 0,
        }
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Whether there is a whole link on which one member's words reach another, with nothing in the
    /// way and nothing before them that arrives only after `limit`.
    pub fn hears(&self, from: usize, to: usize, limit: u64) -> bool {
        let first = (from, LinkId::ZERO);
        let last = (from, LinkId::new(u64::MAX));
        let mut ends = self.ends.range(first..=last);
        let whole = ends.any(|(_, end)| {
            let reaches = end.peer == to && self.ends.contains_key(&(to, end.link));
            reaches && end.last_arrival <= limit
        });
        whole && !self.is_blocked(from, to)
    }

    fn holds(&self, from: usize, to: usize) -> bool {
        self.blocked
            .get(&(from, to))
            .is_some_and(|barriers| barriers.iter().all(|barrier| barrier.hold))
    }

    fn delay(&mut self) -> u64 {
        let quality = &self.quality;
        (quality.delay_us + self.entropy.below(quality.jitter_us + 1)) * 1000
    }

    /// How long a member's words take to a client.
    pub fn client_delay(&mut self) -> u64 {
        self.delay()
    }

    /// Whether a client's word gets lost.
    pub fn loses_client(&mut self) -> bool {
        draw::chance(self.quality.client_loss_ppm, &mut self.entropy)
    }
}

impl World {
    /// Puts a partition between two members, in one direction.
    pub fn block(&mut self, from: usize, to: usize, barrier: Barrier) {
        let barriers = self.network.blocked.entry((from, to)).or_default();
        barriers.push(barrier);
    }

    /// Takes a partition away again; what it held goes on its way.
    pub fn unblock(&mut self, from: usize, to: usize, barrier: Barrier) {
        if let Some(barriers) = self.network.blocked.get_mut(&(from, to)) {
            let place = barriers.iter().position(|other| *other == barrier);
            barriers.swap_remove(place.expect("it was put there"));
            if barriers.is_empty() {
                self.network.blocked.remove(&(from, to));
                self.release(from, to);
            }
        }
    }

    fn release(&mut self, from: usize, to: usize) {
        let held = std::mem::take(&mut self.network.held);
        let (gone, kept) = held
            .into_iter()
            .partition(|flight| (flight.from, flight.to) == (from, to));
        self.network.held = kept;
        for flight in gone {
            self.counters.hit("network: held frame delivered late");
            let delay = self.network.delay();
            self.after(delay, Item::Frame(flight));
        }
    }

    /// Does what a member asks of the network.
    pub fn execute_link(&mut self, at: usize, op: LinkOp) {
        match op {
            LinkOp::Dial {
                link, peer, urls, ..
            } => {
                let url = urls.into_iter().next().unwrap_or_default();
                let boot = self.members[at].boot;
                let delay = self.network.delay();
                self.after(
                    delay,
                    Item::Dial {
                        from: at,
                        boot,
                        link,
                        peer,
                        url,
                    },
                );
            }
            LinkOp::Send { link, bytes } => self.send(at, link, bytes),
            LinkOp::Close { link } => {
                if let Some(end) = self.network.ends.remove(&(at, link)) {
                    self.tell_reset(at, end);
                }
            }
        }
    }

    /// A dial arrives.
    pub fn on_dial(&mut self, (from, boot): (usize, u64), link: LinkId, peer: MemberId, url: &str) {
        if self.members[from].boot != boot || !self.members[from].up {
            return;
        }
        let back = self.network.delay();
        let answers = |member: &Member| member.url == url && member.standing.runs();
        let Some(to) = self.members.iter().position(answers) else {
            self.event_after(back, from, link_down(link, "nobody listens there"));
            return;
        };
        if self.members[to].id != peer && self.members[to].up {
            self.event_after(back, from, link_down(link, "another member answers"));
            return;
        }
        let blocked = self.network.is_blocked(from, to) || self.network.is_blocked(to, from);
        if blocked || !self.members[to].powered {
            let patience = self.plan.cluster.election_ms * 1_000_000;
            self.event_after(patience, from, link_down(link, "no answer in time"));
            return;
        }
        if !self.members[to].up {
            self.event_after(back, from, link_down(link, "refused"));
            return;
        }
        if let Some(refusal) = self.greet(from, to) {
            self.event_after(2 * back, from, link_down(link, refusal));
            return;
        }
        self.network.accepted += 1;
        // Links that members dial are even.
        let other = LinkId::new(self.network.accepted * 2 + 1);
        let end = |peer, link| End {
            peer,
            link,
            last_arrival: 0,
            sent: 0,
            arrived: 0,
        };
        self.network.ends.insert((from, link), end(to, other));
        self.network.ends.insert((to, other), end(from, link));
        let (ours, theirs) = (self.members[from].id, self.members[to].id);
        let (up_from, up_to) = (
            Event::LinkUp {
                link,
                peer: theirs,
                outgoing: true,
            },
            Event::LinkUp {
                link: other,
                peer: ours,
                outgoing: false,
            },
        );
        self.event_after(0, to, up_to);
        self.event_after(back, from, up_from);
    }

    fn send(&mut self, from: usize, link: LinkId, bytes: Bytes) {
        let Some(end) = self.network.ends.get(&(from, link)).copied() else {
            return;
        };
        if let Err(violation) = self.observer.on_frame(&bytes, &mut self.counters) {
            self.fail(violation);
        }
        let to = end.peer;
        self.follow_transfers(from, to, &bytes);
        let flight = Flight {
            from,
            to,
            link: end.link,
            bytes,
            number: end.sent + 1,
            again: false,
        };
        if let Some(end) = self.network.ends.get_mut(&(from, link)) {
            end.sent += 1;
        }
        if self.network.is_blocked(from, to) {
            return self.stop(flight);
        }
        if self.breaks_image(&flight) {
            return self.break_link(from, link);
        }
        if !self.network.ends.contains_key(&(to, end.link)) {
            // Half open: the peer's machine says so, if it can.
            if self.members[to].powered && !self.network.is_blocked(to, from) {
                let delay = 2 * self.network.delay();
                self.after(delay, Item::Reset { at: from, link });
            }
            return;
        }
        self.fly(end, (from, link), flight);
    }

    /// A partition stands in the way of a frame.
    fn stop(&mut self, flight: Flight) {
        let (from, to) = (flight.from, flight.to);
        for barrier in &self.network.blocked[&(from, to)] {
            self.counters.hit(barrier.kind);
        }
        if !self.network.is_blocked(to, from) {
            self.counters.hit("network: frame blocked one way only");
        }
        if self.network.holds(from, to) {
            self.counters.hit("network: frame held by a partition");
            self.network.held.push(flight);
        } else {
            self.counters.hit("network: frame blocked by a partition");
        }
    }

    /// Whether a frame is a piece of an image on a link that is to break there.
    fn breaks_image(&mut self, flight: &Flight) -> bool {
        let armed = &mut self.network.break_image;
        let hit = [flight.from, flight.to]
            .into_iter()
            .find(|at| armed.contains(at));
        let Some(at) = hit else {
            return false;
        };
        let Some(frames::Frame::Peer(message)) = frames::decode(flight.bytes.clone()) else {
            return false;
        };
        let hit = matches!(message.body, Some(Body::SnapshotChunk(_)));
        if hit {
            armed.remove(&at);
            self.counters.hit("network: link reset within an image");
        }
        hit
    }

    fn fly(&mut self, end: End, own: (usize, LinkId), flight: Flight) {
        let quality = self.network.quality.clone();
        if self.harm(&flight) {
            return self.break_link(own.0, own.1);
        }
        let entropy = &mut self.network.entropy;
        if draw::chance(quality.loss_ppm, entropy) {
            self.counters.hit("network: frame lost");
            return;
        }
        if draw::chance(quality.duplicate_ppm, entropy) {
            let again = self.network.delay() * self.network.entropy.between(1, 50);
            let twin = Flight {
                again: true,
                ..flight.clone()
            };
            self.after(again, Item::Frame(twin));
        }
        let overtaken = draw::chance(quality.reorder_ppm, &mut self.network.entropy);
        let mut arrival = self.now + self.network.delay();
        if overtaken {
            arrival += self.network.delay() * self.network.entropy.between(1, 10);
        } else {
            arrival = arrival.max(end.last_arrival);
            if let Some(rate) = self.network.slow.get(&flight.to) {
                arrival += flight.bytes.len() as u64 * 1_000_000 / rate;
                self.counters.hit("network: frame slowed down");
            }
            if arrival > self.now + QUEUE_NANOS_MAX {
                self.counters.hit("network: frame dropped by a full queue");
                return;
            }
            if let Some(end) = self.network.ends.get_mut(&own) {
                end.last_arrival = arrival;
            }
        }
        self.at(arrival, Item::Frame(flight));
    }

    /// A frame arrives.
    pub fn on_flight(&mut self, flight: Flight) {
        let Flight {
            to, link, bytes, ..
        } = flight;
        if let Some(end) = self.network.ends.get_mut(&(to, link)) {
            if flight.again {
                self.counters.hit("network: frame delivered twice");
            } else if flight.number < end.arrived {
                self.counters.hit("network: frame overtaken");
            }
            end.arrived = end.arrived.max(flight.number);
            self.event_now(to, Event::Frame { link, bytes });
        }
    }

    /// News that the other end of a link is gone arrives.
    pub fn on_reset(&mut self, at: usize, link: LinkId) {
        if self.network.ends.remove(&(at, link)).is_some() {
            self.event_now(at, link_down(link, "reset by the peer"));
        }
    }

    /// Both ends of a link learn that it broke.
    fn break_link(&mut self, at: usize, link: LinkId) {
        if let Some(end) = self.network.ends.get(&(at, link)).copied() {
            let delay = self.network.delay();
            self.after(delay, Item::Reset { at, link });
            self.after(
                delay,
                Item::Reset {
                    at: end.peer,
                    link: end.link,
                },
            );
        }
    }

    /// Breaks every link of a member.
    pub fn reset_links(&mut self, at: usize) {
        for link in self.links_of(at) {
            self.counters.hit("network: link reset");
            self.break_link(at, link);
        }
    }

    /// A member is gone: its ends vanish, and where its machine can still speak, peers are told.
    pub fn drop_links(&mut self, at: usize) {
        for link in self.links_of(at) {
            let end = self.network.ends.remove(&(at, link)).expect("just listed");
            if self.members[at].powered {
                self.tell_reset(at, end);
            }
        }
        self.network.held.retain(|flight| flight.to != at);
    }

    fn links_of(&self, at: usize) -> Vec<LinkId> {
        let first = (at, LinkId::ZERO);
        let last = (at, LinkId::new(u64::MAX));
        let range = self.network.ends.range(first..=last);
        range.map(|((_, link), _)| *link).collect()
    }

    fn tell_reset(&mut self, from: usize, end: End) {
        if !self.network.is_blocked(from, end.peer) {
            let delay = self.network.delay();
            let (at, link) = (end.peer, end.link);
            self.after(delay, Item::Reset { at, link });
        }
    }
}

fn link_down(link: LinkId, reason: &str) -> Event {
    let reason = reason.to_owned();
    Event::LinkDown { link, reason }
}
