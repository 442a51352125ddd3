//! Members, their attributes and the cluster version as replicated commands.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::{Applied, ApplyError, Notice, Origin, StateMachine, kv::header};
use crate::{
    backend::Backend,
    kernel::{
        ApiError, ClusterId, Digest, EntryId, Fault, LogIndex, MemberId, RequestId, Response,
    },
    membership::{Cluster, Member, VotersLearners, version::Version},
    pb::{
        etcdserverpb::{
            DowngradeResponse, MemberAddResponse, MemberListResponse, MemberPromoteResponse,
            MemberRemoveResponse, MemberUpdateResponse, ResponseHeader,
        },
        fated::command::{
            ConfChangeCommand, DowngradeSet, MemberPublish, conf_change_command::Kind,
        },
    },
    raft::{self, ChangeKind, ConfChange, LEAVE_JOINT, Transition},
};

/// A member named at bootstrap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialMember {
    /// Its id, made from its URLs and the cluster token.
    pub id: MemberId,
    /// What this member was told to call it. Shown until it has told its own name, never stored.
    pub name: String,
    /// Where members reach it.
    pub peer_urls: Vec<String>,
}

/// What may be applied in a joint configuration: what leaves the voters as they are, and what asks
/// no quorum.
fn while_joint(kind: Kind) -> bool {
    match kind {
        Kind::Update | Kind::Alone => true,
        Kind::AddVoter | Kind::AddLearner | Kind::Remove | Kind::Promote => false,
    }
}

/// Raft's word for who votes and who listens.
pub fn to_raft(conf: VotersLearners) -> raft::ConfState {
    raft::ConfState {
        voters: conf.voters,
        voters_outgoing: conf.voters_outgoing,
        learners: conf.learners,
        learners_next: conf.learners_next,
        auto_leave: conf.auto_leave,
    }
}

/// The member set's word for the same.
pub fn from_raft(conf: &raft::ConfState) -> VotersLearners {
    VotersLearners {
        voters: conf.voters.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners: conf.learners.clone(),
        learners_next: conf.learners_next.clone(),
        auto_leave: conf.auto_leave,
    }
}

/// Folds the member set into a state hash.
pub(super) fn fold(hash: &mut Digest, cluster: &Cluster) {
    for member in cluster.members() {
        hash.number(member.id.get());
        hash.bytes(member.name.as_bytes());
        hash.number(u64::from(member.learner));
        for url in member.peer_urls.iter().chain(&member.client_urls) {
            hash.bytes(url.as_bytes());
        }
    }
    cluster.removed().for_each(|id| hash.number(id.get()));
    let conf = cluster.conf_state();
    for id in conf.voters_outgoing.iter().chain(&conf.learners_next) {
        hash.number(id.get());
    }
    if let Some(version) = cluster.cluster_version() {
        hash.bytes(version.to_string().as_bytes());
    }
    if let Some(target) = cluster.downgrade() {
        hash.bytes(target.to_string().as_bytes());
    }
}

impl<B: Backend> StateMachine<B> {
    /// Writes the first members of a new cluster. A start that was interrupted finds them written.
    ///
    /// Nobody has a name yet: each founder knows for sure only its own, and all must begin with the
    /// same state.
    pub fn bootstrap(
        &mut self,
        cluster: ClusterId,
        local: MemberId,
        members: &[InitialMember],
    ) -> Result<(), Fault> {
        assert_eq!(
            self.applied,
            EntryId::ZERO,
            "only an empty cluster is bootstrapped"
        );
        assert!(
            members.iter().any(|member| member.id == local),
            "a member is one of its cluster"
        );
        if self.cluster.members().next().is_some() {
            return if self.cluster.id() == cluster && self.cluster.get(local).is_some() {
                Ok(())
            } else {
                Err(Fault::State(
                    "the data directory was begun for another cluster; remove it, or start with \
                     the flags it was begun with"
                        .to_owned(),
                ))
            };
        }
        let members = members
            .iter()
            .map(|member| Member {
                id: member.id,
                peer_urls: member.peer_urls.clone(),
                ..Member::default()
            })
            .collect();
        self.cluster
            .bootstrap(&mut self.view, cluster, members)
            .map_err(|error| Fault::State(error.to_string()))
    }

    pub(super) fn apply_conf_change(
        &mut self,
        data: &Bytes,
        applied: &mut Applied,
    ) -> Result<(), Fault> {
        applied.notices.push(Notice::Members);
        if data[..] == *LEAVE_JOINT {
            applied.conf_change = Some(ConfChange::leave_joint());
            return Ok(());
        }
        let command = ConfChangeCommand::decode(data.clone()).map_err(|error| {
            Fault::State(format!(
                "entry {} of the log cannot be decoded ({error}); it was written by a newer \
                 version: start that version again, or restore a backup",
                applied.id.index
            ))
        })?;
        applied.origin = Some(Origin {
            proposer: MemberId::new(command.proposer),
            request: RequestId::new(command.request_id),
        });
        // While joint, raft takes no further change, so the member set must not either.
        let outcome = match self.conf_state().is_joint() && !while_joint(command.kind()) {
            true => Err(ApiError::Unhealthy),
            false => self.change_member(&command, applied.id.index),
        };
        applied.result = outcome.map(|change| {
            applied.conf_change = change;
            self.changed(&command)
        });
        Ok(())
    }

