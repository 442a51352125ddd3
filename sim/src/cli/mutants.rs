//! `mutants`: whether each planted bug is found by the check that is there for it, and how soon.
//!
//! A batch of a bug runs seeds of its own, one after the other, until the named check fires. The
//! table tells the median over the batches; a batch that comes to the end of the bug's budget makes
//! the bug count as missed.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use fated_sim::{
    mutants::{self, ASSERTION, Check, Planted},
    run,
    trace::Keep,
};
use serde_json::{Value, json};

use super::{Outcome, Place, plan_text, shrink::Limits, small, tell::Tally};
use fated::kernel::Entropy;

/// Seeds of one batch; the next batch begins this much later.
const BATCH_SEEDS: u64 = 10_000;

/// Which bugs, how often, and how to tell.
#[derive(Args)]
pub struct Mutants {
    /// Only bugs whose names contain one of these.
    names: Vec<String>,
    /// Batches per bug, each of other seeds.
    #[arg(long, default_value_t = 5)]
    batches: u64,
    /// Only this many bugs, chosen by the first seed, one batch each.
    #[arg(long, value_name = "BUGS")]
    sample: Option<usize>,
    /// Print the table as a document.
    #[arg(long)]
    markdown: bool,
    /// Run so many seeds of each bug's plans without the bug: nothing may break.
    #[arg(long, value_name = "SEEDS")]
    clean: Option<u64>,
    /// Print the plan of the first seed of one bug, for `replay`.
    #[arg(long)]
    plan: bool,
    /// Cut the first plan in which each bug shows down, and fail where more than --faults-max and
    /// --operations-max are left. Without names it takes the bugs that need two faults.
    #[arg(long)]
    shrink: bool,
    #[command(flatten)]
    bounds: small::Bounds,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    place: Place,
}

/// What one batch came to.
struct Batch {
    /// Seeds until the named check fired, and which it was.
    caught: Option<(u64, String)>,
    /// Seeds in which the bug was come to at all.
    reached: u64,
    seeds: u64,
    /// What else fired, and in which seed first.
    others: BTreeMap<String, (u64, u64)>,
    took: Duration,
    /// All runs together; that one broke is no failure here.
    tally: Tally,
}

/// What all batches of a bug came to.
struct Row {
    bug: &'static Planted,
    batches: Vec<Batch>,
}

pub fn mutants(options: &Mutants, json: bool) -> Outcome {
    let bugs = options.chosen()?;
    if options.plan {
        let [bug] = bugs[..] else {
            return Err("a plan has one bug: name it".to_owned());
        };
        println!("{}", plan_text(&bug.plan(options.place.from)));
        return Ok(true);
    }
    let began = Instant::now();
    if options.shrink {
        return small::small(&bugs, &options.bounds, options.limits, &options.place, json);
    }
    if let Some(seeds) = options.clean {
        return options.clean(&bugs, seeds, json);
    }
    let batches = match options.sample {
        Some(_) => 1,
        None => options.batches.max(1),
    };
    let jobs: Vec<(usize, u64)> = (0..bugs.len())
        .flat_map(|bug| (0..batches).map(move |batch| (bug, batch)))
        .collect();
    let from = options.place.from;
    let progress = Progress::new(jobs.len());
    let done = spread(options.place.threads(), &jobs, |&(bug, batch)| {
        let first = from.wrapping_add(batch * BATCH_SEEDS);
        let done = live(bugs[bug], first);
        progress.step(bugs[bug].name, &done);
        (bug, done)
    });
    let mut rows: Vec<Row> = bugs.iter().map(|bug| Row::new(bug)).collect();
    for (bug, batch) in done {
        rows[bug].batches.push(batch);
    }
    let missed = rows.iter().filter(|row| row.is_missed()).count();
    let took = began.elapsed();
    if options.markdown {
        print!("{}", document(&rows, batches));
    } else if !json {
        rows.iter().for_each(|row| println!("{}", row.line()));
        println!(
            "{} planted bugs, {batches} batches each, {missed} missed, {:.0} s",
            rows.len(),
            took.as_secs_f64()
        );
    }
    if json {
        let mut tally = Tally::default();
        let batches = rows.iter().flat_map(|row| &row.batches);
        batches.for_each(|batch| tally.merge(&batch.tally));
        let mut line = tally.value(took);
        line["failed"] = json!(missed);
        line["planted"] = json!(rows.len());
        line["bugs"] = rows.iter().map(Row::json).collect();
        println!("{line}");
    }
    Ok(missed == 0)
}

