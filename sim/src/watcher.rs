//! Clients that watch: quick and slow ones, from the past and from the future, over crashes of the
//! member they are connected to. What they see is part of the history.
//!
//! A watcher has one stream at a time with one watch on it. When the stream ends it opens another
//! at the next member and goes on behind what it has seen, or begins somewhere else.

use std::collections::BTreeMap;

use crate::{
    history as h,
    observe::Violation,
    plan::Plan,
    record,
    watching::WatcherPlan,
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
    /// Where a watch that goes on begins.
    next: i64,
    request: h::WatchRequest,
    called: u64,
    last_arrival: u64,
    /// It has asked for the end of its watch and listens whether that is kept.
    cancelled: bool,
}

impl Watchers {
    /// The watchers of a plan; none has begun.
    pub fn new(plan: &Plan, entropy: Entropy) -> Self {
        let watcher = |(number, plan_of): (usize, &WatcherPlan)| Watcher {
            plan: plan_of.clone(),
            member: number % plan.cluster.members,
            revision: 1,
            next: 0,
            request: h::WatchRequest::default(),
            called: 0,
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
            self.counters.hit("watch: cancelled by its client");
            let cancel = rpc::WatchCancelRequest { watch_id: 0 };
            let union = rpc::watch_request::RequestUnion::CancelRequest(cancel);
            self.stream_item(at, stream, union);
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
        let now = self.now;
        self.watchers.streams += 1;
        let stream = StreamId::new(self.watchers.streams);
        self.watchers.open.insert(stream, number);
        let watcher = &mut self.watchers.watchers[number];
        let plan = &watcher.plan;
        let start_revision = match plan.start {
            _ if plan.resumes && watcher.next > 0 => watcher.next,
            None => 0,
            Some(distance) => (watcher.revision + distance).max(1),
        };
        watcher.request = h::WatchRequest {
            key: crate::client::name(plan.from).as_str().into(),
            range_end: crate::client::name(plan.to).as_str().into(),
            start_revision,
            no_put: plan.no_put,
            no_delete: plan.no_delete,
            prev_kv: plan.prev_kv,
            progress_notify: plan.progress,
            fragment: plan.fragment,
        };
        watcher.cancelled = false;
        watcher.called = now;
        watcher.last_arrival = 0;
        let (keep, create) = (plan.keep_ms * 1_000_000, create_request(&watcher.request));
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
        let union = rpc::watch_request::RequestUnion::CreateRequest(create);
        self.stream_item(at, stream, union);
        self.after(keep / 2, Item::Watch(WatchItem::Progress { stream }));
        self.after(keep, Item::Watch(WatchItem::End { stream }));
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
        if response.events.is_empty() {
            if !response.created && !response.canceled {
                self.counters.hit("watch: progress told");
                watcher.next = watcher.next.max(revision + 1);
            }
        } else {
            self.counters
                .add("watch: events", response.events.len() as u64);
            let last = response.events.iter().filter_map(|event| event.kv.as_ref());
            let last = last.map(|kv| kv.mod_revision).max().unwrap_or_default();
            watcher.next = watcher.next.max(last + 1);
        }
        if response.canceled && response.compact_revision > 0 {
            self.counters.hit("watch: ended by a compaction");
            watcher.next = response.compact_revision;
        }
        let item = show(&response, revision, watcher);
        let ends = response.canceled && !watcher.cancelled;
        self.note_watch(stream, number, item);
        if ends {
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

fn show(response: &rpc::WatchResponse, revision: i64, watcher: &Watcher) -> h::WatchItem {
    if response.created {
        return h::WatchItem::Created(h::WatchCreated {
            call: watcher.called,
            watch_id: response.watch_id,
            revision,
            request: watcher.request.clone(),
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
