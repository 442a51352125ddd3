//! Changes of the member set on their way to a proposal: each actor adds what only it knows, and
//! the last one decides.
//!
//! The frontend sends a `Reconfigure` to peers (who is connected, since when), from there to
//! consensus (how far each member's log is, on a leader) and to the applier, which holds it against
//! the applied member set with `decide`. All of that is one step, so nothing changes meanwhile.
//!
//! Invariant: what is decided here is a courtesy to the caller: applying validates again, from the
//! replicated state alone.

use std::{collections::BTreeMap, time::Duration};

use super::NodeConfig;
use crate::{
    kernel::{ApiError, CallId, Instant, LogIndex, MemberId, WallTime},
    membership::{Cluster, Member, member_id, parse_urls},
    pb::{
        etcdserverpb::{
            MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
        },
        fated::command::{ConfChangeCommand, conf_change_command::Kind},
    },
};

/// A learner is ready to vote when it has this share of the leader's log, in percent.
const READY_PERCENT: u64 = 90;

/// What a client wants changed.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    Add(MemberAddRequest),
    Remove(MemberRemoveRequest),
    Update(MemberUpdateRequest),
    Promote(MemberPromoteRequest),
}

/// A change under way, and what is known for it so far.
#[derive(Clone, PartialEq, Debug)]
pub struct Reconfigure {
    /// Whose call it is.
    pub call: CallId,
    /// What is wanted.
    pub change: Change,
    /// Since when this member is connected to which others.
    pub connected: BTreeMap<MemberId, Instant>,
    /// On a leader, up to where each member's log is durable.
    pub matched: Option<BTreeMap<MemberId, LogIndex>>,
}

impl Reconfigure {
    /// A change about which nothing is known yet.
    pub fn new(call: CallId, change: Change) -> Self {
        Self {
            call,
            change,
            connected: BTreeMap::new(),
            matched: None,
        }
    }
}

/// This member's settings for changes. They decide what it proposes and never what is applied.
#[derive(Clone, Debug)]
pub struct Rules {
    member: MemberId,
    strict: bool,
    learners_max: usize,
    health_interval: Duration,
    joint: bool,
}

