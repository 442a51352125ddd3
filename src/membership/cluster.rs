//! The member set: what is stored, what may change, and how each change is written.
//!
//! Each change comes twice: `validate_*` before it is proposed, so that the client gets its error
//! at once, and `apply_*` from the log, which validates again, since another change may have come
//! between. An `apply_*` that fails has changed nothing, on any member.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;
use prost::Message;

use super::{
    Member,
    member::{decode_id, encode_id},
    version::Version,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::{ApiError, ClusterId, DiskError, DiskErrorKind, LogIndex, MemberId},
    mutant,
    pb::fated::peer,
};

const CLUSTER_ID: &[u8] = b"clusterId";
const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const JOINT: &[u8] = b"joint";
const DOWNGRADE: &[u8] = b"downgrade";

/// Who votes and who only listens, for raft. Joint while `voters_outgoing` is not empty.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct VotersLearners {
    /// Voters of the current, or of the incoming, configuration.
    pub voters: BTreeSet<MemberId>,
    /// Voters of the outgoing configuration while joint.
    pub voters_outgoing: BTreeSet<MemberId>,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<MemberId>,
    /// Voters of the outgoing configuration that become learners when it is left.
    pub learners_next: BTreeSet<MemberId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// The cluster as the applied log describes it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Cluster {
    id: ClusterId,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    /// Removals, by the index of their entries, of which it is not certain yet that a majority of
    /// those who stay has stored that they are committed.
    unsettled: BTreeMap<MemberId, LogIndex>,
    version: Option<Version>,
    downgrade: Option<Version>,
    joint: Joint,
}

/// What a joint configuration adds to the members' own flags.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Joint {
    voters_outgoing: BTreeSet<MemberId>,
    /// Invariant: learners by their flag.
    learners_next: BTreeSet<MemberId>,
    auto_leave: bool,
}

impl Cluster {
    /// Reads the member set; it is empty before `bootstrap`.
    pub fn load<B: Backend>(view: &View<B>) -> Result<Self, DiskError> {
        let mut members = BTreeMap::new();
        scan(view, Bucket::Members, |key, value| {
            let mut member = Member::decode(key, value)?;
            if mutant!("learner-flag-lost-by-a-restart") {
                member.learner = false;
            }
            members.insert(member.id, member);
            Some(())
        })?;
        let mut removed = BTreeSet::new();
        let mut unsettled = BTreeMap::new();
        scan(view, Bucket::MembersRemoved, |key, value| {
            let id = decode_id(key)?;
            removed.insert(id);
            if !value.is_empty() {
                let index = u64::from_be_bytes(value.try_into().ok()?);
                unsettled.insert(id, LogIndex::new(index));
            }
            Some(())
        })?;
        let cluster = Self {
            id: setting(view, CLUSTER_ID, decode_cluster_id)?.unwrap_or_default(),
            version: setting(view, CLUSTER_VERSION, decode_version)?,
            downgrade: setting(view, DOWNGRADE, decode_version)?,
            joint: setting(view, JOINT, Joint::decode)?.unwrap_or_default(),
            members,
            removed,
            unsettled,
        };
        match cluster.contradiction() {
            Some(text) => Err(DiskError::new(DiskErrorKind::Corrupt, text)),
            None => Ok(cluster),
        }
    }

