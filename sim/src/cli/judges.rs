//! Commands about judging: a history from anywhere, a right history to judge, broken judges.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use fated_sim::{
    broken::{self, generate},
    check,
};
use serde_json::json;

use super::{Outcome, in_file, tell::Tally};

/// Judges a history, of the simulator or of a real cluster.
pub fn check(file: &Path, json: bool) -> Outcome {
    let began = Instant::now();
    let input = File::open(file).map_err(|error| in_file(file, &error))?;
    let report = check::run(BufReader::new(input)).map_err(|error| in_file(file, &error))?;
    let took = began.elapsed();
    if json {
        println!("{}", Tally::of_check(&report).json(took));
    } else {
        println!("{report}");
        println!(
            "judged in {:.2} s, {:.2} million operations a minute",
            took.as_secs_f64(),
            report.ops as f64 * 60.0 / took.as_secs_f64() / 1e6
        );
    }
    Ok(report.is_ok())
}

/// A right history to be made.
#[derive(Args)]
pub struct Made {
    /// How many operations.
    count: usize,
    /// Where it is written to.
    file: PathBuf,
    /// What decides it.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// How many answers in a hundred are lost.
    #[arg(long, default_value_t = 0)]
    unknown: u64,
    /// How many watches look on.
    #[arg(long, default_value_t = 0)]
    watches: usize,
    /// Tell the committed log, too.
    #[arg(long)]
    log: bool,
}

/// Writes a right history of clients that overlap and lose answers, to see judges at work.
pub fn make(made: &Made, json: bool) -> Outcome {
    let shape = generate::Shape {
        seed: made.from,
        ops: made.count,
        clients: 10,
        unknown: made.unknown,
        keys: 100,
        watches: made.watches,
        commits: made.log,
        ..generate::Shape::default()
    };
    let history = generate::history(&shape);
    File::create(&made.file)
        .and_then(|file| history.write(BufWriter::with_capacity(1 << 20, file)))
        .map_err(|error| in_file(&made.file, &error))?;
    if json {
        let file = made.file.display().to_string();
        println!(
            "{}",
            json!({ "history": file, "operations": history.ops.len() })
        );
    }
    Ok(true)
}

/// Breaks the checkers one way after the other. Fine if the proof turns red each time.
pub fn broken(json: bool) -> Outcome {
    let proof = broken::proof();
    if json {
        let rows: serde_json::Map<_, _> = proof
            .rows
            .iter()
            .map(|row| (format!("{:?}", row.weakness), json!(row.missed.len())))
            .collect();
        let line = json!({
            "trials": proof.trials,
            "judged_wrong_by_intact_checkers": proof.failed,
            "missed_by_broken_checkers": rows,
            "holds": proof.holds(),
        });
        println!("{line}");
        return Ok(proof.holds());
    }
    println!(
        "{} trials, {} judged as is due by the intact checkers",
        proof.trials,
        proof.trials - proof.failed.len()
    );
    for name in &proof.failed {
        println!("  JUDGED WRONG: {name}");
    }
    println!(
        "{:<22} {:>6}  {:<10} for example",
        "broken checker", "missed", "proof"
    );
    for row in &proof.rows {
        let verdict = if row.missed.is_empty() {
            "UNNOTICED"
        } else {
            "red"
        };
        let example = row.missed.first().map_or("", String::as_str);
        let name = format!("{:?}", row.weakness);
        println!(
            "{name:<22} {:>6}  {verdict:<10} {example}",
            row.missed.len()
        );
    }
    Ok(proof.holds())
}
