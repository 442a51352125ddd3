//! Goal: whatever the network says, a member neither panics nor breaks an invariant.
//! Method: a member of any role is fed messages made of small random numbers, so that many of them
//! nearly fit.

use bytes::Bytes;
use fated::kernel::{Entropy, EntryId, LogIndex, MemberId, ReadId, Term};
use fated::raft::{
    Body, ConfState, Config, Entry, EntryKind, LEAVE_JOINT, Message, Raft, Recovered, Role,
    SnapshotMeta,
};
use proptest::prelude::*;

fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        id: id(term, index),
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"x"),
    }
}

fn member(voters: impl IntoIterator<Item = u64>, log: &[u64]) -> Raft {
    let conf_state = ConfState::of_voters(voters.into_iter().map(MemberId::new));
    let mut recovered = Recovered::fresh(conf_state);
    recovered.entries = (1..)
        .zip(log)
        .map(|(index, &term)| entry(term, index))
        .collect();
    Raft::new(
        Config::new(MemberId::new(1), 10, 1),
        recovered,
        Entropy::from_seed(1),
    )
}

fn message(from: u64, term: u64, body: Body) -> Message {
    Message {
        from: MemberId::new(from),
        to: MemberId::new(1),
        term: Term::new(term),
        body,
    }
}

/// Takes outputs and carries them out at once, as an owner with an instant disk does.
fn settle(raft: &mut Raft) {
    while raft.has_output() {
        let output = raft.take_output();
        if let Some(entry) = output.append.last() {
            raft.on_durable(entry.id);
        }
        if let Some(entry) = output.apply.last() {
            raft.on_applied(entry.id.index);
        }
    }
    raft.check();
}

fn any_id() -> impl Strategy<Value = EntryId> {
    let index = prop_oneof![9 => 0u64..12, 1 => Just(u64::MAX)];
    (0u64..6, index).prop_map(|(term, index)| id(term, index))
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    // Mostly a run as a leader would send it, sometimes anything.
    let run = (0u64..6, 0u64..12, 0u64..4).prop_map(|(term, first, count)| {
        (0..count).map(|step| entry(term, first + step)).collect()
    });
    let anything = prop::collection::vec(any_id(), 0..4).prop_map(|ids| {
        let make = |id| Entry {
            id,
            kind: EntryKind::ConfChange,
            data: Bytes::from_static(LEAVE_JOINT),
        };
        ids.into_iter().map(make).collect()
    });
    prop_oneof![3 => run, 1 => anything]
}

