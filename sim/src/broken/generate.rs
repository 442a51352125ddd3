//! Right histories: clients that overlap, a model that takes one request at a time at a moment
//! between call and return, answers that get lost, and watches that lag.

use crate::history::*;
use crate::model::{Answer, KeyRange, Model, Refusal};

/// A small generator; the seed is the whole randomness of a history.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether it happens, with this share of a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// What a history is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The whole randomness of it.
    pub seed: u64,
    /// How many operations.
    pub ops: usize,
    /// How many clients, each doing one thing at a time.
    pub clients: usize,
    /// The share of a hundred of requests, and of answers, that get lost.
    pub unknown: u64,
    /// How many keys.
    pub keys: u64,
    /// Whether no two writes have the same value.
    pub unique: bool,
    /// Whether there are leases.
    pub leases: bool,
    /// Whether there are compactions.
    pub compactions: bool,
    /// How many watches at a time.
    pub watches: usize,
    /// Whether the committed log is told.
    pub commits: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            seed: 1,
            ops: 100,
            clients: 5,
            unknown: 5,
            keys: 5,
            unique: true,
            leases: true,
            compactions: true,
            watches: 3,
            commits: true,
        }
    }
}

enum Client {
    Idle,
    Called(Operation),
    Answered(Operation, Result<Answer, Refusal>),
}

struct Watcher {
    stream: u64,
    request: WatchRequest,
    range: KeyRange,
    cursor: i64,
}

struct World {
    dice: Dice,
    shape: Shape,
    model: Model,
    time: Time,
    next_id: u64,
    next_stream: u64,
    index: u64,
    clients: Vec<Client>,
    /// Requests whose clients have given up and that may still be done.
    ghosts: Vec<Operation>,
    watchers: Vec<Watcher>,
    /// When each lease runs out.
    deadlines: Vec<(i64, Time)>,
    history: History,
}

const SECOND: Time = 1_000_000_000;

/// Makes a right history.
pub fn history(shape: &Shape) -> History {
    let meta = Meta {
        lease_late_max: Some(60 * SECOND),
        ..Meta::default()
    };
    let mut world = World {
        dice: Dice::new(shape.seed),
        model: Model::with_archive(&meta),
        time: 1000,
        next_id: 0,
        next_stream: 0,
        index: 0,
        clients: (0..shape.clients).map(|_| Client::Idle).collect(),
        ghosts: Vec::new(),
        watchers: Vec::new(),
        deadlines: Vec::new(),
        history: History {
            meta,
            ..History::default()
        },
        shape: shape.clone(),
    };
    while world.history.ops.len() < shape.ops {
        world.tick();
    }
    // Whoever still waits when the history ends knows nothing.
    for client in std::mem::take(&mut world.clients) {
        match client {
            Client::Idle => (),
            Client::Called(op) | Client::Answered(op, _) => world.give_up(op),
        }
    }
    if !shape.commits {
        world.history.commits.clear();
    }
    world.history
}

impl World {
    fn tick(&mut self) {
        self.time += self.dice.below(40_000_000);
        let at = self.dice.below(self.clients.len() as u64) as usize;
        let client = std::mem::replace(&mut self.clients[at], Client::Idle);
        self.clients[at] = match client {
            Client::Idle => self.call(at),
            Client::Called(op) if self.dice.percent(self.shape.unknown) => {
                self.give_up(op.clone());
                self.ghosts.push(op);
                Client::Idle
            }
            Client::Called(op) => {
                let answer = self.apply(&op);
                Client::Answered(op, answer)
            }
            Client::Answered(op, _) if self.dice.percent(self.shape.unknown) => {
                self.give_up(op);
                Client::Idle
            }
            Client::Answered(op, answer) => {
                self.answer(op, answer);
                Client::Idle
            }
        };
        if !self.ghosts.is_empty() && self.dice.percent(10) {
            let at = self.dice.below(self.ghosts.len() as u64) as usize;
            let ghost = self.ghosts.remove(at);
            if self.dice.percent(50) {
                let _ = self.apply(&ghost);
            }
        }
        self.expire();
        self.watch();
    }

