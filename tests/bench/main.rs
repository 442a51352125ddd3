//! Measures a server under load: fated, or any other that speaks etcd's API.
//!
//! `core` asks what the core can do without gRPC. `beside` asks how much puts suffer from large
//! ranges and silent watchers. Invariant of the latter: puts are sent at fixed moments, whether or
//! not the server keeps up, and their delay counts from that moment, so a stall is seen by every
//! put that would have met it.

mod allocations;
mod beside;
mod big;
mod cells;
mod client;
mod compaction;
mod compare;
mod core;
mod events;
mod fill;
mod flood;
mod kubernetes;
mod leases;
mod load;
mod many;
mod methods;
mod null;
mod operation;
mod plot;
mod puts;
mod record;
mod results;
mod rows;
mod server;
#[cfg(test)]
mod smoke;
mod stolen;
mod table;
mod watching;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Measures a server under load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts at a steady rate, alone and then beside ranges and watchers that do not read
    Beside(beside::Options),
    /// The ranges and watchers alone, until standard input ends; `beside` starts this
    Flood(flood::Options),
    /// The core without gRPC: puts or reads by function calls
    Core(core::Options),
    /// fated beside a real etcd, in turn: the rows of the table of results
    Compare(compare::Options),
    /// One load against servers that run already; prints one line of JSON
    Load(load::Options),
    /// A server that answers at once and stores nothing
    Null(null::Options),
}

/// The allocator of the server.
type Allocator = mimalloc::MiMalloc;
#[cfg_attr(not(feature = "count-allocations"), global_allocator)]
static ALLOCATOR: Allocator = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Servers that were started end and their data go, however this ends.
    let done = tokio::select! {
        done = run(&command) => done,
        () = stopped() => Err("it was told to stop".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(story) => {
            eprintln!("fated-bench: {story}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &Command) -> Result<(), String> {
    match command {
        Command::Beside(options) => beside::run(options).await,
        Command::Flood(options) => flood::run(options).await,
        Command::Core(options) => core::run(options).await,
        Command::Compare(options) => compare::run(options).await,
        Command::Load(options) => load::run(options).await,
        Command::Null(options) => null::run(options).await,
    }
}

/// Waits for a signal that ends a program.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // Without them the program ends at once, which is what is left.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The key of a number: eight bytes, in the order of the numbers.
fn key(number: u64) -> String {
    format!("k{number:07}")
}
