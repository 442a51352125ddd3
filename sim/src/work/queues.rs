//! Queues: items are added under names of their own, and whoever finds the first deletes it if it
//! is still as it was found. Each item is taken at most once, and none gets lost.

use std::collections::BTreeSet;

use fated::{
    kernel::{Request, Response},
    pb::etcdserverpb::{self as rpc, compare::TargetUnion},
};

use super::{
    Desk, Job, Turn, answer,
    requests::{self, behind_prefix, compare},
};
use crate::{client::Outcome, script::QueueStep};

/// What the keys of all queues begin with.
pub(super) const PREFIX: &str = "queue/";

/// What is known of items.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Those whose addition was answered.
    added: BTreeSet<Vec<u8>>,
    /// Those that somebody was told to have taken.
    taken: BTreeSet<Vec<u8>>,
    /// Those that somebody tried to take and does not know whether it did.
    perhaps_taken: BTreeSet<Vec<u8>>,
    twice: Option<Vec<u8>>,
    used: bool,
}

impl Items {
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// What is wrong with what is left, if anything is.
    pub(super) fn judge(&self, there: &[Vec<u8>]) -> Option<String> {
        let show = |item: &Vec<u8>| item.escape_ascii().to_string();
        if let Some(item) = &self.twice {
            return Some(format!("{} was taken twice", show(item)));
        }
        let there: BTreeSet<&Vec<u8>> = there.iter().collect();
        let back = self.taken.iter().find(|item| there.contains(item));
        if let Some(item) = back {
            return Some(format!("{} was taken and is still there", show(item)));
        }
        let mut added = self.added.iter();
        let gone = |item: &&Vec<u8>| {
            !there.contains(item)
                && !self.taken.contains(*item)
                && !self.perhaps_taken.contains(*item)
        };
        let lost = added.find(gone)?;
        Some(format!(
            "{} was added, taken by nobody, and is gone",
            show(lost)
        ))
    }
}

/// The job of a step.
pub(super) fn job(step: &QueueStep) -> Box<dyn Job> {
    match step {
        QueueStep::Enqueue { queue } => Box::new(Enqueue {
            queue: *queue,
            key: None,
        }),
        QueueStep::Dequeue { queue } => Box::new(Dequeue {
            queue: *queue,
            first: None,
            tries: 0,
            done: false,
        }),
    }
}

fn prefix(queue: u64) -> String {
    format!("{PREFIX}{queue}/")
}

#[derive(Debug)]
struct Enqueue {
    queue: u64,
    key: Option<String>,
}

impl Job for Enqueue {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        if self.key.is_some() {
            return Turn::Done;
        }
        desk.shared.items.used = true;
        let (client, serial) = (desk.author.client, desk.author.serial);
        // In the order of time, so that the first is the oldest.
        let key = format!(
            "{}{:013}-{client}.{serial}",
            prefix(self.queue),
            desk.now / 1000
        );
        self.key = Some(key.clone());
        let absent = compare(key.clone(), TargetUnion::CreateRevision(0));
        let put = requests::write(key, desk.author, 1);
        Turn::Ask(requests::txn(absent, vec![put], Vec::new()))
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        if let (Some(Response::Txn(response)), Some(key)) = (answer(outcome), &self.key) {
            if response.succeeded {
                desk.counters.hit("work: queue item added");
                desk.shared.items.added.insert(key.clone().into_bytes());
            } else {
                let story = format!("{key} is there before it was added");
                desk.shared
                    .fail("an item of a queue is taken exactly once", story);
            }
        }
    }
}

/// Tries to take what it found, and looks again when somebody else was faster.
#[derive(Debug)]
struct Dequeue {
    queue: u64,
    first: Option<(Vec<u8>, i64)>,
    tries: u32,
    done: bool,
}

impl Job for Dequeue {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        if self.done {
            return Turn::Done;
        }
        let Some((key, revision)) = &self.first else {
            let prefix = prefix(self.queue);
            return Turn::Ask(Request::Range(rpc::RangeRequest {
                limit: 1,
                ..requests::range(prefix.clone(), behind_prefix(&prefix))
            }));
        };
        let key = String::from_utf8(key.clone()).expect("items are named by clients");
        let same = compare(key.clone(), TargetUnion::ModRevision(*revision));
        let delete = requests::delete_own(&key, desk.author);
        let get = requests::read(key, Vec::new());
        Turn::Ask(requests::txn(same, vec![delete], vec![get]))
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        match (self.first.take(), answer(outcome)) {
            (None, Some(Response::Range(response))) => match response.kvs.first() {
                Some(pair) => self.first = Some((pair.key.to_vec(), pair.mod_revision)),
                None => {
                    desk.counters.hit("work: queue found empty");
                    self.done = true;
                }
            },
            (Some((key, _)), Some(Response::Txn(response))) => {
                if response.succeeded {
                    desk.counters.hit("work: queue item taken");
                    self.done = true;
                    let items = &mut desk.shared.items;
                    if !items.taken.insert(key.clone()) {
                        items.twice = Some(key);
                    }
                } else {
                    desk.counters.hit("work: queue item taken by another");
                    self.tries += 1;
                    self.done = self.tries >= 5;
                }
            }
            (first, _) => {
                self.done = true;
                if let (Some((key, _)), Outcome::Unknown) = (first, outcome) {
                    desk.shared.items.perhaps_taken.insert(key);
                }
            }
        }
    }
}
