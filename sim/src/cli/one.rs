//! `run` and `replay`: one plan.

use std::{fs, io::BufWriter};

use fated_sim::{plan::Plan, run, trace::Keep};

use super::{
    Files, Outcome, in_file, plan_text,
    tell::{self, Tally},
};

/// Lives a plan. The command is what brings it back.
pub fn one(plan: Plan, command: &str, files: &Files, json: bool) -> Outcome {
    if let Some(file) = &files.plan {
        fs::write(file, plan_text(&plan)).map_err(|error| in_file(file, &error))?;
    }
    let keep = match &files.trace {
        Some(file) => Keep::File(file.display().to_string()),
        None => Keep::Hash,
    };
    let report = run::run(plan.clone(), keep);
    if let Some(file) = &files.history {
        let written = fs::File::create(file);
        let written = written.and_then(|file| report.history.write(BufWriter::new(file)));
        written.map_err(|error| in_file(file, &error))?;
    }
    if report.violation.is_some() {
        eprintln!("{}", tell::failure(&plan, &report, command));
    }
    if json {
        let mut tally = Tally::default();
        tally.add(&report);
        println!("{}", tally.json(report.real));
    } else {
        println!("{}", tell::line(&report));
        if command.starts_with("run ") {
            print!("{}", tell::table(&report.counters));
        }
    }
    Ok(report.violation.is_none())
}
