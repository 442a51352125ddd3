//! Whether images get on: a member that needs one, and runs and is reached, is not left waiting.
//!
//! A leader that sends a member no more entries because it needs an image has to bring it there. As
//! long as both run, hear each other and have disks that work, something must move: another chunk
//! sent, another acknowledged, another attempt begun, or the need over. What stands still for
//! [`PATIENCE`] is broken, although a later attempt may still mend it.
//!
//! Invariants:
//! - Whatever is wrong with either member, or lies between them, begins the wait anew: no fault of
//!   the plan is ever taken for the members' own.
//! - A chunk or an acknowledgement that repeats an earlier one is no progress.

use std::collections::BTreeMap;

use bytes::Bytes;
use fated::{
    kernel::MemberId,
    node::{
        Node,
        wire::{self, Frame},
    },
    pb::fated::peer::peer_message::Body,
    raft::{ProgressState, ProgressView, Role},
};

use crate::{
    observe::Violation,
    store::Store,
    world::{Member, World},
};

/// How long nothing may move: ten repetitions of what was lost.
const PATIENCE: u64 = 5_000_000_000;
/// What is still on its way on a lane or a link after a fault has ended.
const AFTERMATH: u64 = 500_000_000;

/// Members that wait for an image, by the leader's place and their own.
#[derive(Default, Debug)]
pub struct Transfers {
    waits: BTreeMap<(usize, usize), Wait>,
}

/// How far a transfer is: its term, its number and the chunks of it.
type Place = (u64, u64, u64);

#[derive(Debug)]
struct Wait {
    /// When something moved last, or was wrong.
    since: u64,
    /// The lives of the two.
    lives: (u64, u64),
    sent: Place,
    acknowledged: Place,
}

impl Transfers {
    /// A leader stood still until now: it is looked at after its turns, and there was none.
    pub fn wait_anew(&mut self, leader: usize, now: u64) {
        let of_leader = |((from, _), wait): (&(usize, usize), _)| (*from == leader).then_some(wait);
        for wait in self.waits.iter_mut().filter_map(of_leader) {
            wait.since = now;
        }
    }
}

impl World {
    /// Looks whether images get on that a member has to send; called after its turn.
    pub fn judge_transfers(&mut self, at: usize, node: &Node<Store>) {
        let leads = node.raft().role() == Role::Leader;
        let needs = |view: &ProgressView| leads && view.state == ProgressState::Snapshot;
        let place = |id: MemberId| self.members.iter().position(|member| member.id == id);
        let progress = node.raft().progress();
        let waiting = progress.filter(|(_, view)| needs(view));
        let waiting: Vec<usize> = waiting.filter_map(|(id, _)| place(id)).collect();
        let now = self.now;
        let waits = &mut self.transfers.waits;
        waits.retain(|(from, to), _| *from != at || waiting.contains(to));
        for to in waiting {
            let lives = (self.members[at].boot, self.members[to].boot);
            let well = self.may_transfer(at, to);
            let wait = self.transfers.waits.entry((at, to)).or_insert(Wait {
                since: now,
                lives,
                sent: Place::default(),
                acknowledged: Place::default(),
            });
            if !well || wait.lives != lives {
                wait.since = now;
                wait.lives = lives;
            } else if now > wait.since + PATIENCE {
                let story = format!(
                    "{:x?} needs an image from {:x?}, and nothing moves since {} (sent {:?}, \
                     acknowledged {:?})",
                    self.members[to].id,
                    self.members[at].id,
                    wait.since,
                    wait.sent,
                    wait.acknowledged,
                );
                return self.fail(Violation::new("an image on its way gets on", story));
            }
        }
    }

    /// A frame leaves a member.
    pub fn follow_transfers(&mut self, from: usize, to: usize, bytes: &Bytes) {
        let waits = &mut self.transfers.waits;
        if !waits.contains_key(&(from, to)) && !waits.contains_key(&(to, from)) {
            return;
        }
        let Some(Frame::Peer(message)) = wire::decode(bytes.clone()) else {
            return;
        };
        let (key, is_sent, place) = match message.body {
            Some(Body::SnapshotChunk(chunk)) => {
                let place = (chunk.term, chunk.snapshot_id, chunk.sequence + 1);
                ((from, to), true, place)
            }
            Some(Body::SnapshotAck(ack)) => {
                let place = (ack.term, ack.snapshot_id, ack.next_sequence);
                ((to, from), false, place)
            }
            _ => return,
        };
        let Some(wait) = waits.get_mut(&key) else {
            return;
        };
        let farthest = match is_sent {
            true => &mut wait.sent,
            false => &mut wait.acknowledged,
        };
        if place > *farthest {
            *farthest = place;
            wait.since = self.now;
        }
    }

    /// Whether two members run, with disks that work, and nothing but the usual is between them.
    fn may_transfer(&self, one: usize, other: usize) -> bool {
        let works = |at: usize| {
            let member = &self.members[at];
            member.up
                && member.paused == 0
                && !member.terminating
                && !self.network.slow.contains_key(&at)
                && has_working_disk(member, self.now)
        };
        let limit = self.now + AFTERMATH;
        let hears = |from, to| self.network.hears(from, to, limit);
        works(one) && works(other) && hears(one, other) && hears(other, one)
    }
}

fn has_working_disk(member: &Member, now: u64) -> bool {
    let mut lanes = member.lanes.values();
    member.slow_times == 1
        && member.failing.is_none()
        && member.disk.capacity.is_none()
        && !member.expects_halt
        && lanes.all(|lane| lane.stalled_until.max(lane.busy_until) <= now + AFTERMATH)
}
