//! The network actor: one outgoing link per peer for what this member says, any number of incoming
//! ones for what it hears. The medium may lose; nobody here retries, raft and the callers do.
//!
//! Inputs: `PeersInput`. Timers: when to dial a peer again, when to tell removed members again,
//! when to measure round trips.
//! Invariants: at most one outgoing link or dial per peer; no outgoing link to a member that left;
//! nothing that a removed member says is heard.

mod quality;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use self::quality::Quality;
use super::{
    mail::{
        ConsensusInput, FrontendInput, IntegrityInput, Mail, PeerRequest, PeersInput,
        SnapshotsInput,
    },
    wire::{self, Frame},
};
use crate::{
    kernel::{
        ApiError, Context, Effect, Instant, LinkId, LinkOp, LogIndex, MemberId, Response,
        effect::{LogLevel, LogLine},
    },
    mutant,
    pb::fated::peer::{
        PeerCall, PeerMessage, PeerReply, Removed, StateHash, peer_call, peer_message::Body,
        peer_reply,
    },
};

/// First pause before a failed dial is repeated; it doubles up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Pause before a removed member is told again that it was.
const REMIND: Duration = Duration::from_secs(1);

/// The network actor.
#[derive(Debug)]
pub struct Peers {
    member: MemberId,
    peers: BTreeMap<MemberId, Peer>,
    incoming: BTreeMap<LinkId, MemberId>,
    /// Members that are gone for good: they are not heard, and told so.
    removed: BTreeSet<MemberId>,
    /// When removed members that are still connected are told again.
    remind_at: Option<Instant>,
    next_link: LinkId,
    /// When round trips are measured next.
    ping_at: Option<Instant>,
    pings: u64,
}

#[derive(Debug)]
struct Peer {
    urls: Vec<String>,
    state: State,
    backoff: Duration,
    /// Since when there is a link.
    up_since: Option<Instant>,
    /// Whether the operator has been told that the peer cannot be reached.
    complained: bool,
    quality: Quality,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Down { dial_at: Instant },
    Dialing(LinkId),
    Up(LinkId),
}

impl Peers {
    /// A network actor that knows no peers yet.
    pub fn new(member: MemberId) -> Self {
        Self {
            member,
            peers: BTreeMap::new(),
            incoming: BTreeMap::new(),
            removed: BTreeSet::new(),
            remind_at: None,
            next_link: LinkId::ZERO,
            ping_at: None,
            pings: 0,
        }
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: PeersInput, cx: &mut Context<'_, Mail>) {
        match input {
            PeersInput::LinkUp {
                link,
                peer,
                outgoing,
            } => {
                self.on_link_up(link, peer, outgoing, cx);
            }
            PeersInput::LinkDown { link, reason } => self.on_link_down(link, &reason, cx),
            PeersInput::Frame { link, bytes } => self.on_frame(link, bytes, cx),
            PeersInput::Raft(message) => {
                let to = message.to;
                if !self.send(to, wire::encode_raft(&message), cx) {
                    cx.tell(Mail::Consensus(ConsensusInput::Unreachable { peer: to }));
                }
            }
            PeersInput::SnapshotChunk { to, chunk } => {
                self.send_body(to, Body::SnapshotChunk(chunk), cx);
            }
            PeersInput::SnapshotAck { to, ack } => {
                self.send_body(to, Body::SnapshotAck(ack), cx);
            }
            PeersInput::StateHash { index, hash } => self.broadcast_hash(index, hash, cx),
            PeersInput::Call { to, id, request } => {
                let request = match request {
                    PeerRequest::KeepAlive(request) => peer_call::Request::KeepAlive(request),
                    PeerRequest::TimeToLive(request) => peer_call::Request::TimeToLive(request),
                    PeerRequest::Promote(request) => peer_call::Request::Promote(request),
                };
                self.send_body(
                    to,
                    Body::Call(PeerCall {
                        id,
                        request: Some(request),
                    }),
                    cx,
                );
            }
            PeersInput::Reply { to, id, result } => {
                self.send_body(to, Body::Reply(reply_to_wire(id, result)), cx);
            }
            PeersInput::Members { members, removed } => {
                self.removed.extend(removed);
                self.on_members(members, cx);
                self.remind(cx);
            }
            PeersInput::Reconfigure(mut wanted) => {
                let peers = self.peers.iter();
                let connected = peers.filter_map(|(id, peer)| Some((*id, peer.up_since?)));
                wanted.connected = connected.collect();
                cx.tell(Mail::Consensus(ConsensusInput::Reconfigure(wanted)));
            }
        }
    }

