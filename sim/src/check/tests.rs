//! Goal: right histories pass, wrong ones are caught by the check that is meant for them, and each
//! part of a checker is needed. Method: histories are made by running the model under random
//! overlaps with lost answers; wrong ones by changing one thing; a checker that is broken on
//! purpose must then miss it.

use proptest::prelude::*;

use super::*;
use crate::model::*;

pub(super) mod generate;
mod planted;

use generate::{Shape, history};

fn assert_right(shape: &Shape) {
    let history = history(shape);
    let report = check(&history, &Options::default());
    // Equal values and unknown outcomes can leave too many orders to decide.
    let is_hard = !shape.unique && shape.unknown > 3;
    if is_hard && report.breaks(Guarantee::Undecided) {
        return;
    }
    assert!(report.is_ok(), "{shape:?}\n{report}");
    assert_eq!(report.ops, history.ops.len());
}

fn shape() -> impl Strategy<Value = Shape> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = (1usize..300, 1usize..12, 0u64..15, 1u64..8, 0usize..5);
    (any::<u64>(), sizes, flags).prop_map(|(seed, sizes, flags)| {
        let (ops, clients, unknown, keys, watches) = sizes;
        let (unique, leases, compactions, commits) = flags;
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

#[test]
fn debug_one() {
    let shape = Shape {
        seed: 5261207440687924520,
        ops: 219,
        clients: 4,
        unknown: 4,
        keys: 7,
        unique: true,
        leases: true,
        compactions: true,
        watches: 2,
        commits: true,
    };
    for n in 5..110 {
        let history = history(&Shape {
            ops: n,
            ..shape.clone()
        });
        let report = check(&history, &Options::default());
        let options = Options::default();
        let prepared = Prepared::new(&history, &options).unwrap();
        if !report.is_ok() {
            println!(
                "{report} doubt {:?}",
                linearizable::search(&prepared, &options).doubt
            );
            let e = evidence::Evidence::gather(&prepared, evidence::Sources::All, &options);
            let h2 = generate::history(&Shape {
                ops: n,
                commits: true,
                ..shape.clone()
            });
            let mut m = Model::new(&h2.meta);
            for c in &h2.commits {
                let r = m.step(&c.request).map(|a| a.revision);
                println!(
                    "true {r:?} op {:?} {}",
                    c.op,
                    serde_json::to_string(&c.request).unwrap()
                );
            }
            for (p, op) in prepared.ops.iter().enumerate() {
                if !matches!(op.kind, Kind::Read(_)) {
                    println!(
                        "place {p} op {} {:?} call {} ret {:?} found {:?}",
                        op.source.id,
                        op.kind,
                        op.source.call,
                        op.source.ret,
                        e.found.get(&p)
                    );
                }
            }
            println!("claims {:?}", e.claims);
            for t in &e.traces {
                println!("{t:?}");
            }
            panic!();
        }
    }
}
