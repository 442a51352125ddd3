//! Sends generated requests to a real etcd and to fated in lock step and compares what comes back:
//! every field, every code and every text, but for the rules in `compare` and `differences`.
//!
//! A run is a number of *episodes*, each on fresh servers and from a seed of its own, so that a
//! difference is found again with `--from EPISODE --episodes 1`. See README.md beside this file.

mod ask;
mod compare;
mod differences;
mod episode;
mod generate;
mod locks;
mod newer;
mod random;
mod servers;
mod side;
mod streams;
mod ties;
mod txns;
mod world;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Instant};

use compare::Rules;
use episode::{Episode, Finding};
use generate::Switches;

/// Requests of one episode.
const EPISODE_REQUESTS: usize = 2500;
/// Findings that are printed whole.
const PRINTED_MAX: usize = 15;

/// What the command line says.
struct Options {
    reference: PathBuf,
    subject: PathBuf,
    seed: u64,
    requests: usize,
    from: usize,
    trace: bool,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            reference: PathBuf::from("etcd"),
            subject: PathBuf::from("target/debug/fated"),
            seed: 1,
            requests: 100_000,
            from: 0,
            trace: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--trace" {
                options.trace = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            let number = || {
                value
                    .parse::<usize>()
                    .map_err(|error| format!("{name}: {error}"))
            };
            match name.as_str() {
                "--reference" => options.reference = value.into(),
                "--subject" => options.subject = value.into(),
                "--seed" => options.seed = number()? as u64,
                "--requests" => options.requests = number()?,
                "--from" => options.from = number()?,
                _ => return Err(format!("unknown flag {name}")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let outcome = Options::parse().and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(run(&options))
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}

/// How many episodes may be run once more because the reference's connection broke. What both do is
/// decided by the seed, so that a difference comes again, and a break that comes again is one.
const BREAKS_MAX: usize = 2;

async fn run(options: &Options) -> Result<bool, String> {
    let began = Instant::now();
    let mut rules = Rules::new();
    let mut findings: Vec<Finding> = Vec::new();
    let mut calls: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut asked, mut number) = (0, options.from);
    let switches = Switches {
        locks: true,
        alarms: true,
        downgrades: true,
    };
    let mut broken = Vec::new();
    let mut early_hashes = 0;
    while asked < options.requests {
        let seed = options
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(number as u64);
        let requests = EPISODE_REQUESTS.min(options.requests - asked);
        let found = findings.len();
        let mut episode = Episode::start(number, seed, options.trace, switches, options).await?;
        episode
            .run(requests, &mut rules, &mut calls, &mut findings)
            .await;
        let breaks = findings[found..].iter().any(Finding::is_a_break);
        if breaks && !broken.contains(&number) && broken.len() < BREAKS_MAX {
            println!("episode {number}: etcd's connection broke; once more");
            println!("{}", episode.last_words());
            findings.truncate(found);
            broken.push(number);
            continue;
        }
        early_hashes += episode.early_hashes;
        asked += episode.asked.max(1);
        number += 1;
        println!(
            "episode {}: {} requests, {} findings so far, {:.0} seconds",
            number - 1,
            episode.asked,
            findings.len(),
            began.elapsed().as_secs_f64(),
        );
        if findings.len() >= 100 {
            println!("that is enough");
            break;
        }
    }
    println!("\netcd's connection broke in {} episodes", broken.len());
    println!("etcd hashed what it was about to remove {early_hashes} times");
    Ok(report(asked, &rules, &calls, &findings))
}

fn report(
    asked: usize,
    rules: &Rules,
    calls: &BTreeMap<&'static str, usize>,
    findings: &[Finding],
) -> bool {
    for finding in findings.iter().take(PRINTED_MAX) {
        println!(
            "\nDIFF episode {} request {}",
            finding.episode, finding.request
        );
        println!("  asked   {}", finding.ask);
        println!("  etcd    {}", finding.reference);
        println!("  fated   {}", finding.subject);
    }
    for finding in findings.iter().skip(PRINTED_MAX) {
        println!(
            "DIFF episode {} request {}: {}",
            finding.episode, finding.request, finding.call
        );
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        *kinds.entry(finding.call).or_default() += 1;
    }
    println!("\ncalls: {calls:?}");
    let mut unmet = 0;
    for rule in &rules.normalisations {
        println!(
            "normalised {} times: {} ({})",
            rule.used, rule.name, rule.reason
        );
        unmet += usize::from(rule.used == 0);
    }
    for rule in &rules.differences {
        println!(
            "known difference {} times: {} ({})",
            rule.used, rule.name, rule.reason
        );
        unmet += usize::from(rule.used == 0);
    }
    println!(
        "{asked} requests, {} unexplained differences {kinds:?}",
        findings.len()
    );
    if unmet > 0 {
        println!("ERROR {unmet} rules were never met: remove them, or make a longer run");
    }
    findings.is_empty() && unmet == 0
}