    /// Links follow the member set: new members are dialed, removed ones are cut off.
    fn on_members(&mut self, members: Vec<(MemberId, Vec<String>)>, cx: &mut Context<'_, Mail>) {
        let wanted: BTreeMap<_, _> = members
            .into_iter()
            .filter(|(id, _)| *id != self.member)
            .collect();
        let gone: Vec<_> = self
            .peers
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            let peer = self.peers.remove(&id).expect("the key was just seen");
            if let State::Up(link) | State::Dialing(link) = peer.state {
                cx.emit(Effect::Link(LinkOp::Close { link }));
            }
        }
        for (id, urls) in wanted {
            let peer = self.peers.entry(id).or_insert_with(|| Peer {
                urls: Vec::new(),
                state: State::Down { dial_at: cx.now },
                backoff: BACKOFF_MIN,
                up_since: None,
                complained: false,
                quality: Quality::default(),
            });
            if peer.urls == urls {
                continue;
            }
            peer.urls = urls;
            peer.backoff = BACKOFF_MIN;
            // A link that stands may go on; what was tried in vain is tried at the new place.
            match peer.state {
                State::Up(_) => {}
                State::Down { .. } => peer.state = State::Down { dial_at: cx.now },
                State::Dialing(link) => {
                    cx.emit(Effect::Link(LinkOp::Close { link }));
                    peer.state = State::Down { dial_at: cx.now };
                }
            }
        }
        self.dial_due(cx);
    }

    fn dial_due(&mut self, cx: &mut Context<'_, Mail>) {
        for (id, peer) in &mut self.peers {
            if let State::Down { dial_at } = peer.state
                && dial_at <= cx.now
            {
                self.next_link = self.next_link.next();
                // Links that we dial have even numbers; the host gives odd ones to those it
                // accepts.
                let link = LinkId::new(self.next_link.get() * 2);
                peer.state = State::Dialing(link);
                let urls = peer.urls.clone();
                cx.emit(Effect::Link(LinkOp::Dial {
                    link,
                    peer: *id,
                    urls,
                }));
            }
        }
    }

    fn on_link_up(
        &mut self,
        link: LinkId,
        peer: MemberId,
        outgoing: bool,
        cx: &mut Context<'_, Mail>,
    ) {
        if !outgoing {
            self.incoming.insert(link, peer);
            if self.removed.contains(&peer) && !mutant!("removed-member-heard") {
                tell_removed(link, peer, cx);
                self.remind_at.get_or_insert(cx.now.after(REMIND));
            }
            return;
        }
        match self.peers.get_mut(&peer) {
            Some(known) if known.state == State::Dialing(link) => {
                known.state = State::Up(link);
                known.backoff = BACKOFF_MIN;
                known.up_since = Some(cx.now);
                known.complained = false;
                self.ping_at.get_or_insert(cx.now);
                log(
                    cx,
                    LogLevel::Info,
                    "established TCP streaming connection with remote peer",
                    peer,
                    "",
                );
            }
            Some(_) | None => cx.emit(Effect::Link(LinkOp::Close { link })),
        }
    }

    fn on_link_down(&mut self, link: LinkId, reason: &str, cx: &mut Context<'_, Mail>) {
        if self.incoming.remove(&link).is_some() {
            return;
        }
        let ours =
            |peer: &Peer| peer.state == State::Up(link) || peer.state == State::Dialing(link);
        let Some((id, peer)) = self.peers.iter_mut().find(|(_, peer)| ours(peer)) else {
            return;
        };
        // A little disorder, so that members which lost each other do not dial in step for ever.
        let jitter = Duration::from_millis(cx.entropy.below(25));
        peer.state = State::Down {
            dial_at: cx.now.after(peer.backoff + jitter),
        };
        peer.backoff = peer.backoff.saturating_mul(2).min(BACKOFF_MAX);
        peer.quality.lost += u64::from(peer.up_since.take().is_some());
        let id = *id;
        if !std::mem::replace(&mut peer.complained, true) {
            log(
                cx,
                LogLevel::Warn,
                "lost TCP streaming connection with remote peer",
                id,
                reason,
            );
        }
        cx.tell(Mail::Consensus(ConsensusInput::Unreachable { peer: id }));
    }

    fn on_frame(&mut self, link: LinkId, bytes: Bytes, cx: &mut Context<'_, Mail>) {
        let Some(from) = self.other_end(link) else {
            return;
        };
        // A link's other end is proven, so nobody can be removed in another's name.
        if self.removed.contains(&from) && !mutant!("removed-member-heard") {
            let only_probes = mutant!("silent-member-not-told") && is_probe(bytes);
            if !only_probes {
                tell_removed(link, from, cx);
            }
            return;
        }
        match wire::decode(bytes) {
            // A message under another member's name is a forgery or a mix-up; either way not ours.
            Some(Frame::Raft(message)) if message.from == from && message.to == self.member => {
                cx.tell(Mail::Consensus(ConsensusInput::Step(message)));
            }
            Some(Frame::Raft(_)) => self.garbled(from),
            Some(Frame::Peer(message)) => match message.body {
                Some(body @ (Body::Ping(_) | Body::Pong(_))) => {
                    self.on_sign_of_life(from, &body, cx);
                }
                Some(body) => deliver(self.member, from, body, cx),
                None => {}
            },
            None => {
                self.garbled(from);
                cx.emit(Effect::Link(LinkOp::Close { link }));
                if self.incoming.remove(&link).is_none() {
                    self.on_link_down(link, "an unknown message", cx);
                }
                log(
                    cx,
                    LogLevel::Warn,
                    "closed a link that sent an unknown message",
                    from,
                    "",
                );
            }
        }
    }

    fn garbled(&mut self, from: MemberId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.quality.received_failures += 1;
        }
    }

    fn send_body(&mut self, to: MemberId, body: Body, cx: &mut Context<'_, Mail>) {
        self.send(to, wire::encode_peer(&PeerMessage { body: Some(body) }), cx);
    }

    /// Sends if it can; says whether this member has a link of its own to the peer.
    fn send(&mut self, to: MemberId, bytes: Bytes, cx: &mut Context<'_, Mail>) -> bool {
        let state = self.peers.get(&to).map(|peer| peer.state);
        if let Some(State::Up(link)) = state {
            cx.emit(Effect::Link(LinkOp::Send { link, bytes }));
            return true;
        }
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.quality.sent_failures += 1;
        }
        // Whoever could reach us hears us on its own link: a member that joins or has moved may
        // know its leader's address no better than this.
        let mut known = self.incoming.iter().rev();
        if let Some((link, _)) = known.find(|(_, peer)| **peer == to)
            && !self.removed.contains(&to)
        {
            let link = *link;
            cx.emit(Effect::Link(LinkOp::Send { link, bytes }));
        }
        false
    }

    /// Tells removed members that are still connected, again and again, because nothing that is
    /// said here is sure to be heard, and some of them would wait silently for ever.
    fn remind(&mut self, cx: &mut Context<'_, Mail>) {
        if mutant!("removed-member-heard") || mutant!("silent-member-not-told") {
            self.remind_at = None;
            return;
        }
        let removed = &self.removed;
        let connected = self.incoming.iter();
        let connected = connected.filter(|(_, peer)| removed.contains(peer));
        self.remind_at = None;
        for (link, peer) in connected {
            tell_removed(*link, *peer, cx);
            self.remind_at = Some(cx.now.after(REMIND));
        }
    }

    /// Who is at the other end of a link that is up.
    fn other_end(&self, link: LinkId) -> Option<MemberId> {
        let dialled = |peer: &Peer| peer.state == State::Up(link);
        let ours = || self.peers.iter().find(|(_, peer)| dialled(peer));
        let incoming = self.incoming.get(&link).copied();
        incoming.or_else(|| ours().map(|(id, _)| *id))
    }

    fn broadcast_hash(&mut self, index: LogIndex, hash: u64, cx: &mut Context<'_, Mail>) {
        let body = Body::StateHash(StateHash {
            index: index.get(),
            hash,
        });
        let frame = wire::encode_peer(&PeerMessage { body: Some(body) });
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, frame.clone(), cx);
        }
    }

    /// When to dial next, or to tell removed members.
    pub fn deadline(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|peer| match peer.state {
                State::Down { dial_at } => Some(dial_at),
                State::Dialing(_) | State::Up(_) => None,
            })
            .chain(self.remind_at)
            .chain(self.ping_at)
            .min()
    }

    /// Dials who is due.
    pub fn on_deadline(&mut self, cx: &mut Context<'_, Mail>) {
        self.dial_due(cx);
        if self.remind_at.is_some_and(|at| at <= cx.now) {
            self.remind(cx);
        }
        if self.ping_at.is_some_and(|at| at <= cx.now) {
            self.ping(cx);
        }
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        assert!(
            !self.peers.contains_key(&self.member),
            "a member has no link to itself"
        );
    }
}

