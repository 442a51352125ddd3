//! A small cluster of nodes on simulated time, disks and links, all fault-free but for what a test
//! does to it: enough to see that the actors are wired well. The simulator proper is another crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::*;
use crate::{
    backend::Memory,
    host::lanes::Lanes,
    kernel::{
        ApiError, CallId, ClusterId, Credentials, DiskOp, DiskOutcome, Fault, Lane, LinkId, LinkOp,
        Request, Response, SegmentId, StreamId, StreamItem, StreamRequest, Ticket,
    },
    pb::etcdserverpb as rpc,
    wal::Recovery,
};

const DISK_NANOS: u64 = 200_000;
const LINK_NANOS: u64 = 300_000;

#[derive(Default)]
struct Disk {
    segments: BTreeMap<SegmentId, Vec<u8>>,
    backend: Memory,
    lanes: Option<Lanes<Memory>>,
}

struct Member {
    id: MemberId,
    /// Whether it joined a running cluster, and whom it was told of.
    joined: Option<Vec<InitialMember>>,
    node: Option<Node<Memory>>,
    disk: Disk,
    boots: u64,
    stopped: Option<Fault>,
    ready: bool,
}

struct World {
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), (usize, u64, Event)>,
    members: Vec<Member>,
    config: NodeConfig,
    /// Link of a member -> the member and link at the other end.
    links: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    accepted: u64,
    replies: BTreeMap<CallId, Result<Response, ApiError>>,
    streams: Vec<(StreamId, StreamItem)>,
    calls: u64,
    cut_off: BTreeSet<usize>,
    /// How far each member's wall clock was set back.
    wall_behind: BTreeMap<usize, u64>,
    /// How long a defragmentation takes, and until when each backend lane is busy with one.
    rewriting_nanos: u64,
    busy_until: BTreeMap<usize, u64>,
}

fn id_of(member: usize) -> MemberId {
    MemberId::new(member as u64 + 1)
}

impl Member {
    fn new(id: MemberId, joined: Option<Vec<InitialMember>>) -> Self {
        Self {
            id,
            joined,
            node: None,
            disk: Disk::default(),
            boots: 0,
            stopped: None,
            ready: false,
        }
    }
}

