//! Clients that watch: quick and slow ones, from the past and from the future, over crashes of the
//! member they are connected to. What they see is part of the history.
//!
//! A watcher has one stream at a time with one watch on it, and perhaps more beside it. When the
//! stream ends it opens another at the next member and goes on behind what it has seen, or begins
//! somewhere else. A watch beside the first that ends is created anew on the same stream.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    history as h,
    observe::Violation,
    plan::Plan,
    record,
    watching::{Scope, WatchPlan, WatcherPlan},
    work::requests::{OBJECTS, behind_prefix, name},
    world::{Item, World},
};
use fated::{
    kernel::{Credentials, Entropy, Event, StreamId, StreamItem, StreamRequest},
    pb::{etcdserverpb as rpc, mvccpb},
};

/// The clients of a history are numbered; those that watch begin here.
const FIRST_CLIENT: u64 = 1000;
/// How long one that cancelled its watch still listens.
const LISTENS_ON: u64 = 400_000_000;

/// Something on its way between a watcher and a member.
#[derive(Debug)]
pub enum WatchItem {
    /// A watcher opens a stream.
    Open { watcher: usize },
    /// What a member sent is read.
    Got {
        stream: StreamId,
        item: Box<StreamItem>,
    },
    /// The news that the member is gone.
    Lost { stream: StreamId },
    /// The watcher asks how far it is.
    Progress { stream: StreamId },
    /// The watcher cancels one of its watches, to create it anew.
    Swap { stream: StreamId },
    /// The watcher ends its stream.
    End { stream: StreamId },
}

/// All watchers and what they saw.
#[derive(Debug)]
pub struct Watchers {
    watchers: Vec<Watcher>,
    open: BTreeMap<StreamId, usize>,
    streams: u64,
    entropy: Entropy,
    /// Everything that was seen, in the order of time.
    pub history: Vec<h::WatchRecord>,
    /// No further stream is opened.
    pub stopped: bool,
    /// Members that know no leader, with their boot.
    leaderless: BTreeMap<(usize, u64), Leaderless>,
}

/// A member that knows no leader.
#[derive(Clone, Copy, Debug)]
struct Leaderless {
    /// Since when, by its own clock.
    since: u64,
    /// Turns it ended when it was so for longer than a stream that wants a leader may last.
    overdue: u32,
}

#[derive(Debug)]
struct Watcher {
    plan: WatcherPlan,
    member: usize,
    /// The last revision it has heard of.
    revision: i64,
    /// Where each watch of its plan goes on.
    next: Vec<i64>,
    /// The watches of its stream, by the number that the member gave.
    watches: BTreeMap<i64, Watch>,
    /// Those that were asked for, oldest first: a member creates them in that order.
    asked: VecDeque<Watch>,
    last_arrival: u64,
    /// It has asked for the end of its watch and listens whether that is kept.
    cancelled: bool,
}

/// One watch on a stream.
#[derive(Clone, Debug)]
struct Watch {
    /// Which of its watcher's plan it is.
    plan: usize,
    request: h::WatchRequest,
    called: u64,
}

impl Watchers {
    /// The watchers of a plan; none has begun.
    pub fn new(plan: &Plan, entropy: Entropy) -> Self {
        let watcher = |(number, plan_of): (usize, &WatcherPlan)| Watcher {
            plan: plan_of.clone(),
            member: number % plan.cluster.members,
            revision: 1,
            next: vec![0; plan_of.more.len() + 1],
            watches: BTreeMap::new(),
            asked: VecDeque::new(),
            last_arrival: 0,
            cancelled: false,
        };
        Self {
            watchers: plan.watchers.iter().enumerate().map(watcher).collect(),
            open: BTreeMap::new(),
            streams: 0,
            entropy,
            history: Vec::new(),
            stopped: false,
            leaderless: BTreeMap::new(),
        }
    }
}

impl World {
    /// Every watcher opens its first stream.
    pub fn start_watchers(&mut self) {
        for watcher in 0..self.watchers.watchers.len() {
            self.after(0, Item::Watch(WatchItem::Open { watcher }));
        }
    }

    /// Something happens between a watcher and a member.
    pub fn on_watch(&mut self, item: WatchItem) {
        match item {
            WatchItem::Open { watcher } => self.open_stream(watcher),
            WatchItem::Got { stream, item } => self.on_watched(stream, *item),
            WatchItem::Lost { stream } => self.end_stream(stream),
            WatchItem::Progress { stream } => {
                if let Some(watcher) = self.watchers.open.get(&stream) {
                    self.counters.hit("watch: progress asked for");
                    let at = self.watchers.watchers[*watcher].member;
                    let union = rpc::watch_request::RequestUnion::ProgressRequest(
                        rpc::WatchProgressRequest {},
                    );
                    self.stream_item(at, stream, union);
                }
            }
            WatchItem::Swap { stream } => self.on_swap(stream),
            WatchItem::End { stream } => self.on_end(stream),
        }
    }

