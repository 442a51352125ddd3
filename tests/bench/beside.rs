//! How much puts suffer from large ranges and silent watchers.
//!
//! The load is a process of its own, so that its work is not mistaken for the server's; on a
//! machine of few cores it still takes them from the server. Each server is measured alone, then
//! beside the load.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::{Args, Parser};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tonic::transport::Channel;

use crate::{
    client::{Conn, text},
    fill, flood,
    puts::{self, Delays, Plan},
    record::{Figures, rounded},
    server::{Cluster, Member, connect},
    workload::value,
};

#[derive(Args)]
pub struct Options {
    /// A server's binary; may be given several times, and they are measured in turn
    #[arg(long, required = true)]
    server: Vec<PathBuf>,
    /// A flag for every server; may be given several times
    #[arg(long, allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Where their data go
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Keys before anything is measured
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Puts per second
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Connections of the puts
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Seconds of each phase
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds of puts before each phase that are not counted, so that a phase shows what lasts: at
    /// first the windows of the watchers that do not read fill up
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Niceness of the load, so that puts do not wait for a core that its client uses
    #[arg(long, default_value_t = 0)]
    nice: u8,
    #[command(flatten)]
    flood: flood::Options,
}

/// One phase of one server.
struct Phase {
    delays: Delays,
    peak_mib: f64,
    /// Processor time of the server, in hundredths of a second.
    ticks: u64,
}

const COLUMNS: [&str; 10] = [
    "server",
    "phase",
    "puts",
    "failed",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "longest ms",
    "VmHWM MiB",
    "server CPU",
];

/// Measures each server and prints a table.
pub async fn run(options: &Options) -> Result<(), String> {
    println!("| {} |", COLUMNS.join(" | "));
    println!("|{}", " --- |".repeat(COLUMNS.len()));
    for server in 0..options.server.len() {
        measure(options, server).await?;
    }
    Ok(())
}

async fn measure(options: &Options, at: usize) -> Result<(), String> {
    let binary = &options.server[at];
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    let (idle, beside, story) = phases(options, binary).await?;
    tell(&name, "alone", options, &idle);
    tell(&name, "beside", options, &beside);
    let ratio = beside.delays.millis(0.99) / idle.delays.millis(0.99);
    println!();
    println!("{name}: p99 beside the load is {ratio:.2} times p99 alone; the load: {story}");
    println!();
    Ok(())
}

/// Both phases of a server, and what the load says of itself.
async fn phases(options: &Options, binary: &Path) -> Result<(Phase, Phase, String), String> {
    let cluster = Cluster::start(binary, &options.directory, 1, &options.server_flag).await?;
    let server = &cluster.members[0];
    let mut channels = Vec::new();
    for _ in 0..options.connections.max(1) {
        channels.push(connect(&server.endpoint).await?);
    }
    let conn = Conn::open(&server.endpoint).await?;
    fill::run(&conn, options.keys, &value(options.value_bytes)).await?;
    // What the filling left to do is not what is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = phase(options, server, &channels).await?;
    let mut load = Load::start(options, &server.endpoint).await?;
    let beside = phase(options, server, &channels).await?;
    Ok((idle, beside, load.end().await?))
}

/// The figures of a server with the default load.
pub async fn figures(binary: &Path, directory: &Path, seconds: u64) -> Result<Figures, String> {
    /// Makes the options from the defaults of the command line.
    #[derive(clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        options: Options,
    }
    let defaults = Defaults::try_parse_from(["beside", "--server", "-"]).map_err(text)?;
    let options = Options {
        directory: directory.to_owned(),
        seconds,
        ..defaults.options
    };
    let (idle, beside, _) = phases(&options, binary).await?;
    let mut figures = Figures::new();
    let mut note = |name: &str, figure| figures.insert(name.to_owned(), rounded(figure));
    note("alone_p50_ms", idle.delays.millis(0.5));
    note("alone_p99_ms", idle.delays.millis(0.99));
    note("p50_ms", beside.delays.millis(0.5));
    note("p99_ms", beside.delays.millis(0.99));
    note(
        "p99_ratio",
        beside.delays.millis(0.99) / idle.delays.millis(0.99),
    );
    note("alone_peak_mib", idle.peak_mib);
    note("peak_mib", beside.peak_mib);
    figures.insert(
        "errors".into(),
        (idle.delays.failed + beside.delays.failed).into(),
    );
    Ok(figures)
}

fn tell(name: &str, phase: &str, options: &Options, seen: &Phase) {
    let delays = &seen.delays;
    println!(
        "| {name} | {phase} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {}% |",
        delays.count(),
        delays.failed,
        delays.millis(0.5),
        delays.millis(0.99),
        delays.millis(0.999),
        delays.longest(),
        seen.peak_mib,
        seen.ticks / options.seconds.max(1),
    );
}

async fn phase(options: &Options, server: &Member, channels: &[Channel]) -> Result<Phase, String> {
    server.forget_peak()?;
    let lasting = |seconds| Plan {
        per_second: options.rate,
        lasts: Duration::from_secs(seconds),
        keys: options.keys.max(1),
        value_bytes: options.value_bytes,
    };
    puts::run(channels, lasting(options.warm_up)).await;
    let plan = lasting(options.seconds);
    let before = server.ticks()?;
    let delays = puts::run(channels, plan).await;
    Ok(Phase {
        delays,
        peak_mib: server.memory_mib("VmHWM:")?,
        ticks: server.ticks()? - before,
    })
}

/// The process that floods the server.
struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts it and waits until its watchers are there.
    async fn start(options: &Options, endpoint: &str) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let flood = &options.flood;
        let mut command = Command::new("nice");
        command
            .arg(format!("--adjustment={}", options.nice))
            .arg(this)
            .args(["flood", "--endpoint", endpoint])
            .arg(format!("--ranges={}", flood.ranges))
            .arg(format!("--range-keys={}", flood.range_keys))
            .arg(format!("--watchers={}", flood.watchers))
            .arg(format!("--watches-on-one={}", flood.watches_on_one))
            .arg(format!("--watch-connections={}", flood.watch_connections))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn();
        let mut child = child.map_err(|error| format!("cannot start the load: {error}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("the load has no output")?;
        let output = BufReader::new(output).lines();
        let mut load = Self {
            child,
            input,
            output,
        };
        match load.line().await?.as_str() {
            "ready" => Ok(load),
            other => Err(format!("the load said {other}")),
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        let line = self.output.next_line().await;
        let line = line.map_err(|error| error.to_string())?;
        line.ok_or_else(|| "the load ended".to_owned())
    }

    /// Ends it; gives what it says of itself.
    async fn end(&mut self) -> Result<String, String> {
        drop(self.input.take());
        let story = self.line().await?;
        // It has said its last word; what its connections still get is of no interest.
        let _ = self.child.kill().await;
        Ok(story)
    }
}
