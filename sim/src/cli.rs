//! The commands: what can be asked for, and whether anything broke.
//!
//! Invariants: a command that found something broken exits with 1, one that was asked wrongly or
//! cannot read or write a file with 2; with `--json` the last line on standard output is one
//! object, whatever happened.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use fated_sim::{plan::Plan, run};

mod judges;
mod mutants;
mod one;
mod pool;
mod shrink;
mod small;
mod soak;
mod tell;
mod twice;

/// What a command comes to: whether all was well, or why it could not be carried out.
type Outcome = Result<bool, String>;

/// Lives of clusters under faults, the same for the same number.
#[derive(Parser)]
#[command(bin_name = "cargo sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// End in one JSON line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Lives one seed.
    Run {
        /// The number that decides everything.
        seed: u64,
        #[command(flatten)]
        files: Files,
    },
    /// Lives a batch of seeds, then shows the counters.
    Soak(soak::Batch),
    /// Lives a thousand seeds and shows what they must have gone through; fails if a line is short.
    Counters(soak::Counted),
    /// Lives each seed twice and shows the first step that differs.
    Twice(twice::Twice),
    /// Plants each known bug and tells how many seeds its check needs to find it.
    Mutants(mutants::Mutants),
    /// Prints the trace hash of each seed, for `twice --against`.
    Hashes(Seeds),
    /// Lives a plan from a file, whole or cut down.
    Replay {
        /// The plan, as `run --plan` writes it.
        plan: PathBuf,
        #[command(flatten)]
        files: Files,
    },
    /// Cuts a plan that breaks down to the faults and operations that it needs.
    Shrink(shrink::Cut),
    /// Judges a history, of the simulator or of a real cluster.
    Check {
        /// The history, as JSON lines.
        history: PathBuf,
    },
    /// Writes a right history to a file, to see judges at work.
    History(judges::Made),
    /// Breaks the checkers one way after the other; each must be noticed.
    Broken,
    /// Prints the plan of a seed.
    Plan {
        /// The number that decides everything.
        seed: u64,
    },
}

/// What a run leaves behind.
#[derive(Args)]
struct Files {
    /// Write every step to this file.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the plan to this file.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Write what clients saw to this file.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

/// A row of seeds.
#[derive(Args)]
struct Seeds {
    /// How many seeds.
    count: u64,
    #[command(flatten)]
    place: Place,
}

/// Where a batch begins, and on how many threads it runs.
#[derive(Args)]
struct Place {
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// How many threads; all cores if not given.
    #[arg(long, value_name = "THREADS")]
    jobs: Option<usize>,
}

/// Runs a command; the exit code says whether anything broke.
pub fn main() -> ExitCode {
    let Cli { command, json } = Cli::parse();
    match command {
        // A panic in a judge is nobody's to report.
        Command::Check { .. } | Command::History(_) | Command::Broken | Command::Plan { .. } => (),
        Command::Run { .. }
        | Command::Soak(_)
        | Command::Counters(_)
        | Command::Twice(_)
        | Command::Mutants(_)
        | Command::Hashes(_)
        | Command::Shrink(_)
        | Command::Replay { .. } => run::catch_panics(),
    }
    let outcome = match command {
        Command::Run { seed, files } => {
            one::one(Plan::draw(seed), &format!("run {seed}"), &files, json)
        }
        Command::Soak(batch) => soak::soak(&batch, json),
        Command::Counters(counted) => soak::soak(&counted.batch(), json),
        Command::Twice(twice) => twice::twice(&twice, json),
        Command::Mutants(options) => mutants::mutants(&options, json),
        Command::Hashes(seeds) => twice::hashes(&seeds, json),
        Command::Replay { plan, files } => {
            let command = format!("replay {}", plan.display());
            read_plan(&plan).and_then(|plan| one::one(plan, &command, &files, json))
        }
        Command::Shrink(cut) => shrink::shrink(&cut, json),
        Command::Check { history } => judges::check(&history, json),
        Command::History(made) => judges::make(&made, json),
        Command::Broken => judges::broken(json),
        Command::Plan { seed } => {
            let plan = Plan::draw(seed);
            match json {
                true => println!("{}", serde_json::json!(plan)),
                false => println!("{}", plan_text(&plan)),
            }
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            if json {
                println!("{}", serde_json::json!({ "error": why }));
            }
            ExitCode::from(2)
        }
    }
}

fn read_plan(file: &PathBuf) -> Result<Plan, String> {
    let text = fs::read_to_string(file).map_err(|error| in_file(file, &error))?;
    serde_json::from_str(&text).map_err(|error| in_file(file, &error))
}

fn plan_text(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data")
}

fn in_file(file: &std::path::Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
