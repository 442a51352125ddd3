//! What is told of runs: a line each, a batch in one line, and the story of a failure.

use std::{env, fmt::Write as _, process::Command, sync::OnceLock, time::Duration};

use fated_sim::{
    check,
    counters::{Counters, required},
    plan::Plan,
    relevant::relevant,
    run::{self, Report},
    trace::Keep,
};
use serde_json::json;

/// Lines of the trace that are shown with a failure.
const LINES_SHOWN: usize = 40;
/// What a story is cut to where a whole batch is told.
const STORY_CHARS_MAX: usize = 1000;

/// Some runs, added up; it does not grow with their number.
#[derive(Default)]
pub struct Tally {
    pub seeds: u64,
    pub failures: Vec<Failure>,
    pub counters: Counters,
    simulated: Duration,
    operations: usize,
    steps: u64,
    hash: u64,
}

/// A seed that broke something.
pub struct Failure {
    pub seed: u64,
    guarantee: String,
    story: String,
}

impl Tally {
    /// Adds a run. The order in which runs are added does not matter.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.counters.merge(&report.counters);
        self.simulated += report.simulated;
        self.operations += report.operations;
        self.steps += report.steps;
        // Each hash is the run's own, so a sum tells two batches apart and has no order.
        self.hash = self.hash.wrapping_add(report.hash);
        if let Some(violation) = &report.violation {
            self.failures.push(Failure {
                seed: report.seed,
                guarantee: violation.guarantee.clone(),
                story: violation.story.chars().take(STORY_CHARS_MAX).collect(),
            });
            self.failures.sort_by_key(|failure| failure.seed);
        }
    }

    /// Adds what others were added up to.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.counters.merge(&other.counters);
        self.simulated += other.simulated;
        self.operations += other.operations;
        self.steps += other.steps;
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// A seed that did not come to the same twice.
    pub fn add_difference(&mut self, seed: u64, story: String) {
        let guarantee = "the same seed, the same run".to_owned();
        self.failures.push(Failure {
            seed,
            guarantee,
            story,
        });
        self.failures.sort_by_key(|failure| failure.seed);
    }

    /// A history in place of a run.
    pub fn of_check(report: &check::Report) -> Self {
        let failures = report.violations.iter().map(|violation| Failure {
            seed: 0,
            guarantee: format!("{:?}", violation.guarantee),
            story: violation.to_string(),
        });
        Self {
            failures: failures.collect(),
            operations: report.ops,
            steps: report.steps,
            ..Self::default()
        }
    }

    /// One line that a machine reads.
    pub fn json(&self, real: Duration) -> String {
        self.value(real).to_string()
    }

    /// The same, for commands that have more to say.
    pub fn value(&self, real: Duration) -> serde_json::Value {
        let counters: serde_json::Map<String, serde_json::Value> = self
            .counters
            .iter()
            .map(|(name, count)| (name.to_owned(), json!(count)))
            .collect();
        let failures = self.failures.iter().map(|failure| {
            json!({
                "seed": failure.seed,
                "guarantee": failure.guarantee,
                "story": failure.story,
            })
        });
        json!({
            "commit": commit(),
            "seeds": self.seeds,
            "failed": self.failures.len(),
            "failures": failures.collect::<Vec<_>>(),
            "simulated_seconds": self.simulated.as_secs_f64(),
            "real_seconds": real.as_secs_f64(),
            "operations": self.operations,
            "steps": self.steps,
            "trace_hash": format!("{:016x}", self.hash),
            "counters": counters,
        })
    }

    /// One line that a person reads.
    pub fn line(&self, real: Duration) -> String {
        let seconds = real.as_secs_f64().max(0.001);
        format!(
            "{} seeds in {seconds:.1} s ({:.0} a minute), {} operations, {:.0} simulated seconds \
             ({:.0} a second), {} failed",
            self.seeds,
            self.seeds as f64 * 60.0 / seconds,
            self.operations,
            self.simulated.as_secs_f64(),
            self.simulated.as_secs_f64() / seconds,
            self.failures.len(),
        )
    }
}

/// A run in one line.
pub fn line(report: &Report) -> String {
    format!(
        "seed {:<8} {} {:>6} operations {:>8} steps {:>7.1} s simulated {:>6.2} s real  {:016x}",
        report.seed,
        match report.violation {
            None => "ok    ",
            Some(_) => "BROKEN",
        },
        report.operations,
        report.steps,
        report.simulated.as_secs_f64(),
        report.real.as_secs_f64(),
        report.hash,
    )
}

/// Counters, one a line.
pub fn table(counters: &Counters) -> String {
    let mut text = String::new();
    for (name, count) in counters.iter() {
        writeln!(text, "{count:>12}  {name}").expect("a string takes everything");
    }
    text
}

/// What must have happened and how often it did, everything else that was counted, and what is
/// missing.
pub fn required(counters: &Counters, seeds: u64) -> String {
    let (all, missing) = (required::all(), required::missing(counters, seeds));
    let mut text = format!("{:>12} {:>10} {:>8}\n", "count", "per seed", "in 1000");
    let mut line = |name: &str, least: &str, meaning: &str| {
        let count = counters.get(name);
        let each = count as f64 / seeds.max(1) as f64;
        writeln!(text, "{count:>12} {each:>10.3} {least:>8}  {name}{meaning}")
            .expect("a string takes everything");
    };
    for it in &all {
        line(it.name, &it.least.to_string(), &format!(": {}", it.meaning));
    }
    for (name, _) in counters.iter() {
        if all.iter().all(|it| it.name != name) {
            line(name, "", "");
        }
    }
    for it in missing {
        let count = counters.get(it.name);
        writeln!(
            text,
            "MISSING: {}: {count} times, not {}",
            it.name, it.least
        )
        .expect("a string takes everything");
    }
    text
}

/// The story of a failure. The plan is lived again with its lines kept: the same seed lives the
/// same life.
pub fn failure(plan: &Plan, report: &Report, command: &str) -> String {
    let Some(violation) = &report.violation else {
        return String::new();
    };
    let again = run::run(plan.clone(), violation.at.map_or(Keep::Lines, Keep::Until));
    let mut text = String::new();
    for line in relevant(&again.lines, &violation.story, LINES_SHOWN) {
        text += line;
        text.push('\n');
    }
    text += &format!("seed:   {}\n", plan.seed);
    text += &format!("commit: {}\n", commit());
    text += &format!("broken: {}\n  {}\n", violation.guarantee, violation.story);
    if again.hash != report.hash {
        text += &format!(
            "and it was another run the second time: {:016x}, then {:016x}\n",
            report.hash, again.hash
        );
    }
    text += &format!("replay: cargo sim {command} --trace trace.txt");
    text
}

/// The commit of the checkout that this was built from, with a `+` if files were changed since.
pub fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(|| {
        // Cargo tells where the package is; without it the present directory must do.
        let at = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
        let git = |words: &[&str]| {
            let output = Command::new("git").arg("-C").arg(&at).args(words).output();
            let output = output.ok().filter(|output| output.status.success())?;
            String::from_utf8(output.stdout).ok()
        };
        let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else {
            return "unknown".to_owned();
        };
        let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
        let changed = changes.is_none_or(|changes| !changes.is_empty());
        format!("{}{}", hash.trim(), if changed { "+" } else { "" })
    })
}