    /// A watcher has had enough of its stream, or of its watch first.
    fn on_end(&mut self, stream: StreamId) {
        let Some(number) = self.watchers.open.get(&stream).copied() else {
            return;
        };
        let watcher = &mut self.watchers.watchers[number];
        let at = watcher.member;
        if watcher.plan.cancels && !watcher.cancelled {
            watcher.cancelled = true;
            let first = watcher.watches.iter().find(|(_, watch)| watch.plan == 0);
            let first = first.map_or(0, |(id, _)| *id);
            self.cancel(at, stream, first);
            return self.after(LISTENS_ON, Item::Watch(WatchItem::End { stream }));
        }
        self.event_now(at, Event::StreamClosed { stream });
        self.end_stream(stream);
    }

    fn open_stream(&mut self, number: usize) {
        if self.watchers.stopped {
            return;
        }
        let at = self.watchers.watchers[number].member;
        if !self.members[at].serving {
            return self.open_later(number);
        }
        self.watchers.streams += 1;
        let stream = StreamId::new(self.watchers.streams);
        self.watchers.open.insert(stream, number);
        let watcher = &mut self.watchers.watchers[number];
        watcher.watches.clear();
        watcher.asked.clear();
        watcher.cancelled = false;
        watcher.last_arrival = 0;
        let count = watcher.next.len();
        let keep = watcher.plan.keep_ms * 1_000_000;
        let swaps = watcher.plan.swaps_ms * 1_000_000;
        self.counters.hit("watch: stream opened");
        let credentials = Credentials {
            require_leader: self.watchers.watchers[number].plan.requires_leader,
            ..Credentials::default()
        };
        self.event_now(
            at,
            Event::StreamOpened {
                stream,
                credentials,
            },
        );
        for plan in 0..count {
            self.create(stream, number, plan, 0);
        }
        if swaps > 0 && count > 1 {
            self.after(swaps, Item::Watch(WatchItem::Swap { stream }));
        }
        self.after(keep / 2, Item::Watch(WatchItem::Progress { stream }));
        self.after(keep, Item::Watch(WatchItem::End { stream }));
    }

    /// Asks for a watch on an open stream, where the plan has it begin, or behind a compaction.
    fn create(&mut self, stream: StreamId, number: usize, plan: usize, compacted: i64) {
        let listed = self.clients.shared.listed();
        let watcher = &mut self.watchers.watchers[number];
        let next = match watcher.plan.resumes {
            true => watcher.next[plan].max(compacted),
            false => compacted,
        };
        let watch = Watch {
            plan,
            request: request(
                &watcher.plan.watches()[plan],
                next,
                watcher.revision,
                listed,
            ),
            called: self.now,
        };
        let create = create_request(&watch.request);
        watcher.asked.push_back(watch);
        let at = watcher.member;
        if plan > 0 {
            self.counters.hit("watch: created beside another");
        }
        let union = rpc::watch_request::RequestUnion::CreateRequest(create);
        self.stream_item(at, stream, union);
    }

    fn cancel(&mut self, at: usize, stream: StreamId, watch_id: i64) {
        self.counters.hit("watch: cancelled by its client");
        let cancel = rpc::WatchCancelRequest { watch_id };
        let union = rpc::watch_request::RequestUnion::CancelRequest(cancel);
        self.stream_item(at, stream, union);
    }

    /// The oldest watch beside the first is cancelled; when that is confirmed it is created anew.
    fn on_swap(&mut self, stream: StreamId) {
        let Some(number) = self.watchers.open.get(&stream).copied() else {
            return;
        };
        let watcher = &self.watchers.watchers[number];
        let (at, pause) = (watcher.member, watcher.plan.swaps_ms * 1_000_000);
        let mut watches = watcher.watches.iter();
        if let Some((id, _)) = watches.find(|(_, watch)| watch.plan > 0) {
            self.cancel(at, stream, *id);
        }
        self.after(pause, Item::Watch(WatchItem::Swap { stream }));
    }

    fn stream_item(
        &mut self,
        at: usize,
        stream: StreamId,
        union: rpc::watch_request::RequestUnion,
    ) {
        let request_union = Some(union);
        let item = StreamRequest::Watch(rpc::WatchRequest { request_union });
        self.event_now(at, Event::StreamItem { stream, item });
    }