/// Whether a frame only asks or tells that its sender is there.
fn is_probe(bytes: Bytes) -> bool {
    match wire::decode(bytes) {
        Some(Frame::Peer(message)) => {
            matches!(message.body, Some(Body::Ping(_) | Body::Pong(_)))
        }
        Some(Frame::Raft(_)) | None => false,
    }
}

/// Tells a member that it was removed, on the link it came by.
fn tell_removed(link: LinkId, peer: MemberId, cx: &mut Context<'_, Mail>) {
    let body = Body::Removed(Removed { member: peer.get() });
    let bytes = wire::encode_peer(&PeerMessage { body: Some(body) });
    cx.emit(Effect::Link(LinkOp::Send { link, bytes }));
}

fn deliver(member: MemberId, from: MemberId, body: Body, cx: &mut Context<'_, Mail>) {
    let mail = match body {
        Body::Removed(removed) if removed.member == member.get() => {
            Mail::Frontend(FrontendInput::Removed { told: true })
        }
        Body::Removed(_) | Body::Ping(_) | Body::Pong(_) => return,
        Body::SnapshotChunk(chunk) => Mail::Snapshots(SnapshotsInput::Chunk { from, chunk }),
        Body::SnapshotAck(ack) => Mail::Snapshots(SnapshotsInput::Ack { from, ack }),
        Body::StateHash(report) => Mail::Integrity(IntegrityInput::Report {
            from,
            index: LogIndex::new(report.index),
            hash: report.hash,
        }),
        Body::Call(call) => {
            let request = match call.request {
                Some(peer_call::Request::KeepAlive(request)) => PeerRequest::KeepAlive(request),
                Some(peer_call::Request::TimeToLive(request)) => PeerRequest::TimeToLive(request),
                Some(peer_call::Request::Promote(request)) => PeerRequest::Promote(request),
                None => return,
            };
            Mail::Frontend(FrontendInput::PeerCall {
                from,
                id: call.id,
                request,
            })
        }
        Body::Reply(reply) => {
            let id = reply.id;
            let Some(result) = reply_from_wire(reply) else {
                return;
            };
            Mail::Frontend(FrontendInput::PeerReply { id, result })
        }
    };
    cx.tell(mail);
}

