//! `shrink`: cuts a plan that breaks down to what it needs.
//!
//! Invariant: the file always holds a plan that breaks in the same way, also when somebody or a
//! limit ends the cutting.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use fated_sim::{
    faults::Fault,
    mutants::ASSERTION,
    plan::Plan,
    run::{self, Report},
    shrink::{Broken, Shrink, Size, Trial},
    trace::Keep,
};
use serde_json::{Value, json};

use super::{
    Outcome, in_file, plan_text, read_plan,
    tell::{self, Tally},
};

/// Steps of clients that are shown of what is left.
const STEPS_SHOWN: usize = 40;

/// What is cut, and for how long.
#[derive(Args)]
pub struct Cut {
    /// The plan, as `run --plan` writes it.
    plan: PathBuf,
    /// Where the smallest plan goes; beside the plan, as `NAME.small.json`, if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// How many threads; two at most are of use.
    #[arg(long, value_name = "THREADS", default_value_t = 2)]
    jobs: usize,
}

/// When cutting ends although more could go.
#[derive(Args, Clone, Copy)]
pub struct Limits {
    /// Stop cutting a plan after so many runs.
    #[arg(long, default_value_t = 20_000)]
    runs: usize,
    /// Stop cutting a plan after so many seconds.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

/// A plan that was cut down.
pub struct Done {
    pub small: Plan,
    pub broken: Broken,
    pub before: Size,
    pub after: Size,
    pub runs: usize,
    pub took: Duration,
    /// Whether it ended because of a limit.
    pub unfinished: bool,
    /// What the smallest plan came to when it was run once more.
    pub report: Report,
}

impl Done {
    /// Whether what is left breaks as the whole did.
    pub fn breaks_still(&self) -> bool {
        broken_by(&self.small, &self.report).is_some_and(|again| again.what == self.broken.what)
    }

    pub fn json(&self) -> Value {
        let size = |size: Size| {
            json!({ "faults": size.faults, "operations": size.operations,
                    "clients": size.clients, "watchers": size.watchers,
                    "members": size.members })
        };
        json!({
            "broken": self.broken.what,
            "before": size(self.before),
            "after": size(self.after),
            "runs": self.runs,
            "unfinished": self.unfinished,
            "breaks_still": self.breaks_still(),
        })
    }
}

/// Cuts a plan down. Fine if it broke at all and the smallest plan breaks the same way.
pub fn shrink(cut: &Cut, json: bool) -> Outcome {
    let began = Instant::now();
    let plan = read_plan(&cut.plan)?;
    let out = cut.out.clone();
    let out = out.unwrap_or_else(|| cut.plan.with_extension("small.json"));
    let mut progress = Progress {
        out: Some(&out),
        lines: !json,
        ..Progress::quiet()
    };
    let done = cut_down(plan, cut.limits, cut.jobs, &mut progress);
    progress.clear();
    let Some(done) = done else {
        if json {
            let mut line = Tally::default().value(began.elapsed());
            line["failed"] = json!(1);
            line["shrunk"] = Value::Null;
            println!("{line}");
        }
        eprintln!("nothing breaks, so there is nothing to keep while cutting");
        return Ok(false);
    };
    fs::write(&out, plan_text(&done.small)).map_err(|error| in_file(&out, &error))?;
    let holds = done.breaks_still();
    if json {
        let mut tally = Tally::default();
        tally.add(&done.report);
        let mut line = tally.value(began.elapsed());
        // What breaks is what was asked for; that it no longer does would be the failure.
        line["failed"] = json!(u64::from(!holds));
        line["shrunk"] = done.json();
        line["plan"] = json!(out.display().to_string());
        println!("{line}");
    } else {
        print!("{}", story(&done));
        println!("replay: cargo sim replay {}", out.display());
    }
    Ok(holds)
}

/// What was cut and what is left, for a person.
fn story(done: &Done) -> String {
    let (before, after) = (done.before, done.after);
    let mut text = String::new();
    for (number, fault) in done.small.faults.iter().enumerate() {
        let Fault {
            at_ms,
            for_ms,
            kind,
        } = fault;
        text += &format!("fault {number}: at {at_ms} ms for {for_ms} ms: {kind:?}\n");
    }
    for step in &done.small.membership.steps {
        text += &format!("change: at {} ms: {:?}\n", step.at_ms, step.what);
    }
    let clients = done.small.clients.iter().enumerate();
    let mut steps =
        clients.flat_map(|(client, steps)| steps.iter().map(move |step| (client, step)));
    for (client, step) in steps.by_ref().take(STEPS_SHOWN) {
        let (wait_us, what) = (step.wait_us, &step.what);
        text += &format!("client {client}: after {wait_us} us: {what:?}\n");
    }
    match steps.count() {
        0 => (),
        more => text += &format!("and {more} steps more\n"),
    }
    text += &format!("broken: {}\n", done.broken.what);
    text += &format!("commit: {}\n", tell::commit());
    text += &format!(
        "{} faults of {}, {} operations of {}, {} watchers of {}, {} members of {}; \
         {} runs in {:.1} s{}\n",
        after.faults,
        before.faults,
        after.operations,
        before.operations,
        after.watchers,
        before.watchers,
        after.members,
        before.members,
        done.runs,
        done.took.as_secs_f64(),
        match done.unfinished {
            true => "; a limit ended it, and more may go",
            false => "",
        },
    );
    text
}

/// Cuts a plan within limits; nothing if it does not break.
pub fn cut_down(
    plan: Plan,
    limits: Limits,
    jobs: usize,
    progress: &mut Progress<'_>,
) -> Option<Done> {
    let began = Instant::now();
    let broken = judge(&plan)?;
    let before = Size::of(&plan);
    let mut runs = Runs {
        used: 0,
        limits,
        until: began + Duration::from_secs(limits.seconds),
        is_wide: jobs > 1,
        // What breaks without the planted bug too is not the bug's.
        blames: plan.planted.is_some() && judge(&healthy(&plan)).is_none(),
        progress,
        began,
    };
    runs.tell("nothing yet", &plan);
    let small = Shrink::new(plan, broken.clone(), &mut runs).run();
    let (unfinished, runs) = (!runs.may_go_on(), runs.used);
    let report = run::run(small.clone(), Keep::Hash);
    Some(Done {
        before,
        after: Size::of(&small),
        broken,
        runs,
        took: began.elapsed(),
        unfinished,
        report,
        small,
    })
}

/// What is told while a plan is cut.
pub struct Progress<'p> {
    /// Where the smallest plan so far is kept.
    out: Option<&'p Path>,
    /// A line for each plan that is smaller.
    lines: bool,
    /// Whether a last line is written over and over.
    is_terminal: bool,
    size: Option<Size>,
}