    fn open_later(&mut self, number: usize) {
        let next_slot = self.next_slot(self.watchers.watchers[number].member);
        let watcher = &mut self.watchers.watchers[number];
        watcher.member = next_slot;
        let pause = self.watchers.entropy.between(1_000_000, 300_000_000);
        self.after(pause, Item::Watch(WatchItem::Open { watcher: number }));
    }

    /// A member has ended a turn and knows a leader, or none.
    pub fn note_leader(&mut self, at: usize, has_leader: bool) {
        let member = &self.members[at];
        let key = (at, member.boot);
        if has_leader {
            self.watchers.leaderless.remove(&key);
            return;
        }
        let local = member.clock.now(self.now).as_nanos();
        let longest = 3 * 1_000_000 * self.plan.cluster.election_ms;
        let entry = self.watchers.leaderless.entry(key);
        let state = entry.or_insert(Leaderless {
            since: local,
            overdue: 0,
        });
        state.overdue += u32::from(local.saturating_sub(state.since) > longest);
    }

    /// A stream that wants a leader is ended in the turn in which its member has been without one
    /// for too long, so nothing comes on it in later turns.
    fn check_leader(&mut self, number: usize, at: usize, item: &StreamItem) {
        let watcher = &self.watchers.watchers[number];
        let key = (at, self.members[at].boot);
        let state = self.watchers.leaderless.get(&key).copied();
        let is_overdue = state.is_some_and(|state| state.overdue > 1);
        if watcher.plan.requires_leader && is_overdue && matches!(item, StreamItem::Watch { .. }) {
            let story = format!("m{at} still answers watcher {number}: {state:?}");
            self.fail(Violation::new(
                "a stream that wants a leader ends without one",
                story,
            ));
        }
    }

    /// A member sends something on a stream. It arrives in order, and is read at the watcher's pace.
    pub fn on_stream_out(&mut self, stream: StreamId, item: StreamItem) {
        // Whoever reads has a response of its own.
        let item = item.alone();
        let Some(number) = self.watchers.open.get(&stream).copied() else {
            return;
        };
        self.check_leader(number, self.watchers.watchers[number].member, &item);
        let delay = self.network.client_delay();
        let slow = self
            .watchers
            .entropy
            .below(self.watchers.watchers[number].plan.slow_us * 1000);
        let watcher = &mut self.watchers.watchers[number];
        let arrival = (self.now + delay).max(watcher.last_arrival + slow);
        watcher.last_arrival = arrival;
        let item = Box::new(item);
        self.at(arrival, Item::Watch(WatchItem::Got { stream, item }));
    }

    fn on_watched(&mut self, stream: StreamId, item: StreamItem) {
        let Some(number) = self.watchers.open.get(&stream).copied() else {
            return;
        };
        let StreamItem::Watch { response, bytes } = item else {
            self.counters.hit("watch: stream ended by the member");
            return self.end_stream(stream);
        };
        let at = self.watchers.watchers[number].member;
        self.event_now(at, Event::StreamCredit { stream, bytes });
        let watcher = &mut self.watchers.watchers[number];
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        watcher.revision = watcher.revision.max(revision);
        if response.canceled && response.compact_revision > 0 {
            self.counters.hit("watch: ended by a compaction");
        } else if !response.events.is_empty() {
            let count = response.events.len() as u64;
            self.counters.add("watch: events", count);
        } else if !response.created && !response.canceled {
            self.counters.hit("watch: progress told");
        }
        let watch = watcher.learn(&response, revision);
        let item = show(&response, revision, watch.as_ref());
        let is_cancelled = watcher.cancelled;
        self.note_watch(stream, number, item);
        let Some(watch) = watch.filter(|_| response.canceled) else {
            return;
        };
        if watch.plan > 0 && response.created {
            self.counters.hit("watch: refused beside another");
        } else if watch.plan > 0 {
            self.counters.hit("watch: created anew on its stream");
            self.create(stream, number, watch.plan, response.compact_revision);
        } else if !is_cancelled {
            self.event_now(at, Event::StreamClosed { stream });
            self.end_stream(stream);
        }
    }

    /// The member of some streams is gone; their watchers hear of it if its machine can say so, and
    /// by their own time limit otherwise.
    pub fn drop_streams(&mut self, at: usize) {
        let open = self.watchers.open.iter();
        let gone = open.filter(|(_, number)| self.watchers.watchers[**number].member == at);
        let gone: Vec<StreamId> = gone.map(|(stream, _)| *stream).collect();
        for stream in gone {
            let delay = match self.members[at].powered {
                true => self.network.client_delay(),
                false => 2_000_000_000,
            };
            self.after(delay, Item::Watch(WatchItem::Lost { stream }));
        }
    }

