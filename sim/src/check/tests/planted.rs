//! Wrong histories, each with the guarantee that must be found broken, and the weaknesses under
//! which a checker no longer finds it.

use super::super::*;
use crate::model::Model;

/// Tells a right history, one operation after the other.
struct Story {
    model: Model,
    history: History,
    time: Time,
}

const SECOND: Time = 1_000_000_000;

fn put(key: &str, value: &str) -> Request {
    attach(key, value, 0)
}

fn attach(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        ..PutRequest::default()
    })
}

fn get(key: &str) -> Request {
    Request::Range(RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    })
}

fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRangeRequest {
        key: key.into(),
        ..DeleteRangeRequest::default()
    })
}

fn txn(success: Vec<Request>) -> Request {
    Request::Txn(TxnRequest {
        success,
        ..TxnRequest::default()
    })
}

impl Story {
    fn new() -> Story {
        let meta = Meta {
            lease_late_max: Some(SECOND),
            ..Meta::default()
        };
        Story {
            model: Model::with_archive(&meta),
            time: 1000,
            history: History {
                meta,
                ..History::default()
            },
        }
    }

    /// One operation after all others; its place.
    fn tell(&mut self, request: Request) -> usize {
        let id = self.history.ops.len() as u64 + 1;
        let (call, applied, ret) = (self.time, self.time + 50, self.time + 100);
        self.time += 200;
        let outcome = match self.model.step(&request) {
            Ok(answer) => Outcome::Ok(Response {
                header: Header {
                    revision: answer.revision,
                    ..Header::default()
                },
                reply: answer.reply,
            }),
            Err(refusal) => Outcome::Failed(refusal.failure()),
        };
        let is_read = matches!(
            request,
            Request::Range(_)
                | Request::LeaseKeepAlive(_)
                | Request::LeaseTimeToLive(_)
                | Request::LeaseLeases
        );
        if !is_read {
            self.history.commits.push(Commit {
                index: id * 10,
                op: Some(id),
                time: Some(applied),
                request: request.clone(),
            });
        }
        self.history.ops.push(Operation {
            id,
            client: 1,
            process: 0,
            call,
            ret: Some(ret),
            endpoint: String::new(),
            request,
            outcome,
        });
        self.history.ops.len() - 1
    }

    fn expire(&mut self, lease: i64) {
        let request = Request::LeaseRevoke(LeaseRequest { id: lease });
        self.model.step(&request).unwrap();
        let last = self.history.commits.last().map_or(0, |commit| commit.index);
        self.history.commits.push(Commit {
            index: last + 1,
            op: None,
            time: Some(self.time),
            request,
        });
        self.time += 100;
    }

    fn line(&mut self, item: WatchItem) {
        self.history.watches.push(WatchRecord {
            client: 9,
            stream: 1,
            time: self.time,
            endpoint: String::new(),
            item,
        });
        self.time += 10;
    }

    fn watch(&mut self, request: WatchRequest) {
        let created = WatchCreated {
            call: self.time,
            watch_id: 0,
            revision: self.model.revision(),
            request,
            ..WatchCreated::default()
        };
        self.line(WatchItem::Created(created));
    }

    fn deliver(&mut self, revision: i64, wanted: impl Fn(&Text) -> bool) {
        let events = self.model.archive().unwrap().events_at(revision).to_vec();
        let response = WatchResponse {
            watch_id: 0,
            revision: self.model.revision(),
            fragment: false,
            events: events
                .into_iter()
                .filter(|event| wanted(&event.kv.key))
                .collect(),
        };
        if !response.events.is_empty() {
            self.line(WatchItem::Response(response));
        }
    }
}

