//! Changes of the configuration: their bytes, and what they turn one configuration into.
//!
//! Invariants of every `ConfState` made here: voters and learners do not overlap (in either half),
//! `learners_next` are voters of the outgoing half, neither of the two is set outside a joint
//! configuration, and the quorums of two successive configurations intersect.
//!
//! Encoded: `01 | transition | (kind | member id, big-endian u64)*`.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;

use crate::kernel::MemberId;

use super::ConfState;

/// Data of the entry the core proposes by itself to leave a joint configuration. It equals the
/// encoding of `ConfChange::leave_joint()`; an owner with its own command format recognises it by
/// comparing bytes.
pub const LEAVE_JOINT: &[u8] = &[FORMAT, 0];

const FORMAT: u8 = 1;
const CHANGE_BYTES: usize = 9;

/// Several changes of the configuration that take effect together.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ConfChange {
    /// The single changes, in order; none means: leave the joint configuration.
    pub changes: Vec<(ChangeKind, MemberId)>,
    /// How to get there.
    pub transition: Transition,
}

/// What happens to one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// It votes from now on.
    AddVoter,
    /// It receives the log and does not vote; a voter is demoted.
    AddLearner,
    /// It leaves.
    Remove,
    /// Everybody else leaves, whatever the configuration was; it votes. No quorum of the old
    /// configuration is asked, so this is for those who know that the others are lost.
    Alone,
}

/// Whether a joint configuration lies between old and new.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Transition {
    /// Only where several changes need one, and it is left without being asked.
    #[default]
    Auto,
    /// Always, and it is left without being asked.
    JointImplicit,
    /// Always, and it is left by a change without content.
    JointExplicit,
}

/// Why a change cannot follow a configuration. The entry then has no effect, on all members alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfChangeError {
    /// A joint configuration must be left first.
    AlreadyJoint,
    /// There is no joint configuration to leave.
    NotJoint,
    /// Nobody would vote.
    NoVoters,
    /// A change without a joint configuration may touch one voter only.
    NeedsJoint,
}

impl fmt::Display for ConfChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyJoint => "the configuration is already joint",
            Self::NotJoint => "the configuration is not joint",
            Self::NoVoters => "the change removes all voters",
            Self::NeedsJoint => "more than one voter changes without a joint configuration",
        })
    }
}

impl std::error::Error for ConfChangeError {}

impl ConfChange {
    /// One change, without a joint configuration.
    pub fn single(kind: ChangeKind, member: MemberId) -> Self {
        Self {
            changes: vec![(kind, member)],
            transition: Transition::Auto,
        }
    }

    /// The change that leaves a joint configuration.
    pub fn leave_joint() -> Self {
        Self::default()
    }

    /// Whether this leaves one member of all.
    pub fn is_alone(&self) -> bool {
        matches!(self.changes[..], [(ChangeKind::Alone, _)])
    }

    /// Whether this leaves a joint configuration.
    pub fn is_leave_joint(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether this goes through a joint configuration.
    pub fn needs_joint(&self) -> bool {
        match self.transition {
            Transition::Auto => self.changes.len() > 1,
            Transition::JointImplicit | Transition::JointExplicit => !self.is_leave_joint(),
        }
    }

    /// The change as bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(2 + CHANGE_BYTES * self.changes.len());
        bytes.push(FORMAT);
        bytes.push(match self.transition {
            Transition::Auto => 0,
            Transition::JointImplicit => 1,
            Transition::JointExplicit => 2,
        });
        for (kind, member) in &self.changes {
            bytes.push(match kind {
                ChangeKind::AddVoter => 0,
                ChangeKind::AddLearner => 1,
                ChangeKind::Remove => 2,
                ChangeKind::Alone => 3,
            });
            bytes.extend_from_slice(&member.get().to_be_bytes());
        }
        Bytes::from(bytes)
    }

    /// The change behind the bytes, unless they are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[format, transition], changes) = bytes.split_first_chunk::<2>()?;
        if format != FORMAT || changes.len() % CHANGE_BYTES != 0 {
            return None;
        }
        let transition = match transition {
            0 => Transition::Auto,
            1 => Transition::JointImplicit,
            2 => Transition::JointExplicit,
            _ => return None,
        };
        let changes = changes
            .chunks_exact(CHANGE_BYTES)
            .map(decode_change)
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            changes,
            transition,
        })
    }
}

fn decode_change(bytes: &[u8]) -> Option<(ChangeKind, MemberId)> {
    let (kind, member) = bytes.split_first()?;
    let kind = match kind {
        0 => ChangeKind::AddVoter,
        1 => ChangeKind::AddLearner,
        2 => ChangeKind::Remove,
        3 => ChangeKind::Alone,
        _ => return None,
    };
    let member = MemberId::new(u64::from_be_bytes(member.try_into().ok()?));
    (!member.is_zero()).then_some((kind, member))
}

