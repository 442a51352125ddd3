//! `mutants --shrink`: whether the plan in which a planted bug shows can be cut down to something
//! that a person reads at once.
//!
//! Chance decides how a bug shows first, and some ways of showing need more than others. So where
//! too much is left of one plan, the next one that shows it is cut.
//!
//! A bug that needs two faults is held to that, too: without any one of the faults that are left,
//! nothing breaks, under a number of seeds.

use std::{fs, path::PathBuf, time::Instant};

use clap::Args;
use fated_sim::{mutants::Planted, plan::Plan, run, shrink::Size, trace::Keep};
use serde_json::{Value, json};

use super::{
    Outcome, Place, in_file,
    mutants::spread,
    plan_text,
    shrink::{Done, Limits, Progress, cut_down, judge},
    tell::Tally,
};

/// Seeds under which a plan with one fault less must break nothing.
const SEEDS: u64 = 16;

/// How many plans of a bug are cut until little enough is left of one.
const PLANS_MAX: usize = 3;

/// What may be left of a plan.
#[derive(Args)]
pub struct Bounds {
    /// The most faults that may be left by --shrink.
    #[arg(long, value_name = "FAULTS", default_value_t = 5)]
    faults_max: usize,
    /// The most operations of clients that may be left by --shrink.
    #[arg(long, value_name = "OPERATIONS", default_value_t = 20)]
    operations_max: usize,
    /// Write what is left by --shrink into this directory.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

/// What came of one bug.
struct Row {
    bug: &'static Planted,
    /// The seed in which it showed, and what was left of its plan.
    done: Option<(u64, Done)>,
    /// What is wrong with that.
    wrong: Option<String>,
    tally: Tally,
}

/// Cuts the first plan in which each bug shows. Fine if little enough is left of all of them.
pub fn small(
    bugs: &[&'static Planted],
    bounds: &Bounds,
    limits: Limits,
    place: &Place,
    json: bool,
) -> Outcome {
    let began = Instant::now();
    if let Some(dir) = &bounds.save {
        fs::create_dir_all(dir).map_err(|error| in_file(dir, &error))?;
    }
    let rows = spread(place.threads(), bugs, |bug| {
        let row = Row::new(bug, bounds, limits, place.from);
        if !json {
            println!("{}", row.line());
        }
        row
    });
    let mut tally = Tally::default();
    rows.iter().for_each(|row| tally.merge(&row.tally));
    let failed = rows.iter().filter(|row| row.wrong.is_some()).count();
    for row in &rows {
        if let (Some(dir), Some((_, done))) = (&bounds.save, &row.done) {
            let file = dir.join(format!("{}.json", row.bug.name));
            fs::write(&file, plan_text(&done.small)).map_err(|error| in_file(&file, &error))?;
        }
    }
    let took = began.elapsed();
    if json {
        let mut line = tally.value(took);
        line["failed"] = json!(failed);
        line["planted"] = json!(rows.len());
        line["bugs"] = rows.iter().map(Row::json).collect();
        println!("{line}");
    } else {
        println!(
            "{} planted bugs cut down to at most {} faults and {} operations, {failed} not, {:.0} s",
            rows.len(),
            bounds.faults_max,
            bounds.operations_max,
            took.as_secs_f64()
        );
    }
    Ok(failed == 0)
}

impl Row {
    fn new(bug: &'static Planted, bounds: &Bounds, limits: Limits, from: u64) -> Self {
        let mut row = Self {
            bug,
            done: None,
            wrong: Some(format!("it does not show in {} seeds", bug.seeds_max)),
            tally: Tally::default(),
        };
        let mut plans_left = PLANS_MAX;
        for number in 0..bug.seeds_max {
            let seed = from.wrapping_add(number);
            if !row.shows(bug, seed) {
                continue;
            }
            let done = cut_down(bug.plan(seed), limits, 1, &mut Progress::quiet());
            let done = done.expect("a plan that breaks breaks again");
            row.wrong = wrong(bug, bounds, &done);
            row.done = Some((seed, done));
            plans_left -= 1;
            if row.wrong.is_none() || plans_left == 0 {
                break;
            }
        }
        row
    }

    /// Whether the bug shows in a seed by a check that is there for it.
    fn shows(&mut self, bug: &Planted, seed: u64) -> bool {
        let mut report = run::run(bug.plan(seed), Keep::Hash);
        let violation = report.violation.take();
        self.tally.add(&report);
        violation.is_some_and(|violation| bug.is_caught_by(&violation))
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:<6} {:<32}",
            if self.wrong.is_some() {
                "LARGE"
            } else {
                "small"
            },
            self.bug.name
        );
        if let Some((seed, done)) = &self.done {
            let Size {
                faults,
                operations,
                watchers,
                members,
                ..
            } = done.after;
            line += &format!(
                " seed {seed:>3}: {faults:>2} faults of {:>3}, {operations:>3} operations of {:>4}, \
                 {watchers} watchers, {members} members; {:>5} runs in {:>5.1} s",
                done.before.faults,
                done.before.operations,
                done.runs,
                done.took.as_secs_f64(),
            );
        }
        if let Some(wrong) = &self.wrong {
            line += &format!("\n         {wrong}");
        }
        line
    }

    fn json(&self) -> Value {
        json!({
            "name": self.bug.name,
            "faults_min": self.bug.faults_min,
            "seed": self.done.as_ref().map(|(seed, _)| seed),
            "shrunk": self.done.as_ref().map(|(_, done)| done.json()),
            "wrong": self.wrong,
        })
    }
}

/// What is wrong with what is left of a plan, if anything.
fn wrong(bug: &Planted, bounds: &Bounds, done: &Done) -> Option<String> {
    let after = done.after;
    if !done.breaks_still() {
        return Some("what is left does not break as the whole did".to_owned());
    }
    if after.faults > bounds.faults_max || after.operations > bounds.operations_max {
        return Some("more is left than should be".to_owned());
    }
    if after.faults < bug.faults_min {
        let needs = bug.faults_min;
        return Some(format!("it is said to need {needs} faults"));
    }
    if bug.faults_min < 2 {
        return None;
    }
    let breaks = |plan: &Plan| judge(plan).is_some();
    let seeds = |plan: Plan| {
        (0..SEEDS).map(move |more| Plan {
            seed: plan.seed.wrapping_add(more),
            ..plan.clone()
        })
    };
    for at in 0..done.small.faults.len() {
        let mut less = done.small.clone();
        let fault = less.faults.remove(at);
        if let Some(broken) = seeds(less).find(breaks) {
            let (seed, kind) = (broken.seed, fault.kind);
            return Some(format!("it breaks without {kind:?}, under seed {seed}"));
        }
    }
    None
}
