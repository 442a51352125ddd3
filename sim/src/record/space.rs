//! The alarm about space as the log tells it, by rules of its own: which entries it refuses.

use std::collections::BTreeMap;

use fated::{
    apply::cost,
    pb::{
        etcdserverpb::{AlarmType, alarm_request::AlarmAction},
        fated::command::command::Body,
    },
};

/// The alarms about space that stand: for whom, and whether a member raised it by itself.
#[derive(Default)]
pub(super) struct Alarms(BTreeMap<u64, bool>);

impl Alarms {
    /// An entry may raise and clear them. Members ask under number zero, and clear only what they
    /// raised.
    pub(super) fn on_entry(&mut self, request_id: u64, body: &Body) {
        let Body::Alarm(request) = body else { return };
        if request.alarm != AlarmType::Nospace as i32 {
            return;
        }
        let by_member = request_id == 0;
        match request.action() {
            AlarmAction::Get => {}
            AlarmAction::Activate => {
                self.0.entry(request.member_id).or_insert(by_member);
            }
            AlarmAction::Deactivate => self.0.retain(|member, raised_by_member| {
                let is_meant = request.member_id == 0 || request.member_id == *member;
                !is_meant || (by_member && !*raised_by_member)
            }),
        }
    }

    /// Whether an entry comes to nothing.
    pub(super) fn refuse(&self, body: &Body) -> bool {
        let grows = match body {
            Body::Put(_) | Body::LeaseGrant(_) => true,
            Body::Txn(txn) => cost::txn(txn) > 0,
            Body::DeleteRange(_)
            | Body::Compact(_)
            | Body::LeaseRevoke(_)
            | Body::LeaseCheckpoint(_)
            | Body::Alarm(_)
            | Body::MemberPublish(_)
            | Body::ClusterVersion(_)
            | Body::MembersSettled(_)
            | Body::Downgrade(_) => false,
        };
        grows && !self.0.is_empty()
    }
}
