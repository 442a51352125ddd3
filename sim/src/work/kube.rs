//! What Kubernetes' API server does: optimistic writes of objects, lists in pages at one revision,
//! events under a lease that several share, and a compaction that one server in a while wins.

use std::collections::BTreeMap;

use fated::{
    kernel::{Request, Response},
    pb::{
        etcdserverpb::{self as rpc, compare::TargetUnion},
        mvccpb::KeyValue,
    },
};

use super::{
    Desk, Job, Turn, answer, leases,
    requests::{self, OBJECTS, behind_prefix, compare, range_in, revision_of},
};
use crate::{client::Outcome, script::KubeStep};

const COMPACT_KEY: &str = "compact_rev_key";
/// Seconds that events live.
const EVENT_TTL: i64 = 5;
/// How many events share a lease.
const EVENTS_PER_LEASE: u32 = 10;

/// What servers remember of objects.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Where each object stood when somebody saw it last.
    seen: BTreeMap<String, i64>,
    /// The lease that events share, and how many more it takes.
    event_lease: Option<(i64, u32)>,
    /// The revision of the last whole list.
    pub(super) listed: i64,
    /// What is known of the key of compactions: how often it was written, and what was the last
    /// revision then.
    compact_version: i64,
    compact_next: i64,
}

impl Objects {
    fn saw(&mut self, pairs: &[KeyValue]) {
        for pair in pairs {
            if let Ok(key) = std::str::from_utf8(&pair.key) {
                self.seen.insert(key.to_owned(), pair.mod_revision);
            }
        }
    }
}

/// The job of a step.
pub(super) fn job(step: &KubeStep) -> Box<dyn Job> {
    match step {
        KubeStep::List { page } => Box::new(List {
            page: *page,
            after: None,
            revision: 0,
            found: 0,
            count: None,
            done: false,
        }),
        KubeStep::Compact => Box::new(Compact {
            stage: CompactStage::Swap,
        }),
        KubeStep::Create { object, event } => Box::new(Write {
            key: object_key(*object),
            how: How::Create,
            leased: *event,
            lease: None,
            stage: WriteStage::Write,
        }),
        KubeStep::Update { object } => Box::new(Write {
            key: object_key(*object),
            how: How::Update,
            leased: false,
            lease: None,
            stage: WriteStage::Write,
        }),
        KubeStep::Delete { object } => Box::new(Write {
            key: object_key(*object),
            how: How::Delete,
            leased: false,
            lease: None,
            stage: WriteStage::Write,
        }),
    }
}

fn object_key(object: u64) -> String {
    format!("{OBJECTS}{object:04}")
}

/// Everything of an object, whatever it was.
#[derive(Debug)]
struct Write {
    key: String,
    how: How,
    /// Whether it is an event, which a lease ends.
    leased: bool,
    lease: Option<i64>,
    stage: WriteStage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Create,
    Update,
    Delete,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteStage {
    Write,
    Grant,
    /// The object was not as it was known; once more as it is now.
    Again,
    Done,
}

impl Write {
    fn request(&self, desk: &Desk<'_>) -> Request {
        let known = desk.shared.objects.seen.get(&self.key).copied();
        let known = match self.how {
            How::Create => 0,
            How::Update | How::Delete => known.unwrap_or(0),
        };
        let same = compare(self.key.clone(), TargetUnion::ModRevision(known));
        let get = requests::read(self.key.clone(), Vec::new());
        match self.how {
            How::Delete => {
                let delete = requests::delete_own(&self.key, desk.author);
                requests::txn(same, vec![delete], vec![get])
            }
            How::Create | How::Update => {
                let mut put = requests::put(self.key.clone(), desk.author, 100);
                put.lease = self.lease.unwrap_or(0);
                let failure = match self.how {
                    How::Create => Vec::new(),
                    How::Update | How::Delete => vec![get],
                };
                requests::txn(same, vec![Request::Put(put)], failure)
            }
        }
    }