impl Mutants {
    fn chosen(&self) -> Result<Vec<&'static Planted>, String> {
        let mut bugs: Vec<&Planted> = mutants::all().collect();
        for name in &self.names {
            if !bugs.iter().any(|bug| bug.name.contains(name.as_str())) {
                return Err(format!("no planted bug is named like {name:?}"));
            }
        }
        let whole = |name: &String| mutants::all().any(|bug| bug.name == name);
        let fits = |bug: &&Planted, name: &String| match whole(name) {
            true => bug.name == name,
            false => bug.name.contains(name.as_str()),
        };
        let all = |bug: &Planted| !self.shrink || bug.faults_min >= 2;
        bugs.retain(|bug| match self.names.is_empty() {
            true => all(bug),
            false => self.names.iter().any(|name| fits(bug, name)),
        });
        if let Some(count) = self.sample {
            let mut entropy = Entropy::from_seed(self.place.from).fork("sample of mutants");
            while bugs.len() > count.max(1) {
                let away = entropy.below(bugs.len() as u64);
                bugs.remove(usize::try_from(away).expect("a short list"));
            }
        }
        Ok(bugs)
    }

    /// Runs the guided plans as they are: what fires then is a false alarm, or a bug nobody planted.
    fn clean(&self, bugs: &[&'static Planted], seeds: u64, json: bool) -> Outcome {
        let began = Instant::now();
        let jobs: Vec<(&Planted, u64)> = bugs
            .iter()
            .flat_map(|bug| (0..seeds).map(move |number| (*bug, number)))
            .collect();
        let runs = spread(self.place.threads(), &jobs, |(bug, number)| {
            let seed = self.place.from.wrapping_add(*number);
            let report = run::run(bug.clean_plan(seed), Keep::Hash);
            if let Some(violation) = &report.violation {
                let story: String = violation.story.chars().take(600).collect();
                eprintln!("{} seed {seed}: {}: {story}", bug.name, violation.guarantee);
            }
            let mut tally = Tally::default();
            tally.add(&report);
            let broken = report.violation.map(|violation| violation.guarantee);
            (tally, broken.map(|broken| (bug.name, seed, broken)))
        });
        let mut tally = Tally::default();
        runs.iter().for_each(|(run, _)| tally.merge(run));
        let broken: Vec<_> = runs.into_iter().filter_map(|(_, broken)| broken).collect();
        if json {
            let mut line = tally.value(began.elapsed());
            line["failed"] = json!(broken.len());
            line["failures"] = json!(broken);
            println!("{line}");
        } else {
            let (seeds, broken) = (tally.seeds, broken.len());
            let seconds = began.elapsed().as_secs_f64();
            println!("{seeds} guided seeds without a bug in {seconds:.0} s, {broken} failed");
        }
        Ok(broken.is_empty())
    }
}

/// Runs seeds until the named check fires.
fn live(bug: &Planted, first: u64) -> Batch {
    let began = Instant::now();
    let mut batch = Batch {
        caught: None,
        reached: 0,
        seeds: 0,
        others: BTreeMap::new(),
        took: Duration::ZERO,
        tally: Tally::default(),
    };
    while batch.caught.is_none() && batch.seeds < bug.seeds_max {
        let seed = first.wrapping_add(batch.seeds);
        let mut report = run::run(bug.plan(seed), Keep::Hash);
        batch.seeds += 1;
        let violation = report.violation.take();
        batch.tally.add(&report);
        batch.reached += u64::from(report.planted_reached > 0);
        let Some(violation) = violation else {
            continue;
        };
        let name = match violation.guarantee == ASSERTION {
            true => format!("{ASSERTION}: {}", assertion_text(&violation.story)),
            false => violation.guarantee.clone(),
        };
        if bug.is_caught_by(&violation) {
            batch.caught = Some((batch.seeds, name));
        } else {
            batch.others.entry(name).or_insert((seed, 0)).1 += 1;
        }
    }
    batch.took = began.elapsed();
    batch
}

/// A panic tells its place first and then what was asserted.
fn assertion_text(story: &str) -> String {
    let text = story.split_once('\n').map_or(story, |(_, text)| text);
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect()
}

