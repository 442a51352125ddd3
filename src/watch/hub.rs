//! The hub: streams come and go, requests are answered, each applied revision is fanned out to the
//! synced watches, progress is told. History for the others is in `catchup`.
//!
//! Inputs: streams and their requests, credit, every applied revision once and in order, installed
//! images, deadlines. Outputs: `take_output`. Timer: one progress tick per stream.
//!
//! Invariants: `revision` never goes down; `ready` holds every stream for which catch-up can do
//! something, and no other, whenever no call is running.

use std::cmp::max;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use super::batch::{Batch, responses};
use super::group::Group;
use super::stream::{Control, Output, Refusal, Stream};
use super::watcher::{Position, Span, WatchKey, Watcher};
use super::{History, Settings};
use crate::kernel::{
    ApiError, Credentials, DiskError, Entropy, Instant, StreamId, StreamItem, WatchId, limits,
};
use crate::mutant;
use crate::pb::etcdserverpb as rpc;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::mvccpb::Event;

/// Shortest time between progress notifications.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// All watches of a member.
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: Settings,
    /// The last revision that was fanned out.
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) synced: Group,
    pub(super) ready: BTreeSet<StreamId>,
    /// The stream whose turn catch-up is.
    pub(super) turn: StreamId,
    pub(super) output: Output,
    pub(super) events_sent: u64,
    pub(super) caught_up: u64,
    fell_behind: u64,
    set_back: u64,
    ticks: BTreeSet<(Instant, StreamId)>,
}

/// What the hub counts, for metrics.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Open streams.
    pub streams: usize,
    /// Watches on them.
    pub watchers: usize,
    /// Watches that must read history before they are synced.
    pub watchers_behind: usize,
    /// Answers that wait for a blocked stream.
    pub answers_waiting: usize,
    /// Bytes on the way to clients.
    pub in_flight: u64,
    /// Events handed out since boot.
    pub events_sent: u64,
    /// Watches that read history to its end since boot.
    pub caught_up: u64,
    /// Synced watches that fell behind a blocked stream since boot.
    pub fell_behind: u64,
    /// Synced watches that an installed image sent back to history since boot.
    pub set_back: u64,
}

impl Hub {
    /// A hub without streams, at the store's revision.
    pub fn new(settings: Settings, store: &dyn History) -> Self {
        Self {
            settings,
            revision: store.revision(),
            compact_revision: store.compact_revision(),
            streams: BTreeMap::new(),
            synced: Group::default(),
            ready: BTreeSet::new(),
            turn: StreamId::ZERO,
            output: Output::default(),
            events_sent: 0,
            caught_up: 0,
            fell_behind: 0,
            set_back: 0,
            ticks: BTreeSet::new(),
        }
    }

    /// A client opened a stream.
    pub fn open(
        &mut self,
        stream: StreamId,
        credentials: &Credentials,
        now: Instant,
        entropy: &mut Entropy,
    ) {
        let tick_at = self.next_tick(now, entropy);
        let opened = Stream::new(stream, credentials.require_leader, tick_at);
        let replaced = self.streams.insert(stream, opened);
        assert!(replaced.is_none(), "a stream is opened once");
        self.ticks.insert((tick_at, stream));
    }