impl World {
    fn new(size: usize, config: NodeConfig) -> Self {
        let initial_members = (0..size)
            .map(|member| InitialMember {
                id: id_of(member),
                name: format!("m{member}"),
                peer_urls: vec![format!("http://127.0.0.1:{member}")],
            })
            .collect();
        let config = NodeConfig {
            cluster: ClusterId::new(77),
            initial_members,
            ..config
        };
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            members: Vec::new(),
            config,
            links: BTreeMap::new(),
            accepted: 0,
            replies: BTreeMap::new(),
            streams: Vec::new(),
            calls: 0,
            cut_off: BTreeSet::new(),
            wall_behind: BTreeMap::new(),
            rewriting_nanos: 3 * DISK_NANOS,
            busy_until: BTreeMap::new(),
        };
        (0..size).for_each(|at| world.members.push(Member::new(id_of(at), None)));
        (0..size).for_each(|member| world.boot(member));
        world
    }

    fn boot(&mut self, at: usize) {
        let member = &mut self.members[at];
        let founders = &self.config.initial_members;
        let config = NodeConfig {
            member: member.id,
            name: format!("m{at}"),
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
            joining: member.joined.is_some(),
            initial_members: member.joined.as_ref().unwrap_or(founders).clone(),
            ..self.config.clone()
        };
        member.boots += 1;
        member.stopped = None;
        member.ready = false;
        let mut recovery = Recovery::new();
        for (segment, bytes) in &member.disk.segments {
            recovery.feed(*segment, bytes).expect("an undamaged log");
        }
        let backend = member.disk.backend.clone();
        let applied = boot::settle_image(&backend, recovery.mark()).expect("memory");
        let log = recovery.finish(applied).expect("an undamaged log");
        member.disk.lanes = Some(Lanes::new(backend.clone()));
        let entropy = Entropy::from_seed(at as u64 * 1000 + member.boots);
        match Node::boot(&config, log, backend, entropy) {
            Ok(node) => {
                member.node = Some(node);
                self.step(at, Vec::new());
            }
            Err(fault) => member.stopped = Some(fault),
        }
    }

    fn kill(&mut self, at: usize) {
        self.members[at].node = None;
        self.queue.retain(|_, (member, _, _)| *member != at);
        let gone: Vec<_> = self
            .links
            .iter()
            .filter(|((a, _), (b, _))| *a == at || *b == at)
            .map(|(end, other)| (*end, *other))
            .collect();
        for (end, _) in gone {
            self.links.remove(&end);
            if end.0 != at {
                let event = Event::LinkDown {
                    link: end.1,
                    reason: "reset".to_owned(),
                };
                self.schedule(end.0, LINK_NANOS, event);
            }
        }
    }

    fn schedule(&mut self, at: usize, after: u64, event: Event) {
        self.order += 1;
        let boot = self.members[at].boots;
        self.queue
            .insert((self.now + after, self.order), (at, boot, event));
    }

    fn step(&mut self, at: usize, mut events: Vec<Event>) {
        let mut effects = Vec::new();
        let behind = self.wall_behind.get(&at).copied().unwrap_or(0);
        let Some(node) = &mut self.members[at].node else {
            return;
        };
        node.step(
            Instant::from_nanos(self.now),
            WallTime::from_nanos(self.now - behind),
            &mut events,
            &mut effects,
        );
        node.check();
        for effect in effects {
            self.execute(at, effect);
        }
    }

    fn execute(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Disk { ticket, op } => {
                let event = Event::DiskDone {
                    ticket,
                    outcome: self.disk(at, &op),
                };
                let after = self.disk_nanos(at, &op);
                self.schedule(at, after, event);
            }
            Effect::Link(op) => self.link(at, op),
            Effect::Reply { call, result } => {
                assert!(
                    self.replies.insert(call, result).is_none(),
                    "a call is answered once"
                );
            }
            Effect::Stream { stream, item } => {
                let item = item.alone();
                if let StreamItem::Watch { bytes, .. } = &item {
                    let event = Event::StreamCredit {
                        stream,
                        bytes: *bytes,
                    };
                    self.schedule(at, 1000, event);
                }
                self.streams.push((stream, item));
            }
            Effect::Log(_) => {}
            Effect::Ready => self.members[at].ready = true,
            Effect::Halt(fault) => {
                self.members[at].stopped = Some(fault);
                self.kill(at);
            }
        }
    }

    fn disk(&mut self, at: usize, op: &DiskOp) -> Result<DiskOutcome, crate::kernel::DiskError> {
        let disk = &mut self.members[at].disk;
        match op {
            DiskOp::WalPrepare { segment, bytes } => {
                disk.segments
                    .insert(*segment, vec![0; usize::try_from(*bytes).unwrap()]);
                Ok(DiskOutcome::Done)
            }
            DiskOp::WalWrite {
                segment,
                offset,
                bytes,
                ..
            } => {
                let file = disk.segments.get_mut(segment).expect("a prepared segment");
                let offset = usize::try_from(*offset).unwrap();
                file[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(DiskOutcome::Done)
            }
            DiskOp::WalRemove { before } => {
                disk.segments.retain(|segment, _| segment >= before);
                Ok(DiskOutcome::Done)
            }
            op => disk.lanes.as_mut().expect("booted").execute(op),
        }
    }

    fn link(&mut self, at: usize, op: LinkOp) {
        match op {
            LinkOp::Dial { link, peer, urls } => {
                let to = urls[0].rsplit_once(':').and_then(|(_, at)| at.parse().ok());
                let to: usize = to.expect("addresses end in the member's place");
                let cut = self.cut_off.contains(&at) || self.cut_off.contains(&to);
                let target = self.members.get(to).filter(|target| target.id == peer);
                if target.is_none_or(|target| target.node.is_none()) || cut {
                    let event = Event::LinkDown {
                        link,
                        reason: "refused".to_owned(),
                    };
                    self.schedule(at, LINK_NANOS, event);
                    return;
                }
                self.accepted += 1;
                let other = LinkId::new(self.accepted * 2 + 1);
                self.links.insert((at, link), (to, other));
                self.links.insert((to, other), (at, link));
                self.schedule(
                    at,
                    LINK_NANOS,
                    Event::LinkUp {
                        link,
                        peer,
                        outgoing: true,
                    },
                );
                let peer = self.members[at].id;
                let event = Event::LinkUp {
                    link: other,
                    peer,
                    outgoing: false,
                };
                self.schedule(to, LINK_NANOS / 2, event);
            }
            LinkOp::Send { link, bytes } => {
                if let Some((to, other)) = self.links.get(&(at, link)).copied()
                    && !self.cut_off.contains(&at)
                    && !self.cut_off.contains(&to)
                {
                    self.schedule(to, LINK_NANOS, Event::Frame { link: other, bytes });
                }
            }
            LinkOp::Close { link } => {
                if let Some((to, other)) = self.links.remove(&(at, link)) {
                    self.links.remove(&(to, other));
                    let event = Event::LinkDown {
                        link: other,
                        reason: "closed".to_owned(),
                    };
                    self.schedule(to, LINK_NANOS, event);
                }
            }
        }
    }

    /// Runs until `until` holds; panics after ten simulated seconds without it.
    fn run_until(&mut self, what: &str, until: impl Fn(&Self) -> bool) {
        let limit = self.now + 30_000_000_000;
        while !until(self) {
            assert!(self.now < limit, "waited too long for {what}");
            self.advance();
        }
    }

    fn run_for(&mut self, nanos: u64) {
        let limit = self.now + nanos;
        while self.now < limit {
            self.advance();
        }
    }

    /// Goes on to the next event or deadline.
    fn advance(&mut self) {
        let event_at = self.queue.keys().next().map(|(at, _)| *at);
        let deadline = self
            .members
            .iter()
            .enumerate()
            .filter_map(|(at, member)| Some((member.node.as_ref()?.deadline()?.as_nanos(), at)))
            .min();
        match (event_at, deadline) {
            (Some(event_at), deadline) if deadline.is_none_or(|(time, _)| event_at <= time) => {
                let (_, (at, boot, event)) = self.queue.pop_first().expect("just seen");
                self.now = self.now.max(event_at);
                if self.members[at].boots == boot {
                    self.step(at, vec![event]);
                }
            }
            (_, Some((time, at))) => {
                self.now = self.now.max(time) + 1;
                self.step(at, Vec::new());
            }
            (None, None) => panic!("nothing will ever happen again"),
            (Some(_), None) => unreachable!("covered by the first arm"),
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |member: &Member| {
            member
                .node
                .as_ref()
                .is_some_and(|node| node.raft().role() == Role::Leader)
        };
        let leaders = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| leads(member));
        leaders
            .max_by_key(|(_, member)| member.node.as_ref().map(|node| node.raft().term()))
            .map(|(at, _)| at)
    }

    fn all_ready(&self) -> bool {
        self.members.iter().all(|member| member.ready)
    }

    fn send(&mut self, at: usize, request: Request) -> CallId {
        self.calls += 1;
        let call = CallId::new(self.calls);
        let credentials = Credentials::default();
        self.schedule(
            at,
            1,
            Event::Call {
                call,
                credentials,
                request,
            },
        );
        call
    }

    fn call(&mut self, at: usize, request: Request) -> Result<Response, ApiError> {
        let call = self.send(at, request);
        self.run_until("an answer", |world| world.replies.contains_key(&call));
        self.replies.remove(&call).expect("just seen")
    }

    fn put(&mut self, at: usize, key: &str, value: &str) -> Result<Response, ApiError> {
        self.call(at, Request::Put(put(key, value)))
    }

    fn get(&mut self, at: usize, key: &str) -> Option<Bytes> {
        let request = rpc::RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        match self.call(at, Request::Range(request)) {
            Ok(Response::Range(response)) => response.kvs.first().map(|kv| kv.value.clone()),
            other => panic!("a range answers {other:?}"),
        }
    }

    fn state_hashes(&self) -> BTreeSet<(u64, u64)> {
        self.members
            .iter()
            .filter_map(|member| member.node.as_ref())
            .map(|node| {
                (
                    node.machine().applied_index().get(),
                    node.machine().state_hash(),
                )
            })
            .collect()
    }
}

fn put(key: &str, value: &str) -> rpc::PutRequest {
    rpc::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

mod leases;
mod load;
mod members;
mod upkeep;
mod wiring;
