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

#[test]
fn one_member_serves_and_comes_back() {
    let mut world = World::new(1, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    assert!(world.put(0, "a", "1").is_ok());
    assert_eq!(world.get(0, "a"), Some("1".into()));
    for round in 0..20 {
        world
            .put(0, "a", &format!("{round}"))
            .expect("acknowledged");
        world.kill(0);
        world.boot(0);
        assert_eq!(
            world.get(0, "a"),
            Some(format!("{round}").into()),
            "lost round {round}"
        );
    }
}

#[test]
fn three_members_agree_and_survive_any_one() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    for at in 0..3 {
        world
            .put(at, &format!("k{at}"), "v")
            .expect("any member takes writes");
    }
    for at in 0..3 {
        for key in 0..3 {
            assert_eq!(world.get(at, &format!("k{key}")), Some("v".into()));
        }
    }
    for round in 0..6 {
        let leader = world.leader().expect("there is a leader");
        world.kill(leader);
        let other = (leader + 1) % 3;
        // What was handed to the dead leader has an unknown outcome; what comes after it must work.
        let written = (0..2).any(|_| world.put(other, "round", &round.to_string()).is_ok());
        assert!(written, "two of three are enough");
        world.boot(leader);
        world.run_until("all equal", |world| {
            let hashes = world.state_hashes();
            hashes.len() == 1 && world.all_ready()
        });
        assert_eq!(world.get(leader, "round"), Some(round.to_string().into()));
    }
}

#[test]
fn a_member_behind_the_log_comes_back_by_an_image() {
    let config = NodeConfig {
        snapshot_count: 20,
        catchup_entries: 5,
        segment_bytes: 64 * 1024,
        ..NodeConfig::default()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    let lagging = (world.leader().expect("a leader") + 1) % 3;
    world.kill(lagging);
    let serving = (lagging + 1) % 3;
    for number in 0..300 {
        world
            .put(serving, &format!("key{}", number % 50), &number.to_string())
            .expect("written");
    }
    world.run_for(1_000_000_000);
    world.boot(lagging);
    world.run_until("caught up", |world| {
        world.state_hashes().len() == 1 && world.all_ready()
    });
    let first = world.members[lagging]
        .node
        .as_ref()
        .expect("runs")
        .raft()
        .first()
        .index
        .get();
    assert!(
        first > 200,
        "it came by an image, not by the log: first entry {first}"
    );
    assert_eq!(world.get(lagging, "key49"), Some("299".into()));
    world.kill(lagging);
    world.boot(lagging);
    assert_eq!(world.get(lagging, "key49"), Some("299".into()));
}

/// A live member accepts an image while it still has much to commit: the commit ends after the log
/// has begun anew behind the image, and must not take its mark back.
#[test]
fn an_image_reaches_a_member_with_a_commit_to_come() {
    let config = NodeConfig {
        snapshot_count: 20,
        catchup_entries: 5,
        ..NodeConfig::default()
    };
    let mut world = World::new(3, config.clone());
    world.run_until("ready", World::all_ready);
    let lagging = (world.leader().expect("a leader") + 1) % 3;
    world.kill(lagging);
    world.config.batch_interval = Duration::from_secs(20);
    world.boot(lagging);
    world.config.batch_interval = config.batch_interval;
    world.run_until("ready again", World::all_ready);
    let serving = (lagging + 1) % 3;
    let put = |world: &mut World, count: usize| {
        for number in 0..count {
            let written = world.put(serving, &format!("key{}", number % 50), "value");
            written.expect("written");
        }
    };
    put(&mut world, 60);
    world.cut_off.insert(lagging);
    put(&mut world, 200);
    world.run_for(500_000_000);
    world.cut_off.clear();
    world.run_until("caught up", |world| {
        world.state_hashes().len() == 1 && world.all_ready()
    });
    let node = world.members[lagging].node.as_ref().expect("it lives");
    let first = node.raft().first().index.get();
    assert!(first > 200, "it came by an image: first entry {first}");
}

#[test]
fn a_leader_that_is_cut_off_promises_nothing() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let old = world.leader().expect("a leader");
    world.cut_off.insert(old);
    let lost = world.send(old, Request::Put(put("a", "lost")));
    world.run_until("another leader", |world| {
        world.leader().is_some_and(|leader| leader != old)
    });
    let other = world.leader().expect("just seen");
    world.put(other, "a", "kept").expect("the majority goes on");
    world.run_until("an answer", |world| world.replies.contains_key(&lost));
    assert!(
        world.replies[&lost].is_err(),
        "nothing is acknowledged without a quorum"
    );
    world.cut_off.clear();
    world.run_until("all equal", |world| world.state_hashes().len() == 1);
    assert_eq!(world.get(old, "a"), Some("kept".into()));
}

