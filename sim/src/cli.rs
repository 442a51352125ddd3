//! The commands.

use std::{
    fs,
    io::{BufReader, BufWriter, IsTerminal, Write},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fated_sim::{
    check,
    counters::{Counters, required},
    history::History,
    plan::Plan,
    run::{self, Report},
    trace::Keep,
};
use serde_json::json;

const USAGE: &str = "usage: cargo sim COMMAND
  run SEED [--trace FILE] [--plan FILE] [--history FILE] [--json]
                                                   one seed; its plan and history as files
  soak N [--from SEED] [--jobs J] [--json]         a batch of seeds, then the counters
  twice N [--from SEED] [--lmdb]                   each seed twice; the first difference is shown;
                                                   with --lmdb once with LMDB and once without
  counters [N] [--from SEED] [--jobs J] [--json]   a soak of 1000 or N seeds, and what they must
                                                   have gone through, as a table
  replay PLAN [--trace FILE] [--json]              a plan from a file
  check HISTORY                                    judges a history from anywhere
  plan SEED                                        prints the plan of a seed";

/// Lines of the trace that are shown with a failure.
const LINES_SHOWN: usize = 40;

struct Options {
    words: Vec<String>,
    trace: Option<String>,
    plan: Option<String>,
    history: Option<String>,
    from: u64,
    jobs: usize,
    json: bool,
    lmdb: bool,
}

/// Runs a command; the exit code says whether anything broke.
pub fn main() -> ExitCode {
    run::catch_panics();
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok();
    let outcome = match words.as_slice() {
        ["run", seed] => number(seed).map(|seed| one(Plan::draw(seed), &options)),
        ["replay", file] => read_plan(file).map(|plan| one(plan, &options)),
        ["soak", count] => number(count).map(|count| soak(count, &options)),
        ["counters"] => Some(soak(required::SEEDS, &options)),
        ["counters", count] => number(count).map(|count| soak(count, &options)),
        ["twice", count] => number(count).map(|count| twice(count, &options)),
        ["check", file] => Some(judge(file)),
        ["plan", seed] => number(seed).map(|seed| {
            println!("{}", plan_text(&Plan::draw(seed)));
            true
        }),
        _ => None,
    };
    match outcome {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        words: Vec::new(),
        trace: None,
        plan: None,
        history: None,
        from: 1,
        jobs: thread::available_parallelism().map_or(1, usize::from),
        json: false,
        lmdb: false,
    };
    let mut arguments = arguments;
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--trace" => options.trace = Some(arguments.next()?),
            "--plan" => options.plan = Some(arguments.next()?),
            "--history" => options.history = Some(arguments.next()?),
            "--from" => options.from = arguments.next()?.parse().ok()?,
            "--jobs" => options.jobs = arguments.next()?.parse().ok()?,
            "--json" => options.json = true,
            "--lmdb" => options.lmdb = true,
            _ => options.words.push(word),
        }
    }
    Some(options)
}

fn read_plan(file: &str) -> Option<Plan> {
    let text = fs::read_to_string(file).map_err(|error| eprintln!("{file}: {error}"));
    let plan = serde_json::from_str(&text.ok()?);
    plan.map_err(|error| eprintln!("{file}: {error}")).ok()
}

/// Judges a history, of the simulator or of a real cluster.
fn judge(file: &str) -> bool {
    let report = fs::File::open(file)
        .map_err(|error| error.to_string())
        .and_then(|input| check::run(BufReader::new(input)).map_err(|error| error.to_string()));
    match report {
        Ok(report) => {
            println!("{report}");
            report.is_ok()
        }
        Err(error) => {
            eprintln!("{file}: {error}");
            false
        }
    }
}

fn plan_text(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data")
}

fn one(plan: Plan, options: &Options) -> bool {
    if let Some(file) = &options.plan
        && let Err(error) = fs::write(file, plan_text(&plan))
    {
        eprintln!("{file}: {error}");
        return false;
    }
    let keep = options.trace.clone().map_or(Keep::Hash, Keep::File);
    let report = run::run(plan.clone(), keep);
    let fine = report.violation.is_none();
    if let Some(file) = &options.history
        && let Err(error) =
            fs::File::create(file).and_then(|file| report.history.write(BufWriter::new(file)))
    {
        eprintln!("{file}: {error}");
        return false;
    }
    if options.json {
        println!("{}", summary(&[&report], report.real));
    } else {
        show(&report);
        if options.words[0] == "run" {
            show_counters(&report.counters);
        }
    }
    if !fine {
        tell_failure(&plan, &report, options.words.join(" "));
    }
    fine
}

fn show(report: &Report) {
    println!(
        "seed {:<8} {} {:>6} operations {:>8} steps {:>7.1} s simulated {:>6.2} s real  {:016x}",
        report.seed,
        if report.violation.is_none() {
            "ok    "
        } else {
            "BROKEN"
        },
        report.operations,
        report.steps,
        report.simulated.as_secs_f64(),
        report.real.as_secs_f64(),
        report.hash,
    );
}

/// A failure is run again with its lines kept: the same seed lives the same life.
fn tell_failure(plan: &Plan, report: &Report, command: String) {
    let Some(violation) = &report.violation else {
        return;
    };
    let again = run::run(plan.clone(), Keep::Lines);
    let shown = again.lines.len().saturating_sub(LINES_SHOWN);
    for line in &again.lines[shown..] {
        eprintln!("{line}");
    }
    eprintln!("\nbroken: {}\n  {}", violation.guarantee, violation.story);
    if again.hash != report.hash {
        eprintln!(
            "  and it was another run the second time: {:016x}",
            again.hash
        );
    }
    eprintln!("replay: cargo sim {command} --trace trace.txt");
}