impl Rules {
    /// The rules of a configuration.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            member: config.member,
            strict: config.strict_reconfig,
            learners_max: config.learners_max,
            health_interval: config.health_interval,
            joint: config.joint_changes,
        }
    }

    /// The command to propose for a change, or why there is none. Checks come in etcd's order.
    pub fn decide(
        &self,
        wanted: Reconfigure,
        cluster: &Cluster,
        now: Instant,
        wall: WallTime,
    ) -> Result<ConfChangeCommand, ApiError> {
        let Reconfigure {
            change,
            connected,
            matched,
            ..
        } = wanted;
        match change {
            Change::Add(request) => self.add(&request, cluster, &connected, now, wall),
            Change::Remove(request) => self.remove(&request, cluster, &connected, now),
            Change::Update(request) => update(&request, cluster),
            Change::Promote(request) => self.promote(&request, cluster, matched.as_ref()),
        }
    }

    fn add(
        &self,
        request: &MemberAddRequest,
        cluster: &Cluster,
        connected: &BTreeMap<MemberId, Instant>,
        now: Instant,
        wall: WallTime,
    ) -> Result<ConfChangeCommand, ApiError> {
        let urls = parse_urls(&request.peer_ur_ls).map_err(|_| ApiError::MemberBadUrls)?;
        let member = Member {
            id: fresh_id(&urls, cluster, wall),
            peer_urls: urls,
            learner: request.is_learner,
            ..Member::default()
        };
        if self.strict {
            cluster.strict_add(&member)?;
            let voters = self.voters(cluster);
            // The new member counts as one that is down.
            let quorum = voters.len().div_ceil(2) + 1;
            let alone = voters.len() == 1;
            if !alone && self.healthy(&voters, connected, now) < quorum {
                return Err(ApiError::Unhealthy);
            }
        }
        cluster.validate_add(&member, self.learners_max)?;
        Ok(ConfChangeCommand {
            kind: match member.learner {
                true => Kind::AddLearner,
                false => Kind::AddVoter,
            } as i32,
            member_id: member.id.get(),
            peer_urls: member.peer_urls,
            joint: self.joint && !member.learner,
            ..ConfChangeCommand::default()
        })
    }

    fn remove(
        &self,
        request: &MemberRemoveRequest,
        cluster: &Cluster,
        connected: &BTreeMap<MemberId, Instant>,
        now: Instant,
    ) -> Result<ConfChangeCommand, ApiError> {
        let id = MemberId::new(request.id);
        if self.strict {
            cluster.strict_remove(id)?;
            let votes = cluster.get(id).is_some_and(|member| !member.learner);
            // One that is down is no part of the quorum that holds the cluster up.
            let is_up = id == self.member || connected.contains_key(&id);
            let voters = self.voters(cluster);
            let staying = self.healthy(&voters, connected, now).saturating_sub(1);
            if votes && is_up && staying < 1 + (voters.len() - 1) / 2 {
                return Err(ApiError::Unhealthy);
            }
        }
        cluster.validate_remove(id)?;
        Ok(command(Kind::Remove, id))
    }

    fn promote(
        &self,
        request: &MemberPromoteRequest,
        cluster: &Cluster,
        matched: Option<&BTreeMap<MemberId, LogIndex>>,
    ) -> Result<ConfChangeCommand, ApiError> {
        let id = MemberId::new(request.id);
        let matched = matched.ok_or(ApiError::NotLeader)?;
        let index = |id| matched.get(&id).map(|index| index.get());
        let own = index(self.member).ok_or(ApiError::NotLeader)?;
        let theirs = index(id).ok_or(ApiError::MemberNotFound)?;
        if u128::from(theirs) * 100 < u128::from(own) * u128::from(READY_PERCENT) {
            return Err(ApiError::LearnerNotReady);
        }
        if self.strict {
            cluster.strict_promote()?;
        }
        cluster.validate_promote(id)?;
        Ok(ConfChangeCommand {
            joint: self.joint,
            ..command(Kind::Promote, id)
        })
    }

    fn voters(&self, cluster: &Cluster) -> Vec<MemberId> {
        let voters = cluster.members().filter(|member| !member.learner);
        voters.map(|member| member.id).collect()
    }

    /// How many of these are this member or connected to it for long enough.
    fn healthy(
        &self,
        members: &[MemberId],
        connected: &BTreeMap<MemberId, Instant>,
        now: Instant,
    ) -> usize {
        let lasts = |since: &Instant| since.after(self.health_interval) < now;
        let counts = |id: &&MemberId| **id == self.member || connected.get(id).is_some_and(lasts);
        members.iter().filter(counts).count()
    }
}

fn update(request: &MemberUpdateRequest, cluster: &Cluster) -> Result<ConfChangeCommand, ApiError> {
    let id = MemberId::new(request.id);
    if cluster.get(id).is_none() {
        return Err(ApiError::MemberNotFound);
    }
    let urls = parse_urls(&request.peer_ur_ls).map_err(|_| ApiError::MemberBadUrls)?;
    cluster.validate_update(id, &urls)?;
    Ok(ConfChangeCommand {
        peer_urls: urls,
        ..command(Kind::Update, id)
    })
}

/// An id made of URLs and time. Ids never come back, so where one was used within the same second,
/// or before the clock was set back, the next second is taken.
fn fresh_id(urls: &[String], cluster: &Cluster, wall: WallTime) -> MemberId {
    let mut seconds = wall.as_nanos() / 1_000_000_000;
    loop {
        let id = member_id(urls, "", Some(seconds));
        if !id.is_zero() && !cluster.is_removed(id) {
            return id;
        }
        seconds += 1;
    }
}

fn command(kind: Kind, id: MemberId) -> ConfChangeCommand {
    ConfChangeCommand {
        kind: kind as i32,
        member_id: id.get(),
        ..ConfChangeCommand::default()
    }
}