impl ConfState {
    /// A configuration of voters only.
    pub fn of_voters(voters: impl IntoIterator<Item = MemberId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether two configurations are in force together.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether the member votes, in either half.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Whether the member receives the log without a vote.
    pub fn is_learner(&self, id: MemberId) -> bool {
        self.learners.contains(&id)
    }

    /// Everybody who receives the log.
    pub fn members(&self) -> BTreeSet<MemberId> {
        let voters = self.voters.iter().chain(&self.voters_outgoing);
        voters.chain(&self.learners).copied().collect()
    }

    /// The configuration after the change.
    pub fn changed(&self, change: &ConfChange) -> Result<Self, ConfChangeError> {
        if change.is_alone() {
            return Ok(Self::default().with_changes(change));
        }
        let next = if change.is_leave_joint() {
            self.without_outgoing()?
        } else if self.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        } else if change.needs_joint() {
            self.joint_with(change)
        } else {
            self.with_single_steps(change)
        };
        if next.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        if !next.is_joint() && !self.is_joint() && self.voter_difference(&next) > 1 {
            return Err(ConfChangeError::NeedsJoint);
        }
        next.check();
        Ok(next)
    }

    /// Whether it keeps what the module promises; one from the network may not.
    pub fn is_sound(&self) -> bool {
        let apart = self.voters.is_disjoint(&self.learners)
            && self.voters_outgoing.is_disjoint(&self.learners);
        let leaving = self.learners_next.is_subset(&self.voters_outgoing)
            && self.learners_next.is_disjoint(&self.voters);
        apart && leaving && (self.is_joint() || !self.auto_leave)
    }

    /// Asserts what the module promises.
    pub fn check(&self) {
        assert!(
            self.is_sound(),
            "a configuration contradicts itself: {self:?}"
        );
    }

    fn voter_difference(&self, other: &Self) -> usize {
        self.voters.symmetric_difference(&other.voters).count()
    }

    fn joint_with(&self, change: &ConfChange) -> Self {
        let mut next = self.clone();
        next.voters_outgoing = self.voters.clone();
        next.auto_leave = match change.transition {
            Transition::Auto | Transition::JointImplicit => true,
            Transition::JointExplicit => false,
        };
        next.with_changes(change)
    }

    fn with_single_steps(&self, change: &ConfChange) -> Self {
        self.clone().with_changes(change)
    }

    fn with_changes(mut self, change: &ConfChange) -> Self {
        for &(kind, id) in &change.changes {
            self.voters.remove(&id);
            self.learners.remove(&id);
            self.learners_next.remove(&id);
            match kind {
                ChangeKind::AddVoter | ChangeKind::Alone => {
                    self.voters.insert(id);
                }
                // A voter of the outgoing half cannot be a learner before that half is gone.
                ChangeKind::AddLearner if self.voters_outgoing.contains(&id) => {
                    self.learners_next.insert(id);
                }
                ChangeKind::AddLearner => {
                    self.learners.insert(id);
                }
                ChangeKind::Remove => {}
            }
        }
        self
    }