/// What most wrong histories begin with. Revisions: 2 a, 3 b, 4 a and b, 5 no a, 6 a, 7 l.
fn base() -> Story {
    let mut story = Story::new();
    story.tell(put("a", "a2"));
    story.tell(put("b", "b3"));
    story.tell(txn(vec![put("a", "a4"), put("b", "b4")]));
    story.tell(get("a"));
    story.tell(delete("a"));
    story.tell(get("a"));
    story.tell(put("a", "a6"));
    story.tell(Request::LeaseGrant(LeaseGrantRequest { ttl: 5, id: 7 }));
    story.tell(attach("l", "l7", 7));
    story.tell(get("a"));
    story
}

/// All of it watched, with pairs before.
fn watched() -> Story {
    let mut story = base();
    story.watch(WatchRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 2,
        prev_kv: true,
        ..WatchRequest::default()
    });
    for revision in 2..=7 {
        story.deliver(revision, |_| true);
    }
    story.line(WatchItem::Response(WatchResponse {
        watch_id: 0,
        revision: 7,
        ..WatchResponse::default()
    }));
    story
}

fn response(history: &mut History, line: usize) -> &mut WatchResponse {
    match &mut history.watches[line].item {
        WatchItem::Response(response) => response,
        other => panic!("not a response: {other:?}"),
    }
}

fn range_reply(op: &mut Operation) -> &mut RangeReply {
    match &mut op.outcome {
        Outcome::Ok(Response {
            reply: Reply::Range(reply),
            ..
        }) => reply,
        other => panic!("not a range: {other:?}"),
    }
}

fn header(op: &mut Operation) -> &mut i64 {
    match &mut op.outcome {
        Outcome::Ok(response) => &mut response.header.revision,
        other => panic!("no header: {other:?}"),
    }
}

fn failed(text: &str) -> Outcome {
    Outcome::Failed(Failure {
        code: 14,
        text: text.into(),
    })
}

fn refused(refusal: crate::model::Refusal) -> Outcome {
    Outcome::Failed(refusal.failure())
}

fn lose(op: &mut Operation) {
    op.ret = None;
    op.outcome = Outcome::Unknown;
}

/// A wrong history: its name, how it is made, what must be found, and what no longer finds it.
type Case = (
    &'static str,
    fn() -> History,
    Guarantee,
    &'static [Weakness],
);

/// The history of a story without its log.
fn unseen(mut story: Story) -> History {
    story.history.commits.clear();
    story.history
}

