//! Right histories told step by step, for others to spoil.

use crate::history::*;
use crate::model::{Model, Refusal};

/// Tells a right history, one operation after the other.
pub(crate) struct Story {
    pub(crate) model: Model,
    pub(crate) history: History,
    pub(crate) time: Time,
}

pub(crate) const SECOND: Time = 1_000_000_000;

pub(crate) fn put(key: &str, value: &str) -> Request {
    attach(key, value, 0)
}

pub(crate) fn attach(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        ..PutRequest::default()
    })
}

pub(crate) fn get(key: &str) -> Request {
    Request::Range(RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    })
}

pub(crate) fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRangeRequest {
        key: key.into(),
        ..DeleteRangeRequest::default()
    })
}

pub(crate) fn txn(success: Vec<Request>) -> Request {
    Request::Txn(TxnRequest {
        success,
        ..TxnRequest::default()
    })
}

impl Story {
    pub(crate) fn new() -> Story {
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
    pub(crate) fn tell(&mut self, request: Request) -> usize {
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

    pub(crate) fn expire(&mut self, lease: i64) {
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

    pub(crate) fn line(&mut self, item: WatchItem) {
        self.history.watches.push(WatchRecord {
            client: 9,
            stream: 1,
            time: self.time,
            endpoint: String::new(),
            item,
        });
        self.time += 10;
    }

    pub(crate) fn watch(&mut self, request: WatchRequest) {
        let created = WatchCreated {
            call: self.time,
            watch_id: 0,
            revision: self.model.revision(),
            request,
            ..WatchCreated::default()
        };
        self.line(WatchItem::Created(created));
    }

    pub(crate) fn deliver(&mut self, revision: i64, wanted: impl Fn(&Text) -> bool) {
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
pub(crate) fn base() -> Story {
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
pub(crate) fn watched() -> Story {
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

pub(crate) fn response(history: &mut History, line: usize) -> &mut WatchResponse {
    match &mut history.watches[line].item {
        WatchItem::Response(response) => response,
        other => panic!("not a response: {other:?}"),
    }
}

pub(crate) fn range_reply(op: &mut Operation) -> &mut RangeReply {
    match &mut op.outcome {
        Outcome::Ok(Response {
            reply: Reply::Range(reply),
            ..
        }) => reply,
        other => panic!("not a range: {other:?}"),
    }
}

pub(crate) fn header(op: &mut Operation) -> &mut i64 {
    match &mut op.outcome {
        Outcome::Ok(response) => &mut response.header.revision,
        other => panic!("no header: {other:?}"),
    }
}

pub(crate) fn failed(text: &str) -> Outcome {
    Outcome::Failed(Failure {
        code: 14,
        text: text.into(),
    })
}

pub(crate) fn refused(refusal: Refusal) -> Outcome {
    Outcome::Failed(refusal.failure())
}

pub(crate) fn lose(op: &mut Operation) {
    op.ret = None;
    op.outcome = Outcome::Unknown;
}

/// The history of a story without its log.
pub(crate) fn unseen(mut story: Story) -> History {
    story.history.commits.clear();
    story.history
}
