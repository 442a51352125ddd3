//! Whether what a made-up bug needs is left, and nothing else.

use super::{Broken, Shrink, Size, Trial};
use crate::{
    faults::{Fault, FaultKind, Target},
    plan::Plan,
    script::{Step, What},
};

/// A bug that needs two kills, one of them of the leader, a put of key 3 and a compaction.
struct Made {
    runs: usize,
    runs_max: usize,
}

impl Made {
    fn breaks(plan: &Plan) -> bool {
        let kill = |fault: &&Fault| matches!(fault.kind, FaultKind::Kill { .. });
        let leader = |fault: &Fault| {
            matches!(
                fault.kind,
                FaultKind::Kill {
                    target: Target::Leader
                }
            )
        };
        let steps = || plan.clients.iter().flatten();
        plan.faults.iter().filter(kill).count() >= 2
            && plan.faults.iter().any(leader)
            && steps().any(|step| matches!(step.what, What::Put { key: 3, .. }))
            && steps().any(|step| matches!(step.what, What::Compact { .. }))
    }
}

impl Trial for Made {
    fn first(&mut self, plans: Vec<Plan>, _: &str) -> Option<(usize, Broken)> {
        self.runs += plans.len();
        let first = plans.iter().position(Self::breaks)?;
        Some((first, broken()))
    }

    fn tell(&mut self, _: &str, plan: &Plan) {
        assert!(Self::breaks(plan), "what is told of must break");
    }

    fn may_go_on(&self) -> bool {
        self.runs < self.runs_max
    }
}

fn broken() -> Broken {
    Broken {
        what: "made up".into(),
        at_ms: None,
        sent: Vec::new(),
    }
}

/// Goal: what a bug needs is left and nothing else, each time the same. Method: a
/// bug made up, on drawn plans that break.
#[test]
fn what_is_needed_is_left() {
    let mut plans = (0..400).map(Plan::draw);
    for _ in 0..3 {
        let plan = plans.find(Made::breaks).expect("many plans have all of it");
        let shrink = || cut(&plan, usize::MAX);
        let (small, runs) = shrink();
        let size = Size::of(&small);
        let left = (size.faults, size.operations, size.watchers);
        assert_eq!(left, (2, 2, 0), "{size:?}");
        assert_eq!((size.members, small.network.loss_ppm), (1, 0));
        assert!(small.ends_early && small.faults_ms == 0, "{small:?}");
        let mut steps = small.clients.iter().flatten();
        assert!(steps.all(|step| step.wait_us == 0));
        assert!(runs < 2_000, "{runs}");
        assert_eq!(shrink(), (small, runs));
    }
}

/// Goal: whoever runs out of time is left with a plan that breaks. Method: every limit on the way to
/// the end.
#[test]
fn a_plan_that_breaks_is_left_at_any_time() {
    let mut plans = (0..400).map(Plan::draw);
    let plan = plans.find(Made::breaks).expect("many plans have all of it");
    let (_, runs) = cut(&plan, usize::MAX);
    let mut least = Size::of(&plan);
    for runs_max in (0..runs).step_by(7) {
        let (small, used) = cut(&plan, runs_max);
        assert!(
            Made::breaks(&small) && used <= runs_max + 1,
            "{used} of {runs_max}"
        );
        let size = Size::of(&small);
        assert!(size.faults <= least.faults && size.operations <= least.operations);
        least = size;
    }
}

/// Goal: what is left out keeps its time for those behind it. Method: the pauses before the last step
/// of each client that is left.
#[test]
fn a_step_left_out_is_waited_for() {
    let mut plan = Plan::draw(1);
    plan.clients = vec![(1..=4).map(|key| step(key, 10 * key)).collect()];
    let broken = Broken {
        sent: vec![4],
        ..broken()
    };
    let mut only = Only;
    let small = Shrink::new(plan, broken, &mut only).run();
    // The first step waits for nothing; the second, third and last have 20, 30 and 40.
    assert_eq!(small.clients, [vec![step(4, 90)]]);
}

fn step(key: u64, wait_us: u64) -> Step {
    let what = What::Put { key, bytes: 1 };
    Step { wait_us, what }
}

/// A bug that needs the put of key 4 behind all the pauses there are.
struct Only;

impl Trial for Only {
    fn first(&mut self, plans: Vec<Plan>, _: &str) -> Option<(usize, Broken)> {
        let breaks = |plan: &Plan| {
            let mut time = 0;
            let mut steps = plan.clients.iter().flatten().enumerate();
            steps.any(|(number, step)| {
                time += if number == 0 && !plan.waits_first {
                    0
                } else {
                    step.wait_us
                };
                time == 90 && matches!(step.what, What::Put { key: 4, .. })
            })
        };
        let first = plans.iter().position(breaks)?;
        Some((first, broken()))
    }

    fn tell(&mut self, _: &str, _: &Plan) {}

    fn may_go_on(&self) -> bool {
        true
    }
}

fn cut(plan: &Plan, runs_max: usize) -> (Plan, usize) {
    let mut made = Made { runs: 0, runs_max };
    let small = Shrink::new(plan.clone(), broken(), &mut made).run();
    (small, made.runs)
}