    fn end_stream(&mut self, stream: StreamId) {
        if let Some(number) = self.watchers.open.remove(&stream) {
            self.note_watch(stream, number, h::WatchItem::Closed);
            self.open_later(number);
        }
    }

    fn note_watch(&mut self, stream: StreamId, number: usize, item: h::WatchItem) {
        let member = self.watchers.watchers[number].member;
        self.watchers.history.push(h::WatchRecord {
            client: FIRST_CLIENT + number as u64,
            stream: stream.get(),
            time: self.now,
            endpoint: format!("m{member}"),
            item,
        });
    }
}

impl Watcher {
    /// Remembers how far its watches are. The watch that the response is about, if it is one.
    fn learn(&mut self, response: &rpc::WatchResponse, revision: i64) -> Option<Watch> {
        let id = response.watch_id;
        if response.created {
            let watch = self.asked.pop_front()?;
            if response.compact_revision > 0 {
                self.next[watch.plan] = response.compact_revision;
            }
            if !response.canceled {
                self.watches.insert(id, watch.clone());
            }
            return Some(watch);
        }
        if response.canceled {
            let watch = self.watches.remove(&id)?;
            if response.compact_revision > 0 {
                self.next[watch.plan] = response.compact_revision;
            }
            return Some(watch);
        }
        let last = response.events.iter().filter_map(|event| event.kv.as_ref());
        let last = last.map(|kv| kv.mod_revision).max().unwrap_or(revision);
        let told = self.watches.iter().filter(|(of, _)| id == -1 || **of == id);
        for (_, watch) in told {
            let next = &mut self.next[watch.plan];
            *next = (*next).max(last + 1);
        }
        self.watches.get(&id).cloned()
    }
}

/// What is asked for: behind what was seen, or where the plan says.
fn request(plan: &WatchPlan, next: i64, revision: i64, listed: i64) -> h::WatchRequest {
    let (key, range_end) = match plan.scope {
        Scope::Keys => (name(plan.from).into_bytes(), name(plan.to).into_bytes()),
        Scope::Everything => (b"\0".to_vec(), b"\0".to_vec()),
        Scope::Objects => (OBJECTS.as_bytes().to_vec(), behind_prefix(OBJECTS)),
    };
    let start_revision = match (plan.scope, plan.start) {
        _ if next > 0 => next,
        (Scope::Objects, _) if listed > 0 => listed + 1,
        (_, None) => 0,
        (_, Some(distance)) => (revision + distance).max(1),
    };
    h::WatchRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        no_put: plan.no_put,
        no_delete: plan.no_delete,
        prev_kv: plan.prev_kv,
        progress_notify: plan.progress,
        fragment: plan.fragment,
    }
}

fn create_request(request: &h::WatchRequest) -> rpc::WatchCreateRequest {
    use rpc::watch_create_request::FilterType;
    let mut filters = Vec::new();
    filters.extend(request.no_put.then_some(FilterType::Noput as i32));
    filters.extend(request.no_delete.then_some(FilterType::Nodelete as i32));
    rpc::WatchCreateRequest {
        key: request.key.bytes().to_vec().into(),
        range_end: request.range_end.bytes().to_vec().into(),
        start_revision: request.start_revision,
        progress_notify: request.progress_notify,
        filters,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
        ..Default::default()
    }
}

fn show(response: &rpc::WatchResponse, revision: i64, watch: Option<&Watch>) -> h::WatchItem {
    if response.created {
        return h::WatchItem::Created(h::WatchCreated {
            call: watch.map_or(0, |watch| watch.called),
            watch_id: response.watch_id,
            revision,
            request: watch.map(|watch| watch.request.clone()).unwrap_or_default(),
            canceled: response.canceled,
            cancel_reason: response.cancel_reason.clone(),
            compact_revision: response.compact_revision,
        });
    }
    if response.canceled {
        return h::WatchItem::Canceled(h::WatchCanceled {
            watch_id: response.watch_id,
            revision,
            compact_revision: response.compact_revision,
            cancel_reason: response.cancel_reason.clone(),
        });
    }
    h::WatchItem::Response(h::WatchResponse {
        watch_id: response.watch_id,
        revision,
        fragment: response.fragment,
        events: response.events.iter().filter_map(event).collect(),
    })
}

fn event(event: &mvccpb::Event) -> Option<h::WatchEvent> {
    Some(h::WatchEvent {
        kind: match event.r#type() {
            mvccpb::event::EventType::Put => h::EventKind::Put,
            mvccpb::event::EventType::Delete => h::EventKind::Delete,
        },
        kv: record::pair(event.kv.as_ref()?),
        prev_kv: event.prev_kv.as_ref().map(record::pair),
    })
}