    /// Writes the first members of a cluster, or those a joining member learned from its peers; the
    /// latter may contradict themselves, and then nothing is written and the text says why.
    pub fn bootstrap<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: ClusterId,
        members: Vec<Member>,
    ) -> Result<(), String> {
        assert!(*self == Self::default(), "the cluster has members already");
        let count = members.len();
        let begun = Self {
            id,
            members: members
                .into_iter()
                .map(|member| (member.id, member))
                .collect(),
            ..Self::default()
        };
        if begun.members.is_empty() || begun.members.len() != count {
            return Err("the cluster has no members, or two of the same id".into());
        }
        if let Some(text) = begun.contradiction() {
            return Err(text);
        }
        let raw = Bytes::copy_from_slice(&id.get().to_be_bytes());
        view.put(Bucket::Cluster, Bytes::from_static(CLUSTER_ID), raw);
        begun.members().for_each(|member| store(view, member));
        *self = begun;
        Ok(())
    }

    // Queries.

    /// The cluster's id; zero before `bootstrap`.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// All members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The member of a name, if it is not `except`; two members of one name are a mistake of the
    /// operator that a starting member should refuse.
    pub fn by_name(&self, name: &str, except: MemberId) -> Option<&Member> {
        self.members()
            .find(|member| member.name == name && member.id != except)
    }

    /// Whether a member of this id was removed.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The ids of removed members.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// The ids of removed members whose removal is settled: whatever is lost now, those who stay
    /// will not need them again.
    pub fn settled(&self) -> impl Iterator<Item = MemberId> {
        let settled = |id: &MemberId| !self.unsettled.contains_key(id);
        self.removed().filter(settled)
    }

    /// The latest removal that is not settled.
    pub fn unsettled(&self) -> Option<LogIndex> {
        self.unsettled.values().max().copied()
    }

    /// Who votes and who listens.
    pub fn conf_state(&self) -> VotersLearners {
        let ids = |learner| {
            self.members()
                .filter(move |member| member.learner == learner)
                .map(|member| member.id)
        };
        let learners: BTreeSet<MemberId> = ids(true).collect();
        VotersLearners {
            voters: ids(false).collect(),
            voters_outgoing: self.joint.voters_outgoing.clone(),
            learners: &learners - &self.joint.learners_next,
            learners_next: self.joint.learners_next.clone(),
            auto_leave: self.joint.auto_leave,
        }
    }

    /// The cluster's version, once it is known.
    pub fn cluster_version(&self) -> Option<Version> {
        self.version
    }

    // Checks before a change is proposed.

    /// Whether this member can be added. `learners_max` is this member's configuration and so is
    /// checked here only, never while applying.
    pub fn validate_add(&self, member: &Member, learners_max: usize) -> Result<(), ApiError> {
        self.may_add(member)?;
        let learners = self.members().filter(|member| member.learner).count();
        if member.learner && learners >= learners_max {
            return Err(ApiError::TooManyLearners);
        }
        Ok(())
    }

    /// Whether this member can be removed. The last voter cannot.
    pub fn validate_remove(&self, id: MemberId) -> Result<(), ApiError> {
        let member = self.get(id).ok_or(ApiError::MemberNotFound)?;
        if !member.learner && self.voters().count() == 1 {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        Ok(())
    }

    /// Whether this member can have these peer URLs.
    pub fn validate_update(&self, id: MemberId, peer_urls: &[String]) -> Result<(), ApiError> {
        if self.get(id).is_none() {
            return Err(ApiError::MemberNotFound);
        }
        if peer_urls.is_empty() {
            return Err(ApiError::MemberBadUrls);
        }
        self.free_urls(peer_urls, Some(id))
    }

    /// Whether this member can become a voter, as far as the member set knows.
    pub fn validate_promote(&self, id: MemberId) -> Result<(), ApiError> {
        let member = self.get(id).ok_or(ApiError::MemberNotFound)?;
        match member.learner {
            true => Ok(()),
            false => Err(ApiError::MemberNotLearner),
        }
    }

    /// Strict reconfiguration: another voter, not started yet, must leave a quorum of started ones.
    /// One member alone may always be joined by a second.
    pub fn strict_add(&self, member: &Member) -> Result<(), ApiError> {
        if member.learner {
            return Ok(());
        }
        let started = self.voters().filter(|member| member.started()).count();
        let voters = self.voters().count() + 1;
        if started == 1 && voters == 2 {
            return Ok(());
        }
        enough_started(started, voters)
    }

    /// Strict reconfiguration: the voters that stay must have a quorum of started ones.
    pub fn strict_remove(&self, id: MemberId) -> Result<(), ApiError> {
        if self.get(id).is_some_and(|member| member.learner) {
            return Ok(());
        }
        let staying = || self.voters().filter(|member| member.id != id);
        let started = staying().filter(|member| member.started()).count();
        enough_started(started, staying().count())
    }

    /// Strict reconfiguration: the voters and the learner, which counts as started, must have a
    /// quorum of started ones.
    pub fn strict_promote(&self) -> Result<(), ApiError> {
        let started = self.voters().filter(|member| member.started()).count() + 1;
        enough_started(started, self.voters().count() + 1)
    }

    // Changes from the log.

    /// Applies the addition of a member.
    pub fn apply_add<B: Backend>(
        &mut self,
        view: &mut View<B>,
        member: Member,
    ) -> Result<(), ApiError> {
        self.may_add(&member)?;
        store(view, &member);
        self.members.insert(member.id, member);
        Ok(())
    }

    /// Applies the removal of a member; its id never comes back.
    pub fn apply_remove<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
    ) -> Result<(), ApiError> {
        self.validate_remove(id)?;
        self.members.remove(&id);
        let fresh = self.removed.insert(id);
        assert!(fresh, "a removed member was a member");
        view.delete(Bucket::Members, encode_id(id));
        view.put(Bucket::MembersRemoved, encode_id(id), Bytes::new());
        Ok(())
    }

    /// Notes the entry by which those left who are not among `before`.
    pub fn unsettle<B: Backend>(
        &mut self,
        view: &mut View<B>,
        before: &BTreeSet<MemberId>,
        index: LogIndex,
    ) {
        for id in self.removed.difference(before) {
            let raw = Bytes::copy_from_slice(&index.get().to_be_bytes());
            view.put(Bucket::MembersRemoved, encode_id(*id), raw);
            self.unsettled.insert(*id, index);
        }
    }

    /// Removals up to an index are settled.
    pub fn settle<B: Backend>(&mut self, view: &mut View<B>, up_to: LogIndex) {
        self.unsettled.retain(|id, index| {
            let open = *index > up_to;
            if !open {
                view.put(Bucket::MembersRemoved, encode_id(*id), Bytes::new());
            }
            open
        });
    }

    /// Applies that all members but one are lost: they are removed, and that one votes.
    pub fn apply_alone<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
    ) -> Result<(), ApiError> {
        if self.get(id).is_none() {
            return Err(ApiError::MemberNotFound);
        }
        self.change(view, id, |member| member.learner = false)?;
        let others: Vec<MemberId> = self.members.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != id) {
            let listens = self.get(other).is_some_and(|member| member.learner);
            if !(listens && mutant!("forced-keeps-learners")) {
                self.apply_remove(view, other)?;
            }
        }
        Ok(())
    }

    /// Applies new peer URLs; everything else of the member stays, its learner flag above all.
    pub fn apply_update<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
        peer_urls: Vec<String>,
    ) -> Result<(), ApiError> {
        self.validate_update(id, &peer_urls)?;
        self.change(view, id, |member| {
            member.peer_urls = peer_urls;
            if mutant!("moved-learner-votes") {
                member.learner = false;
            }
        })
    }

    /// Applies a promotion: the learner votes from now on.
    pub fn apply_promote<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
    ) -> Result<(), ApiError> {
        self.validate_promote(id)?;
        self.change(view, id, |member| member.learner = false)
    }

    /// Applies what a member tells of itself. One that was removed meanwhile is not found.
    pub fn publish<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
    ) -> Result<(), ApiError> {
        self.change(view, id, |member| {
            member.name = name;
            member.client_urls = client_urls;
        })
    }

    /// Records raft's configuration after a change was applied. While it is not joint there is
    /// nothing to record: it must equal what the members say, and that is asserted.
    pub fn set_conf_state<B: Backend>(&mut self, view: &mut View<B>, conf: &VotersLearners) {
        let joint = Joint {
            voters_outgoing: conf.voters_outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        };
        if joint != self.joint {
            let name = Bytes::from_static(JOINT);
            match joint == Joint::default() {
                true => view.delete(Bucket::Cluster, name),
                false => view.put(Bucket::Cluster, name, joint.encode()),
            }
            self.joint = joint;
        }
        assert_eq!(self.conf_state(), *conf, "raft and the member set disagree");
    }

    /// Applies a new cluster version.
    pub fn set_cluster_version<B: Backend>(&mut self, view: &mut View<B>, version: Version) {
        let version = version.cluster();
        let name = Bytes::from_static(CLUSTER_VERSION);
        view.put(Bucket::Cluster, name, version.to_string().into());
        self.version = Some(version);
    }

    /// The version the cluster is being brought down to, if it is.
    pub fn downgrade(&self) -> Option<Version> {
        self.downgrade
    }

    /// Whether the cluster may be brought to an older version now, in etcd's order of checks.
    pub fn validate_downgrade(&self, target: Version) -> Result<(), ApiError> {
        let version = self.version.ok_or(ApiError::ClusterVersionUnavailable)?;
        if version.one_below() != Some(target.cluster()) {
            return Err(ApiError::InvalidDowngradeTargetVersion);
        }
        match self.downgrade {
            Some(_) => Err(ApiError::DowngradeInProcess),
            None => Ok(()),
        }
    }

    /// Records where the cluster is being brought to, or that it stays.
    pub fn set_downgrade<B: Backend>(&mut self, view: &mut View<B>, target: Option<Version>) {
        let target = target.map(Version::cluster);
        let name = Bytes::from_static(DOWNGRADE);
        match target {
            Some(version) => view.put(Bucket::Cluster, name, version.to_string().into()),
            None => view.delete(Bucket::Cluster, name),
        }
        self.downgrade = target;
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        if let Some(text) = self.contradiction() {
            panic!("{text}");
        }
    }

    /// What is wrong with this member set, if anything; it may have come from a disk.
    fn contradiction(&self) -> Option<String> {
        if self.members.is_empty() {
            let blank = *self == Self::default();
            return (!blank).then(|| "the cluster has no members".into());
        }
        if self.id.is_zero() {
            return Some("the cluster has no id".into());
        }
        if self.voters().next().is_none() {
            return Some("no member votes".into());
        }
        let mut urls = BTreeMap::new();
        for member in self.members() {
            if member.id.is_zero() || member.peer_urls.is_empty() {
                return Some(format!("member {:?} has no id or no peer URL", member.name));
            }
            if self.removed.contains(&member.id) {
                return Some(format!("removed member {:x} is a member", member.id.get()));
            }
            for url in &member.peer_urls {
                if urls
                    .insert(url, member.id)
                    .is_some_and(|id| id != member.id)
                {
                    return Some(format!("two members have the peer URL {url}"));
                }
            }
        }
        let listens = |id: &MemberId| self.get(*id).is_some_and(|member| member.learner);
        match self.joint.learners_next.iter().all(listens) {
            true => None,
            false => Some("a voter is to become a learner, and is none by its flag".into()),
        }
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| !member.learner)
    }

    fn may_add(&self, member: &Member) -> Result<(), ApiError> {
        if member.id.is_zero() || self.is_removed(member.id) {
            return Err(ApiError::MemberNotFound);
        }
        if self.members.contains_key(&member.id) {
            return Err(ApiError::MemberExist);
        }
        if member.peer_urls.is_empty() {
            return Err(ApiError::MemberBadUrls);
        }
        self.free_urls(&member.peer_urls, None)
    }

    fn free_urls(&self, urls: &[String], except: Option<MemberId>) -> Result<(), ApiError> {
        let taken = self
            .members()
            .filter(|member| Some(member.id) != except)
            .any(|member| member.peer_urls.iter().any(|url| urls.contains(url)));
        match taken {
            true => Err(ApiError::PeerUrlExist),
            false => Ok(()),
        }
    }

    fn change<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: MemberId,
        change: impl FnOnce(&mut Member),
    ) -> Result<(), ApiError> {
        let member = self.members.get_mut(&id).ok_or(ApiError::MemberNotFound)?;
        change(member);
        assert_eq!(member.id, id, "a member changed its id");
        store(view, member);
        Ok(())
    }
}

