//! `shrink`: cuts a plan that breaks down to what it needs.

use std::{cell::Cell, fs, path::PathBuf, thread, time::Instant};

use clap::Args;
use fated_sim::{
    mutants::ASSERTION,
    plan::Plan,
    run::{self, Report},
    shrink::{Broken, Shrink, Size, Trial},
    trace::Keep,
};
use serde_json::json;

use super::{Outcome, in_file, plan_text, read_plan};

/// What is cut, and for how long.
#[derive(Args)]
pub struct Cut {
    /// The plan, as `run --plan` writes it.
    plan: PathBuf,
    /// Where the smallest plan goes; beside the plan, as `NAME.small.json`, if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Stop after so many runs.
    #[arg(long, default_value_t = 3000)]
    runs: usize,
    /// How many threads; two at most are of use.
    #[arg(long, value_name = "THREADS", default_value_t = 2)]
    jobs: usize,
}

/// Cuts a plan down. Fine if it broke at all and the smallest plan breaks the same way.
pub fn shrink(cut: &Cut, json: bool) -> Outcome {
    let began = Instant::now();
    let plan = read_plan(&cut.plan)?;
    let out = cut.out.clone();
    let out = out.unwrap_or_else(|| cut.plan.with_extension("small.json"));
    let Some(broken) = judge(&plan) else {
        eprintln!("nothing breaks, so there is nothing to keep while cutting");
        return Ok(false);
    };
    let before = Size::of(&plan);
    let mut runs = Runs {
        left: Cell::new(cut.runs),
        is_wide: cut.jobs > 1,
        is_quiet: json,
        began,
    };
    runs.tell("whole", before);
    let small = Shrink::new(plan, broken.clone(), &mut runs).run();
    fs::write(&out, plan_text(&small)).map_err(|error| in_file(&out, &error))?;
    let report = run::run(small.clone(), Keep::Hash);
    let holds = broken_by(&small, &report).is_some_and(|again| again.what == broken.what);
    let after = Size::of(&small);
    let seconds = began.elapsed().as_secs_f64();
    let used = cut.runs - runs.left.get();
    if json {
        let line = json!({
            "broken": broken.what,
            "faults": after.faults,
            "operations": after.operations,
            "watchers": after.watchers,
            "members": after.members,
            "faults_before": before.faults,
            "operations_before": before.operations,
            "requests": report.operations,
            "runs": used,
            "real_seconds": seconds,
            "breaks_still": holds,
        });
        println!("{line}");
    } else {
        println!("broken: {}", broken.what);
        println!(
            "{} faults of {}, {} operations of {}, {} watchers of {}, {} members of {}; \
             {used} runs in {seconds:.1} s",
            after.faults,
            before.faults,
            after.operations,
            before.operations,
            after.watchers,
            before.watchers,
            after.members,
            before.members,
        );
        println!("replay: cargo sim replay {}", out.display());
    }
    Ok(holds)
}

/// Runs candidates on up to two threads.
struct Runs {
    left: Cell<usize>,
    is_wide: bool,
    is_quiet: bool,
    began: Instant,
}

impl Trial for Runs {
    fn first(&mut self, plans: Vec<Plan>, what: &str) -> Option<(usize, Broken)> {
        self.left.set(self.left.get().saturating_sub(plans.len()));
        let is_so = |broken: &Broken| broken.what == what;
        if !self.is_wide {
            let mut plans = plans.iter().enumerate();
            return plans.find_map(|(at, plan)| Some((at, judge(plan).filter(is_so)?)));
        }
        let verdicts: Vec<Option<Broken>> = thread::scope(|scope| {
            let running = plans.iter().map(|plan| scope.spawn(|| judge(plan)));
            let running: Vec<_> = running.collect();
            let joined = running.into_iter().map(|run| run.join());
            joined
                .map(|run| run.expect("a run catches its own panics"))
                .collect()
        });
        let mut verdicts = verdicts.into_iter().enumerate();
        verdicts.find_map(|(at, broken)| Some((at, broken.filter(is_so)?)))
    }

    fn tell(&mut self, pass: &str, size: Size) {
        if !self.is_quiet {
            eprintln!(
                "{:>7.1} s  {:>3} faults {:>5} operations {:>2} clients {:>2} watchers \
                 {:>2} members  without {pass}",
                self.began.elapsed().as_secs_f64(),
                size.faults,
                size.operations,
                size.clients,
                size.watchers,
                size.members,
            );
        }
    }

    fn may_go_on(&self) -> bool {
        self.left.get() > 0
    }
}

/// How a plan breaks, if it does.
fn judge(plan: &Plan) -> Option<Broken> {
    broken_by(plan, &run::run(plan.clone(), Keep::Hash))
}

fn broken_by(plan: &Plan, report: &Report) -> Option<Broken> {
    let violation = report.violation.as_ref()?;
    let mut what = violation.guarantee.clone();
    if what == ASSERTION {
        // Which assertion: the line of code that the panic names.
        what = violation
            .story
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    let at = violation.at.unwrap_or(report.simulated.as_nanos() as u64);
    let sent = |client: usize| {
        let ops = report.history.ops.iter();
        ops.filter(|op| op.client == client as u64 && op.call <= at)
            .count()
    };
    Some(Broken {
        what,
        at_ms: Some(at / 1_000_000),
        sent: (0..plan.clients.len()).map(sent).collect(),
    })
}
