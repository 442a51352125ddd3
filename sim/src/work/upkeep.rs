//! What operators do: defragment, read snapshots, compare hashes, ask members how they are.
//!
//! These answers are no matter of keys and revisions, so they are judged here: the same history has
//! the same hash wherever it is asked for, a snapshot is a whole image whose state is the state at
//! its index, and a status does not run ahead of the cluster.

use std::collections::BTreeMap;

use fated::{
    backend::stream::Decoder,
    kernel::{Request, Response, SnapshotId, StoreCursor},
    pb::etcdserverpb as rpc,
};

use super::{Desk, Job, Turn, answer, downgrades::Downgrade};
use crate::{client::Outcome, script::UpkeepStep};

/// Hashes by what they are over: up to which revision, compacted at which.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    known: BTreeMap<(i64, i64), (u32, usize)>,
}

/// The job of a step.
pub(super) fn job(step: &UpkeepStep) -> Box<dyn Job> {
    match step {
        UpkeepStep::Snapshot { member } => Box::new(Backup {
            member: *member,
            stage: BackupStage::Open,
            decoder: Decoder::new(),
        }),
        UpkeepStep::Hash { back } => Box::new(Compare {
            back: *back,
            revision: None,
            member: 0,
            asked: 0,
        }),
        UpkeepStep::Defragment { member } => Box::new(Single {
            member: *member,
            request: Some(Request::Defragment(rpc::DefragmentRequest {})),
        }),
        UpkeepStep::Status { member } => Box::new(Single {
            member: *member,
            request: Some(Request::Status(rpc::StatusRequest::default())),
        }),
        UpkeepStep::Downgrade { member, begins } => Box::new(Downgrade::new(*member, *begins)),
        UpkeepStep::Alarms => Box::new(Single {
            member: 0,
            request: Some(Request::Alarm(rpc::AlarmRequest::default())),
        }),
    }
}

/// One question to one member.
#[derive(Debug)]
struct Single {
    member: usize,
    request: Option<Request>,
}

impl Job for Single {
    fn next(&mut self, _: &mut Desk<'_>) -> Turn {
        match self.request.take() {
            Some(request) => Turn::AskAt(self.member, request),
            None => Turn::Done,
        }
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        match answer(outcome) {
            Some(Response::Defragment(_)) => desk.counters.hit("work: defragmented"),
            Some(Response::Status(status)) => {
                desk.counters.hit("work: status told");
                let applied = status.raft_applied_index;
                if applied > status.raft_index {
                    let story = format!("applied {applied} of {} committed", status.raft_index);
                    desk.shared.fail("a status tells the truth", story);
                }
            }
            Some(Response::Alarm(alarms)) => {
                desk.counters.hit("work: alarms listed");
                let corrupt =
                    |alarm: &&rpc::AlarmMember| alarm.alarm == rpc::AlarmType::Corrupt as i32;
                if let Some(alarm) = alarms.alarms.iter().find(corrupt) {
                    let story = format!("an alarm stands against {:x}", alarm.member_id);
                    desk.shared.fail("no false alarm about corruption", story);
                }
            }
            Some(_) | None => {}
        }
    }
}

/// Asks every member for the hash at one revision.
#[derive(Debug)]
struct Compare {
    back: i64,
    /// The revision, once it is decided.
    revision: Option<i64>,
    member: usize,
    /// How many were asked.
    asked: usize,
}

impl Job for Compare {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        if self.asked == desk.members {
            return Turn::Done;
        }
        let revision = match self.back {
            0 => 0,
            back => (desk.revision - back).max(1),
        };
        let revision = *self.revision.get_or_insert(revision);
        self.member = self.asked;
        self.asked += 1;
        Turn::AskAt(
            self.member,
            Request::HashKv(rpc::HashKvRequest { revision }),
        )
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        let Some(Response::HashKv(response)) = answer(outcome) else {
            return;
        };
        desk.counters.hit("work: hash told");
        let over = (response.hash_revision, response.compact_revision);
        let mine = (response.hash, self.member);
        let known = *desk.shared.hashes.known.entry(over).or_insert(mine);
        if known.1 != self.member {
            desk.counters.hit("work: hashes of two members compared");
        }
        if known.0 != mine.0 {
            let story = format!(
                "up to {} compacted at {}: m{} has {:08x} and m{} {:08x}",
                over.0, over.1, known.1, known.0, mine.1, mine.0
            );
            desk.shared
                .fail("the same history has the same hash", story);
        }
    }
}

#[derive(Debug)]
enum BackupStage {
    Open,
    Read {
        id: SnapshotId,
        cursor: Option<StoreCursor>,
    },
    Close(SnapshotId),
    Done,
}

/// A snapshot, read whole. The edge of production adds a checksum to what is read here.
#[derive(Debug)]
struct Backup {
    member: usize,
    stage: BackupStage,
    decoder: Decoder,
}

impl Job for Backup {
    fn next(&mut self, _: &mut Desk<'_>) -> Turn {
        let request = match &self.stage {
            BackupStage::Open => Request::SnapshotOpen,
            BackupStage::Read { id, cursor } => Request::SnapshotRead {
                id: *id,
                cursor: cursor.clone(),
            },
            BackupStage::Close(id) => Request::SnapshotClose { id: *id },
            BackupStage::Done => return Turn::Done,
        };
        Turn::AskAt(self.member, request)
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        let stage = std::mem::replace(&mut self.stage, BackupStage::Done);
        match (stage, answer(outcome)) {
            (BackupStage::Open, Some(Response::SnapshotOpened { id, .. })) => {
                let (id, cursor) = (*id, None);
                self.stage = BackupStage::Read { id, cursor };
            }
            (BackupStage::Read { id, .. }, Some(Response::SnapshotChunk { data, next })) => {
                self.on_chunk(id, data, next.clone(), desk);
            }
            (BackupStage::Read { id, .. }, _) => {
                // The edge lets go what its client does not read to the end.
                desk.shared.abandoned.push((self.member, id));
                desk.counters.hit("work: snapshot broken off");
            }
            (_, _) => {}
        }
    }
}

impl Backup {
    fn on_chunk(
        &mut self,
        id: SnapshotId,
        data: &[u8],
        next: Option<StoreCursor>,
        desk: &mut Desk<'_>,
    ) {
        const GUARANTEE: &str = "a snapshot is a whole image of a state that was";
        self.stage = BackupStage::Close(id);
        if let Err(error) = self.decoder.push(data) {
            return desk.shared.fail(GUARANTEE, error.to_string());
        }
        // Only whether the records decode is of interest, not what they are.
        drop(self.decoder.take());
        if next.is_some() {
            let cursor = next;
            self.stage = BackupStage::Read { id, cursor };
            return;
        }
        match std::mem::take(&mut self.decoder).finish() {
            Ok(trailer) => {
                desk.counters.hit("work: snapshot read whole");
                let index = trailer.consistent.index.get();
                desk.shared.snapshots.push((index, trailer.state_hash));
            }
            Err(error) => desk.shared.fail(GUARANTEE, error.to_string()),
        }
    }
}