impl Joint {
    fn encode(&self) -> Bytes {
        let raw = |ids: &BTreeSet<MemberId>| ids.iter().map(|id| id.get()).collect();
        let message = peer::ConfState {
            voters: Vec::new(),
            voters_outgoing: raw(&self.voters_outgoing),
            learners: Vec::new(),
            learners_next: raw(&self.learners_next),
            auto_leave: self.auto_leave,
        };
        message.encode_to_vec().into()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let message = peer::ConfState::decode(value).ok()?;
        let ids = |raw: Vec<u64>| raw.into_iter().map(MemberId::new).collect();
        Some(Self {
            voters_outgoing: ids(message.voters_outgoing),
            learners_next: ids(message.learners_next),
            auto_leave: message.auto_leave,
        })
    }
}

fn enough_started(started: usize, voters: usize) -> Result<(), ApiError> {
    let quorum = voters / 2 + 1;
    match started >= quorum {
        true => Ok(()),
        false => Err(ApiError::MemberNotEnoughStarted),
    }
}

fn store<B: Backend>(view: &mut View<B>, member: &Member) {
    assert!(!member.id.is_zero(), "a member has an id");
    assert!(!member.peer_urls.is_empty(), "a member has a peer URL");
    view.put(Bucket::Members, encode_id(member.id), member.encode());
}

fn decode_cluster_id(value: &[u8]) -> Option<ClusterId> {
    decode_id(value).map(|id| ClusterId::new(id.get()))
}

fn decode_version(value: &[u8]) -> Option<Version> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// One named value of bucket `Cluster`.
fn setting<B: Backend, T>(
    view: &View<B>,
    name: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, DiskError> {
    let Some(value) = view.get(Bucket::Cluster, name)? else {
        return Ok(None);
    };
    match decode(&value) {
        Some(value) => Ok(Some(value)),
        None => Err(damaged(Bucket::Cluster, name, &value)),
    }
}

/// Visits every record of a bucket; one that cannot be taken is an error.
fn scan<B: Backend>(
    view: &View<B>,
    bucket: Bucket,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), DiskError> {
    let mut error = None;
    view.range(bucket, &[], None, &mut |key, value| {
        if take(key, value).is_none() {
            error = Some(damaged(bucket, key, value));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    error.map_or(Ok(()), Err)
}

fn damaged(bucket: Bucket, key: &[u8], value: &[u8]) -> DiskError {
    let detail = format!("{} record {key:02x?} holds {value:02x?}", bucket.name());
    DiskError::new(DiskErrorKind::Corrupt, detail)
}
