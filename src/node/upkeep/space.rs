//! When the NOSPACE alarm is raised and when it is cleared by itself.
//!
//! What counts is the bytes that live data take, not the file: free pages are used again. A member
//! raises the alarm for itself when a request of its clients does not fit, or when live data alone
//! have come to the quota. It clears it when they have been low enough for a while: low enough for
//! what was refused, and for a share of the quota, so that the alarm does not flutter.
//!
//! The leader clears the alarm of a member that is gone, by the same measure at its own store;
//! nobody else would.
//!
//! Invariant: alarms that were raised by a call are not touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::PROPOSE_AGAIN;
use crate::{
    apply::Alarms,
    kernel::{Instant, MemberId},
    membership::Cluster,
    mutant,
    node::NodeConfig,
    pb::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction},
};

/// How long live data must be low before the alarm is cleared.
const LOW_FOR: Duration = Duration::from_secs(2);
/// This share of the quota is free before the alarm is cleared: one in so many.
const FREE_SHARE: u64 = 20;
/// The most that a refused request asks to be free: one in so many. A request that never fits must
/// not hold the alarm up for ever.
const REFUSED_SHARE: u64 = 4;
/// A member that was not heard of for so many election timeouts is gone.
const ELECTIONS_SILENT: u32 = 10;

/// What is known about space.
#[derive(Debug)]
pub struct Space {
    member: MemberId,
    /// Less than one is none.
    quota_bytes: i64,
    clears: bool,
    silence: Duration,
    /// Something did not fit and the alarm does not stand yet.
    raise: bool,
    /// The dearest request refused since.
    refused: u64,
    low_since: Option<Instant>,
    /// When the next proposal may be made.
    next: Instant,
    /// On a leader: since when members were not heard of.
    silent_since: BTreeMap<MemberId, Instant>,
}

/// What a look takes in.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The time.
    pub now: Instant,
    /// Bytes that live data take at this member.
    pub live_bytes: u64,
    /// The alarms that stand.
    pub alarms: &'a Alarms,
    /// The members.
    pub cluster: &'a Cluster,
    /// Whether this member leads.
    pub leads: bool,
}

impl Space {
    /// Nothing was refused yet.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            member: config.member,
            quota_bytes: config.quota_bytes,
            clears: config.quota_alarm_clears,
            silence: config.election.saturating_mul(ELECTIONS_SILENT),
            raise: false,
            refused: 0,
            low_since: None,
            next: Instant::ZERO,
            silent_since: BTreeMap::new(),
        }
    }

    /// A request of this cost did not fit.
    pub fn on_refused(&mut self, cost: u64) {
        self.raise = true;
        self.refused = self.refused.max(cost);
    }

    /// The members that a leader has not heard of lately.
    pub fn on_silent(&mut self, silent: &BTreeSet<MemberId>, now: Instant) {
        self.silent_since.retain(|id, _| silent.contains(id));
        for id in silent {
            self.silent_since.entry(*id).or_insert(now);
        }
    }

    /// Another leads, or this member anew.
    pub fn forget_silence(&mut self) {
        self.silent_since.clear();
    }

    /// What is to be proposed now, if anything.
    pub fn look(&mut self, sight: Sight<'_>) -> Option<AlarmRequest> {
        let quota = u64::try_from(self.quota_bytes).unwrap_or(0);
        let live = sight.live_bytes;
        self.raise |= quota > 0 && live >= quota;
        let stands = sight.alarms.stands(self.member, AlarmType::Nospace);
        if stands || quota == 0 {
            self.raise = false;
        } else if !self.raise {
            self.refused = 0;
        }
        let is_low = quota == 0 || live.saturating_add(self.margin(quota)) < quota;
        let low_since = is_low.then(|| self.low_since.unwrap_or(sight.now));
        self.low_since = low_since;
        if sight.now < self.next {
            return None;
        }
        let request = match low_since {
            _ if self.raise => Some(self.request(AlarmAction::Activate, self.member)),
            Some(since) if self.clears && since.after(LOW_FOR) <= sight.now => self
                .to_clear(&sight)
                .map(|id| self.request(AlarmAction::Deactivate, id)),
            Some(_) | None => None,
        };
        if request.is_some() {
            self.next = sight.now.after(PROPOSE_AGAIN);
        }
        request
    }

    /// What must be free below the quota before the alarm is cleared.
    fn margin(&self, quota: u64) -> u64 {
        let refused = self.refused.min(quota / REFUSED_SHARE);
        (quota / FREE_SHARE).max(refused)
    }

    /// A member whose alarm this one may clear.
    fn to_clear(&self, sight: &Sight<'_>) -> Option<MemberId> {
        let gone = |id: &MemberId| {
            let silent = self.silent_since.get(id);
            sight.cluster.get(*id).is_none()
                || silent.is_some_and(|since| since.after(self.silence) <= sight.now)
        };
        let raised = sight.alarms.by_members(AlarmType::Nospace);
        let own = |id: &MemberId| *id == self.member && !mutant!("alarm-never-cleared");
        raised
            .into_iter()
            .find(|id| own(id) || (sight.leads && gone(id)))
    }

    fn request(&self, action: AlarmAction, member: MemberId) -> AlarmRequest {
        AlarmRequest {
            action: action as i32,
            member_id: member.get(),
            alarm: AlarmType::Nospace as i32,
        }
    }
}
