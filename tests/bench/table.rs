//! The results as text: verdicts of the rows, and the figures behind them.

use std::{fmt::Write, fs};

use crate::{
    cells::Sizes,
    results::{Binaries, Pair, Results, figure},
    rows::{Against, Bound, Row, Side, Target},
};

/// What came of a target.
pub struct Verdict {
    /// Ratios of the pairs, or figures, from the least to the greatest.
    pub seen: Vec<f64>,
    pub median: f64,
    pub met: bool,
}

impl Verdict {
    /// Of the pairs of a row; `None` if nothing was measured.
    pub fn of(target: &Target, pairs: &[Pair]) -> Option<Self> {
        let mut seen: Vec<_> = pairs
            .iter()
            .filter_map(|pair| ratio(target, pair))
            .collect();
        if seen.is_empty() {
            return None;
        }
        seen.sort_by(f64::total_cmp);
        let median = median(&seen);
        let failed = pairs
            .iter()
            .flat_map(Pair::values)
            .any(|cell| figure(cell, "errors").is_some_and(|errors| errors > 0.0));
        Some(Self {
            met: target.bound.holds(median) && !failed,
            median,
            seen,
        })
    }

    fn spread(&self) -> String {
        format!(
            "{} to {}",
            short(self.seen[0]),
            short(self.seen[self.seen.len() - 1])
        )
    }
}

fn ratio(target: &Target, pair: &Pair) -> Option<f64> {
    let ours = figure(pair.get(&Side::Fated)?, target.figure)?;
    let other = match target.against {
        Against::Itself => return Some(ours),
        Against::Etcd => Side::Etcd,
        Against::Null => Side::Null,
    };
    let theirs = figure(pair.get(&other)?, target.figure)?;
    (theirs > 0.0).then_some(ours / theirs)
}

/// The middle of sorted figures.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// A figure to three digits.
fn short(figure: f64) -> String {
    let size = figure.abs();
    match size {
        100.0.. => format!("{figure:.0}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ if size < 0.1 && size > 0.0 => format!("{figure:.3}"),
        _ => format!("{figure:.2}"),
    }
}

fn told(target: &Target) -> String {
    let bound = match target.bound {
        Bound::AtLeast(_) => "at least",
        Bound::AtMost(_) => "at most",
    };
    format!("{bound} {}", target.bound.figure())
}

fn named(target: &Target) -> String {
    let against = match target.against {
        Against::Itself => "",
        Against::Etcd => " against etcd",
        Against::Null => " against null",
    };
    format!("`{}`{against}", target.figure)
}

/// What came of a row, a line for each target.
pub fn verdicts(row: &Row, results: &Results, binaries: &Binaries) -> Vec<String> {
    let pairs = results.pairs(row.name, &row.sides(), binaries);
    let line = |target: &Target| {
        let what = format!("{}: {}", row.name, named(target));
        match Verdict::of(target, &pairs) {
            None => format!("{what}: not measured"),
            Some(verdict) => format!(
                "{what} is {} ({}, {} pairs), must be {}: {}",
                short(verdict.median),
                verdict.spread(),
                verdict.seen.len(),
                told(target),
                if verdict.met { "met" } else { "MISSED" },
            ),
        }
    };
    row.targets.iter().map(line).collect()
}

/// The document of all rows.
pub fn document(rows: &[Row], results: &Results, binaries: &Binaries, sizes: &Sizes) -> String {
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}").expect("memory does not fail");
    say("# What was measured\n");
    say("Written by `cargo bench-server compare`; the [README](README.md) tells how a row is");
    say("measured again. A figure is the median of the pairs, with the least and the greatest.");
    say("Within a pair the servers ran one after the other, with fresh data and default flags,");
    say("every write synced, server and load on the same cores.\n");
    say(&format!("Machine: {}.", machine()));
    for (side, binary) in binaries.iter().filter(|(side, _)| **side != Side::Null) {
        let (name, version) = (side.name(), &binary.version);
        say(&format!(
            "Version of {name}: {version}, binary {}.",
            binary.mark
        ));
    }
    say(&format!(
        "Seconds that count in a cell: {}.\n",
        sizes.seconds
    ));
    say("## Targets\n");
    say("| row | what | figure | seen | spread | pairs | target | |");
    say("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let pairs = results.pairs(row.name, &row.sides(), binaries);
        for target in &row.targets {
            let seen = match Verdict::of(target, &pairs) {
                None => "not measured | | ".to_owned(),
                Some(verdict) => format!(
                    "{} | {} | {}",
                    short(verdict.median),
                    verdict.spread(),
                    verdict.seen.len()
                ),
            };
            let met = Verdict::of(target, &pairs).map_or("", |verdict| match verdict.met {
                true => "met",
                false => "**missed**",
            });
            say(&format!(
                "| {} | {} | {} | {seen} | {} | {met} |",
                row.name,
                row.what,
                named(target),
                told(target),
            ));
        }
    }
    say("\n## Loads\n");
    say("Medians. `CPU` is the server's processor time per operation, of all members together;");
    say("`own` is that of the load. `memory` is the greatest (`VmHWM`) of any member, `disk` the");
    say("blocks of the first one's data directory. `sync` is the median of small synced writes");
    say(
        "right before. `stolen` is what others had of the machine's processors while a cell ran.\n",
    );
    loads(&mut text, rows, results, binaries);
    others(&mut text, rows, results, binaries);
    text
}

