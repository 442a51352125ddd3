//! Alarms: what an operator must know and writes must respect.

use std::{collections::BTreeSet, ops::ControlFlow};

use bytes::Bytes;

use super::{Notice, StateMachine};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::{Digest, DiskError, MemberId},
    pb::etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, alarm_request::AlarmAction,
    },
};

/// The raised alarms, by member and kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Alarms {
    raised: BTreeSet<(MemberId, i32)>,
}

impl Alarms {
    /// Loads what is stored.
    pub fn load<B: Backend>(view: &View<B>) -> Result<Self, DiskError> {
        let mut raised = BTreeSet::new();
        view.range(Bucket::Alarm, &[], None, &mut |key, _| {
            if let Some(alarm) = decode(key) {
                raised.insert(alarm);
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self { raised })
    }

    /// Whether any member has raised this alarm.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|(_, raised)| *raised == kind as i32)
    }

    /// The raised alarms of a kind; of all kinds for `None`.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.raised
            .iter()
            .filter(|(_, raised)| kind == AlarmType::None || *raised == kind as i32)
            .map(|(member, alarm)| AlarmMember {
                member_id: member.get(),
                alarm: *alarm,
            })
            .collect()
    }

    /// A hash of what is raised.
    pub fn fingerprint(&self) -> u64 {
        let mut digest = Digest::EMPTY;
        for (member, kind) in &self.raised {
            digest.number(member.get());
            digest.number(u64::from(kind.cast_unsigned()));
        }
        digest.value()
    }
}

impl<B: Backend> StateMachine<B> {
    pub(super) fn alarm(
        &mut self,
        request: &AlarmRequest,
        notices: &mut Vec<Notice>,
    ) -> AlarmResponse {
        let alarm = (MemberId::new(request.member_id), request.alarm);
        let known = request.alarm() != AlarmType::None;
        let answer = AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        };
        let mut alarms = Vec::new();
        match request.action() {
            AlarmAction::Get => alarms = self.alarms.list(request.alarm()),
            AlarmAction::Activate => {
                if known && self.alarms.raised.insert(alarm) {
                    self.view.put(Bucket::Alarm, encode(alarm), Bytes::new());
                    notices.push(Notice::Alarms);
                }
                if known {
                    alarms.push(answer);
                }
            }
            AlarmAction::Deactivate => {
                if self.alarms.raised.remove(&alarm) {
                    self.view.delete(Bucket::Alarm, encode(alarm));
                    notices.push(Notice::Alarms);
                    alarms.push(answer);
                }
            }
        }
        AlarmResponse {
            header: super::kv::header(self.store.revision()),
            alarms,
        }
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
