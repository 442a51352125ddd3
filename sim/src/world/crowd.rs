//! Who is refused for want of room, held against what was really in flight.
//!
//! Invariants, with a count kept beside the members' own: a call takes room from when its member
//! hears of it until it is answered or given up, and no longer; a call is refused only when the
//! room for its kind was taken at that moment; no more calls are in flight than have room.
//!
//! A member looks at the calls of a turn before anything else of the turn is done. So what decides
//! on a call is what was in flight after the turn before, and the calls before it in its own turn.

use std::collections::BTreeMap;

use fated::{
    kernel::{CallId, Event, Request},
    node::{Node, frontend::Crowd},
    pb::etcdserverpb::alarm_request::AlarmAction,
};
use prost::Message as _;

use super::World;
use crate::{observe::Violation, store::Store};

const ROOM: &str = "a call is refused only where room is short";
const ALIVE: &str = "what keeps leases alive has room of its own";
const GIVEN_BACK: &str = "a call takes room until it ends and no longer";
const BOUNDED: &str = "no more calls are in flight than have room";

/// What an encoded command takes beside its request, at most.
const ENVELOPE_BYTES: usize = 128;

/// What a call costs, as the operator was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It keeps something alive, or looks at or mends a member.
    Vital,
    Read,
    /// It may write, and takes so many bytes if it does.
    Write(usize),
    /// Copies and images of the store, of which a member makes few at a time.
    Image,
}

/// The calls of one life of a member.
#[derive(Default, Debug)]
pub struct Calls {
    /// Those it has heard of and not answered.
    open: BTreeMap<CallId, Kind>,
    /// Those that came in the present turn, in order.
    arrived: Vec<(CallId, Kind)>,
    /// What was in flight after the turn before; nothing in the first.
    before: Option<Crowd>,
}

impl Calls {
    /// What a member gets in a turn.
    pub(super) fn on_turn(&mut self, events: &[Event]) {
        self.arrived.clear();
        for event in events {
            match event {
                Event::Call { call, request, .. } => {
                    let kind = kind(request);
                    self.open.insert(*call, kind);
                    self.arrived.push((*call, kind));
                }
                Event::Cancel { call } => {
                    self.open.remove(call);
                }
                _ => {}
            }
        }
    }

    /// A call is answered.
    pub(super) fn on_reply(&mut self, call: CallId) {
        self.open.remove(&call);
    }
}

impl World {
    /// A member says that there are too many requests.
    pub(super) fn on_too_many(&mut self, at: usize, call: CallId) {
        let room = self.plan.overload.room();
        let calls = &self.members[at].calls;
        if calls.open.get(&call) == Some(&Kind::Image) {
            return;
        }
        let place = calls.arrived.iter().position(|(one, _)| *one == call);
        let Some((place, before)) = place.zip(calls.before) else {
            let kind = calls.open.get(&call).copied();
            if calls.before.is_some() {
                // It was admitted in an earlier turn.
                self.judge_late(at, call, kind);
            }
            return;
        };
        let in_flight = before.calls + place;
        let earlier = calls.arrived[..place].iter();
        let bytes = earlier.map(|(_, kind)| kind.bytes()).sum::<usize>();
        let kind = calls.arrived[place].1;
        let (full, counter) = match kind {
            Kind::Vital => (
                in_flight >= room.calls_max + room.vital_max,
                "overload: a vital call was refused",
            ),
            Kind::Read | Kind::Image => {
                (in_flight >= room.calls_max, "overload: a read was refused")
            }
            Kind::Write(_) => (
                in_flight >= room.calls_max
                    || before.proposal_bytes + bytes >= room.proposal_bytes_max
                    || before.apply_gap > room.apply_gap_max
                    || before.overlay_bytes > room.overlay_bytes_max,
                "overload: a write was refused",
            ),
        };
        self.counters.hit(counter);
        if !full {
            let story = format!(
                "m{at} refused call {} ({kind:?}) behind {place} others with {before:?} in flight \
                 and {room:?}",
                call.get()
            );
            let guarantee = if kind == Kind::Vital { ALIVE } else { ROOM };
            self.fail(Violation::new(guarantee, story));
        }
    }

