//! Commands about judging: a history from anywhere, a right history to judge, broken judges.

use std::{
    fs,
    io::{BufReader, BufWriter},
    time::Instant,
};

use fated_sim::{
    broken::{self, generate},
    check,
};
use serde_json::json;

use super::Options;

/// Judges a history, of the simulator or of a real cluster.
pub fn check(file: &str, options: &Options) -> bool {
    let began = Instant::now();
    let report = fs::File::open(file)
        .map_err(|error| error.to_string())
        .and_then(|input| check::run(BufReader::new(input)).map_err(|error| error.to_string()));
    let seconds = began.elapsed().as_secs_f64();
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{file}: {error}");
            if options.json {
                println!("{}", json!({ "file": file, "error": error }));
            }
            return false;
        }
    };
    let pace = report.ops as f64 * 60.0 / seconds;
    if options.json {
        let line = json!({
            "file": file,
            "real_seconds": seconds,
            "operations_a_minute": pace.round(),
            "report": report,
        });
        println!("{line}");
    } else {
        println!("{report}");
        println!(
            "judged in {seconds:.2} s, {:.2} million operations a minute",
            pace / 1e6
        );
    }
    report.is_ok()
}

/// Writes a right history of clients that overlap and lose answers, to see judges at work.
pub fn make(file: &str, count: usize, options: &Options) -> bool {
    let shape = generate::Shape {
        seed: options.from,
        ops: count,
        clients: 10,
        unknown: options.unknown,
        keys: 100,
        watches: options.watches,
        commits: options.log,
        ..generate::Shape::default()
    };
    let history = generate::history(&shape);
    let written = fs::File::create(file)
        .and_then(|file| history.write(BufWriter::with_capacity(1 << 20, file)));
    if let Err(error) = &written {
        eprintln!("{file}: {error}");
    }
    written.is_ok()
}

/// Breaks the checkers one way after the other. Fine if the proof turns red each time.
pub fn broken(options: &Options) -> bool {
    let proof = broken::proof();
    if options.json {
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
        return proof.holds();
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
    proof.holds()
}