const COLUMNS: [(&str, &str); 12] = [
    ("rate", "ops/s"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("p999_ms", "p99.9 ms"),
    ("max_ms", "max ms"),
    ("worst_second", "worst second"),
    ("cpu_us_per_op", "CPU µs"),
    ("load_cpu_us_per_op", "own µs"),
    ("peak_mib", "memory MiB"),
    ("disk_mib", "disk MiB"),
    ("sync_ms", "sync ms"),
    ("stolen_percent", "stolen %"),
];

/// The servers for which a row has figures, with the median of one of them.
fn medians(pairs: &[Pair], side: Side, name: &str) -> Option<f64> {
    let of = |pair: &Pair| figure(pair.get(&side)?, name);
    let mut seen: Vec<_> = pairs.iter().filter_map(of).collect();
    seen.sort_by(f64::total_cmp);
    (!seen.is_empty()).then(|| median(&seen))
}

fn loads(text: &mut String, rows: &[Row], results: &Results, binaries: &Binaries) {
    let names: Vec<_> = COLUMNS.iter().map(|(_, column)| *column).collect();
    writeln!(text, "| row | server | {} | errors |", names.join(" | ")).expect("memory");
    writeln!(text, "|---|---|{}---|", "---|".repeat(names.len())).expect("memory");
    for row in rows {
        let pairs = results.pairs(row.name, &row.sides(), binaries);
        for side in [Side::Etcd, Side::Fated, Side::Null] {
            if medians(&pairs, side, "rate").is_none() {
                continue;
            }
            let cell =
                |(name, _): &(&str, &str)| medians(&pairs, side, name).map_or(String::new(), short);
            let cells: Vec<_> = COLUMNS.iter().map(cell).collect();
            let failed = |pair: &Pair| figure(pair.get(&side)?, "errors");
            let failed: f64 = pairs.iter().filter_map(failed).sum();
            let name = side.name();
            let line = format!(
                "| {} | {name} | {} | {failed} |",
                row.name,
                cells.join(" | ")
            );
            writeln!(text, "{line}").expect("memory");
        }
    }
}

/// Figures that only some rows have.
fn others(text: &mut String, rows: &[Row], results: &Results, binaries: &Binaries) {
    writeln!(text, "\n## Other figures\n").expect("memory");
    writeln!(text, "| row | figure | etcd | fated |\n|---|---|---|---|").expect("memory");
    let common = |name: &str| {
        let more = [
            "ops",
            "seconds",
            "errors",
            "wall_s",
            "pair",
            "cpu_s",
            "p50_less_sync_ms",
        ];
        COLUMNS.iter().any(|(column, _)| *column == name) || more.contains(&name)
    };
    for row in rows {
        let pairs = results.pairs(row.name, &row.sides(), binaries);
        let Some(cell) = pairs.first().and_then(|pair| pair.get(&Side::Fated)) else {
            continue;
        };
        for name in cell.keys().filter(|name| !common(name)) {
            let of = |side| medians(&pairs, side, name).map_or(String::new(), short);
            if of(Side::Fated).is_empty() {
                continue;
            }
            let line = format!(
                "| {} | `{name}` | {} | {} |",
                row.name,
                of(Side::Etcd),
                of(Side::Fated)
            );
            writeln!(text, "{line}").expect("memory");
        }
    }
}

/// What the machine says of itself.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let cores = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = read("/proc/meminfo");
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = memory.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let gib = kib.unwrap_or(0) >> 20;
    format!("{cores} cores, {model}, {gib} GiB of memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    fn pair(etcd: f64, fated: f64, errors: u64) -> Pair {
        let cell = |rate: f64, errors: u64| {
            let mut figures = Figures::new();
            figures.insert("rate".into(), rate.into());
            figures.insert("errors".into(), errors.into());
            figures
        };
        Pair::from([
            (Side::Etcd, cell(etcd, 0)),
            (Side::Fated, cell(fated, errors)),
        ])
    }

    /// The median of the pairs' ratios decides, and no run with failures meets anything.
    #[test]
    fn the_verdict_is_about_the_median_of_ratios() {
        let target = Target {
            figure: "rate",
            against: Against::Etcd,
            bound: Bound::AtLeast(2.0),
        };
        let verdict = |pairs: &[Pair]| Verdict::of(&target, pairs).expect("something was seen");
        let good = verdict(&[
            pair(10.0, 5.0, 0),
            pair(10.0, 21.0, 0),
            pair(100.0, 210.0, 0),
        ]);
        assert!(good.met && good.seen == [0.5, 2.1, 2.1]);
        let even = verdict(&[pair(10.0, 10.0, 0), pair(10.0, 29.0, 0)]);
        assert!(!even.met && (even.median - 1.95).abs() < 1e-9);
        assert!(!verdict(&[pair(10.0, 30.0, 1)]).met, "operations failed");
        assert!(Verdict::of(&target, &[]).is_none());
    }
}
