//! The core alone: one real node with its log, its LMDB store and its disk lanes, and no gRPC.
//!
//! Requests come in by function calls, as the edge makes them, and each answer brings the next
//! one, so that a fixed number is always in flight. On the core thread run the event loop, the
//! node, the making of requests and the counting of answers; on the lanes' threads writes and syncs
//! of the log, making of segments, and commits of the store. `taskset -c 0` puts all of them on
//! one core. Invariant: a failed answer ends the run with its error.

mod desk;
mod usage;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args as Flags, ValueEnum};
use fated::{
    cli::server::{args::Args, boot, config::ServerConfig},
    host::tokio::{
        TokioHost, events,
        links::{Identity, Links},
        log::{Log, LogFormat, LogOutput},
        meter::Meter,
    },
    kernel::{Fault, effect::LogLevel},
    reactor,
};
use prometheus::Registry;
use tempfile::TempDir;

use self::desk::{Desk, Figures};

#[derive(Flags)]
pub struct Options {
    /// What is asked for
    #[arg(long, value_enum, default_value_t = Operation::Put)]
    op: Operation,
    /// Requests in flight
    #[arg(long, default_value_t = 100)]
    in_flight: u64,
    /// How many keys there are; all are put once before anything is measured
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How long it is measured
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the data go
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// A flag of the server
    #[arg(long = "server-flag", allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Operation {
    /// Durable puts
    Put,
    /// Linearizable reads of one key
    Range,
    /// Reads of one key without the barrier
    Serializable,
    /// Linearizable reads of 1,000 keys
    RangeKeys,
    /// Transactions, half a range of 100 keys, half a put
    TxnMixed,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Range => "range",
            Self::Serializable => "serializable",
            Self::RangeKeys => "range-keys",
            Self::TxnMixed => "txn-mixed",
        }
    }
}

/// What is asked for, and how much of it.
#[derive(Clone, Copy)]
struct Plan {
    op: Operation,
    in_flight: u64,
    keys: u64,
    value_bytes: usize,
    lasts: Duration,
}

/// Runs the core to the end of the plan and prints one line of JSON.
pub async fn run(options: &Options) -> Result<(), String> {
    let plan = Plan {
        op: options.op,
        in_flight: options.in_flight.max(1),
        keys: options.keys.max(1),
        value_bytes: options.value_bytes,
        lasts: Duration::from_secs(options.seconds),
    };
    let home = TempDir::new_in(&options.directory).map_err(|error| error.to_string())?;
    let log = home.path().join("log").display().to_string();
    let data = format!("--data-dir={}", home.path().join("data").display());
    let given = [data].into_iter().chain(options.flags.iter().cloned());
    let args = Args::parse(given, []).map_err(|stop| format!("{stop:?}"))?;
    let config = ServerConfig::from_args(&args)?;
    let outputs = [LogOutput::File(log)];
    let log = Log::open(LogLevel::Warn, LogFormat::Json, &outputs);
    let log = log.map_err(|error| error.to_string())?;
    let registry = Registry::new();
    let figures = drive(&config, &log, &registry, plan).await?;
    println!("{}", figures.line(plan, &registry));
    Ok(())
}

async fn drive(
    config: &ServerConfig,
    log: &Log,
    registry: &Registry,
    plan: Plan,
) -> Result<Figures, String> {
    let meter = Meter::new(registry);
    let told = |fault: Fault| fault.to_string();
    let mut booted = boot::boot(config, log, &meter).map_err(told)?;
    let queue = events();
    let identity = Identity {
        cluster: booted.config.cluster,
        member: booted.config.member,
        patience: booted.config.election,
    };
    let nobody = Arc::new(|| Box::pin(async { None }) as _);
    let links = Links::open(
        identity,
        Vec::new(),
        queue.0.clone(),
        nobody,
        log.clone(),
        meter.clone(),
    );
    let (desk, outcome) = Desk::new(plan, queue.0.clone());
    let host = TokioHost::new(
        queue,
        booted.lanes,
        links,
        Box::new(desk),
        log.clone(),
        &meter,
    );
    let mut host = host.map_err(|error| error.to_string())?;
    match reactor::run(&mut booted.node, &mut host).await {
        Fault::Stopped => outcome.take(),
        fault => Err(fault.to_string()),
    }
}
