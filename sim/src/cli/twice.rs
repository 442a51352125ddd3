//! `twice` and `hashes`: whether a seed comes to the same run, step by step in one process, by its
//! hash in another process or after a rebuild.

use std::{collections::BTreeMap, env, fs, path::PathBuf, process::Command, time::Instant};

use clap::Args;
use fated_sim::{
    plan::Plan,
    run::{self, Report},
    trace::Keep,
};

use super::{
    Outcome, Seeds, in_file,
    tell::{self, Tally},
};

/// Which seeds, and what they are compared with.
#[derive(Args)]
pub struct Twice {
    #[command(flatten)]
    seeds: Seeds,
    /// Give LMDB to one of the two runs and not to the other.
    #[arg(long)]
    lmdb: bool,
    /// Compare with a run of the same seed in a process of its own too.
    #[arg(long)]
    processes: bool,
    /// Compare with what `hashes` has printed, perhaps before a rebuild.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

pub fn twice(options: &Twice, json: bool) -> Outcome {
    let began = Instant::now();
    let known = match &options.against {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| in_file(file, &error))?;
            parse_hashes(&text).map_err(|error| in_file(file, &error))?
        }
        None => BTreeMap::new(),
    };
    let mut tally = Tally::default();
    options.seeds.place.each(
        options.seeds.count,
        || true,
        |seed| {
            let (report, difference) = compare(seed, options.lmdb);
            let hash = report.hash;
            let difference = difference
                .or_else(|| options.processes.then(|| other_process(seed, hash))?)
                .or_else(|| {
                    options
                        .against
                        .is_some()
                        .then(|| before(seed, hash, &known))?
                });
            (report, difference)
        },
        |seed, (report, difference)| {
            tally.add(&report);
            if !json {
                let word = match (&difference, &report.violation) {
                    (Some(_), _) => "DIFFERENT",
                    (None, None) => "the same, twice",
                    (None, Some(_)) => "BROKEN, twice",
                };
                let (steps, hash) = (report.steps, report.hash);
                println!("seed {seed:<8} {word:<16} {steps:>8} steps  {hash:016x}");
            }
            if report.violation.is_some() {
                let told = tell::failure(&Plan::draw(seed), &report, &format!("run {seed}"));
                eprintln!("{told}\n");
            }
            if let Some(story) = difference {
                eprintln!("{story}");
                tally.add_difference(seed, story);
            }
        },
    );
    let real = began.elapsed();
    if json {
        println!("{}", tally.json(real));
    } else {
        println!("{}", tally.line(real));
    }
    Ok(tally.failures.is_empty())
}

/// Prints a line for each seed, in their order.
pub fn hashes(seeds: &Seeds, json: bool) -> Outcome {
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut lines = BTreeMap::new();
    let mut next = seeds.place.from;
    seeds.place.each(
        seeds.count,
        || true,
        |seed| run::run(Plan::draw(seed), Keep::Hash),
        |seed, report| {
            // A seed that breaks has its hash too.
            lines.insert(seed, report.hash);
            tally.add(&report);
            if let Some(violation) = &report.violation {
                let guarantee = &violation.guarantee;
                eprintln!("broken: {guarantee}\nreplay: cargo sim run {seed}");
            }
            while let Some(hash) = lines.remove(&next) {
                println!("{next} {hash:016x}");
                next += 1;
            }
        },
    );
    if json {
        println!("{}", tally.json(began.elapsed()));
    }
    Ok(tally.failures.is_empty())
}

fn parse_hashes(text: &str) -> Result<BTreeMap<u64, u64>, String> {
    let line = |line: &str| {
        let (seed, hash) = line.split_once(' ')?;
        Some((seed.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
    };
    let lines = text.lines().filter(|text| !text.is_empty());
    lines
        .map(|text| line(text).ok_or_else(|| format!("not a seed and its hash: {text}")))
        .collect()
}

/// Two runs in this process, and the first step in which they differ. The second one is disturbed
/// in everything that must not matter, and may have the other kind of store.
fn compare(seed: u64, lmdb: bool) -> (Report, Option<String>) {
    let plan = |flips| {
        let mut plan = Plan::draw(seed);
        plan.disks.lmdb ^= flips;
        plan
    };
    let both = |keep: Keep| {
        let first = run::run(plan(false), keep.clone());
        (first, run::run_disturbed(plan(lmdb), keep))
    };
    let (mut first, second) = both(Keep::Marks);
    let marks = std::mem::take(&mut first.marks);
    if marks == second.marks && first.violation == second.violation {
        return (first, None);
    }
    let pairs = marks.iter().zip(&second.marks);
    let step = pairs.take_while(|(one, other)| one == other).count();
    let mut story = format!("seed {seed} differs from step {} on", step + 1);
    let (one, other) = both(Keep::Lines);
    let mut lines = one.lines.iter().zip(&other.lines);
    if let Some((one, other)) = lines.find(|(one, other)| one != other) {
        story += &format!("\n  {one}\n  {other}");
    }
    (first, Some(story))
}

/// The same seed in a process of its own.
fn other_process(seed: u64, hash: u64) -> Option<String> {
    let run = || {
        let program = env::current_exe()?;
        let from = seed.to_string();
        let words = ["hashes", "1", "--jobs", "1", "--from", from.as_str()];
        Command::new(program).args(words).output()
    };
    let other = match run() {
        Ok(output) => parse_hashes(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => Err(error.to_string()),
    };
    match other.map(|hashes| hashes.get(&seed).copied()) {
        Ok(Some(other)) if other == hash => None,
        Ok(other) => Some(format!(
            "seed {seed} is {hash:016x} here and {other:016x?} in another process"
        )),
        Err(error) => Some(format!("seed {seed} in another process: {error}")),
    }
}

/// The same seed as it was.
fn before(seed: u64, hash: u64, known: &BTreeMap<u64, u64>) -> Option<String> {
    match known.get(&seed) {
        Some(before) if *before == hash => None,
        Some(before) => Some(format!("seed {seed} was {before:016x} and is {hash:016x}")),
        None => Some(format!("seed {seed} is not in the file to compare with")),
    }
}