impl Progress<'_> {
    /// Nothing is told.
    pub fn quiet() -> Self {
        Self {
            out: None,
            lines: false,
            is_terminal: std::io::stderr().is_terminal(),
            size: None,
        }
    }

    fn smaller(&mut self, began: Instant, runs: usize, pass: &str, plan: &Plan) {
        let size = Size::of(plan);
        if let Some(out) = self.out {
            // Kept for those who do not wait for the end, which writes it once more.
            drop(fs::write(out, plan_text(plan)));
        }
        if !self.lines || self.size.replace(size) == Some(size) {
            return;
        }
        self.clear();
        eprintln!(
            "{:>7.1} s {runs:>6} runs  {:>3} faults {:>5} operations {:>2} clients \
             {:>2} watchers {:>2} members  without {pass}",
            began.elapsed().as_secs_f64(),
            size.faults,
            size.operations,
            size.clients,
            size.watchers,
            size.members,
        );
    }

    fn tried(&self, began: Instant, runs: usize) {
        if self.lines && self.is_terminal {
            let seconds = began.elapsed().as_secs_f64();
            eprint!("\r{seconds:>7.1} s {runs:>6} runs\x1b[K");
            drop(std::io::stderr().flush());
        }
    }

    fn clear(&self) {
        if self.lines && self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Runs candidates on up to two threads.
struct Runs<'r, 'p> {
    used: usize,
    limits: Limits,
    until: Instant,
    is_wide: bool,
    /// Whether a candidate must pass without the bug that is planted in it.
    blames: bool,
    progress: &'r mut Progress<'p>,
    began: Instant,
}

impl Runs<'_, '_> {
    fn judge(&self, plan: &Plan, what: &str) -> Option<Broken> {
        let broken = judge(plan).filter(|broken| broken.what == what)?;
        (!self.blames || judge(&healthy(plan)).is_none()).then_some(broken)
    }
}

impl Trial for Runs<'_, '_> {
    fn first(&mut self, plans: Vec<Plan>, what: &str) -> Option<(usize, Broken)> {
        self.used += plans.len();
        self.progress.tried(self.began, self.used);
        if !self.is_wide {
            let mut plans = plans.iter().enumerate();
            return plans.find_map(|(at, plan)| Some((at, self.judge(plan, what)?)));
        }
        let this = &*self;
        let verdicts: Vec<Option<Broken>> = thread::scope(|scope| {
            let judge = |plan| scope.spawn(move || this.judge(plan, what));
            let running: Vec<_> = plans.iter().map(judge).collect();
            let joined = running.into_iter().map(|run| run.join());
            joined
                .map(|run| run.expect("a run catches its own panics"))
                .collect()
        });
        let mut verdicts = verdicts.into_iter().enumerate();
        verdicts.find_map(|(at, broken)| Some((at, broken?)))
    }

    fn tell(&mut self, pass: &str, plan: &Plan) {
        self.progress.smaller(self.began, self.used, pass, plan);
    }

    fn may_go_on(&self) -> bool {
        self.used < self.limits.runs && Instant::now() < self.until
    }
}

/// The plan without the bug that is planted in it.
pub fn healthy(plan: &Plan) -> Plan {
    Plan {
        planted: None,
        ..plan.clone()
    }
}

/// How a plan breaks, if it does.
pub fn judge(plan: &Plan) -> Option<Broken> {
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