#[test]
fn watches_see_every_revision_once() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let stream = StreamId::new(1);
    world.schedule(
        1,
        1,
        Event::StreamOpened {
            stream,
            credentials: Credentials::default(),
        },
    );
    let create = rpc::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let request = rpc::WatchRequest {
        request_union: Some(rpc::watch_request::RequestUnion::CreateRequest(create)),
    };
    world.schedule(
        1,
        2,
        Event::StreamItem {
            stream,
            item: StreamRequest::Watch(request),
        },
    );
    for number in 0..30 {
        world
            .put(number % 3, &format!("k{}", number % 4), &number.to_string())
            .expect("written");
    }
    world.run_for(500_000_000);
    let revisions: Vec<i64> = world
        .streams
        .iter()
        .filter_map(|(_, item)| match item {
            StreamItem::Watch { response, .. } => Some(response.events.clone()),
            StreamItem::Alike { .. } | StreamItem::End(_) => None,
        })
        .flatten()
        .map(|event| event.kv.expect("events have keys").mod_revision)
        .collect();
    assert_eq!(revisions, (2..32).collect::<Vec<_>>());
}

#[test]
fn a_clean_stop_hands_leadership_over() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let leader = world.leader().expect("a leader");
    let before = world.now;
    world.schedule(leader, 1, Event::Signal(Signal::Terminate));
    world.run_until("stopped", |world| world.members[leader].stopped.is_some());
    assert_eq!(world.members[leader].stopped, Some(Fault::Stopped));
    world.run_until("a new leader", |world| world.leader().is_some());
    assert!(
        world.now - before < 1_000_000_000,
        "an election timeout was not needed"
    );
}

#[test]
fn a_member_that_differs_refuses_to_serve() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    world.put(0, "a", "1").expect("written");
    world.run_for(1_000_000_000);
    let wrong = (world.leader().expect("a leader") + 1) % 3;
    world.kill(wrong);
    // Damage that no checksum of the disk notices: the store of another history.
    let image = world.members[wrong].disk.backend.image();
    let consistent = crate::backend::ReadSnapshot::consistent(&image).expect("memory");
    let batch = crate::kernel::WriteBatch {
        consistent,
        state_hash: 1,
        ..Default::default()
    };
    world.members[wrong]
        .disk
        .backend
        .commit(&batch)
        .expect("memory");
    world.boot(wrong);
    world
        .put((wrong + 1) % 3, "b", "2")
        .expect("the others go on");
    world.run_until("found out", |world| {
        world.members[wrong]
            .node
            .as_ref()
            .is_some_and(Node::is_corrupt)
    });
    let answer = world.put(wrong, "c", "3");
    assert_eq!(answer, Err(ApiError::Corrupt));
    assert!(world.put((wrong + 1) % 3, "c", "3").is_ok());
    let healthy = (0..3).filter(|at| *at != wrong);
    for at in healthy {
        assert!(!world.members[at].node.as_ref().expect("runs").is_corrupt());
    }
}

#[test]
fn tickets_name_their_owner() {
    let mut tickets = ticket::Tickets::new(Owner::Applier);
    assert_eq!(owner_of(tickets.issue()), Some(Owner::Applier));
    assert_eq!(owner_of(Ticket::new(7)), None);
}