    fn call(&mut self, client: usize) -> Client {
        self.next_id += 1;
        Client::Called(Operation {
            id: self.next_id,
            client: client as u64,
            process: 0,
            call: self.time,
            ret: None,
            endpoint: format!("m{client}"),
            request: self.request(),
            outcome: Outcome::Unknown,
        })
    }

    fn give_up(&mut self, op: Operation) {
        self.history.ops.push(op);
    }

    fn answer(&mut self, mut op: Operation, answer: Result<Answer, Refusal>) {
        op.ret = Some(self.time);
        op.outcome = match answer {
            Ok(answer) => Outcome::Ok(Response {
                header: Header {
                    revision: answer.revision,
                    ..Header::default()
                },
                reply: answer.reply,
            }),
            Err(refusal) => Outcome::Failed(refusal.failure()),
        };
        self.history.ops.push(op);
    }

    fn apply(&mut self, op: &Operation) -> Result<Answer, Refusal> {
        if let Request::Range(range) = &op.request
            && range.serializable
        {
            let archive = self.model.archive().unwrap();
            let lag = self.dice.below(4) as i64;
            let revision = (archive.last() - lag).max(1);
            return Model::at(archive, revision, &self.history.meta).step(&op.request);
        }
        let mut answer = self.model.step(&op.request);
        if let Ok(Answer {
            reply: Reply::LeaseTimeToLive(reply),
            ..
        }) = &mut answer
            && let Some((_, at)) = self.deadlines.iter().find(|(id, _)| *id == reply.id)
        {
            // The model has no clock.
            reply.ttl = (at.saturating_sub(self.time) / SECOND) as i64;
        }
        self.renew(&op.request, answer.as_ref().ok());
        let is_logged = match &op.request {
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_) => true,
            Request::Txn(txn) => !txn
                .success
                .iter()
                .chain(&txn.failure)
                .all(|op| matches!(op, Request::Range(_))),
            Request::Range(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => false,
        };
        let is_timeless = answer.as_ref().is_err_and(|refusal| refusal.is_timeless());
        if is_logged && !is_timeless {
            let mut request = op.request.clone();
            if let (Request::LeaseGrant(grant), Ok(answer)) = (&mut request, &answer)
                && let Reply::LeaseGrant(reply) = &answer.reply
            {
                grant.id = reply.id;
            }
            self.commit(Some(op.id), request);
        }
        answer
    }

    fn commit(&mut self, op: Option<u64>, request: Request) {
        self.index += 1 + self.dice.below(2);
        self.history.commits.push(Commit {
            index: self.index,
            op,
            time: Some(self.time),
            request,
        });
    }

    fn renew(&mut self, request: &Request, answer: Option<&Answer>) {
        let Some(answer) = answer else { return };
        match (request, &answer.reply) {
            (_, Reply::LeaseGrant(reply) | Reply::LeaseKeepAlive(reply)) if reply.ttl > 0 => {
                self.deadlines.retain(|(id, _)| *id != reply.id);
                self.deadlines
                    .push((reply.id, self.time + reply.ttl as u64 * SECOND));
            }
            (Request::LeaseRevoke(lease), _) => self.deadlines.retain(|(id, _)| *id != lease.id),
            (_, _) => (),
        }
    }

    fn expire(&mut self) {
        let due = self.deadlines.iter().position(|(_, at)| *at <= self.time);
        if let Some(at) = due
            && self.dice.percent(30)
        {
            let (id, _) = self.deadlines.remove(at);
            let request = Request::LeaseRevoke(LeaseRequest { id });
            self.model.step(&request).unwrap();
            self.commit(None, request);
        }
    }

    fn key(&mut self) -> Text {
        let key = self.dice.below(self.shape.keys);
        Text::from(format!("k{key}").as_str())
    }