fn reply_to_wire(id: u64, result: Result<Response, ApiError>) -> PeerReply {
    match result {
        Ok(Response::LeaseKeepAlive(response)) => {
            let response = Some(peer_reply::Response::KeepAlive(response));
            PeerReply {
                id,
                error: 0,
                response,
            }
        }
        Ok(Response::LeaseTimeToLive(response)) => {
            let response = Some(peer_reply::Response::TimeToLive(response));
            PeerReply {
                id,
                error: 0,
                response,
            }
        }
        Ok(Response::MemberPromote(response)) => {
            let response = Some(peer_reply::Response::Promote(response));
            PeerReply {
                id,
                error: 0,
                response,
            }
        }
        Ok(other) => unreachable!("peers are never asked for {other:?}"),
        Err(error) => PeerReply {
            id,
            error: error.number(),
            response: None,
        },
    }
}

fn reply_from_wire(reply: PeerReply) -> Option<Result<Response, ApiError>> {
    if reply.error != 0 {
        // An error we do not know comes from a newer member; the caller may simply try again.
        return Some(Err(
            ApiError::from_number(reply.error).unwrap_or(ApiError::Timeout)
        ));
    }
    Some(Ok(match reply.response? {
        peer_reply::Response::KeepAlive(response) => Response::LeaseKeepAlive(response),
        peer_reply::Response::TimeToLive(response) => Response::LeaseTimeToLive(response),
        peer_reply::Response::Promote(response) => Response::MemberPromote(response),
    }))
}

fn log(cx: &mut Context<'_, Mail>, level: LogLevel, message: &str, peer: MemberId, reason: &str) {
    let mut fields = vec![("remote-peer-id", format!("{:x}", peer.get()))];
    if !reason.is_empty() {
        fields.push(("error", reason.to_owned()));
    }
    cx.emit(Effect::Log(LogLine {
        level,
        caller: "node/peers.rs",
        message: message.to_owned(),
        fields,
    }));
}