fn order_cases() -> Vec<Case> {
    use Guarantee::Linearizable;
    vec![
        (
            "a read misses a write that had returned",
            || {
                let mut history = unseen(base());
                let old = history.ops[3].outcome.clone();
                history.ops[5].outcome = old;
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a read shows a value that nobody wrote",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).kvs[0].value = "other".into();
                history
            },
            Linearizable,
            &[Weakness::KeysOnly],
        ),
        (
            "a read shows a wrong version",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).kvs[0].version += 1;
                history
            },
            Linearizable,
            &[Weakness::KeysOnly],
        ),
        (
            "a read shows a key that was deleted",
            || {
                let mut history = unseen(base());
                let old = range_reply(&mut history.ops[3]).clone();
                *range_reply(&mut history.ops[5]) = old;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a read names a revision that its state does not have",
            || {
                let mut history = unseen(base());
                *header(&mut history.ops[9]) = 6;
                history
            },
            Linearizable,
            &[Weakness::NoHeaders],
        ),
        (
            "a count is wrong",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).count = 2;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "two writes are the same step",
            || {
                let mut history = unseen(base());
                *header(&mut history.ops[1]) = 2;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "two conditional writes both win",
            || {
                let mut story = Story::new();
                story.tell(put("a", "a2"));
                let compare = Compare {
                    key: "a".into(),
                    range_end: Text::default(),
                    result: CompareResult::Equal,
                    target: CompareTarget::Mod(2),
                };
                for value in ["x", "y"] {
                    story.tell(Request::Txn(TxnRequest {
                        compare: vec![compare.clone()],
                        success: vec![put("a", value)],
                        failure: vec![],
                    }));
                }
                let mut history = unseen(story);
                let mut won = history.ops[1].outcome.clone();
                std::mem::swap(&mut won, &mut history.ops[2].outcome);
                *header(&mut history.ops[2]) = 4;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "what failed for certain is read",
            || {
                let mut history = unseen(base());
                history.ops[6].outcome = failed("etcdserver: no leader");
                history
            },
            Linearizable,
            &[],
        ),
        (
            "an unknown write takes effect twice",
            || {
                let mut story = Story::new();
                for value in ["once", "other", "once"] {
                    story.tell(put("k", value));
                    story.tell(get("k"));
                }
                let mut history = unseen(story);
                lose(&mut history.ops[0]);
                history.ops.remove(4);
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a write is read before it is called",
            || {
                let mut history = unseen(base());
                lose(&mut history.ops[6]);
                history.ops[6].client = 2;
                history.ops[6].call = history.ops[9].ret.unwrap() + 1;
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a key is said to be missing that is there",
            || {
                let mut story = base();
                let at = story.tell(Request::Put(PutRequest {
                    key: "a".into(),
                    ignore_value: true,
                    ..PutRequest::default()
                }));
                let mut history = unseen(story);
                history.ops[at].outcome = refused(crate::model::Refusal::KeyNotFound);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
        (
            "a revision is said to be compacted that is not",
            || {
                let mut history = unseen(base());
                let Request::Range(range) = &mut history.ops[9].request else {
                    panic!()
                };
                range.revision = 3;
                history.ops[9].outcome = refused(crate::model::Refusal::Compacted);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
        (
            "a good request is refused for its form",
            || {
                let mut history = unseen(base());
                history.ops[9].outcome = refused(crate::model::Refusal::EmptyKey);
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a revision passes that nobody explains",
            || {
                let mut history = unseen(base());
                history.ops.remove(6);
                history
            },
            Linearizable,
            &[],
        ),
    ]
}

fn log_cases() -> Vec<Case> {
    use Guarantee::{Committed, Linearizable};
    vec![
        (
            "an acknowledged write is lost",
            || {
                let mut history = base().history;
                history.commits.pop();
                history.ops.pop();
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "a write is in the log twice",
            || {
                let mut history = base().history;
                let mut again = history.commits[0].clone();
                again.index = 1000;
                history.commits.push(again);
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "what failed for certain is in the log",
            || {
                let mut history = base().history;
                history.ops[8].outcome = failed("etcdserver: no leader");
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "a write is acknowledged before it is applied",
            || {
                let mut history = base().history;
                history.commits[0].time = history.ops[0].ret.map(|ret| ret + 1);
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "the log holds another request",
            || {
                let mut history = base().history;
                history.commits[0].request = put("a", "other");
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "the log orders two writes against time",
            || {
                let mut story = Story::new();
                story.tell(put("a", "1"));
                story.tell(put("b", "2"));
                let mut history = story.history;
                for op in &mut history.ops {
                    let turned = 5 - *header(op);
                    *header(op) = turned;
                }
                history.commits.reverse();
                for (at, commit) in history.commits.iter_mut().enumerate() {
                    (commit.index, commit.time) = (at as u64, None);
                }
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a lease is said to be missing that the log has",
            || {
                let mut story = base();
                let at = story.tell(attach("m", "m8", 7));
                let mut history = story.history;
                history.commits.pop();
                history.ops[at].outcome = refused(crate::model::Refusal::LeaseNotFound);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
    ]
}

fn stale_cases() -> Vec<Case> {
    use Guarantee::Serializable;
    fn with_read(
        change: impl FnOnce(&mut RangeRequest),
        wrong: impl FnOnce(&mut Operation),
    ) -> History {
        let mut story = base();
        let mut range = RangeRequest {
            key: "b".into(),
            ..RangeRequest::default()
        };
        change(&mut range);
        let at = story.tell(Request::Range(range));
        wrong(&mut story.history.ops[at]);
        unseen(story)
    }
    vec![
        (
            "a stale read shows what was never there",
            || {
                with_read(
                    |range| range.serializable = true,
                    |op| range_reply(op).kvs[0].value = "other".into(),
                )
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a stale read mixes two revisions",
            || with_read(|range| range.serializable = true, |op| *header(op) = 3),
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a stale read is from the future",
            || {
                let mut history = with_read(|range| range.serializable = true, |_| ());
                let mut read = history.ops.pop().unwrap();
                (read.client, read.call, read.ret) = (2, 10, Some(20));
                history.ops.insert(0, read);
                history
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a read at an old revision shows the present",
            || {
                with_read(
                    |_| (),
                    |op| {
                        let Request::Range(range) = &mut op.request else {
                            panic!()
                        };
                        range.revision = 3;
                    },
                )
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
    ]
}

fn watch_cases() -> Vec<Case> {
    use Guarantee::*;
    vec![
        (
            "an event that was not asked for",
            || {
                let mut history = unseen(watched());
                let WatchItem::Created(created) = &mut history.watches[0].item else {
                    panic!()
                };
                (created.request.key, created.request.range_end) = ("b".into(), "z".into());
                history
            },
            WatchFilter,
            &[Weakness::NoFilter],
        ),
        (
            "events out of order",
            || {
                let mut history = unseen(watched());
                let item = history.watches[2].item.clone();
                history.watches[2].item = history.watches[4].item.clone();
                history.watches[4].item = item;
                history
            },
            WatchOrdered,
            &[Weakness::NoOrder],
        ),
        (
            "an event twice",
            || {
                let mut history = unseen(watched());
                let event = response(&mut history, 2).events[0].clone();
                response(&mut history, 2).events.push(event);
                history
            },
            WatchUnique,
            &[Weakness::NoUnique],
        ),
        (
            "a revision in two parts",
            || {
                let mut history = unseen(watched());
                let second = response(&mut history, 3).events.split_off(1);
                let mut line = history.watches[3].clone();
                let WatchItem::Response(response) = &mut line.item else {
                    panic!()
                };
                response.events = second;
                history.watches.insert(4, line);
                history
            },
            WatchAtomic,
            &[Weakness::NoAtomic],
        ),
        (
            "progress before the events it covers",
            || {
                let mut history = unseen(watched());
                let progress = history.watches.pop().unwrap();
                history.watches.insert(5, progress);
                history
            },
            WatchBookmarkable,
            &[Weakness::NoBookmark],
        ),
        (
            "progress that goes back",
            || {
                let mut history = unseen(watched());
                let mut progress = history.watches.last().unwrap().clone();
                let WatchItem::Response(response) = &mut progress.item else {
                    panic!()
                };
                (response.watch_id, response.revision) = (-1, 6);
                history.watches.push(progress);
                history
            },
            WatchBookmarkable,
            &[Weakness::NoBookmark],
        ),
        (
            "the first event is missing",
            || {
                let mut history = unseen(watched());
                history.watches.remove(1);
                history
            },
            WatchResumable,
            &[Weakness::NoResume],
        ),
        (
            "an event from before the start",
            || {
                let mut history = unseen(watched());
                let WatchItem::Created(created) = &mut history.watches[0].item else {
                    panic!()
                };
                created.request.start_revision = 3;
                history
            },
            WatchResumable,
            &[Weakness::NoResume],
        ),
        (
            "an event in the middle is missing",
            || {
                let mut history = unseen(watched());
                history.watches.remove(4);
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "half of a revision is missing",
            || {
                let mut history = unseen(watched());
                response(&mut history, 3).events.pop();
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "an event that never was",
            || {
                let mut history = unseen(watched());
                response(&mut history, 2).events[0].kv.value = "other".into();
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "an event before its cause",
            || {
                let mut story = Story::new();
                story.watch(WatchRequest {
                    key: "a".into(),
                    start_revision: 2,
                    ..WatchRequest::default()
                });
                story.tell(put("a", "a2"));
                story.deliver(2, |_| true);
                let mut history = unseen(story);
                let created = history.watches[0].time;
                history.watches[1].time = created;
                for event in &mut response(&mut history, 1).events {
                    event.prev_kv = None;
                }
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "a wrong pair before",
            || {
                let mut history = unseen(watched());
                let before = &mut response(&mut history, 3).events[0].prev_kv;
                before.as_mut().unwrap().value = "other".into();
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "no pair before, and nothing compacted",
            || {
                let mut history = unseen(watched());
                response(&mut history, 3).events[0].prev_kv = None;
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "a change told as a creation",
            || {
                let mut history = unseen(watched());
                let kv = &mut response(&mut history, 3).events[0].kv;
                (kv.create_revision, kv.version) = (4, 1);
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "events after the end",
            || {
                let mut history = unseen(watched());
                let mut end = history.watches[3].clone();
                end.item = WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    ..WatchCanceled::default()
                });
                history.watches.insert(3, end);
                history
            },
            WatchLifetime,
            &[Weakness::NoLifetime],
        ),
        (
            "events before the creation",
            || {
                let mut history = unseen(watched());
                history.watches.swap(0, 1);
                history
            },
            WatchLifetime,
            &[Weakness::NoLifetime],
        ),
        (
            "an end by a compaction that never was",
            || {
                let mut history = unseen(watched());
                history.watches.truncate(2);
                let mut end = history.watches[1].clone();
                end.item = WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    compact_revision: 5,
                    ..WatchCanceled::default()
                });
                history.watches.push(end);
                history
            },
            WatchCompacted,
            &[Weakness::NoCompacted],
        ),
        (
            "an end by a compaction of what was delivered",
            || {
                let mut story = watched();
                story.tell(Request::Compact(CompactRequest {
                    revision: 5,
                    physical: false,
                }));
                story.line(WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    compact_revision: 5,
                    ..WatchCanceled::default()
                }));
                unseen(story)
            },
            WatchCompacted,
            &[Weakness::NoCompacted],
        ),
    ]
}

fn lease_cases() -> Vec<Case> {
    use Guarantee::*;
    fn keep_alive(id: i64) -> Request {
        Request::LeaseKeepAlive(LeaseRequest { id })
    }
    fn set_ttl(op: &mut Operation, ttl: i64) {
        let Outcome::Ok(response) = &mut op.outcome else {
            panic!()
        };
        match &mut response.reply {
            Reply::LeaseKeepAlive(reply) => reply.ttl = ttl,
            Reply::LeaseTimeToLive(reply) => reply.granted_ttl = ttl,
            other => panic!("no ttl: {other:?}"),
        }
    }
    vec![
        (
            "a lease ends before its time, by the log",
            || {
                let mut story = base();
                story.time += SECOND;
                story.expire(7);
                story.history
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a lease ends before its time, by what a client saw",
            || {
                let mut story = base();
                story.time += SECOND;
                story.expire(7);
                story.tell(get("l"));
                unseen(story)
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a renewal is forgotten",
            || {
                let mut story = base();
                story.time += 4 * SECOND;
                story.tell(keep_alive(7));
                story.time += 2 * SECOND;
                story.expire(7);
                story.history
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a lease lives on after its time",
            || {
                let mut story = base();
                story.time += 7 * SECOND;
                story.tell(get("l"));
                story.history
            },
            LeaseLate,
            &[Weakness::NoLeaseLate],
        ),
        (
            "a lease lives on after its time, by what a client saw",
            || {
                let mut story = base();
                story.time += 7 * SECOND;
                story.tell(put("c", "c8"));
                story.tell(get("l"));
                unseen(story)
            },
            LeaseLate,
            &[Weakness::NoLeaseLate],
        ),
        (
            "a dead lease is renewed",
            || {
                let mut story = base();
                story.tell(Request::LeaseRevoke(LeaseRequest { id: 7 }));
                let at = story.tell(keep_alive(7));
                set_ttl(&mut story.history.ops[at], 5);
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a living lease is said to be gone",
            || {
                let mut story = base();
                let at = story.tell(keep_alive(7));
                set_ttl(&mut story.history.ops[at], 0);
                story.tell(put("c", "c8"));
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a lease has a TTL that was not granted",
            || {
                let mut story = base();
                let at = story.tell(Request::LeaseTimeToLive(LeaseTimeToLiveRequest {
                    id: 7,
                    keys: true,
                }));
                set_ttl(&mut story.history.ops[at], 6);
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a lease is listed that was never granted",
            || {
                let mut story = base();
                let at = story.tell(Request::LeaseLeases);
                let Outcome::Ok(response) = &mut story.history.ops[at].outcome else {
                    panic!()
                };
                response.reply = Reply::LeaseLeases(LeaseLeasesReply { leases: vec![7, 8] });
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
    ]
}

fn format_cases() -> Vec<Case> {
    vec![
        (
            "an id is used twice",
            || {
                let mut history = unseen(base());
                history.ops[1].id = 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
        (
            "a thread does two things at a time",
            || {
                let mut history = unseen(base());
                history.ops[1].call = history.ops[0].call + 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
        (
            "a log that goes back",
            || {
                let mut history = base().history;
                history.commits[1].index = 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
    ]
}

fn cases() -> Vec<Case> {
    let all = [
        order_cases(),
        log_cases(),
        stale_cases(),
        watch_cases(),
        lease_cases(),
        format_cases(),
    ];
    all.into_iter().flatten().collect()
}

#[test]
fn the_stories_are_right_before_they_are_spoilt() {
    for story in [base(), watched()] {
        for commits in [true, false] {
            let mut history = story.history.clone();
            if !commits {
                history.commits.clear();
            }
            let report = check(&history, &Options::default());
            assert!(report.is_ok(), "{report}");
            assert_eq!(report.plain, plain::Verdict::Ordered);
        }
    }
}

#[test]
fn each_planted_wrong_is_found_by_its_own_check() {
    assert!(cases().len() >= 50);
    for (name, make, guarantee, _) in cases() {
        let report = check(&make(), &Options::default());
        assert!(
            report.breaks(guarantee),
            "{name}: {guarantee:?} not in\n{report}"
        );
        let named = report
            .violations
            .iter()
            .find(|v| v.guarantee == guarantee)
            .unwrap();
        let is_watch = format!("{guarantee:?}").starts_with("Watch");
        let is_named = !named.ops.is_empty() || named.text.contains("revision");
        assert!(
            is_watch || is_named || guarantee == Guarantee::Format,
            "{name}: {named}"
        );
    }
}

#[test]
fn a_broken_checker_misses_what_it_no_longer_looks_at() {
    let mut used: BTreeSet<Weakness> = BTreeSet::new();
    for (name, make, guarantee, weak) in cases() {
        if weak.is_empty() {
            continue;
        }
        used.extend(weak);
        let options = Options {
            plain_ops_max: 0,
            weak: weak.iter().copied().collect(),
            ..Options::default()
        };
        let report = check(&make(), &options);
        assert!(
            !report.breaks(guarantee),
            "{name}: found in spite of {weak:?}\n{report}"
        );
    }
    // The three others are shown by the tests below.
    assert_eq!(used.len(), 19, "{used:?}");
}

#[test]
fn a_checker_that_forgets_unknown_writes_cries_wolf() {
    let mut story = base();
    story.tell(get("b"));
    let mut history = unseen(story);
    lose(&mut history.ops[6]);
    assert!(check(&history, &Options::default()).is_ok());
    let weak = Options {
        weak: [Weakness::UnknownNeverApplied].into(),
        ..Options::default()
    };
    assert!(check(&history, &weak).breaks(Guarantee::Linearizable));
}

#[test]
fn a_search_that_gives_up_has_failed() {
    let history = unseen(base());
    let mut options = Options {
        steps_max: 3,
        ..Options::default()
    };
    assert!(check(&history, &options).breaks(Guarantee::Undecided));
    options.weak.insert(Weakness::GivingUpPasses);
    assert!(!check(&history, &options).breaks(Guarantee::Undecided));
}
