//! `check`: a history from anywhere, judged.

use std::{fs::File, io::BufReader, path::Path, time::Instant};

use fated_sim::check;

use super::{Outcome, in_file, tell::Tally};

pub fn judge(file: &Path, json: bool) -> Outcome {
    let began = Instant::now();
    let input = File::open(file).map_err(|error| in_file(file, &error))?;
    let report = check::run(BufReader::new(input)).map_err(|error| in_file(file, &error))?;
    let tally = Tally::of_check(&report);
    if json {
        println!("{}", tally.json(began.elapsed()));
    } else {
        println!("{report}");
    }
    Ok(report.is_ok())
}
