//! For tests: a naive store, and clients that hold every response against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message;

use super::{History, Replay, Settings};
use crate::kernel::{ApiError, DiskError, StreamId, StreamItem};
use crate::pb::etcdserverpb as rpc;
use crate::pb::mvccpb::{Event, KeyValue, event::EventType};

/// Every event there ever was; compaction only forbids to ask for some.
#[derive(Clone, Default, Debug)]
pub struct Log {
    revisions: Vec<Vec<Event>>,
    live: BTreeMap<Bytes, KeyValue>,
    pub compacted: i64,
}

impl Log {
    /// Applies one transaction; a delete of a missing key does nothing. Nothing done, no revision.
    pub fn write(&mut self, puts: &[&str], deletes: &[&str]) -> bool {
        let revision = History::revision(self) + 1;
        let mut events = Vec::new();
        for key in deletes {
            if self.live.remove(key.as_bytes()).is_some() {
                let kv = KeyValue {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    mod_revision: revision,
                    ..KeyValue::default()
                };
                events.push(event(EventType::Delete, kv));
            }
        }
        for key in puts {
            let key = Bytes::copy_from_slice(key.as_bytes());
            let old = self.live.get(&key);
            let kv = KeyValue {
                key: key.clone(),
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(1, |old| old.version + 1),
                value: Bytes::from(format!("value {revision}")),
                lease: 0,
            };
            self.live.insert(key, kv.clone());
            events.push(event(EventType::Put, kv));
        }
        let any = !events.is_empty();
        if any {
            self.revisions.push(events);
        }
        any
    }

    pub fn events_at(&self, revision: i64) -> &[Event] {
        &self.revisions[usize::try_from(revision - 2).expect("revisions begin at two")]
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.revisions.iter().flatten()
    }
}