    /// The answer to whoever wanted the change.
    fn changed(&self, command: &ConfChangeCommand) -> Response {
        let (header, members) = (header(0), self.member_list().members);
        match command.kind() {
            Kind::AddVoter | Kind::AddLearner => {
                let added = self.cluster.get(MemberId::new(command.member_id));
                Response::MemberAdd(MemberAddResponse {
                    header,
                    member: added.map(Member::to_wire),
                    members,
                })
            }
            Kind::Remove => Response::MemberRemove(MemberRemoveResponse { header, members }),
            Kind::Promote => Response::MemberPromote(MemberPromoteResponse { header, members }),
            Kind::Update => Response::MemberUpdate(MemberUpdateResponse { header, members }),
            // Nobody waits for this one.
            Kind::Alone => Response::Health,
        }
    }

    fn change_member(
        &mut self,
        command: &ConfChangeCommand,
        index: LogIndex,
    ) -> Result<Option<ConfChange>, ApiError> {
        let before: BTreeSet<MemberId> = self.cluster.removed().collect();
        let change = self.change_set(command)?;
        self.cluster.unsettle(&mut self.view, &before, index);
        Ok(change)
    }

    fn change_set(&mut self, command: &ConfChangeCommand) -> Result<Option<ConfChange>, ApiError> {
        let id = MemberId::new(command.member_id);
        let member = |learner| Member {
            id,
            name: command.name.clone(),
            peer_urls: command.peer_urls.clone(),
            client_urls: command.client_urls.clone(),
            learner,
        };
        let voter = |id| ConfChange {
            changes: vec![(ChangeKind::AddVoter, id)],
            transition: match command.joint {
                true => Transition::JointImplicit,
                false => Transition::Auto,
            },
        };
        let view = &mut self.view;
        Ok(match command.kind() {
            Kind::AddVoter => {
                self.cluster.apply_add(view, member(false))?;
                Some(voter(id))
            }
            Kind::AddLearner => {
                self.cluster.apply_add(view, member(true))?;
                Some(ConfChange::single(ChangeKind::AddLearner, id))
            }
            Kind::Remove => {
                self.cluster.apply_remove(view, id)?;
                Some(ConfChange::single(ChangeKind::Remove, id))
            }
            Kind::Promote => {
                self.cluster.apply_promote(view, id)?;
                Some(voter(id))
            }
            Kind::Alone => {
                self.cluster.apply_alone(view, id)?;
                Some(ConfChange::single(ChangeKind::Alone, id))
            }
            Kind::Update => {
                self.cluster
                    .apply_update(view, id, command.peer_urls.clone())?;
                None
            }
        })
    }

    pub(super) fn member_publish(
        &mut self,
        request: &MemberPublish,
        notices: &mut Vec<Notice>,
    ) -> Result<(), ApplyError> {
        let id = MemberId::new(request.id);
        let urls = request.client_urls.clone();
        self.cluster
            .publish(&mut self.view, id, request.name.clone(), urls)?;
        notices.push(Notice::Members);
        Ok(())
    }

    pub(super) fn set_cluster_version(
        &mut self,
        version: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<(), ApplyError> {
        let version: Version = version.parse().map_err(|_| ApiError::NotCapable)?;
        self.cluster.set_cluster_version(&mut self.view, version);
        notices.push(Notice::Members);
        Ok(())
    }

    pub(super) fn downgrade(
        &mut self,
        request: &DowngradeSet,
        notices: &mut Vec<Notice>,
    ) -> Result<DowngradeResponse, ApplyError> {
        // Another call may have come between the check before the proposal and this.
        let target = match request.enabled {
            true => Some(self.validate_downgrade(&request.version)?),
            false => None,
        };
        self.cluster.set_downgrade(&mut self.view, target);
        notices.push(Notice::Members);
        Ok(self.downgrade_response())
    }

    /// Whether the cluster may be brought to this version now.
    pub fn validate_downgrade(&self, version: &str) -> Result<Version, ApiError> {
        let target = Version::parse_target(version);
        let target = target.map_err(|_| ApiError::WrongDowngradeVersionFormat)?;
        self.cluster.validate_downgrade(target)?;
        Ok(target)
    }

    /// The answer to a call about a downgrade: the version of the cluster.
    pub fn downgrade_response(&self) -> DowngradeResponse {
        let version = self.cluster.cluster_version();
        DowngradeResponse {
            header: header(self.store.revision()),
            version: version.map_or(String::new(), Version::short),
        }
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members()
    }

    /// Where every member is reached by the others.
    pub fn addresses(&self) -> Vec<(MemberId, Vec<String>)> {
        self.cluster
            .members()
            .map(|member| (member.id, member.peer_urls.clone()))
            .collect()
    }

    /// The member set as it goes out to clients; Cluster answers carry no revision.
    pub fn member_list(&self) -> MemberListResponse {
        MemberListResponse {
            header: Some(ResponseHeader::default()),
            members: self.cluster.members().map(Member::to_wire).collect(),
        }
    }
}
