//! Majorities, of one configuration or of both halves of a joint one.
//!
//! An empty set of voters wins every vote and holds back nothing, so that the missing half of a
//! non-joint configuration needs no special case; `Raft` never lets the incoming half be empty in
//! earnest.

use std::collections::BTreeSet;

use crate::{kernel::MemberId, mutant};

use super::ConfState;

/// How an election stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum VoteResult {
    /// No quorum can be reached any more.
    Lost,
    /// Votes that can decide are missing.
    Pending,
    /// A quorum said yes.
    Won,
}

/// The highest value a majority of `voters` has reached; `u64::MAX` when nobody votes.
pub fn majority_reached(
    voters: &BTreeSet<MemberId>,
    mut value: impl FnMut(MemberId) -> u64,
) -> u64 {
    if voters.is_empty() {
        return u64::MAX;
    }
    // Configurations are small: sorting beats anything clever.
    let mut small = [0; 9];
    let mut large = Vec::new();
    let values: &mut [u64] = if voters.len() <= small.len() {
        &mut small[..voters.len()]
    } else {
        large.resize(voters.len(), 0);
        &mut large
    };
    for (slot, &id) in values.iter_mut().zip(voters) {
        *slot = value(id);
    }
    values.sort_unstable();
    let quorum = voters.len() / 2 + 1;
    values[voters.len() - quorum]
}

/// How a vote among one set of voters stands.
pub fn majority_vote(
    voters: &BTreeSet<MemberId>,
    vote: impl Fn(MemberId) -> Option<bool>,
) -> VoteResult {
    let quorum = voters.len() / 2 + 1;
    let yes = voters.iter().filter(|&&id| vote(id) == Some(true)).count();
    let missing = voters.iter().filter(|&&id| vote(id).is_none()).count();
    if voters.is_empty() || yes >= quorum {
        VoteResult::Won
    } else if yes + missing >= quorum {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// The highest value that a quorum of the configuration has reached: the lower of both halves.
pub fn reached(conf: &ConfState, mut value: impl FnMut(MemberId) -> u64) -> u64 {
    if mutant!("learner-counts") {
        let all = conf.voters.union(&conf.learners).copied().collect();
        return majority_reached(&all, value);
    }
    if mutant!("joint-needs-one-half") {
        return majority_reached(&conf.voters, value);
    }
    majority_reached(&conf.voters, &mut value)
        .min(majority_reached(&conf.voters_outgoing, &mut value))
}

/// How a vote in the configuration stands: the worse of both halves.
pub fn vote(conf: &ConfState, vote: impl Fn(MemberId) -> Option<bool>) -> VoteResult {
    majority_vote(&conf.voters, &vote).min(majority_vote(&conf.voters_outgoing, &vote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(mask: u8) -> BTreeSet<MemberId> {
        (0..8)
            .filter(|bit| mask & (1 << bit) != 0)
            .map(|bit| MemberId::new(bit + 1))
            .collect()
    }

    fn conf(incoming: u8, outgoing: u8) -> ConfState {
        ConfState {
            voters: set(incoming),
            voters_outgoing: set(outgoing),
            ..ConfState::default()
        }
    }

    /// Every subset of `voters` larger than half, by definition and without arithmetic on sorted
    /// values.
    fn quorums(voters: u8) -> impl Iterator<Item = u8> {
        (0..=255u8).filter(move |q| q & !voters == 0 && 2 * q.count_ones() > voters.count_ones())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn reached_is_the_best_quorum_of_both_halves(
            incoming in 1u8.., outgoing: u8, values in prop::array::uniform8(0u64..12),
        ) {
            let at = |id: MemberId| values[usize::try_from(id.get()).expect("small") - 1];
            let best = |voters: u8| {
                if voters == 0 { return u64::MAX; }
                quorums(voters)
                    .map(|q| set(q).into_iter().map(at).min().expect("a quorum has members"))
                    .max().expect("a set of voters has a quorum")
            };
            prop_assert_eq!(
                reached(&conf(incoming, outgoing), at),
                best(incoming).min(best(outgoing))
            );
        }

        #[test]
        fn votes_agree_with_brute_force(incoming in 1u8.., outgoing: u8, yes: u8, no: u8) {
            let no = no & !yes;
            let ballot = |id: MemberId| {
                let bit = 1u8 << (id.get() - 1);
                if yes & bit != 0 { Some(true) } else if no & bit != 0 { Some(false) } else { None }
            };
            let wins = |voters: u8, yes: u8| voters == 0 || quorums(voters).any(|q| q & !yes == 0);
            let both = |yes: u8| wins(incoming, yes) && wins(outgoing, yes);
            let expected = if both(yes) {
                VoteResult::Won
            } else if both(!no) {
                VoteResult::Pending
            } else {
                VoteResult::Lost
            };
            prop_assert_eq!(vote(&conf(incoming, outgoing), ballot), expected);
        }

        #[test]
        fn two_winning_sides_of_one_configuration_meet(
            incoming in 1u8.., outgoing: u8, a: u8, b: u8,
        ) {
            let conf = conf(incoming, outgoing);
            let wins = |yes: u8| {
                vote(&conf, |id| Some(yes & (1 << (id.get() - 1)) != 0)) == VoteResult::Won
            };
            if wins(a) && wins(b) {
                prop_assert!(a & b != 0, "two disjoint quorums");
            }
        }
    }
}
