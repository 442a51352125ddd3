//! fated beside a real etcd, and beside a server that stores nothing, in turn.
//!
//! A row is measured in pairs: each server once, one after the other, with fresh data and default
//! flags. The verdict is about the median of the ratios of the pairs, because what else the machine
//! does changes from minute to minute and is nearly the same within a pair.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use crate::{
    cells::{self, Sizes, Subject},
    client::text,
    plot,
    results::{Binaries, Binary, Results, figure},
    rows::{self, Row, Side},
    table,
};

#[derive(Args)]
pub struct Options {
    /// The binary of fated
    #[arg(long)]
    fated: Option<PathBuf>,
    /// The binary of etcd
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// A row; may be given several times. Without any, all but the long ones
    #[arg(long)]
    row: Vec<String>,
    /// Names the rows and measures nothing
    #[arg(long)]
    list: bool,
    /// Pairs of each row, those of earlier runs with the same binaries included
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Measures etcd too where nothing is compared with it
    #[arg(long)]
    with_etcd: bool,
    /// Begins no pair that would not end within so many seconds; a later run goes on
    #[arg(long)]
    budget: Option<u64>,
    /// Where the servers' data go
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// The file of results; rows that are in it are not measured again
    #[arg(long, default_value = "target/bench/results.jsonl")]
    results: PathBuf,
    /// Where the table goes
    #[arg(long, default_value = "tests/bench/RESULTS.md")]
    table: PathBuf,
    /// Where the plots go
    #[arg(long, default_value = "tests/bench/plots")]
    plots: PathBuf,
    #[command(flatten)]
    sizes: Sizes,
}

/// Measures what is missing, and writes table and plots of all there is.
pub async fn run(options: &Options) -> Result<(), String> {
    let all = rows::all();
    if options.list {
        for row in &all {
            println!(
                "{:18} {}{}",
                row.name,
                row.what,
                if row.long { " (long)" } else { "" }
            );
        }
        return Ok(());
    }
    let chosen = chosen(&all, &options.row)?;
    let binaries = binaries(options)?;
    let mut results = Results::open(&options.results)?;
    let ends = options
        .budget
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut over = false;
    let mut failed = Vec::new();
    for row in chosen {
        match measure(row, options, &binaries, &mut results, ends).await {
            Ok(whole) => over |= !whole,
            // The other rows can still be measured.
            Err(why) => {
                println!("{}: FAILED: {why}", row.name);
                failed.push(row.name);
            }
        }
        for line in table::verdicts(row, &results, &binaries) {
            println!("{line}");
        }
    }
    let text_of_table = table::document(&all, &results, &binaries, &options.sizes);
    std::fs::write(&options.table, text_of_table).map_err(text)?;
    plot::write(&options.plots, &all, &results, &binaries)?;
    if over {
        println!("the time is over; the same command goes on with what is left");
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("not measured: {}", failed.join(", "))),
    }
}

fn chosen<'a>(all: &'a [Row], names: &[String]) -> Result<Vec<&'a Row>, String> {
    if names.is_empty() {
        return Ok(all.iter().filter(|row| !row.long).collect());
    }
    let find = |name: &String| {
        let found = all.iter().find(|row| row.name == name);
        found.ok_or_else(|| format!("there is no row {name}; --list names them"))
    };
    names.iter().map(find).collect()
}

fn binaries(options: &Options) -> Result<Binaries, String> {
    let this = std::env::current_exe().map_err(text)?;
    let mut binaries = Binaries::from([(Side::Null, Binary::look(&this)?)]);
    if let Some(fated) = &options.fated {
        binaries.insert(Side::Fated, Binary::look(fated)?);
    }
    if let Some(etcd) = &options.etcd {
        binaries.insert(Side::Etcd, Binary::look(etcd)?);
    }
    Ok(binaries)
}

/// The servers of a row.
fn sides(row: &Row, options: &Options) -> Vec<Side> {
    let mut sides = row.sides();
    if options.with_etcd && !sides.contains(&Side::Etcd) {
        sides.insert(0, Side::Etcd);
    }
    sides
}

/// Measures the pairs that are missing; gives whether there was time for all of them.
async fn measure(
    row: &Row,
    options: &Options,
    binaries: &Binaries,
    results: &mut Results,
    ends: Option<Instant>,
) -> Result<bool, String> {
    let sides = sides(row, options);
    let mut lasts = Duration::from_secs_f64(cells::guess(row, &options.sizes));
    while results.pairs(row.name, &sides, binaries).len() < options.pairs {
        let earlier = results.pairs(row.name, &sides, binaries);
        if let Some(pair) = earlier.last() {
            let wall: f64 = pair
                .values()
                .filter_map(|cell| figure(cell, "wall_s"))
                .sum();
            lasts = Duration::from_secs_f64(wall);
        }
        if ends.is_some_and(|ends| Instant::now() + lasts > ends) {
            return Ok(false);
        }
        let pair = results.next_pair(row.name);
        for side in &sides {
            let binary = binaries
                .get(side)
                .ok_or_else(|| format!("{} needs --{}", row.name, side.name()))?;
            let subject = Subject {
                side: *side,
                binary: &binary.path,
                directory: &options.directory,
            };
            let cell = cells::measure(row, &subject, &options.sizes).await;
            let cell = cell.map_err(|why| format!("{}: {why}", side.name()))?;
            println!(
                "{} {} {}: {}",
                row.name,
                pair,
                side.name(),
                Value::from(cell.clone())
            );
            results.add((row.name, pair), (*side, binary), cell)?;
        }
    }
    Ok(true)
}
