//! Goal: right histories pass. Method: they are made by running the model under random overlaps
//! with lost answers. That wrong ones do not pass is shown in `broken`.

use proptest::prelude::*;

use super::*;

use crate::broken::generate::{Shape, history};
use crate::broken::story::{SECOND, Story, attach, get};

fn patient() -> Options {
    Options {
        plain_ops_max: 60,
        ..Options::default()
    }
}

fn assert_right(shape: &Shape) {
    let history = history(shape);
    let report = check(&history, &patient());
    assert!(report.is_ok(), "{shape:?}\n{report}");
    assert_eq!(report.ops, history.ops.len());
}

fn shape() -> impl Strategy<Value = Shape> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = (1usize..300, 1usize..12, 0u64..15, 1u64..8, 0usize..5);
    (any::<u64>(), sizes, flags).prop_map(|(seed, sizes, flags)| {
        let (ops, clients, unknown, keys, watches) = sizes;
        let (unique, leases, compactions, commits) = flags;
        // Without the log every lost answer is a riddle, and at a fourth of all a search may come
        // to give up, which is a failure. These histories keep to a sixth. (The share counts twice:
        // requests and answers get lost.)
        let unknown = if commits { unknown } else { unknown % 10 };
        Shape {
            seed,
            ops,
            clients,
            unknown,
            keys,
            unique,
            leases,
            compactions,
            watches,
            commits,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn right_histories_pass(shape in shape()) {
        assert_right(&shape);
    }
}

/// Leases end while nobody looks; then a write names the revision to which that has led. What is
/// told last is whether each key is gone.
fn unseen_ends(leases: i64, ended: impl Fn(i64) -> bool, is_read: bool) -> History {
    let mut story = Story::new();
    for id in 1..=leases {
        story.tell(Request::LeaseGrant(LeaseGrantRequest { id, ttl: 2 }));
        story.tell(attach(&format!("k{id}"), "v", id));
    }
    story.time += 60 * SECOND;
    // The last comes first: no order by id is the right one.
    for id in (1..=leases).rev().filter(|id| ended(*id)) {
        story.expire(id);
    }
    story.tell(attach("after", "v", 0));
    for id in (1..=leases).filter(|_| is_read) {
        story.tell(get(&format!("k{id}")));
    }
    story.history.commits.clear();
    story.history
}

/// Goal: a span in which nobody looked is no riddle, however much happened in it: any order of it
/// will do. Method: the ends of up to forty leases, with and without reads that tell which.
#[test]
fn unseen_ends_of_leases_are_no_riddle() {
    for history in [
        unseen_ends(30, |_| true, false),
        unseen_ends(40, |id| id % 2 == 0, false),
        unseen_ends(30, |_| true, true),
    ] {
        let options = Options {
            steps_max: 20_000,
            plain_ops_max: 0,
            ..Options::default()
        };
        let report = check(&history, &options);
        assert!(report.is_ok(), "{report}");
    }
}