impl History for Log {
    fn revision(&self) -> i64 {
        self.revisions.len() as i64 + 1
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn at(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, DiskError> {
        if revision < self.compacted {
            return Ok(None);
        }
        let mut past = self
            .all()
            .rev()
            .filter(|event| kv(event).mod_revision <= revision);
        let last = past.find(|event| kv(event).key == key);
        let put = last.filter(|event| event.r#type() == EventType::Put);
        Ok(put.map(|event| kv(event).clone()))
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Replay, DiskError> {
        assert!(from >= self.compacted && to <= History::revision(self) && from <= to);
        let (mut read, mut bytes, mut next) = (Vec::new(), 0, from.max(2));
        while next <= to && read.len() < revisions_max && bytes < bytes_max {
            let events = self.events_at(next);
            bytes += events.iter().map(Event::encoded_len).sum::<usize>();
            read.push((next, events.to_vec()));
            next += 1;
        }
        Ok((read, next.max(from + 1)))
    }
}

fn event(kind: EventType, kv: KeyValue) -> Event {
    Event {
        r#type: kind as i32,
        kv: Some(kv),
        prev_kv: None,
    }
}

pub fn kv(event: &Event) -> &KeyValue {
    event.kv.as_ref().expect("events name their key")
}

fn lowest(request: &rpc::WatchCreateRequest) -> &[u8] {
    if request.key.is_empty() {
        b"\0"
    } else {
        &request.key
    }
}

/// What a client knows of one watch.
#[derive(Debug)]
struct Seen {
    request: rpc::WatchCreateRequest,
    /// Events it should have got so far are those of the log up to here: revision and index.
    cursor: (i64, usize),
    /// Between two parts of one response.
    open: bool,
    /// Highest revision of progress.
    progress: i64,
}

impl Seen {
    fn new(request: rpc::WatchCreateRequest, created: i64) -> Self {
        let start = match request.start_revision {
            0 => created + 1,
            start => start,
        };
        Self {
            request,
            cursor: (start, 0),
            open: false,
            progress: 0,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let request = &self.request;
        let low = lowest(request);
        let key = &kv(event).key[..];
        let inside = match &request.range_end[..] {
            b"" => key == low,
            b"\0" => key >= low,
            end => key >= low && key < end,
        };
        inside && !request.filters.contains(&(event.r#type))
    }

    /// The next event it should get, and where it stands in the log.
    fn expected<'a>(&self, log: &'a Log) -> Option<(&'a Event, (i64, usize))> {
        let (mut revision, mut index) = self.cursor;
        revision = revision.max(2);
        while revision <= History::revision(log) {
            let events = log.events_at(revision);
            if let Some(event) = events.get(index) {
                index += 1;
                if self.wants(event) {
                    return Some((event, (revision, index)));
                }
            } else {
                (revision, index) = (revision + 1, 0);
            }
        }
        None
    }

    fn on_events(&mut self, response: &rpc::WatchResponse, log: &Log) {
        let mut last = 0;
        for event in &response.events {
            let (expected, cursor) = self.expected(log).expect("an event that happened");
            assert_eq!(
                (event.r#type, &event.kv),
                (expected.r#type, &expected.kv),
                "reliable"
            );
            let kv = kv(event);
            let prev = if self.request.prev_kv && kv.create_revision != kv.mod_revision {
                log.at(&kv.key, kv.mod_revision - 1).unwrap()
            } else {
                None
            };
            assert_eq!(event.prev_kv, prev, "prev-kv");
            assert!(kv.mod_revision > self.progress, "bookmarkable");
            self.cursor = cursor;
            last = kv.mod_revision;
        }
        let header = response.header.unwrap().revision;
        assert!(
            last <= header && header <= History::revision(log),
            "header revision"
        );
        self.open = response.fragment;
        let next = self.expected(log).map(|(event, _)| kv(event).mod_revision);
        assert!(self.open || next.is_none_or(|next| next > last), "atomic");
        assert!(
            !self.open || self.request.fragment,
            "split only when asked for"
        );
    }

    fn on_progress(&mut self, revision: i64, log: &Log) {
        let next = self.expected(log).map(|(event, _)| kv(event).mod_revision);
        assert!(
            next.is_none_or(|next| next > revision),
            "progress hides no event"
        );
        assert!(
            revision >= self.request.start_revision,
            "no progress before the start"
        );
        assert!(revision >= self.progress, "progress never goes back");
        assert!(!self.open, "no progress between parts");
        self.progress = revision;
    }

    fn on_compacted(&self, compact_revision: i64, log: &Log) {
        assert_eq!(compact_revision, log.compacted);
        assert!(
            self.cursor.0 < compact_revision,
            "only a watch that lags is ended"
        );
        assert!(self.progress + 1 < compact_revision);
        assert!(!self.open);
    }
}

/// One stream as its client sees it.
#[derive(Default, Debug)]
pub struct Client {
    seen: BTreeMap<i64, Seen>,
    /// Ended by a compaction and not cancelled yet: their ids are still taken.
    ended: BTreeSet<i64>,
    creates: VecDeque<rpc::WatchCreateRequest>,
    cancels: VecDeque<i64>,
    pub in_flight: u64,
    /// It has to take something before it is sent more.
    blocked: bool,
    pub progress_answers: usize,
}

impl Client {
    pub fn watches(&self) -> Vec<i64> {
        self.seen.keys().copied().collect()
    }

    pub fn asks(&mut self, request: rpc::WatchCreateRequest) {
        self.creates.push_back(request);
    }

    /// Remembers a cancel; false while one of the same id is not answered, since until then the
    /// client cannot know whether the id stands for an old watch or a new one.
    pub fn cancels(&mut self, id: i64) -> bool {
        let first = !self.cancels.contains(&id);
        if first {
            self.cancels.push_back(id);
        }
        first
    }

    /// Whether every watch got everything up to the revision.
    pub fn is_complete(&self, log: &Log) -> bool {
        self.creates.is_empty() && self.seen.values().all(|seen| seen.expected(log).is_none())
    }

    /// Whether a progress request must be answered once everything was sent.
    pub fn can_progress(&self, log: &Log) -> bool {
        let reached = |seen: &Seen| seen.request.start_revision <= History::revision(log);
        !self.seen.is_empty() && self.seen.values().all(reached)
    }

    /// It takes so many bytes; gives how many there were to take.
    pub fn takes(&mut self, bytes: u64, others: u64, settings: &Settings) -> u64 {
        let bytes = bytes.min(self.in_flight);
        self.in_flight -= bytes;
        self.blocked &= self.in_flight > settings.window(self.in_flight + others) / 2;
        bytes
    }

    pub fn on_response(
        &mut self,
        response: &rpc::WatchResponse,
        bytes: u64,
        others: u64,
        log: &Log,
        settings: &Settings,
    ) {
        let revision = response.header.expect("every response has one").revision;
        let between = self.seen.values().any(|seen| seen.open);
        assert!(
            between || (!self.blocked && self.in_flight < settings.window_bytes),
            "within the credit"
        );
        self.in_flight += bytes;
        self.blocked |= self.in_flight >= settings.window(self.in_flight + others);
        let size = response.encoded_len() as u64;
        let wire = bytes - super::batch::held_bytes(response);
        assert!(
            size <= wire && wire <= size + 40,
            "{size} bytes, not {wire}"
        );
        if response.created {
            return self.on_created(response, revision);
        }
        if response.canceled {
            let seen = self.seen.remove(&response.watch_id);
            if response.compact_revision != 0 {
                let seen = seen.expect("ended after created");
                seen.on_compacted(response.compact_revision, log);
                self.ended.insert(response.watch_id);
            } else {
                let ended = self.ended.remove(&response.watch_id);
                assert!(seen.is_some() != ended, "canceled after created");
                assert_eq!(self.cancels.pop_front(), Some(response.watch_id));
            }
            return;
        }
        if response.events.is_empty() {
            return self.on_progress(response.watch_id, revision, log);
        }
        let seen = self
            .seen
            .get_mut(&response.watch_id)
            .expect("events after created");
        seen.on_events(response, log);
        let split = seen.request.fragment && response.events.len() > 1;
        assert!(
            !split || wire < settings.fragment_bytes as u64,
            "parts are small"
        );
    }

    fn on_created(&mut self, response: &rpc::WatchResponse, revision: i64) {
        let request = self.creates.pop_front().expect("one answer per create");
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            let reason = &response.cancel_reason[..];
            let end = &request.range_end[..];
            let empty = !end.is_empty() && end != b"\0" && end <= lowest(&request);
            if request.start_revision < 0 {
                assert_eq!(reason, ApiError::Compacted.text());
            } else if empty {
                assert_eq!(reason, "mvcc: watcher range is empty");
            } else {
                assert!(reason.starts_with("mvcc: duplicate watch ID"), "{reason}");
                let id = request.watch_id;
                assert!(id != 0 && (self.seen.contains_key(&id) || self.ended.contains(&id)));
            }
            return;
        }
        assert!(request.watch_id == 0 || request.watch_id == response.watch_id);
        let seen = Seen::new(request, revision);
        assert!(
            self.seen.insert(response.watch_id, seen).is_none()
                && !self.ended.contains(&response.watch_id),
            "ids are unique"
        );
    }

    fn on_progress(&mut self, id: i64, revision: i64, log: &Log) {
        if id == -1 {
            assert!(!self.seen.is_empty(), "progress of nothing");
            self.seen
                .values_mut()
                .for_each(|seen| seen.on_progress(revision, log));
            self.progress_answers += 1;
        } else {
            let seen = self.seen.get_mut(&id).expect("progress after created");
            assert!(seen.request.progress_notify);
            seen.on_progress(revision, log);
        }
    }
}

/// Feeds output to the clients; streams that ended are dropped.
pub fn judge(
    clients: &mut BTreeMap<StreamId, Client>,
    output: Vec<(StreamId, StreamItem)>,
    log: &Log,
    settings: &Settings,
) {
    let mut ended = BTreeSet::new();
    for (stream, item) in output {
        assert!(!ended.contains(&stream), "nothing follows the end");
        let all = clients.values().map(|client| client.in_flight).sum::<u64>();
        let client = clients
            .get_mut(&stream)
            .expect("output for open streams only");
        let others = all - client.in_flight;
        match item.alone() {
            StreamItem::Alike { .. } => unreachable!("it was made one of its own"),
            StreamItem::Watch { response, bytes } => {
                client.on_response(&response, bytes, others, log, settings);
            }
            StreamItem::End(error) => {
                assert_eq!(error, ApiError::TooManyRequests);
                assert!(
                    client.in_flight >= settings.window(u64::MAX) / 2,
                    "ended without a reason"
                );
                client.in_flight = 0;
                ended.insert(stream);
            }
        }
    }
    clients.retain(|stream, _| !ended.contains(stream));
}
