//! Goal: right histories pass. Method: they are made by running the model under random overlaps
//! with lost answers. That wrong ones do not pass is shown in `broken`.

use proptest::prelude::*;

use super::*;

use crate::broken::generate::{Shape, history};

fn assert_right(shape: &Shape) {
    let history = history(shape);
    let options = Options {
        steps_max: 200_000,
        states_max: 200,
        plain_ops_max: 60,
        ..Options::default()
    };
    let report = check(&history, &options);
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

/// How fast a large history is judged, from the file to the verdict. Run in release:
/// `cargo test --release -p fated-sim -- --ignored --nocapture a_million`.
#[test]
#[ignore = "takes a minute and much memory"]
fn a_million_operations_within_a_minute() {
    for (unknown, watches, commits) in [(0, 0, false), (2, 3, false), (2, 3, true)] {
        let shape = Shape {
            ops: std::env::var("N").map_or(1_000_000, |n| n.parse().unwrap()),
            clients: 10,
            unknown,
            keys: 100,
            watches,
            commits,
            ..Shape::default()
        };
        let mut file = Vec::new();
        let begin = std::time::Instant::now();
        history(&shape).write(&mut file).unwrap();
        println!("made in {:?}", begin.elapsed());
        let begin = std::time::Instant::now();
        let read = History::read(&file[..]).unwrap();
        let reading = begin.elapsed();
        let report = check(&read, &Options::default());
        let all = begin.elapsed();
        assert!(report.is_ok(), "{report}");
        println!(
            "{unknown} % unknown, {watches} watches, log {commits}: {} MB, read in {reading:?}, \
             judged in {all:?}, {} steps, {} M operations a minute",
            file.len() >> 20,
            report.steps,
            60.0 / all.as_secs_f64(),
        );
    }
}