    fn on_txn(&mut self, response: &rpc::TxnResponse, desk: &mut Desk<'_>) {
        let objects = &mut desk.shared.objects;
        if response.succeeded {
            match self.how {
                How::Delete => objects.seen.remove(&self.key),
                How::Create | How::Update => {
                    let revision = revision_of(response.header.as_ref());
                    objects.seen.insert(self.key.clone(), revision)
                }
            };
            desk.counters.hit(match self.how {
                How::Create => "work: object created",
                How::Update => "work: object updated",
                How::Delete => "work: object deleted",
            });
            self.stage = WriteStage::Done;
            return;
        }
        desk.counters.hit("work: object conflict");
        let there = range_in(response, 0).map_or(&[][..], |range| &range.kvs);
        match there {
            [] => {
                if self.how != How::Create {
                    objects.seen.remove(&self.key);
                }
                self.stage = WriteStage::Done;
            }
            pairs => {
                objects.saw(pairs);
                self.stage = match self.stage {
                    WriteStage::Write => WriteStage::Again,
                    WriteStage::Grant | WriteStage::Again | WriteStage::Done => WriteStage::Done,
                };
            }
        }
    }
}

impl Job for Write {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        if self.stage == WriteStage::Done {
            return Turn::Done;
        }
        if self.leased && self.lease.is_none() {
            let shared = &mut desk.shared.objects.event_lease;
            match shared {
                Some((id, left)) if *left > 0 => {
                    *left -= 1;
                    self.lease = Some(*id);
                }
                Some(_) | None => {
                    self.stage = WriteStage::Grant;
                    leases::note_use(desk);
                    return Turn::Ask(leases::grant(0, EVENT_TTL));
                }
            }
        }
        Turn::Ask(self.request(desk))
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        match (self.stage, answer(outcome)) {
            (WriteStage::Grant, Some(Response::LeaseGrant(lease))) => {
                desk.shared.objects.event_lease = Some((lease.id, EVENTS_PER_LEASE));
                leases::share(desk, lease.id);
                self.stage = WriteStage::Write;
            }
            (_, Some(Response::Txn(response))) => self.on_txn(response, desk),
            (_, _) => {
                // The lease of events may be over.
                if self.leased {
                    desk.shared.objects.event_lease = None;
                }
                self.stage = WriteStage::Done;
            }
        }
    }
}

/// A list in pages, all at the revision of the first.
#[derive(Debug)]
struct List {
    page: i64,
    after: Option<Vec<u8>>,
    revision: i64,
    found: i64,
    /// How many the first page said there are.
    count: Option<i64>,
    done: bool,
}

impl Job for List {
    fn next(&mut self, _: &mut Desk<'_>) -> Turn {
        if self.done {
            return Turn::Done;
        }
        let from = match &self.after {
            None => OBJECTS.as_bytes().to_vec(),
            Some(last) => [last.as_slice(), b"\0"].concat(),
        };
        Turn::Ask(Request::Range(rpc::RangeRequest {
            limit: self.page,
            revision: self.revision,
            ..requests::range(from, behind_prefix(OBJECTS))
        }))
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        let Some(Response::Range(response)) = answer(outcome) else {
            // Compacted meanwhile, or nobody there: it would begin anew some time later.
            if matches!(outcome, Outcome::Failed(_)) {
                desk.counters.hit("work: list overtaken by a compaction");
            }
            self.done = true;
            return;
        };
        desk.counters.hit("work: list page");
        if self.revision == 0 {
            self.revision = revision_of(response.header.as_ref());
        }
        self.found += response.kvs.len().cast_signed() as i64;
        let count = *self.count.get_or_insert(response.count);
        desk.shared.objects.saw(&response.kvs);
        self.after = response.kvs.last().map(|pair| pair.key.to_vec());
        self.done = !response.more || self.after.is_none();
        if self.done {
            desk.counters.hit("work: list read whole");
            desk.shared.objects.listed = desk.shared.objects.listed.max(self.revision);
            if self.found != count {
                let (at, found) = (self.revision, self.found);
                let story = format!("a list at {at} had {found} objects of {count}");
                desk.shared.fail("the pages of a list are one state", story);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CompactStage {
    Swap,
    Compact(i64),
    Done,
}

/// Whoever moves the key first compacts what was the last revision when it moved before.
#[derive(Debug)]
struct Compact {
    stage: CompactStage,
}

impl Job for Compact {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        match self.stage {
            CompactStage::Swap => {
                let version = desk.shared.objects.compact_version;
                let key = COMPACT_KEY.to_owned();
                let same = compare(key.clone(), TargetUnion::Version(version));
                let put = requests::write(key.clone(), desk.author, 1);
                let get = requests::read(key, Vec::new());
                Turn::Ask(requests::txn(same, vec![put], vec![get]))
            }
            CompactStage::Compact(revision) => {
                Turn::Ask(Request::Compact(rpc::CompactionRequest {
                    revision,
                    physical: false,
                }))
            }
            CompactStage::Done => Turn::Done,
        }
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        let (CompactStage::Swap, Some(Response::Txn(response))) = (self.stage, answer(outcome))
        else {
            if answer(outcome).is_some() {
                desk.counters.hit("work: objects compacted");
            }
            self.stage = CompactStage::Done;
            return;
        };
        let revision = revision_of(response.header.as_ref());
        let objects = &mut desk.shared.objects;
        let before = std::mem::replace(&mut objects.compact_next, revision);
        self.stage = CompactStage::Done;
        if response.succeeded {
            objects.compact_version += 1;
            if before > 0 {
                self.stage = CompactStage::Compact(before);
            }
        } else {
            let pair = range_in(response, 0).and_then(|range| range.kvs.first());
            objects.compact_version = pair.map_or(0, |pair| pair.version);
            desk.counters.hit("work: compaction left to another");
        }
    }
}