    /// The client closed a stream or vanished. Unknown streams are ignored: we may have ended them.
    pub fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else {
            return;
        };
        self.output.in_flight -= closed.in_flight();
        for (id, watcher) in &closed.watches {
            self.forget(WatchKey { stream, id: *id }, watcher);
        }
        let ticked = self.ticks.remove(&(closed.tick_at, stream));
        assert!(ticked, "every stream has its tick");
        self.ready.remove(&stream);
    }

    /// A request came in on a stream. `permitted` tells whether its user may read the range that a
    /// create names; it is not looked at for other requests.
    pub fn request(
        &mut self,
        stream: StreamId,
        request: rpc::WatchRequest,
        permitted: Result<(), ApiError>,
        store: &dyn History,
    ) {
        let revision = max(self.revision, store.revision());
        if !self.streams.contains_key(&stream) {
            return;
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                self.create(stream, &request, permitted, revision);
            }
            Some(RequestUnion::CancelRequest(request)) => {
                let id = WatchId::new(request.watch_id);
                let key = WatchKey { stream, id };
                if mutant!("cancelled-watch-goes-on")
                    || self.drop_watch(key)
                    || self.drop_ended(key)
                {
                    self.answer(stream, Control::Canceled { id, revision });
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.tell_progress(stream),
            // etcd skips requests of a kind it does not know.
            None => {}
        }
    }

    /// The client took this many bytes of what was sent on the stream.
    pub fn credit(&mut self, stream: StreamId, bytes: u64) {
        if let Some(found) = self.streams.get_mut(&stream) {
            found.credit(bytes, &self.settings, &mut self.output);
            self.settle(stream);
        }
    }

    /// A revision was applied. Called for every one, in order, exactly once; `events` are all its
    /// events and the store holds it already.
    pub fn on_revision(
        &mut self,
        revision: i64,
        events: &[Event],
        store: &dyn History,
    ) -> Result<(), DiskError> {
        assert_eq!(
            revision,
            self.revision + 1,
            "revisions come in order, each once"
        );
        assert!(
            store.revision() >= revision,
            "the store is never behind the hub"
        );
        self.revision = revision;
        if self.streams.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new([(revision, events)].into_iter());
        let mut hits = Vec::new();
        for (position, item) in batch.items().iter().enumerate() {
            self.synced
                .visit(item.key(), &mut |watch| hits.push((watch, position)));
        }
        hits.sort_unstable();
        // A watch that is alone gets a response of its own.
        let many = hits.first().map(|hit| hit.0) != hits.last().map(|hit| hit.0)
            && !mutant!("watch-splits-a-revision");
        let mut positions = Vec::new();
        for hits in hits.chunk_by(|left, right| left.0 == right.0) {
            positions.clear();
            positions.extend(hits.iter().map(|(_, position)| *position));
            self.deliver(hits[0].0, &mut batch, (&mut positions, many), store)?;
        }
        Ok(())
    }

    /// History was compacted. Watches that need what is gone end in their next turn of `catch_up`.
    pub fn on_compacted(&mut self, store: &dyn History) {
        let compacted = store.compact_revision();
        assert!(
            compacted >= self.compact_revision,
            "compaction never goes back"
        );
        self.compact_revision = compacted;
    }

    /// The store was replaced by a newer image, which stood at `revision`: every watch goes on from
    /// where it stood. What was applied since then is told by `on_revision` afterwards, although
    /// the store has it already.
    pub fn on_installed(&mut self, revision: i64, store: &dyn History) {
        assert!(
            store.revision() >= revision,
            "the store is never behind its image"
        );
        let old = mem::replace(&mut self.revision, revision);
        assert!(revision >= old, "an installed image is never older");
        if mutant!("watch-misses-what-an-image-holds") {
            return;
        }
        self.compact_revision = max(self.compact_revision, store.compact_revision());
        for (stream, found) in &mut self.streams {
            for (id, watcher) in &mut found.watches {
                let Position::Synced { from } = watcher.position else {
                    continue;
                };
                let next = match mutant!("watch-starts-over-after-an-image") {
                    true => from,
                    false => max(from, old + 1),
                };
                if next <= self.revision {
                    let watch = WatchKey {
                        stream: *stream,
                        id: *id,
                    };
                    self.synced.remove(&watcher.span, watch);
                    watcher.position = Position::Behind { next };
                    found.behind.insert(*id);
                    self.set_back += 1;
                }
            }
            if found.is_ready() {
                self.ready.insert(*stream);
            }
        }
    }

    /// When `on_deadline` is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        self.ticks.first().map(|(at, _)| *at)
    }

    /// Tells progress on every stream whose tick has come. A watch that got events since its last
    /// tick is passed by once; one that is behind, or whose stream is blocked, waits for the next.
    pub fn on_deadline(&mut self, now: Instant, entropy: &mut Entropy) {
        while let Some((at, stream)) = self.ticks.first().copied() {
            if at > now {
                break;
            }
            self.ticks.pop_first();
            let tick_at = self.next_tick(now, entropy);
            self.ticks.insert((tick_at, stream));
            let found = self
                .streams
                .get_mut(&stream)
                .expect("ticks name open streams");
            found.tick_at = tick_at;
            self.tick(stream);
        }
    }

    /// Ends every stream.
    pub fn cancel_all(&mut self, error: ApiError) {
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        streams
            .into_iter()
            .for_each(|stream| self.end(stream, error));
    }

    /// There has been no leader for too long: ends the streams that wanted one.
    pub fn no_leader(&mut self) {
        if mutant!("stream-outlives-its-leader") {
            return;
        }
        let wanting = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.require_leader);
        let wanting: Vec<StreamId> = wanting.map(|(stream, _)| *stream).collect();
        wanting
            .into_iter()
            .for_each(|stream| self.end(stream, ApiError::NoLeader));
    }

    /// What must go out, in order. Headers carry the revision; the caller fills in the rest.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<(StreamId, StreamItem)> {
        mem::take(&mut self.output.items)
    }

    /// The last revision that was fanned out.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether `catch_up` has something to do now. Requests, credit, revisions and installed images
    /// can make it so; the caller looks after each of them.
    pub fn wants_catch_up(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Figures for metrics.
    pub fn counters(&self) -> Counters {
        let streams = self.streams.values();
        let zero = Counters {
            streams: self.streams.len(),
            in_flight: self.output.in_flight,
            events_sent: self.events_sent,
            caught_up: self.caught_up,
            fell_behind: self.fell_behind,
            set_back: self.set_back,
            ..Counters::default()
        };
        streams.fold(zero, |sum, stream| Counters {
            watchers: sum.watchers + stream.watches.len(),
            watchers_behind: sum.watchers_behind + stream.behind.len(),
            answers_waiting: sum.answers_waiting + stream.waiting_answers(),
            ..sum
        })
    }

    /// Asserts every invariant that can be checked from the inside.
    pub fn check(&self) {
        let counters = self.counters();
        assert_eq!(
            self.synced.check(),
            counters.watchers - counters.watchers_behind
        );
        assert_eq!(
            self.ticks.len(),
            self.streams.len(),
            "every stream has one tick"
        );
        for (id, stream) in &self.streams {
            stream.check(self.revision);
            assert_eq!(stream.is_ready(), self.ready.contains(id));
            assert!(self.ticks.contains(&(stream.tick_at, *id)));
        }
        assert!(self.ready.iter().all(|id| self.streams.contains_key(id)));
        let in_flight = self.streams.values().map(Stream::in_flight).sum::<u64>();
        assert_eq!(in_flight, self.output.in_flight, "bytes belong to a stream");
    }

    fn create(
        &mut self,
        stream: StreamId,
        request: &rpc::WatchCreateRequest,
        permitted: Result<(), ApiError>,
        revision: i64,
    ) {
        let answer = match self.admit(stream, request, permitted) {
            Ok((id, span)) => {
                self.answer(stream, Control::Created { id, revision });
                // Too many answers waiting may just have ended the stream.
                if self.streams.contains_key(&stream) {
                    self.add(WatchKey { stream, id }, request, span, revision);
                    self.settle(stream);
                }
                return;
            }
            Err(reason) => Control::Refused { reason, revision },
        };
        self.answer(stream, answer);
    }

    /// The checks of a create, in etcd's order.
    fn admit(
        &mut self,
        stream: StreamId,
        request: &rpc::WatchCreateRequest,
        permitted: Result<(), ApiError>,
    ) -> Result<(WatchId, Span), Refusal> {
        if request.start_revision < 0 {
            return Err(Refusal::NegativeStart);
        }
        permitted.map_err(Refusal::NotPermitted)?;
        let span = Span::parse(&request.key, &request.range_end).ok_or(Refusal::EmptyRange)?;
        let stream = self
            .streams
            .get_mut(&stream)
            .expect("the caller looked it up");
        if stream.watches.len() + stream.ended.len() >= limits::WATCHES_PER_STREAM_MAX
            || stream.key_bytes + span.bytes() > self.settings.key_bytes_max
        {
            return Err(Refusal::TooMany);
        }
        let id = stream.name(WatchId::new(request.watch_id))?;
        Ok((id, span))
    }

    /// Adds a watch whose creation was answered with `revision`.
    fn add(
        &mut self,
        watch: WatchKey,
        request: &rpc::WatchCreateRequest,
        span: Span,
        revision: i64,
    ) {
        assert!(
            revision >= self.revision,
            "an answer is never older than the hub"
        );
        let start = request.start_revision;
        let (position, reach) = if start == 0 {
            (Position::Synced { from: revision + 1 }, revision)
        } else if start > self.revision
            || (start == self.revision && mutant!("watch-from-now-takes-now-for-past"))
        {
            (Position::Synced { from: start }, start)
        } else if mutant!("watch-resumes-one-early") {
            let next = (start - 1).max(1).max(self.compact_revision);
            (Position::Behind { next }, start)
        } else {
            (Position::Behind { next: start }, start)
        };
        let stream = self
            .streams
            .get_mut(&watch.stream)
            .expect("the caller looked it up");
        match position {
            Position::Synced { .. } => self.synced.insert(&span, watch),
            Position::Behind { .. } => {
                stream.behind.insert(watch.id);
            }
        }
        if reach > self.revision {
            stream.waiting.insert((reach, watch.id));
        }
        if request.progress_notify {
            stream.notified.insert(watch.id);
        }
        stream.key_bytes += span.bytes();
        let watcher = Watcher::new(request, span, position, reach);
        let replaced = stream.watches.insert(watch.id, watcher);
        assert!(replaced.is_none(), "the id was free");
    }

    /// Takes a watch off its stream and out of every list; false when there is none. The caller
    /// answers the client, which settles the stream.
    pub(super) fn drop_watch(&mut self, watch: WatchKey) -> bool {
        let Some(stream) = self.streams.get_mut(&watch.stream) else {
            return false;
        };
        let Some(watcher) = stream.watches.remove(&watch.id) else {
            return false;
        };
        stream.behind.remove(&watch.id);
        stream.notified.remove(&watch.id);
        stream.waiting.remove(&(watcher.reach, watch.id));
        stream.key_bytes -= watcher.span.bytes();
        self.forget(watch, &watcher);
        true
    }

    /// Frees the id of a watch that a compaction ended; false when there is none.
    fn drop_ended(&mut self, watch: WatchKey) -> bool {
        let stream = self.streams.get_mut(&watch.stream);
        stream.is_some_and(|stream| stream.ended.remove(&watch.id))
    }

    fn forget(&mut self, watch: WatchKey, watcher: &Watcher) {
        match watcher.position {
            Position::Synced { .. } => self.synced.remove(&watcher.span, watch),
            Position::Behind { .. } => {}
        }
    }

    /// Hands events of the hub's revision to the synced watch they hit, or lets it fall behind.
    /// `many` if other watches are hit as well.
    fn deliver(
        &mut self,
        watch: WatchKey,
        batch: &mut Batch,
        (positions, many): (&mut Vec<usize>, bool),
        store: &dyn History,
    ) -> Result<(), DiskError> {
        let stream = self
            .streams
            .get_mut(&watch.stream)
            .expect("the group names open streams");
        let blocked = stream.is_blocked();
        let watcher = stream
            .watches
            .get_mut(&watch.id)
            .expect("the group names watches");
        let Position::Synced { from } = watcher.position else {
            unreachable!("the group holds synced watches");
        };
        positions.retain(|position| watcher.wants(&batch.items()[*position].event));
        if from > self.revision || positions.is_empty() {
            return Ok(());
        }
        if blocked && mutant!("blocked-watch-loses-events") {
            return Ok(());
        }
        if blocked {
            self.synced.remove(&watcher.span, watch);
            watcher.position = Position::Behind {
                next: self.revision,
            };
            stream.behind.insert(watch.id);
            self.fell_behind += 1;
            return Ok(());
        }
        if many {
            let like = (watch.id, &*watcher);
            let limit = self.settings.fragment_bytes;
            if let Some(response) = batch.alike(like, positions, self.revision, limit, store)? {
                watcher.busy = true;
                self.events_sent += positions.len() as u64;
                stream.send_alike(watch.id, response, &self.settings, &mut self.output);
                if stream.is_blocked() {
                    self.settle(watch.stream);
                }
                return Ok(());
            }
        }
        self.send_events(watch, batch, positions, store)?;
        self.settle(watch.stream);
        Ok(())
    }

    /// Sends these events of a batch to a watch whose stream is not blocked.
    pub(super) fn send_events(
        &mut self,
        watch: WatchKey,
        batch: &mut Batch,
        positions: &[usize],
        store: &dyn History,
    ) -> Result<(), DiskError> {
        let stream = self
            .streams
            .get_mut(&watch.stream)
            .expect("the caller looked it up");
        assert!(!stream.is_blocked(), "a blocked stream gets no events");
        let watcher = stream
            .watches
            .get_mut(&watch.id)
            .expect("the caller looked it up");
        watcher.busy = true;
        let fragment_bytes = watcher.fragment.then_some(self.settings.fragment_bytes);
        let events = batch.take(positions, watcher, store)?;
        self.events_sent += events.len() as u64;
        for (response, bytes) in responses(watch.id, self.revision, events, fragment_bytes) {
            stream.send(response, bytes, &self.settings, &mut self.output);
        }
        Ok(())
    }

    /// Sends an answer or queues it; a stream with too many queued ends.
    pub(super) fn answer(&mut self, stream: StreamId, control: Control) {
        let found = self
            .streams
            .get_mut(&stream)
            .expect("the caller looked it up");
        match found.answer(control, &self.settings, &mut self.output) {
            Ok(()) => self.settle(stream),
            Err(error) => self.end(stream, error),
        }
    }

    /// Answers a progress request once for the whole stream, or not at all: like etcd we drop it
    /// while a watch is behind or has not reached its start, and on a stream without watches.
    fn tell_progress(&mut self, stream: StreamId) {
        let revision = self.revision;
        let found = self
            .streams
            .get_mut(&stream)
            .expect("the caller looked it up");
        if found.may_tell_progress(revision) {
            let id = WatchId::STREAM;
            self.answer(stream, Control::Progress { id, revision });
        }
    }

    fn tick(&mut self, stream: StreamId) {
        let revision = self.revision;
        let found = self
            .streams
            .get_mut(&stream)
            .expect("ticks name open streams");
        let mut told = Vec::new();
        for id in &found.notified {
            let watcher = found.watches.get_mut(id).expect("lists name watches");
            if !mem::replace(&mut watcher.busy, false) && watcher.may_tell_progress(revision) {
                told.push(*id);
            }
        }
        for id in told {
            let found = self
                .streams
                .get(&stream)
                .expect("progress never ends a stream");
            if !found.is_blocked() {
                self.answer(stream, Control::Progress { id, revision });
            }
        }
    }

    fn end(&mut self, stream: StreamId, error: ApiError) {
        self.close(stream);
        self.output.items.push((stream, StreamItem::End(error)));
    }

    /// Keeps `ready` true after something happened to a stream.
    pub(super) fn settle(&mut self, stream: StreamId) {
        if self.streams.get(&stream).is_some_and(Stream::is_ready) {
            self.ready.insert(stream);
        } else {
            self.ready.remove(&stream);
        }
    }

    fn next_tick(&self, now: Instant, entropy: &mut Entropy) -> Instant {
        let interval = max(self.settings.progress_interval, PROGRESS_INTERVAL_MIN);
        let tenth = u64::try_from(interval.as_nanos() / 10).unwrap_or(u64::MAX);
        now.after(interval)
            .after(Duration::from_nanos(entropy.below(tenth)))
    }
}