fn summary(reports: &[&Report], real: Duration) -> String {
    let mut counters = Counters::default();
    let mut hash = 0_u64;
    for report in reports {
        counters.merge(&report.counters);
        hash = hash.rotate_left(1) ^ report.hash;
    }
    let failed: Vec<u64> = reports
        .iter()
        .filter(|report| report.violation.is_some())
        .map(|report| report.seed)
        .collect();
    let simulated: Duration = reports.iter().map(|report| report.simulated).sum();
    let operations: usize = reports.iter().map(|report| report.operations).sum();
    let counters: serde_json::Map<String, serde_json::Value> = counters
        .iter()
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect();
    json!({
        "seeds": reports.len(),
        "failed": failed,
        "simulated_seconds": simulated.as_secs(),
        "real_seconds": real.as_secs_f64(),
        "operations": operations,
        "trace_hash": format!("{hash:016x}"),
        "counters": counters,
    })
    .to_string()
}

fn show_counters(counters: &Counters) {
    for (name, count) in counters.iter() {
        println!("{count:>12}  {name}");
    }
}

/// The table of what must have happened, and then everything else that was counted.
fn show_required(counters: &Counters, seeds: u64) {
    println!(
        "{:>12} {:>10} {:>8}  what must happen",
        "count", "per seed", "at least"
    );
    let line = |name: &str, least: &str, meaning: &str| {
        let count = counters.get(name);
        let each = count as f64 / seeds as f64;
        println!("{count:>12} {each:>10.3} {least:>8}  {name}{meaning}");
    };
    let all = required::all();
    for it in &all {
        line(it.name, &it.least.to_string(), &format!(": {}", it.meaning));
    }
    let rest = counters.iter().map(|(name, _)| name);
    for name in rest.filter(|name| all.iter().all(|it| it.name != *name)) {
        line(name, "", "");
    }
    for it in required::missing(counters, seeds) {
        let count = counters.get(it.name);
        println!(
            "MISSING: {} happened {count} times, not {}",
            it.name, it.least
        );
    }
}

fn soak(count: u64, options: &Options) -> bool {
    let next = AtomicU64::new(0);
    let reports = Mutex::new(Vec::new());
    let began = Instant::now();
    let bar = std::io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let mut report = run::run(Plan::draw(options.from + number), Keep::Hash);
                    report.history = History::default();
                    let mut reports = reports.lock().expect("no holder panics");
                    if report.violation.is_some() && !options.json {
                        show(&report);
                        let violation = report.violation.as_ref().expect("just seen");
                        let story: String = violation.story.chars().take(600).collect();
                        println!("  {}: {story}", violation.guarantee);
                    }
                    reports.push(report);
                    if bar {
                        eprint!("\r{}/{count} ", reports.len());
                        let _ = std::io::stderr().flush();
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("no holder panics");
    reports.sort_by_key(|report| report.seed);
    let real = began.elapsed();
    let failed = reports.iter().filter(|report| report.violation.is_some());
    let failed: Vec<u64> = failed.map(|report| report.seed).collect();
    let mut counters = Counters::default();
    reports
        .iter()
        .for_each(|report| counters.merge(&report.counters));
    let demands = count >= required::SEEDS || options.words[0] == "counters";
    let reached = !demands || required::missing(&counters, count).is_empty();
    if options.json {
        println!("{}", summary(&reports.iter().collect::<Vec<_>>(), real));
        return failed.is_empty() && reached;
    }
    match demands {
        true => show_required(&counters, count),
        false => show_counters(&counters),
    }
    let simulated: f64 = reports
        .iter()
        .map(|report| report.simulated.as_secs_f64())
        .sum();
    let operations: usize = reports.iter().map(|report| report.operations).sum();
    let seconds = real.as_secs_f64();
    println!(
        "{count} seeds in {seconds:.1} s ({:.0} a minute), {operations} operations, \
         {:.0} simulated seconds a second, {} failed",
        count as f64 * 60.0 / seconds,
        simulated / seconds,
        failed.len(),
    );
    for seed in &failed {
        println!("replay: cargo sim run {seed}");
    }
    failed.is_empty() && reached
}

fn twice(count: u64, options: &Options) -> bool {
    let mut fine = true;
    for seed in options.from..options.from + count {
        let plans = [false, options.lmdb].map(|flips| {
            let mut plan = Plan::draw(seed);
            plan.disks.lmdb ^= flips;
            plan
        });
        let [first, second] = plans.clone().map(|plan| run::run(plan, Keep::Marks));
        if first.marks == second.marks {
            println!(
                "seed {seed:<8} the same twice, {} steps, {:016x}",
                first.steps, first.hash
            );
            continue;
        }
        fine = false;
        let pairs = first.marks.iter().zip(&second.marks);
        let step = pairs.take_while(|(one, other)| one == other).count();
        println!("seed {seed:<8} differs from step {} on", step + 1);
        let [first, second] = plans.map(|plan| run::run(plan, Keep::Lines));
        let differ = first
            .lines
            .iter()
            .zip(&second.lines)
            .find(|(one, other)| one != other);
        if let Some((one, other)) = differ {
            println!("  {one}\n  {other}");
        }
    }
    fine
}