    fn without_outgoing(&self) -> Result<Self, ConfChangeError> {
        if !self.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        Ok(Self {
            voters: self.voters.clone(),
            voters_outgoing: BTreeSet::new(),
            learners: self.learners.union(&self.learners_next).copied().collect(),
            learners_next: BTreeSet::new(),
            auto_leave: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().copied().map(MemberId::new).collect()
    }

    fn change() -> impl Strategy<Value = ConfChange> {
        let kind = prop_oneof![
            Just(ChangeKind::AddVoter),
            Just(ChangeKind::AddLearner),
            Just(ChangeKind::Remove)
        ];
        let transition = prop_oneof![
            Just(Transition::Auto),
            Just(Transition::JointImplicit),
            Just(Transition::JointExplicit)
        ];
        let changes = prop::collection::vec((kind, (1u64..6).prop_map(MemberId::new)), 0..4);
        (changes, transition).prop_map(|(changes, transition)| ConfChange {
            changes,
            transition,
        })
    }

    #[test]
    fn a_demoted_voter_learns_only_after_the_joint_configuration() {
        let start = ConfState::of_voters([1, 2, 3].map(MemberId::new));
        let swap = ConfChange {
            changes: vec![
                (ChangeKind::AddLearner, MemberId::new(1)),
                (ChangeKind::AddVoter, MemberId::new(4)),
            ],
            transition: Transition::Auto,
        };
        let joint = start.changed(&swap).expect("a legal change");
        assert_eq!(joint.voters, ids(&[2, 3, 4]));
        assert_eq!(joint.voters_outgoing, ids(&[1, 2, 3]));
        assert_eq!(joint.learners_next, ids(&[1]));
        assert!(joint.auto_leave && !joint.is_learner(MemberId::new(1)));
        let after = joint.changed(&ConfChange::leave_joint()).expect("joint");
        assert_eq!(after.learners, ids(&[1]));
        assert_eq!(
            after.changed(&ConfChange::leave_joint()),
            Err(ConfChangeError::NotJoint)
        );
    }

    #[test]
    fn the_last_voter_stays() {
        let alone = ConfState::of_voters([MemberId::new(1)]);
        let remove = ConfChange::single(ChangeKind::Remove, MemberId::new(1));
        assert_eq!(alone.changed(&remove), Err(ConfChangeError::NoVoters));
        let demote = ConfChange::single(ChangeKind::AddLearner, MemberId::new(1));
        assert_eq!(alone.changed(&demote), Err(ConfChangeError::NoVoters));
    }

    #[test]
    fn whoever_goes_on_alone_votes_and_nobody_else_is_left() {
        let (own, other) = (MemberId::new(4), MemberId::new(5));
        let joint = ConfState {
            voters: ids(&[1, 2, 3]),
            voters_outgoing: ids(&[1, 2]),
            learners: [own, other].into(),
            auto_leave: true,
            ..ConfState::default()
        };
        let alone = ConfChange::single(ChangeKind::Alone, own);
        assert_eq!(joint.changed(&alone), Ok(ConfState::of_voters([own])));
        assert_eq!(ConfChange::decode(&alone.encode()), Some(alone));
    }

    #[test]
    fn the_own_proposal_decodes_as_leaving() {
        assert_eq!(ConfChange::leave_joint().encode(), LEAVE_JOINT);
        let decoded = ConfChange::decode(LEAVE_JOINT).expect("own format");
        assert!(decoded.is_leave_joint());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn encoding_round_trips(change in change()) {
            prop_assert_eq!(ConfChange::decode(&change.encode()), Some(change));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            if let Some(change) = ConfChange::decode(&bytes) {
                prop_assert_eq!(change.encode(), bytes);
            }
        }

        #[test]
        fn every_path_keeps_the_algebra(changes in prop::collection::vec(change(), 1..12)) {
            let mut conf = ConfState::of_voters([1, 2, 3].map(MemberId::new));
            for change in &changes {
                let Ok(next) = conf.changed(change) else { continue };
                next.check();
                prop_assert!(!next.voters.is_empty());
                prop_assert!(quorums_meet(&conf, &next), "{:?} -> {:?}", conf, next);
                // Going joint and leaving again must equal the changes applied to plain sets.
                if next.is_joint() && !conf.is_joint() {
                    let left = next.changed(&ConfChange::leave_joint()).expect("joint");
                    prop_assert_eq!((left.voters, left.learners), naive(&conf, change));
                } else if !next.is_joint() && !conf.is_joint() {
                    let members = (next.voters.clone(), next.learners.clone());
                    prop_assert_eq!(members, naive(&conf, change));
                }
                conf = next;
            }
        }
    }

    /// The members after a change, as sets, with no thought of safety.
    fn naive(conf: &ConfState, change: &ConfChange) -> (BTreeSet<MemberId>, BTreeSet<MemberId>) {
        let (mut voters, mut learners) = (conf.voters.clone(), conf.learners.clone());
        for (kind, id) in &change.changes {
            let (add_voter, add_learner) = match kind {
                ChangeKind::AddVoter => (true, false),
                ChangeKind::AddLearner => (false, true),
                ChangeKind::Remove => (false, false),
                ChangeKind::Alone => panic!("it is no step among others"),
            };
            voters.retain(|voter| voter != id);
            learners.retain(|learner| learner != id);
            voters.extend(add_voter.then_some(*id));
            learners.extend(add_learner.then_some(*id));
        }
        (voters, learners)
    }

    /// Tries every split of the members: no two disjoint sets may win in both configurations.
    fn quorums_meet(a: &ConfState, b: &ConfState) -> bool {
        use super::super::quorum::{VoteResult, vote};
        (0u32..1 << 6).all(|side| {
            let yes = |id: MemberId| Some(side & (1 << id.get()) != 0);
            let no = |id: MemberId| Some(side & (1 << id.get()) == 0);
            vote(a, yes) != VoteResult::Won || vote(b, no) != VoteResult::Won
        })
    }
}
