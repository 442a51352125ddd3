//! `soak`: many seeds, each failure told at once.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use fated_sim::{counters::required, history::History, plan::Plan, run, trace::Keep};

use super::{
    Outcome, Place, in_file, plan_text,
    tell::{self, Tally},
};

/// Where nobody looks at a terminal, progress is a line after each of these.
const PAUSE: Duration = Duration::from_secs(60);
const BAR_COLUMNS: usize = 24;

/// Which seeds, and for how long.
#[derive(Args)]
pub struct Batch {
    /// How many seeds.
    #[arg(required_unless_present = "minutes")]
    count: Option<u64>,
    /// Begin no seed after this many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    #[command(flatten)]
    place: Place,
    /// Write the plans of failing seeds into this directory.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Fail too if something did not happen that must, as every batch of a thousand seeds does.
    #[arg(long)]
    demands: bool,
}

/// A batch that must go through everything.
#[derive(Args)]
pub struct Counted {
    /// How many seeds.
    #[arg(default_value_t = required::SEEDS)]
    count: u64,
    #[command(flatten)]
    place: Place,
}

impl Counted {
    pub fn batch(self) -> Batch {
        Batch {
            count: Some(self.count),
            minutes: None,
            place: self.place,
            save: None,
            demands: true,
        }
    }
}

pub fn soak(batch: &Batch, json: bool) -> Outcome {
    if let Some(dir) = &batch.save {
        fs::create_dir_all(dir).map_err(|error| in_file(dir, &error))?;
    }
    let began = Instant::now();
    let minutes = batch.minutes.map(|minutes| minutes.max(0.0) * 60.0);
    let count = batch.count.unwrap_or(u64::MAX);
    let mut tally = Tally::default();
    let mut progress = Progress::new(began, batch.count, minutes);
    let mut unsaved = None;
    batch.place.each(
        count,
        || minutes.is_none_or(|seconds| began.elapsed().as_secs_f64() < seconds),
        |seed| {
            let mut report = run::run(Plan::draw(seed), Keep::Hash);
            report.history = History::default();
            let told = report.violation.is_some().then(|| {
                let plan = Plan::draw(seed);
                tell::failure(&plan, &report, &format!("run {seed}"))
            });
            (report, told)
        },
        |seed, (report, told)| {
            tally.add(&report);
            if let Some(told) = told {
                progress.clear();
                eprintln!("{told}\n");
                if let Some(dir) = &batch.save {
                    unsaved = save(dir, seed).err().or(unsaved.take());
                }
            }
            progress.show(&tally);
        },
    );
    progress.clear();
    let real = began.elapsed();
    let demands = batch.demands || tally.seeds >= required::SEEDS;
    let missing = match demands {
        true => required::missing(&tally.counters, tally.seeds),
        false => Vec::new(),
    };
    if json {
        let mut line = tally.value(real);
        line["missing"] = missing.iter().map(|it| it.name).collect();
        println!("{line}");
    } else {
        match demands {
            true => print!("{}", tell::required(&tally.counters, tally.seeds)),
            false => print!("{}", tell::table(&tally.counters)),
        }
        println!("{}", tally.line(real));
        for failure in &tally.failures {
            println!("replay: cargo sim run {}", failure.seed);
        }
    }
    match unsaved {
        Some(why) => Err(why),
        None => Ok(tally.failures.is_empty() && missing.is_empty()),
    }
}

fn save(dir: &Path, seed: u64) -> Result<(), String> {
    let file = dir.join(format!("seed-{seed}.json"));
    fs::write(&file, plan_text(&Plan::draw(seed))).map_err(|error| in_file(&file, &error))
}

/// How far a batch has come, on standard error.
struct Progress {
    began: Instant,
    count: Option<u64>,
    seconds: Option<f64>,
    is_terminal: bool,
    shown: Duration,
}

impl Progress {
    fn new(began: Instant, count: Option<u64>, seconds: Option<f64>) -> Self {
        Self {
            began,
            count,
            seconds,
            is_terminal: std::io::stderr().is_terminal(),
            shown: Duration::ZERO,
        }
    }

    fn show(&mut self, tally: &Tally) {
        let passed = self.began.elapsed();
        if !self.is_terminal && passed < self.shown + PAUSE {
            return;
        }
        self.shown = passed;
        let seconds = passed.as_secs_f64().max(0.001);
        let by_count = self.count.map(|count| tally.seeds as f64 / count as f64);
        let by_time = self.seconds.map(|limit| seconds / limit.max(0.001));
        let done = by_count.unwrap_or(0.0).max(by_time.unwrap_or(0.0)).min(1.0);
        let left = Duration::from_secs_f64((seconds / done.max(1e-6) - seconds).min(1e7));
        let full = (done * BAR_COLUMNS as f64) as usize;
        let line = format!(
            "[{}{}] {:>5.1} %  {} seeds  {:.0} a minute  {} failed  {} left",
            "#".repeat(full),
            ".".repeat(BAR_COLUMNS - full),
            done * 100.0,
            tally.seeds,
            tally.seeds as f64 * 60.0 / seconds,
            tally.failures.len(),
            clock(left),
        );
        if self.is_terminal {
            eprint!("\r{line}\x1b[K");
            // A terminal that has gone away must not end the batch.
            drop(std::io::stderr().flush());
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}