    fn bounds(&mut self) -> (Text, Text) {
        let key = self.key();
        let end = match self.dice.below(5) {
            0 => Text::from("\0"),
            1 => Text::from("k3"),
            _ => Text::default(),
        };
        (key, end)
    }

    fn value(&mut self) -> Text {
        let number = if self.shape.unique {
            self.dice.next()
        } else {
            self.dice.below(3)
        };
        Text::from(format!("v{number}").as_str())
    }

    fn lease(&mut self) -> i64 {
        1 + self.dice.below(3) as i64
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.bounds();
        let mut range = RangeRequest {
            key,
            range_end,
            serializable: self.dice.percent(15),
            keys_only: self.dice.percent(10),
            count_only: self.dice.percent(5),
            ..RangeRequest::default()
        };
        if self.dice.percent(20) {
            range.limit = 1 + self.dice.below(3) as i64;
            range.sort_target = *self.dice.pick(&[SortTarget::Key, SortTarget::Version]);
        }
        if !range.serializable && self.dice.percent(15) {
            let oldest = self.model.compacted().max(1) - 1;
            let span = (self.model.revision() + 2 - oldest) as u64;
            range.revision = (oldest + self.dice.below(span) as i64).max(1);
        }
        range
    }

    fn put(&mut self) -> PutRequest {
        let mut put = PutRequest {
            key: self.key(),
            value: self.value(),
            prev_kv: self.dice.percent(30),
            ..PutRequest::default()
        };
        if self.shape.leases && self.dice.percent(25) {
            put.lease = self.lease();
        }
        put
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = self.bounds();
        DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.dice.percent(50),
        }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let key = self.key();
        let there = self.model.kvs().get(&key).map_or(0, |kv| kv.mod_revision);
        let compare = Compare {
            key,
            range_end: Text::default(),
            result: CompareResult::Equal,
            target: CompareTarget::Mod(there),
        };
        let put = self.put();
        let mut success = vec![Request::Put(put), Request::Range(self.range())];
        if depth == 0 && self.dice.percent(20) {
            success = vec![Request::Txn(self.txn(1)), Request::Range(self.range())];
        }
        let mut txn = TxnRequest {
            compare: vec![compare],
            success,
            failure: vec![Request::Range(self.range())],
        };
        if self.dice.percent(20) {
            txn.failure = vec![Request::DeleteRange(self.delete())];
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            if let Request::Range(range) = op {
                (range.serializable, range.revision) = (false, 0);
            }
        }
        txn
    }

    fn request(&mut self) -> Request {
        let lease = LeaseRequest { id: self.lease() };
        match self.dice.below(if self.shape.leases { 100 } else { 75 }) {
            0..30 => Request::Range(self.range()),
            30..55 => Request::Put(self.put()),
            55..60 => Request::DeleteRange(self.delete()),
            60..73 => Request::Txn(self.txn(0)),
            73..75 if self.shape.compactions && self.model.revision() > 4 => {
                let revision = self.model.revision() - self.dice.below(4) as i64;
                Request::Compact(CompactRequest {
                    revision,
                    physical: false,
                })
            }
            73..75 => Request::Put(self.put()),
            75..84 => Request::LeaseGrant(LeaseGrantRequest {
                ttl: 1 + self.dice.below(3) as i64,
                id: if self.dice.percent(10) { 0 } else { lease.id },
            }),
            84..87 => Request::LeaseRevoke(lease),
            87..93 => Request::LeaseKeepAlive(lease),
            93..98 => Request::LeaseTimeToLive(LeaseTimeToLiveRequest {
                id: lease.id,
                keys: self.dice.percent(50),
            }),
            _ => Request::LeaseLeases,
        }
    }

    fn watch(&mut self) {
        if self.watchers.len() < self.shape.watches && self.dice.percent(10) {
            self.create_watcher();
        }
        if self.watchers.is_empty() || self.dice.percent(60) {
            return;
        }
        let at = self.dice.below(self.watchers.len() as u64) as usize;
        let mut watcher = self.watchers.remove(at);
        if self.serve(&mut watcher) {
            self.watchers.push(watcher);
        }
    }

    fn record(&mut self, stream: u64, item: WatchItem) {
        self.history.watches.push(WatchRecord {
            client: 99,
            stream,
            time: self.time,
            endpoint: "m1".into(),
            item,
        });
    }

    fn create_watcher(&mut self) {
        self.next_stream += 1;
        let (key, range_end) = match self.dice.below(2) {
            0 => (Text::default(), Text::from("\0")),
            _ => self.bounds(),
        };
        let revision = self.model.revision();
        let oldest = self.model.compacted().max(2);
        let start_revision = match self.dice.below(3) {
            0 => 0,
            1 => oldest.min(revision + 1),
            _ => revision + self.dice.below(3) as i64,
        };
        let request = WatchRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            start_revision,
            no_put: self.dice.percent(10),
            no_delete: self.dice.percent(10),
            prev_kv: self.dice.percent(50),
            progress_notify: true,
            fragment: true,
        };
        let created = WatchCreated {
            call: self.time,
            watch_id: 0,
            revision,
            request: request.clone(),
            ..WatchCreated::default()
        };
        self.record(self.next_stream, WatchItem::Created(created));
        let first = if key.is_empty() {
            Text::from("\0")
        } else {
            key
        };
        self.watchers.push(Watcher {
            stream: self.next_stream,
            request,
            range: KeyRange::new(&first, &range_end),
            cursor: if start_revision == 0 {
                revision + 1
            } else {
                start_revision
            },
        });
    }

    /// Sends something; false if that was the end.
    fn serve(&mut self, watcher: &mut Watcher) -> bool {
        let revision = self.model.revision();
        if watcher.cursor < self.model.compacted() {
            let canceled = WatchCanceled {
                watch_id: 0,
                revision,
                compact_revision: self.model.compacted(),
                cancel_reason: String::new(),
            };
            self.record(watcher.stream, WatchItem::Canceled(canceled));
            return false;
        }
        let until = (watcher.cursor + 1 + self.dice.below(5) as i64).min(revision + 1);
        let mut events = Vec::new();
        for at in watcher.cursor..until {
            let archive = self.model.archive().unwrap();
            events.extend(
                archive
                    .events_at(at)
                    .iter()
                    .filter(|e| wants(watcher, e))
                    .cloned(),
            );
        }
        if !watcher.request.prev_kv {
            events.iter_mut().for_each(|event| event.prev_kv = None);
        }
        let is_synced = until == revision + 1;
        watcher.cursor = watcher.cursor.max(until);
        if !events.is_empty() {
            self.send(watcher.stream, events);
        } else if is_synced && revision >= watcher.request.start_revision {
            let progress = WatchResponse {
                watch_id: if self.dice.percent(50) { 0 } else { -1 },
                revision,
                ..WatchResponse::default()
            };
            self.record(watcher.stream, WatchItem::Response(progress));
        }
        if self.dice.percent(3) {
            self.record(watcher.stream, WatchItem::Closed);
            return false;
        }
        true
    }

    fn send(&mut self, stream: u64, events: Vec<WatchEvent>) {
        let pieces = if self.dice.percent(20) {
            1
        } else {
            events.len()
        };
        let count = events.len().div_ceil(pieces);
        for (at, events) in events.chunks(pieces).enumerate() {
            let response = WatchResponse {
                watch_id: 0,
                revision: self.model.revision(),
                fragment: at + 1 < count,
                events: events.to_vec(),
            };
            self.record(stream, WatchItem::Response(response));
        }
    }
}

fn wants(watcher: &Watcher, event: &WatchEvent) -> bool {
    let filtered = match event.kind {
        EventKind::Put => watcher.request.no_put,
        EventKind::Delete => watcher.request.no_delete,
    };
    !filtered && watcher.range.has(&event.kv.key)
}