fn any_body() -> impl Strategy<Value = Body> {
    let number = prop_oneof![9 => 0u64..12, 1 => Just(u64::MAX)];
    let small = number.clone().prop_map(LogIndex::new);
    prop_oneof![
        any_id().prop_map(|last| Body::PreVote { last }),
        (any::<bool>(), any_id())
            .prop_map(|(granted, commit)| Body::PreVoteReply { granted, commit }),
        (any_id(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        (any::<bool>(), any_id()).prop_map(|(granted, commit)| Body::VoteReply { granted, commit }),
        (any_id(), any_entries(), small.clone()).prop_map(|(prev, entries, commit)| Body::Append {
            prev,
            entries,
            commit
        }),
        any_id().prop_map(|matched| Body::AppendReply { matched }),
        (small.clone(), any_id())
            .prop_map(|(rejected, hint)| Body::AppendReject { rejected, hint }),
        (small.clone(), number.clone())
            .prop_map(|(commit, round)| Body::Heartbeat { commit, round }),
        number
            .clone()
            .prop_map(|round| Body::HeartbeatReply { round }),
        number.clone().prop_map(|sequence| Body::Propose {
            boot: sequence % 3,
            sequence,
            entries: vec![
                (EntryKind::Normal, Bytes::new()),
                (EntryKind::ConfChange, Bytes::new())
            ],
        }),
        number.clone().prop_map(|id| Body::ReadIndex {
            boot: 1,
            id: ReadId::new(id)
        }),
        (number.clone(), small).prop_map(|(id, index)| Body::ReadIndexReply {
            boot: 1,
            id: ReadId::new(id),
            index,
        }),
        (0u64..5).prop_map(|to| Body::TransferLeader {
            to: MemberId::new(to)
        }),
        Just(Body::TimeoutNow),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let term = prop_oneof![19 => 0u64..7, 1 => Just(u64::MAX)];
    (0u64..6, term, any_body()).prop_map(|(from, term, body)| message(from, term, body))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_panics_or_breaks_an_invariant(
        voters in 1u64..5,
        log in prop::collection::vec(0u64..2, 0..8),
        start in 0u64..3,
        messages in prop::collection::vec(any_message(), 1..60),
    ) {
        let mut term = 1;
        let terms: Vec<u64> = log.into_iter().map(|step| { term += step; term }).collect();
        let mut raft = member(1..=voters, &terms);
        for _ in 0..start {
            raft.campaign();
            settle(&mut raft);
        }
        for message in messages {
            let (term, committed) = (raft.term(), raft.committed());
            raft.step(message);
            prop_assert!(raft.term() >= term && raft.committed() >= committed);
            settle(&mut raft);
            raft.tick();
        }
    }

    #[test]
    fn no_image_panics_or_takes_back_a_commit(
        images in prop::collection::vec((any_id(), 0u64..6, 0u64..7), 1..20),
        messages in prop::collection::vec(any_message(), 20),
    ) {
        let mut raft = member(1..=3, &[1, 1, 2]);
        for ((id, from, term), message) in images.into_iter().zip(messages) {
            let committed = raft.committed();
            let meta = SnapshotMeta { id, conf_state: raft.conf_state().clone() };
            let installed = raft.restore(meta, MemberId::new(from), Term::new(term));
            prop_assert!(raft.committed() >= committed);
            prop_assert!(!installed || (raft.applied() == id.index && id.index > committed));
            settle(&mut raft);
            raft.step(message);
            settle(&mut raft);
        }
    }
}

/// An append proves the log equal only up to its last entry: a higher commit index must not commit
/// the rest.
#[test]
fn a_commit_index_reaches_no_further_than_the_append_proves() {
    let mut raft = member(1..=3, &[1, 1, 1, 1]);
    let body = Body::Append {
        prev: id(1, 1),
        entries: vec![entry(1, 2)],
        commit: LogIndex::new(4),
    };
    raft.step(message(2, 2, body));
    assert_eq!(raft.committed(), LogIndex::new(2));
}

/// An image whose configuration contradicts itself is refused.
#[test]
fn an_image_needs_a_sound_configuration() {
    let mut raft = member(1..=3, &[1]);
    settle(&mut raft);
    let learner_and_voter = ConfState {
        learners: [MemberId::new(2)].into(),
        ..ConfState::of_voters([2, 3].map(MemberId::new))
    };
    for conf_state in [ConfState::default(), learner_and_voter] {
        let id = id(2, 9);
        let meta = SnapshotMeta { id, conf_state };
        assert!(!raft.restore(meta, MemberId::new(2), Term::new(2)));
        assert!(!raft.has_output());
    }
}

/// Entries of a write that is overwritten on its way may return; a leader that was told so must not
/// commit.
#[test]
fn a_follower_applies_nothing_that_is_not_durable_here() {
    let mut raft = member(1..=3, &[1]);
    let append = |term, prev, entries, commit| {
        let commit = LogIndex::new(commit);
        message(
            2,
            term,
            Body::Append {
                prev,
                entries,
                commit,
            },
        )
    };
    raft.step(append(2, id(1, 1), vec![entry(2, 2)], 2));
    let output = raft.take_output();
    assert_eq!(output.append, [entry(2, 2)]);
    assert_eq!(
        output.apply,
        [entry(1, 1)],
        "the second entry is committed and not durable"
    );
    raft.on_durable(id(1, 2));
    assert!(
        raft.take_output().apply.is_empty(),
        "another entry with that index"
    );
    raft.on_durable(id(2, 2));
    assert_eq!(raft.take_output().apply, [entry(2, 2)]);
}

/// A member's own image of itself at boot: the term of its log counts, even if the hard state was
/// lost.
#[test]
fn the_term_is_never_behind_the_log() {
    let mut raft = member(1..=3, &[1, 3]);
    assert_eq!(
        (raft.term(), raft.vote(), raft.role()),
        (Term::new(3), None, Role::Follower)
    );
    let hard_state = raft.take_output().hard_state;
    assert_eq!(
        hard_state.map(|state| state.term),
        Some(Term::new(3)),
        "and it is written again"
    );
}
