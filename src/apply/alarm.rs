//! Alarms: what an operator must know and writes must respect.
//!
//! An alarm raised by a call is cleared by a call. One that a member raised by itself, which is to
//! be seen by its request id of zero, may also be cleared by a member. Both is decided from the log
//! alone.
//!
//! ```text
//! key := member u64 | kind i32 (big-endian)      value := nothing, or one byte 1: by a member
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;

use super::{Notice, StateMachine};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::{Digest, DiskError, MemberId, RequestId},
    mutant,
    pb::etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, alarm_request::AlarmAction,
    },
};

/// The stored mark of an alarm that a member raised by itself.
const BY_MEMBER: &[u8] = &[1];

/// The raised alarms, by member and kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Alarms {
    raised: BTreeMap<(MemberId, i32), Cause>,
}

/// Who raised an alarm, or wants to clear one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// A client.
    Call,
    /// A member, of its own accord.
    Member,
}

impl Cause {
    fn of(request: RequestId) -> Self {
        match request == RequestId::ZERO {
            true => Self::Member,
            false => Self::Call,
        }
    }
}

impl Alarms {
    /// Loads what is stored.
    pub fn load<B: Backend>(view: &View<B>) -> Result<Self, DiskError> {
        let mut raised = BTreeMap::new();
        view.range(Bucket::Alarm, &[], None, &mut |key, value| {
            if let Some(alarm) = decode(key) {
                let cause = match value == BY_MEMBER {
                    true => Cause::Member,
                    false => Cause::Call,
                };
                raised.insert(alarm, cause);
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self { raised })
    }

    /// Whether any member has raised this alarm.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.raised.keys().any(|(_, raised)| *raised == kind as i32)
    }

    /// Whether this alarm stands for a member.
    pub fn stands(&self, member: MemberId, kind: AlarmType) -> bool {
        self.raised.contains_key(&(member, kind as i32))
    }

    /// The members for which this alarm was raised by a member of its own accord.
    pub fn by_members(&self, kind: AlarmType) -> BTreeSet<MemberId> {
        let own = self
            .raised
            .iter()
            .filter(|((_, raised), cause)| *raised == kind as i32 && **cause == Cause::Member);
        own.map(|((member, _), _)| *member).collect()
    }

    /// The raised alarms of a kind; of all kinds for zero.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        self.raised
            .keys()
            .filter(|(_, raised)| kind == AlarmType::None as i32 || *raised == kind)
            .map(|(member, alarm)| AlarmMember {
                member_id: member.get(),
                alarm: *alarm,
            })
            .collect()
    }

    /// A hash of what is raised.
    pub fn fingerprint(&self) -> u64 {
        let mut digest = Digest::EMPTY;
        for ((member, kind), cause) in &self.raised {
            digest.number(member.get());
            digest.number(u64::from(kind.cast_unsigned()));
            digest.number(u64::from(*cause == Cause::Member));
        }
        digest.value()
    }

    /// What a request to clear means: the alarm of one member, or of all for member zero.
    fn cleared_by(&self, request: &AlarmRequest, cause: Cause) -> Vec<(MemberId, i32)> {
        let member = MemberId::new(request.member_id);
        let meant = |(id, kind): &(MemberId, i32)| {
            *kind == request.alarm && (member == MemberId::ZERO || *id == member)
        };
        let may = |raised: &Cause| cause == Cause::Call || *raised == Cause::Member;
        self.raised
            .iter()
            .filter(|(alarm, raised)| meant(alarm) && may(raised))
            .map(|(alarm, _)| *alarm)
            .collect()
    }
}

impl<B: Backend> StateMachine<B> {
    pub(super) fn alarm(
        &mut self,
        request: &AlarmRequest,
        origin: RequestId,
        notices: &mut Vec<Notice>,
    ) -> AlarmResponse {
        let cause = Cause::of(origin);
        let mut alarms = Vec::new();
        match request.action() {
            AlarmAction::Get => alarms = self.alarms.list(request.alarm),
            AlarmAction::Activate if request.alarm == AlarmType::None as i32 => {}
            AlarmAction::Activate => {
                let alarm = (MemberId::new(request.member_id), request.alarm);
                self.raise(alarm, cause, notices);
                alarms.push(to_wire(alarm));
            }
            AlarmAction::Deactivate => {
                for alarm in self.alarms.cleared_by(request, cause) {
                    self.alarms.raised.remove(&alarm);
                    if !mutant!("alarm-cleared-in-memory-only") {
                        self.view.delete(Bucket::Alarm, encode(alarm));
                    }
                    alarms.push(to_wire(alarm));
                }
                if !alarms.is_empty() {
                    notices.push(Notice::Alarms);
                }
            }
        }
        AlarmResponse {
            header: super::kv::header(self.store.revision()),
            alarms,
        }
    }

    /// An alarm that stands already keeps its cause.
    fn raise(&mut self, alarm: (MemberId, i32), cause: Cause, notices: &mut Vec<Notice>) {
        if self.alarms.raised.contains_key(&alarm) {
            return;
        }
        self.alarms.raised.insert(alarm, cause);
        let mark = match cause {
            Cause::Call => Bytes::new(),
            Cause::Member => Bytes::from_static(BY_MEMBER),
        };
        self.view.put(Bucket::Alarm, encode(alarm), mark);
        notices.push(Notice::Alarms);
    }
}

fn to_wire((member, alarm): (MemberId, i32)) -> AlarmMember {
    AlarmMember {
        member_id: member.get(),
        alarm,
    }
}

fn encode((member, kind): (MemberId, i32)) -> Bytes {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&member.get().to_be_bytes());
    key.extend_from_slice(&kind.to_be_bytes());
    key.into()
}

fn decode(key: &[u8]) -> Option<(MemberId, i32)> {
    let (member, kind) = key.split_at_checked(8)?;
    let member = u64::from_be_bytes(member.try_into().ok()?);
    let kind = i32::from_be_bytes(kind.try_into().ok()?);
    Some((MemberId::new(member), kind))
}

#[cfg(test)]
mod tests;