    fn judge_late(&mut self, at: usize, call: CallId, kind: Option<Kind>) {
        let guarantee = match kind {
            Some(Kind::Vital) => ALIVE,
            Some(Kind::Read | Kind::Image | Kind::Write(_)) | None => ROOM,
        };
        let story = format!("m{at} first took call {} and then refused it", call.get());
        self.fail(Violation::new(guarantee, story));
    }

    /// After a turn: what the member counts is what is in flight.
    pub(super) fn judge_crowd(&mut self, at: usize, node: &Node<Store>) {
        let room = self.plan.overload.room();
        let crowd = node.crowd();
        let calls = &mut self.members[at].calls;
        let open = calls.open.len();
        let others = calls.open.values();
        let others = others.filter(|kind| matches!(kind, Kind::Read | Kind::Write(_)));
        let others = others.count();
        calls.before = Some(crowd);
        if crowd.of_clients != open {
            let story = format!("m{at} counts {crowd:?}, and {open} calls wait for it");
            self.fail(Violation::new(GIVEN_BACK, story));
        }
        if others > room.calls_max {
            let story = format!("m{at} has taken {others} calls with {room:?}");
            self.fail(Violation::new(BOUNDED, story));
        }
    }

    /// Whether nothing takes room, as it must be when nothing is asked any more.
    pub fn is_quiet(&self) -> bool {
        let members = self.members.iter().enumerate();
        let mut members = members.filter(|(at, member)| member.up && self.belongs(*at));
        members.all(|(_, member)| {
            let crowd = member.calls.before.unwrap_or_default();
            crowd.calls == 0 && crowd.proposal_bytes == 0 && crowd.apply_gap == 0
        })
    }

    /// What each member counts.
    pub fn crowds(&self) -> impl Iterator<Item = (usize, Crowd)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(at, member)| Some((at, member.calls.before?)))
    }

    /// The latest term of a living member.
    pub fn term(&self) -> u64 {
        let alive = self.members.iter().filter(|member| member.up);
        alive
            .map(|member| member.view.term.get())
            .max()
            .unwrap_or(0)
    }

    /// Counts what a turn brings to a member that is full.
    pub(super) fn count_crowd(&mut self, at: usize) {
        let room = self.plan.overload.room();
        let calls = &self.members[at].calls;
        let Some(before) = calls.before else { return };
        let crowded = before.calls >= room.calls_max;
        let arrived = calls.arrived.iter().enumerate();
        let vital = arrived.filter(|(place, (_, kind))| {
            *kind == Kind::Vital && before.calls + place >= room.calls_max
        });
        let vital = vital.count() as u64;
        self.counters
            .add("overload: a vital call found a full member", vital);
        self.counters
            .add("overload: a turn of a full member", u64::from(crowded));
    }
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::Vital | Self::Read | Self::Image => 0,
            Self::Write(bytes) => bytes,
        }
    }
}

fn kind(request: &Request) -> Kind {
    let write = |bytes: usize| Kind::Write(bytes + ENVELOPE_BYTES);
    match request {
        Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::Status(_)
        | Request::Health
        | Request::Metrics
        | Request::MemberList(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_)
        | Request::MoveLeader(_)
        | Request::Downgrade(_)
        | Request::SnapshotClose { .. }
        | Request::Invalid(..) => Kind::Vital,
        Request::Alarm(alarm) if alarm.action() == AlarmAction::Get => Kind::Vital,
        Request::Alarm(alarm) => write(alarm.encoded_len()),
        Request::Range(_)
        | Request::RangeChunk(_)
        | Request::LeaseLeases(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::SnapshotRead { .. } => Kind::Read,
        Request::Defragment(_) | Request::SnapshotOpen => Kind::Image,
        Request::Put(put) => write(put.encoded_len()),
        Request::DeleteRange(delete) => write(delete.encoded_len()),
        // One that only reads is refused like a read, which every reason of a write allows.
        Request::Txn(txn) => write(txn.encoded_len()),
        Request::Compact(compact) => write(compact.encoded_len()),
        Request::LeaseGrant(grant) => write(grant.encoded_len()),
        Request::LeaseRevoke(revoke) => write(revoke.encoded_len()),
    }
}
