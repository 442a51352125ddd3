//! Wrong orders, wrong logs, wrong reads of the past, and lines that do not fit together.

use super::story::*;
use super::{Case, Trial, guided_only};
use crate::check::{Guarantee, Options, Weakness};
use crate::history::*;
use crate::model::Refusal;

pub(super) fn order_cases() -> Vec<Case> {
    use Guarantee::Linearizable;
    vec![
        (
            "a read misses a write that had returned",
            || {
                let mut history = unseen(base());
                let old = history.ops[3].outcome.clone();
                history.ops[5].outcome = old;
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a read shows a value that nobody wrote",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).kvs[0].value = "other".into();
                history
            },
            Linearizable,
            &[Weakness::KeysOnly],
        ),
        (
            "a read shows a wrong version",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).kvs[0].version += 1;
                history
            },
            Linearizable,
            &[Weakness::KeysOnly],
        ),
        (
            "a read shows a key that was deleted",
            || {
                let mut history = unseen(base());
                let old = range_reply(&mut history.ops[3]).clone();
                *range_reply(&mut history.ops[5]) = old;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a read names a revision that its state does not have",
            || {
                let mut history = unseen(base());
                *header(&mut history.ops[9]) = 6;
                history
            },
            Linearizable,
            &[Weakness::NoHeaders],
        ),
        (
            "a count is wrong",
            || {
                let mut history = unseen(base());
                range_reply(&mut history.ops[3]).count = 2;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "two writes are the same step",
            || {
                let mut history = unseen(base());
                *header(&mut history.ops[1]) = 2;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "two conditional writes both win",
            || {
                let mut story = Story::new();
                story.tell(put("a", "a2"));
                let compare = Compare {
                    key: "a".into(),
                    range_end: Text::default(),
                    result: CompareResult::Equal,
                    target: CompareTarget::Mod(2),
                };
                for value in ["x", "y"] {
                    story.tell(Request::Txn(TxnRequest {
                        compare: vec![compare.clone()],
                        success: vec![put("a", value)],
                        failure: vec![],
                    }));
                }
                let mut history = unseen(story);
                let mut won = history.ops[1].outcome.clone();
                std::mem::swap(&mut won, &mut history.ops[2].outcome);
                *header(&mut history.ops[2]) = 4;
                history
            },
            Linearizable,
            &[],
        ),
        (
            "what failed for certain is read",
            || {
                let mut history = unseen(base());
                history.ops[6].outcome = failed("etcdserver: no leader");
                history
            },
            Linearizable,
            &[],
        ),
        (
            "an unknown write takes effect twice",
            || {
                let mut story = Story::new();
                for value in ["once", "other", "once"] {
                    story.tell(put("k", value));
                    story.tell(get("k"));
                }
                let mut history = unseen(story);
                lose(&mut history.ops[0]);
                history.ops.remove(4);
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a write is read before it is called",
            || {
                let mut history = unseen(base());
                lose(&mut history.ops[6]);
                history.ops[6].client = 2;
                history.ops[6].call = history.ops[9].ret.unwrap() + 1;
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a key is said to be missing that is there",
            || {
                let mut story = base();
                let at = story.tell(Request::Put(PutRequest {
                    key: "a".into(),
                    ignore_value: true,
                    ..PutRequest::default()
                }));
                let mut history = unseen(story);
                history.ops[at].outcome = refused(Refusal::KeyNotFound);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
        (
            "a revision is said to be compacted that is not",
            || {
                let mut history = unseen(base());
                let Request::Range(range) = &mut history.ops[9].request else {
                    panic!()
                };
                range.revision = 3;
                history.ops[9].outcome = refused(Refusal::Compacted);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
        (
            "a good request is refused for its form",
            || {
                let mut history = unseen(base());
                history.ops[9].outcome = refused(Refusal::EmptyKey);
                history
            },
            Linearizable,
            &[],
        ),
        (
            "a revision passes that nobody explains",
            || {
                let mut history = unseen(base());
                history.ops.remove(6);
                history
            },
            Linearizable,
            &[],
        ),
    ]
}

pub(super) fn log_cases() -> Vec<Case> {
    use Guarantee::{Committed, Linearizable};
    vec![
        (
            "an acknowledged write is lost",
            || {
                let mut history = base().history;
                history.commits.pop();
                history.ops.pop();
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "a write is in the log twice",
            || {
                let mut history = base().history;
                let mut again = history.commits[0].clone();
                again.index = 1000;
                history.commits.push(again);
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "what failed for certain is in the log",
            || {
                let mut history = base().history;
                history.ops[8].outcome = failed("etcdserver: no leader");
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "a write is acknowledged before it is applied",
            || {
                let mut history = base().history;
                history.commits[0].time = history.ops[0].ret.map(|ret| ret + 1);
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "the log holds another request",
            || {
                let mut history = base().history;
                history.commits[0].request = put("a", "other");
                history
            },
            Committed,
            &[Weakness::NoCommitted],
        ),
        (
            "the log orders two writes against time",
            || {
                let mut story = Story::new();
                story.tell(put("a", "1"));
                story.tell(put("b", "2"));
                let mut history = story.history;
                for op in &mut history.ops {
                    let turned = 5 - *header(op);
                    *header(op) = turned;
                }
                history.commits.reverse();
                for (at, commit) in history.commits.iter_mut().enumerate() {
                    (commit.index, commit.time) = (at as u64, None);
                }
                history
            },
            Linearizable,
            &[Weakness::NoRealTime],
        ),
        (
            "a lease is said to be missing that the log has",
            || {
                let mut story = base();
                let at = story.tell(attach("m", "m8", 7));
                let mut history = story.history;
                history.commits.pop();
                history.ops[at].outcome = refused(Refusal::LeaseNotFound);
                history
            },
            Linearizable,
            &[Weakness::NoErrors],
        ),
    ]
}

pub(super) fn stale_cases() -> Vec<Case> {
    use Guarantee::Serializable;
    fn with_read(
        change: impl FnOnce(&mut RangeRequest),
        wrong: impl FnOnce(&mut Operation),
    ) -> History {
        let mut story = base();
        let mut range = RangeRequest {
            key: "b".into(),
            ..RangeRequest::default()
        };
        change(&mut range);
        let at = story.tell(Request::Range(range));
        wrong(&mut story.history.ops[at]);
        unseen(story)
    }
    vec![
        (
            "a stale read shows what was never there",
            || {
                with_read(
                    |range| range.serializable = true,
                    |op| range_reply(op).kvs[0].value = "other".into(),
                )
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a stale read mixes two revisions",
            || with_read(|range| range.serializable = true, |op| *header(op) = 3),
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a stale read is from the future",
            || {
                let mut history = with_read(|range| range.serializable = true, |_| ());
                let mut read = history.ops.pop().unwrap();
                (read.client, read.call, read.ret) = (2, 10, Some(20));
                history.ops.insert(0, read);
                history
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
        (
            "a read at an old revision shows the present",
            || {
                with_read(
                    |_| (),
                    |op| {
                        let Request::Range(range) = &mut op.request else {
                            panic!()
                        };
                        range.revision = 3;
                    },
                )
            },
            Serializable,
            &[Weakness::NoSerializable],
        ),
    ]
}

pub(super) fn format_cases() -> Vec<Case> {
    vec![
        (
            "an id is used twice",
            || {
                let mut history = unseen(base());
                history.ops[1].id = 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
        (
            "a thread does two things at a time",
            || {
                let mut history = unseen(base());
                history.ops[1].call = history.ops[0].call + 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
        (
            "a log that goes back",
            || {
                let mut history = base().history;
                history.commits[1].index = 1;
                history
            },
            Guarantee::Format,
            &[],
        ),
    ]
}

/// Trials about verdicts that are not a guarantee of the cluster: a right history must pass, and a
/// search that gives up must say so.
pub(super) fn verdict_trials() -> Vec<Trial> {
    let mut story = base();
    story.tell(get("b"));
    let mut unanswered = unseen(story);
    lose(&mut unanswered.ops[6]);
    vec![
        Trial {
            name: "a right history in which the answer to a write got lost".into(),
            history: unanswered,
            expected: None,
            needs: vec![Weakness::UnknownNeverApplied],
            options: guided_only(),
        },
        Trial {
            name: "a history that the search has no time for".into(),
            history: unseen(base()),
            expected: Some(Guarantee::Undecided),
            needs: vec![Weakness::GivingUpPasses],
            options: Options {
                steps_max: 3,
                ..guided_only()
            },
        },
    ]
}