/// Does jobs on several threads, in order; the results come in the order of the jobs.
pub(super) fn spread<J: Sync, T: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> T + Sync,
) -> Vec<T> {
    let next = Mutex::new(0..jobs.len());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.lock().expect("no holder panics").next();
                    let Some(number) = number else { return };
                    let result = work(&jobs[number]);
                    done.lock()
                        .expect("no holder panics")
                        .push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Row {
    fn new(bug: &'static Planted) -> Self {
        let batches = Vec::new();
        Self { bug, batches }
    }

    fn is_missed(&self) -> bool {
        self.batches.iter().any(|batch| batch.caught.is_none())
    }

    /// Seeds until caught, in order; the batches that did not catch it are not among them.
    fn counts(&self) -> Vec<u64> {
        let caught = self
            .batches
            .iter()
            .filter_map(|batch| batch.caught.as_ref());
        let mut counts: Vec<u64> = caught.map(|(seeds, _)| *seeds).collect();
        counts.sort_unstable();
        counts
    }

    /// The middle one of all batches; nothing when that one missed it.
    fn median(&self) -> Option<u64> {
        self.counts().get(self.batches.len() / 2).copied()
    }

    fn seconds(&self) -> f64 {
        let took: Duration = self.batches.iter().map(|batch| batch.took).sum();
        took.as_secs_f64() / self.batches.len() as f64
    }

    fn caught_by(&self) -> BTreeMap<&str, u64> {
        let mut checks = BTreeMap::new();
        for (_, check) in self
            .batches
            .iter()
            .filter_map(|batch| batch.caught.as_ref())
        {
            *checks.entry(check.as_str()).or_default() += 1;
        }
        checks
    }

    fn others(&self) -> BTreeMap<&str, (u64, u64)> {
        let mut others = BTreeMap::new();
        for (check, (seed, times)) in self.batches.iter().flat_map(|batch| &batch.others) {
            others.entry(check.as_str()).or_insert((*seed, 0)).1 += times;
        }
        others
    }

    fn reached(&self) -> (u64, u64) {
        let sum = |of: fn(&Batch) -> u64| self.batches.iter().map(of).sum();
        (sum(|batch| batch.reached), sum(|batch| batch.seeds))
    }

    fn line(&self) -> String {
        let counts = self.counts();
        let shown = |count: Option<&u64>| count.map_or("-".to_owned(), u64::to_string);
        let (reached, seeds) = self.reached();
        let mut line = format!(
            "{:<6} {:<32} median {:>4} (min {:>3}, max {:>3})  {:>6.1} s  reached {reached}/{seeds}",
            if self.is_missed() { "MISSED" } else { "caught" },
            self.bug.name,
            shown(self.median().as_ref()),
            shown(counts.first()),
            shown(counts.last()),
            self.seconds(),
        );
        for (check, times) in self.caught_by() {
            line += &format!("\n         {times} x {check}");
        }
        for (check, (seed, times)) in self.others() {
            line += &format!("\n         {times} x only: {check} (first in seed {seed})");
        }
        line
    }

    fn json(&self) -> Value {
        let (reached, seeds) = self.reached();
        json!({
            "name": self.bug.name,
            "missed": self.is_missed(),
            "median": self.median(),
            "seeds_to_catch": self.counts(),
            "seconds": self.seconds(),
            "caught_by": self.caught_by(),
            "only_others": self.others(),
            "reached": reached,
            "seeds": seeds,
        })
    }
}

fn document(rows: &[Row], batches: u64) -> String {
    let mut text = format!(
        "# Planted bugs\n\nWritten by `cargo sim mutants --markdown`.\nSeeds is the median of \
         {batches} batches until the named check fired, with the least and the most.\nSeconds is \
         the mean of a batch on one core.\n\n| bug | what it breaks | from | seeds | seconds | \
         found by |\n|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let counts = row.counts();
        let seeds = match (row.median(), row.is_missed()) {
            (Some(median), false) => {
                let (least, most) = (counts[0], counts[counts.len() - 1]);
                format!("{median} ({least} to {most})")
            }
            (_, true) | (None, _) => format!("missed, over {}", row.bug.seeds_max),
        };
        let found: Vec<&str> = row.caught_by().into_keys().collect();
        let found = match found.is_empty() {
            true => named(row.bug.checks),
            false => found.join("; "),
        };
        text += &format!(
            "| `{}`{} | {} | {} | {seeds} | {:.1} | {} |\n",
            row.bug.name,
            match (row.bug.faults_min >= 2, row.bug.guide.is_some()) {
                (true, _) => " (guided, two faults)",
                (false, true) => " (guided)",
                (false, false) => "",
            },
            row.bug.breaks,
            row.bug.source,
            row.seconds(),
            found.replace('|', "\\|"),
        );
    }
    text
}

fn named(checks: &[Check]) -> String {
    let named = checks.iter().map(|check| match check {
        Check::Holds(guarantee) => format!("nothing, named: {guarantee}"),
        Check::Asserts(text) => format!("nothing, named: assertion \"{text}\""),
    });
    named.collect::<Vec<_>>().join("; ")
}

/// Which batches are done, on standard error.
struct Progress {
    jobs: usize,
    done: Mutex<usize>,
    is_terminal: bool,
}

impl Progress {
    fn new(jobs: usize) -> Self {
        Self {
            jobs,
            done: Mutex::new(0),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn step(&self, name: &str, batch: &Batch) {
        let mut done = self.done.lock().expect("no holder panics");
        *done += 1;
        let verdict = match &batch.caught {
            Some((seeds, check)) => format!("caught in {seeds} by {check}"),
            None => format!("missed in {}", batch.seeds),
        };
        let line = format!("{done}/{} {name}: {verdict}, {:.1?}", self.jobs, batch.took);
        if self.is_terminal {
            eprint!("\r{line}\x1b[K");
            drop(std::io::stderr().flush());
        } else {
            eprintln!("{line}");
        }
    }
}
